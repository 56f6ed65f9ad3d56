//! Whom Undine watches, as a condition in bpftrace's own language, decided in the kernel.
//!
//! Ids are looked up in maps that BEGIN fills, which runs before any probe is attached: so each of the many
//! steps upwards is one look-up without a branch, which the kernel's verifier can follow.

use undine_schema::trace::TraceError;

use super::attach_point::Event;
use super::tokens;
use crate::kernel::{Mark, Membership};
use crate::process::TICK_NS;

/// Levels of cgroups, and of ancestors, that are looked at.
const LEVELS: u32 = 16;
/// Most targets, counted with every process whose parent is gone.
const TARGETS_MAX: usize = 64;
/// What a task's stack is at least; beyond it is an interrupt's.
const STACK_BYTES: u32 = 16 * 1024;

/// The condition under which a program may see something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// What BEGIN does: fills the maps of targets.
    pub(super) begin: String,
    /// What goes before: finds who is at work.
    prelude: String,
    /// What must hold then.
    holds: String,
    /// Whether someone is not watched.
    pub(super) is_narrow: bool,
}

impl Condition {
    /// What watches the same as `membership` but `own`, which is Undine's process, and bpftrace itself.
    ///
    /// # Errors
    /// Where that cannot be said in bpftrace's language.
    pub(super) fn of(membership: &Membership, own: u32) -> Result<Self, TraceError> {
        let is_whole = membership.is_whole_host();
        let include = if is_whole { Vec::new() } else { membership.marks(false) };
        let exclude = membership.marks(true);
        if !is_whole && include.is_empty() {
            let reason = "a program would see nothing: no target is watched";
            return Err(TraceError::new(reason, "name targets: `undine up --target cgroup:PATH`"));
        }
        if exclude.iter().any(|mark| matches!(mark, Mark::Tree(..))) {
            let reason = "a program cannot leave out the processes below an excluded `pid:`";
            return Err(TraceError::new(reason, "exclude a cgroup instead: `cgroup:PATH`"));
        }
        let count = include.len() + exclude.len();
        if count > TARGETS_MAX {
            let reason = format!("a program cannot be limited to {count} targets");
            let help = format!("give {TARGETS_MAX} at most; a cgroup names all that is below it");
            return Err(TraceError::new(reason, help));
        }
        Ok(Self::from_marks(is_whole, &include, &exclude, own))
    }

    pub(super) fn from_marks(is_whole: bool, include: &[Mark], exclude: &[Mark], own: u32) -> Self {
        // BEGIN runs in bpftrace itself.
        let begin = "@undine_self = (uint64)pid; ".to_owned();
        let mut targets = Targets { begin, ..Targets::default() };
        for mark in include {
            targets.add(mark, "$undine_in", " ||", "==");
        }
        for mark in exclude {
            targets.add(mark, "$undine_out", " &&", "!=");
        }
        let mut prelude = format!(
            "$undine_task = (struct task_struct *)curtask; $undine_in = (uint64){}; \
             $undine_out = (uint64)0; ",
            u8::from(is_whole)
        );
        let mut holds = format!(
            "pid != {own} && (uint64)pid != @undine_self && $undine_out == 0{} && \
             ($undine_in != 0{})",
            targets.names_out, targets.names_in
        );
        if !targets.netns.is_empty() {
            prelude.push_str("$undine_id = (uint64)$undine_task->nsproxy->net_ns->ns.inum; ");
            prelude.push_str(&Targets::look_up("netns", &targets.netns, "$undine_id"));
        }
        if !targets.cgroups.is_empty() {
            prelude.push_str(
                "$undine_cgroup = $undine_task->cgroups->dfl_cgrp; \
                 $undine_level = $undine_cgroup->level; ",
            );
            prelude.push_str(&upwards(&format!(
                "$undine_id = ((struct kernfs_node *)$undine_cgroup->kn)->id; {}\
                 $undine_cgroup = $undine_cgroup->self.parent->cgroup;",
                Targets::look_up("cgroup", &targets.cgroups, "$undine_id")
            )));
            // Deeper than is looked, so that who excludes it may not be found.
            holds.push_str(&format!(" && $undine_level < {LEVELS}"));
        }
        if !targets.trees.is_empty() {
            prelude.push_str("$undine_parent = $undine_task; ");
            prelude.push_str(&upwards(&format!(
                "$undine_id = (uint64)$undine_parent->tgid; \
                 $undine_start = $undine_parent->group_leader->start_boottime / {TICK_NS}; {}\
                 $undine_parent = $undine_parent->real_parent;",
                Targets::look_up("tree", &targets.trees, "$undine_id, $undine_start")
            )));
        }
        Self { begin: targets.begin, prelude, holds, is_narrow: !is_whole || !exclude.is_empty() }
    }

    /// Puts the condition around `body`, which only runs where it holds.
    pub(super) fn guard(&self, event: Event, body: &str) -> String {
        let mut holds = self.holds.clone();
        let mut prelude = self.prelude.clone();
        if self.is_narrow && event == Event::Stack {
            prelude.push_str(
                "$undine_stack = (uint64)$undine_task->stack; $undine_sp = (uint64)reg(\"sp\"); ",
            );
            holds.push_str(&format!(
                " && $undine_sp >= $undine_stack && $undine_sp < $undine_stack + {STACK_BYTES}"
            ));
        }
        format!("{{ {prelude}if ({holds}) {{{body} }} }}\n")
    }
}

/// Does `step` for every level. It is a loop: of an `unroll` each step would have places of its own on the
/// stack of 512 bytes, and the texts of a program need them.
fn upwards(step: &str) -> String {
    format!("$undine_at = 0; while ($undine_at < {LEVELS}) {{ $undine_at++; {step} }} ")
}

