//! Programs are limited, or refused for what they could tell.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::kernel::Membership;
use crate::kernel::{Mark, ScopeDefault};

/// Undine's own process, as the tests have it.
const OWN: u32 = 7;

fn narrow() -> Condition {
    Condition::from_marks(false, &[Mark::Cgroup(42)], &[], OWN)
}

fn whole() -> Condition {
    Condition::of(&Membership::without_targets(ScopeDefault::WholeHost), OWN).unwrap()
}

/// The program with the condition shortened.
fn limited(text: &str) -> String {
    match limit(text, &narrow()) {
        Ok(limited) => {
            let mut text = limited.text.replace('\x1f', "|");
            while let Some(start) = text.find("$undine_task =") {
                let end = text[start..].find("if (pid != 7").unwrap() + start;
                text.replace_range(start..end, "…; ");
            }
            text.replace("pid != 7 && (uint64)pid != @undine_self && $undine_out == 0 && ($undine_in != 0) && \
             $undine_level < 16", "watched")
        }
        Err(error) => format!("{}\nhelp: {}\n", error.reason, error.help),
    }
}

fn check(text: &str, expected: &Expect) {
    expected.assert_eq(&limited(text));
}

#[test]
fn every_block_runs_behind_the_condition() {
    check(
        "#!/usr/bin/env bpftrace\n\
         // opens\n\
         BEGIN { @start = nsecs; }\n\
         tracepoint:syscalls:sys_enter_openat, uprobe:/bin/x:f /pid > 9 || @a[tid]/ {\n\
           /* } */ @opens[comm] = count();\n\
           if (1) { printf(\"time_:%llu file:%-16s of:%d\\n\", nsecs, str(args->filename), pid); }\n\
         }\n\
         kprobe:vfs_read { printf(\"time_:%llu file:%-16s of:%d\\n\", nsecs, \"}\", AF_INET) }",
        &expect![[r#"
            BEGIN
            { printf ( "\x1dready"); @undine_self = (uint64)pid; @undine_in_cgroup[(uint64)42] = 1;  @start = nsecs; }
            tracepoint:syscalls:sys_enter_openat,
            uprobe:/bin/x:f
            { …; if (watched) { if ((pid > 9 || @a[tid] ) != 0) { @opens[comm] = count(); if (1) { printf ( "%llu\x1f%s\x1f%lld" , nsecs , str(args->filename) , pid ); } } } }
            kprobe:vfs_read
            { …; if (watched && $undine_sp >= $undine_stack && $undine_sp < $undine_stack + 16384) { printf ( "%llu\x1f%s\x1f%lld" , nsecs , "}" , 2 ) } }
        "#]],
    );
}

#[test]
fn without_a_time_the_clock_of_the_kernel_is_printed() {
    check(
        "profile:hz:99 { printf(\"%d %s\", cpu, ustack) }",
        &expect![[r#"
            BEGIN { printf ( "\x1dready"); @undine_self = (uint64)pid; @undine_in_cgroup[(uint64)42] = 1; }
            profile:hz:99
            { …; if (watched) { printf ( "%llu\x1f%lld\x1f%s" , nsecs , cpu , ustack ) } }
        "#]],
    );
}

#[test]
fn types_may_be_declared_but_not_those_that_say_who_is_watched() {
    check(
        "#ifndef BPFTRACE_HAVE_BTF\n#include <net/sock.h>\n#else\n#include <sys/socket.h>\n#endif\n\
         struct point { int x; int y; };\n\
         uprobe:/bin/x:f { printf(\"x:%d\", ((struct point *)arg0)->x) }",
        &expect![[r#"
            struct undine_point { int x; int y; };
            BEGIN { printf ( "\x1dready"); @undine_self = (uint64)pid; @undine_in_cgroup[(uint64)42] = 1; }
            uprobe:/bin/x:f
            { …; if (watched) { printf ( "%llu\x1f%lld" , nsecs , ((struct undine_point *)arg0)->x ) } }
        "#]],
    );
    for name in ["task_struct", "cgroup", "kernfs_node", "css_set"] {
        let text = format!("struct a {{ struct {name} {{ int x; }} b; }}\nuprobe:/bin/x:f {{ }}");
        assert!(limited(&text).contains("says who is watched"), "{name}");
    }
    assert!(limited("#define x }\nuprobe:/bin/x:f { }").contains("only #include"));
    assert!(limited("struct x __attribute__((packed)) { int a; } u:/x:f { }").contains("line 1"));
}

#[test]
fn a_declared_type_may_have_the_name_of_one_of_the_kernels() {
    check(
        "struct nameidata { struct path path; struct qstr last; };\n\
         kprobe:lookup_fast /((struct nameidata *)arg0)->last.len > 0/ {\n\
           $at = (struct nameidata *) arg0;\n\
           printf(\"name:%s of:%d\", str($at->last.name), sizeof(struct nameidata));\n\
           @other = (struct qstr *)arg1;\n\
         }",
        &expect![[r#"
            struct undine_nameidata { struct path path; struct qstr last; };
            BEGIN { printf ( "\x1dready"); @undine_self = (uint64)pid; @undine_in_cgroup[(uint64)42] = 1; }
            kprobe:lookup_fast
            { …; if (watched && $undine_sp >= $undine_stack && $undine_sp < $undine_stack + 16384) { if ((((struct undine_nameidata *)arg0)->last.len > 0 ) != 0) { $at = (struct undine_nameidata *) arg0; printf ( "%llu\x1f%s\x1f%lld" , nsecs , str($at->last.name) , sizeof(struct undine_nameidata) ); @other = (struct qstr *)arg1; } } }
        "#]],
    );
}

#[test]
fn what_could_tell_of_others_is_refused() {
    check(
        "interval:s:1 { printf(\"a:%d\", pid); }",
        &expect![[r"
            line 1 of the program: `pid` could tell of processes that are not watched: BEGIN, END and interval blocks may use maps, times and numbers
            help: 
        "]],
    );
    check(
        "tracepoint:skb:kfree_skb { printf(\"a:%d\", 1); }",
        &expect![[r"
            line 1 of the program: `tracepoint:skb:kfree_skb` may also run in an interrupt, which is no process's, so it cannot be limited to the targets
            help: trace a function (kprobe, uprobe), a system call or the life of processes (tracepoint:sched:sched_process_*), or watch the whole host
        "]],
    );
    check(
        "uprobe:/bin/x:f { system(\"rm\"); }",
        &expect![[r"
            line 1 of the program: `system` does more than to look, so it is refused
            help: 
        "]],
    );
    for body in ["@p->comm", "*@p", "curtask", "str(1)", "kstack", "$p[0]", "@p.x", "1 + *$x"] {
        let text = format!("END {{ $x = {body}; }} uprobe:/bin/x:f {{ printf(\"a:%d\", 1) }}");
        assert!(limited(&text).contains("could tell of processes"), "{body}: {}", limited(&text));
    }
    for body in
        ["$undine_in = 0", "@undine = 1", "cat(\"/etc/shadow\")", "1 > signal(9)", "override(1)"]
    {
        let text = format!("uprobe:/bin/x:f {{ {body}; printf(\"a:%d\", 1) }}");
        assert!(limited(&text).starts_with("line 1"), "{body}: {}", limited(&text));
    }
    let member = "uprobe:/bin/x:f { printf(\"a:%d\", curtask->signal) }";
    assert!(limited(member).starts_with("BEGIN"));
    let plain = limit("t:skb:kfree_skb { printf(\"a:%d\", 1); }", &whole());
    assert!(plain.is_ok());
}

#[test]
fn what_is_no_program_is_refused_at_its_line() {
    for (text, what) in [
        ("", "prints nothing"),
        ("uprobe:/bin/x:f", "here a block"),
        ("uprobe:/bin/x:f {", "a block has no end"),
        ("uprobe:/bin/x:f { \"", "a text has no end"),
        ("uprobe:/bin/x:f { \"\\q\" }", "an escape"),
        ("uprobe:/bin/x:f { /* }", "a comment has no end"),
        ("uprobe:/bin/x:f { ` }", "cannot stand here"),
        ("uprobe:/bin/x:f { \\\n }", "cannot stand here"),
        ("uprobe:/bin/x:f { #define x\n }", "cannot stand here"),
        ("uprobe:/bin/x:f /a/ b { }", "no predicate"),
        ("uprobe:/bin/x:f /a", "a predicate has no end"),
        ("uprobe:/bin/x:f /a) { (b/ { }", "no predicate"),
        ("uprobe:/bin/x:f /@a++/ { }", "no predicate"),
        ("BEGIN, uprobe:/bin/x:f { }", "BEGIN must stand alone"),
        ("struct x { int a; ", "a declaration has no end"),
        ("struct x; uprobe:/bin/x:f { }", "a declaration has no `{`"),
        ("u:/x:f { printf(\"a:%d\", 1); printf(\"b:%d\", 1); }", "the same format"),
        ("u:/x:f { printf(\"a:%d b:%d\", 1); }", "of 2 values is given 1"),
        ("u:/x:f { printf(\"a:%d\",); }", "an empty value"),
        ("u:/x:f { printf(@a); }", "must be a text"),
        ("u:/x:f { printf(\"a:%d\", 1; }", "no closing parenthesis"),
        ("}", "no attach point"),
        ("config = { a = 1 } u:/x:f { }", "no attach point"),
        ("macro f(x) { x } u:/x:f { }", "no attach point"),
    ] {
        let error = limit(text, &narrow()).unwrap_err();
        assert!(error.reason.contains(what), "{text}: {}", error.reason);
    }
    let long = " ".repeat(PROGRAM_BYTES_MAX + 1);
    assert!(limit(&long, &narrow()).is_err());
    let deep = format!("u:/x:f {{ {} }}", "{".repeat(100_000 / 2));
    assert!(limit(&deep, &narrow()).is_err());
}

#[test]
fn what_bpftrace_makes_itself_is_told_from_what_is_read() {
    let text = "u:/x:f { printf(\"a:%s b:%s c:%s d:%s e:%s\", comm, str(arg0), ntop(1, $x), \"R\", \
                ntop(1) + str(2)) }";
    assert_eq!(limit(text, &narrow()).unwrap().plain, [true, false, true, true, false]);
}

/// Pieces of programs, whole and broken.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("uprobe:/bin/x:f ".to_owned()),
        Just("kprobe:f, ".to_owned()),
        Just("BEGIN ".to_owned()),
        Just("interval:s:1 ".to_owned()),
        Just("{ ".to_owned()),
        Just("} ".to_owned()),
        Just("/ ".to_owned()),
        Just("/pid == 1/ ".to_owned()),
        Just("/* } */".to_owned()),
        Just("// {\n".to_owned()),
        Just("\"}\" ".to_owned()),
        Just("\"".to_owned()),
        Just("printf(\"a:%d\", 1); ".to_owned()),
        Just("@a = count(); ".to_owned()),
        Just("if (1) { } else { }".to_owned()),
        Just("struct a { int b; };".to_owned()),
        Just("#include <a>\n".to_owned()),
        "[ -~\n]{0,12}",
    ]
}

proptest! {
    #[test]
    fn any_text_is_limited_or_refused(pieces in proptest::collection::vec(piece(), 0..14)) {
        let text = pieces.concat();
        if let Ok(limited) = limit(&text, &narrow()) {
            // Read again, without the strings: every block but those of nobody is one condition.
            let mut depth = 0_i32;
            let mut guarded = true;
            let mut quoted = false;
            let mut escaped = false;
            let (mut header, mut heads) = (String::new(), Vec::new());
            for (at, char) in limited.text.char_indices() {
                if quoted {
                    quoted = escaped || char != '"';
                    escaped = char == '\\' && !escaped;
                    continue;
                }
                match char {
                    '"' => quoted = true,
                    '{' => {
                        if depth == 0 {
                            heads.push((std::mem::take(&mut header), at));
                        }
                        depth += 1;
                    }
                    '}' => depth -= 1,
                    other if depth == 0 => header.push(other),
                    _ => {}
                }
                prop_assert!(depth >= 0);
            }
            prop_assert_eq!(depth, 0);
            for (header, at) in heads {
                let header = header.trim_start_matches([';', '\n', ' ']);
                let is_nobody = ["BEGIN", "END", "interval", "struct", "union", "enum"]
                    .iter().any(|word| header.starts_with(word));
                let body = &limited.text[at..];
                guarded &= is_nobody || body.starts_with("{ $undine_task = ");
            }
            prop_assert!(guarded, "{}", limited.text);
            prop_assert!(!limited.text.contains("/*") && !limited.text.contains("//"));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in "\\PC{0,80}") {
        let _either = (limit(&text, &narrow()), limit(&format!("u:/x:f {{{text}"), &whole()));
    }
}