/// The targets of a scope by their kinds, as maps.
#[derive(Debug, Default)]
struct Targets {
    begin: String,
    /// What says that a target of the kind is there, each once.
    netns: Vec<&'static str>,
    cgroups: Vec<&'static str>,
    trees: Vec<&'static str>,
    /// Comparisons with names, which are no ids.
    names_in: String,
    names_out: String,
}

impl Targets {
    /// Adds a target that decides `flag`; a name is joined by `joint` and compared by `sign`.
    fn add(&mut self, mark: &Mark, flag: &'static str, joint: &str, sign: &str) {
        let (kind, key, flags) = match mark {
            Mark::Netns(inode) => ("netns", format!("(uint64){inode}"), &mut self.netns),
            Mark::Cgroup(id) => ("cgroup", format!("(uint64){id}"), &mut self.cgroups),
            Mark::Tree(pid, started) => {
                ("tree", format!("(uint64){pid}, (uint64){started}"), &mut self.trees)
            }
            Mark::Comm(name) => {
                let mut quoted = String::new();
                tokens::quote_into(&String::from_utf8_lossy(name), &mut quoted);
                let names =
                    if flag == "$undine_in" { &mut self.names_in } else { &mut self.names_out };
                names.push_str(&format!("{joint} comm {sign} {quoted}"));
                return;
            }
        };
        if !flags.contains(&flag) {
            flags.push(flag);
        }
        self.begin.push_str(&format!("{}[{key}] = 1; ", map(flag, kind)));
    }

    /// What decides the flags of a kind by a key.
    fn look_up(kind: &str, flags: &[&str], key: &str) -> String {
        let one = |flag: &&str| format!("{flag} = {flag} | (uint64){}[{key}]; ", map(flag, kind));
        flags.iter().map(one).collect()
    }
}

/// The map of the targets of a kind that decide `flag`.
fn map(flag: &str, kind: &str) -> String {
    format!("{}_{kind}", flag.replace('$', "@"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::kernel::ScopeDefault;

    fn check(is_whole: bool, include: &[Mark], exclude: &[Mark], expected: &Expect) {
        let condition = Condition::from_marks(is_whole, include, exclude, 7);
        let text = condition.begin.clone() + &condition.guard(Event::Process, " BODY");
        expected.assert_eq(&text.replace("; ", ";\n").replace("} ", "}\n"));
    }

    #[test]
    fn a_cgroup_is_looked_for_above_the_process() {
        check(
            false,
            &[Mark::Cgroup(42)],
            &[],
            &expect![[r"
                @undine_self = (uint64)pid;
                @undine_in_cgroup[(uint64)42] = 1;
                { $undine_task = (struct task_struct *)curtask;
                $undine_in = (uint64)0;
                $undine_out = (uint64)0;
                $undine_cgroup = $undine_task->cgroups->dfl_cgrp;
                $undine_level = $undine_cgroup->level;
                $undine_at = 0;
                while ($undine_at < 16) { $undine_at++;
                $undine_id = ((struct kernfs_node *)$undine_cgroup->kn)->id;
                $undine_in = $undine_in | (uint64)@undine_in_cgroup[$undine_id];
                $undine_cgroup = $undine_cgroup->self.parent->cgroup;
                }
                if (pid != 7 && (uint64)pid != @undine_self && $undine_out == 0 && ($undine_in != 0) && $undine_level < 16) { BODY }
                }
            "]],
        );
    }

    #[test]
    fn whoever_is_excluded_is_left_out_of_the_whole_host() {
        let exclude = [Mark::Netns(9), Mark::Comm(b"a\"b".to_vec())];
        check(
            true,
            &[],
            &exclude,
            &expect![[r#"
                @undine_self = (uint64)pid;
                @undine_out_netns[(uint64)9] = 1;
                { $undine_task = (struct task_struct *)curtask;
                $undine_in = (uint64)1;
                $undine_out = (uint64)0;
                $undine_id = (uint64)$undine_task->nsproxy->net_ns->ns.inum;
                $undine_out = $undine_out | (uint64)@undine_out_netns[$undine_id];
                if (pid != 7 && (uint64)pid != @undine_self && $undine_out == 0 && comm != "a\"b" && ($undine_in != 0)) { BODY }
                }
            "#]],
        );
    }

    #[test]
    fn a_process_is_known_by_its_beginning_too() {
        check(
            false,
            &[Mark::Tree(5, 77)],
            &[],
            &expect![[r"
                @undine_self = (uint64)pid;
                @undine_in_tree[(uint64)5, (uint64)77] = 1;
                { $undine_task = (struct task_struct *)curtask;
                $undine_in = (uint64)0;
                $undine_out = (uint64)0;
                $undine_parent = $undine_task;
                $undine_at = 0;
                while ($undine_at < 16) { $undine_at++;
                $undine_id = (uint64)$undine_parent->tgid;
                $undine_start = $undine_parent->group_leader->start_boottime / 10000000;
                $undine_in = $undine_in | (uint64)@undine_in_tree[$undine_id, $undine_start];
                $undine_parent = $undine_parent->real_parent;
                }
                if (pid != 7 && (uint64)pid != @undine_self && $undine_out == 0 && ($undine_in != 0)) { BODY }
                }
            "]],
        );
    }

    #[test]
    fn without_a_target_nothing_may_run() {
        let nobody = Membership::without_targets(ScopeDefault::TargetsOnly);
        let refused = Condition::of(&nobody, 7).unwrap_err();
        assert_eq!(refused.reason, "a program would see nothing: no target is watched");
        let whole = Condition::of(&Membership::without_targets(ScopeDefault::WholeHost), 7);
        assert!(!whole.unwrap().is_narrow);
    }
}
