//! A bpftrace program, written anew so that it only runs where a process is that Undine watches.
//!
//! ```text
//! tracepoint:syscalls:sys_enter_openat /pid > 9/ { printf("file:%s\n", str(args->filename)); }
//!     becomes
//! tracepoint:syscalls:sys_enter_openat
//! { who is it; if (it is watched) { if ((pid > 9) != 0) { printf("%llu\x1f%s", nsecs, str(…)); } } }
//! ```
//!
//! A block that a clock runs may only do with maps, times and numbers, so that it cannot tell of
//! whoever runs meanwhile. Types that say who is watched cannot be declared, macros not at all.

use undine_schema::trace::{PROGRAM_BYTES_MAX, TraceError};

use super::attach_point::{AttachPoint, Event};
use super::blocks::{self, Block};
use super::format::Format;
use super::scope::Condition;
use super::tokens::{Kind, Token, write_into};

/// What a rewritten program prints when its probes stand.
pub(super) const READY: &str = "\x1dready";

/// Functions that do something to others, or read what no process did.
const FUNCTIONS_REFUSED: [&str; 10] = [
    "system",
    "cat",
    "override",
    "override_return",
    "signal",
    "signal_thread",
    "skboutput",
    "debugf",
    "unwatch",
    "watchpoint",
];

/// What a block may use that a clock runs.
const OF_NOBODY: [&str; 37] = [
    "if", "else", "unroll", "while", "for", "return", "break", "continue", "in", "let", "true",
    "false", "printf", "print", "clear", "zero", "delete", "exit", "time", "strftime", "count",
    "sum", "min", "max", "avg", "stats", "hist", "lhist", "len", "nsecs", "elapsed", "cpu",
    "ncpus", "rand", "probe", "has_key", "tseries",
];

/// Constants of the kernel's headers that programs use, which its types do not tell.
const CONSTANTS: [(&str, &str); 3] = [("AF_UNIX", "1"), ("AF_INET", "2"), ("AF_INET6", "10")];

/// What bpftrace makes itself, so that it is nothing that a program said.
const PLAIN_WORDS: [&str; 6] = ["comm", "probe", "func", "username", "kstack", "ustack"];
const PLAIN_FUNCTIONS: [&str; 8] =
    ["ntop", "strftime", "ksym", "usym", "kstack", "ustack", "macaddr", "cgroup_path"];

/// A program that is limited to what is watched.
#[derive(Debug)]
pub(super) struct Limited {
    pub(super) text: String,
    pub(super) format: Format,
    /// Which columns beside the time only hold what bpftrace makes itself.
    pub(super) plain: Vec<bool>,
    /// Fewest probes that bpftrace attaches if one of the program's places is there: BEGIN, clocks, one more.
    pub(super) probes_min: u64,
}

/// Limits a program.
///
/// # Errors
/// Where it cannot be limited, or prints nothing that is a table.
pub(super) fn limit(text: &str, condition: &Condition) -> Result<Limited, TraceError> {
    if text.len() > PROGRAM_BYTES_MAX {
        let reason = format!("the program has {} bytes", text.len());
        return Err(TraceError::new(reason, format!("give {PROGRAM_BYTES_MAX} at most")));
    }
    let blocks = blocks::parse(text)?;
    let mut writer = Writer {
        condition,
        types: String::new(),
        out: String::new(),
        printed: None,
        begins: false,
        of_nobody: 0,
    };
    for block in &blocks {
        writer.block(block)?;
    }
    if !writer.begins {
        writer.out.insert_str(0, &format!("BEGIN {{{} {}}}\n", ready(), condition.begin));
    }
    let Some(Printed { format, plain, .. }) = writer.printed else {
        let reason = "the program prints nothing, so that there would be no rows";
        let help = "print values with names: printf(\"time_:%llu pid:%d\", nsecs, pid)";
        return Err(TraceError::new(reason, help));
    };
    let probes_min = writer.of_nobody + 2;
    Ok(Limited { text: writer.types + &writer.out, format, plain, probes_min })
}

/// Says that the probes stand: what is printed is only read when they do.
fn ready() -> String {
    let mut out = String::new();
    let tokens = ["printf", "("].map(Token::word);
    write_into(&tokens, &mut out);
    write_into(&[Token::quoted(READY)], &mut out);
    out.push_str(");");
    out
}

/// The format of the rows, as it was written first.
struct Printed {
    text: String,
    format: Format,
    plain: Vec<bool>,
}

struct Writer<'a> {
    condition: &'a Condition,
    /// Declarations, which come first.
    types: String,
    out: String,
    printed: Option<Printed>,
    /// Whether there is a block BEGIN.
    begins: bool,
    /// Probes that are there everywhere, but BEGIN.
    of_nobody: u64,
}

impl Writer<'_> {
    fn block(&mut self, block: &Block) -> Result<(), TraceError> {
        let (line, points, predicate, body) = match block {
            Block::Declaration(tokens) => {
                write_into(tokens, &mut self.types);
                self.types.push_str(";\n");
                return Ok(());
            }
            Block::Probe { line, points, predicate, body } => (*line, points, predicate, body),
        };
        let refuse =
            |what: String| TraceError::new(format!("line {line} of the program: {what}"), "");
        for tokens in [predicate, body] {
            check(tokens).map_err(refuse)?;
        }
        let is_nobody = |point: &AttachPoint| matches!(point.event, Event::Begin | Event::Nobody);
        if points.iter().any(is_nobody) {
            for tokens in [predicate, body] {
                check_nobody(tokens).map_err(refuse)?;
            }
        }
        let unknown = points.iter().find(|point| point.event == Event::Unknown);
        if let Some(point) = unknown.filter(|_| self.condition.is_narrow) {
            let what = format!(
                "`{}` may also run in an interrupt, which is no process's, so it cannot be limited to \
                 the targets",
                point.text
            );
            let help = "trace a function (kprobe, uprobe), a system call or the life of processes \
                        (tracepoint:sched:sched_process_*), or watch the whole host";
            return Err(TraceError { help: help.to_owned(), ..refuse(what) });
        }
        let mut inside = String::new();
        if points.iter().any(|point| point.event == Event::Begin) {
            self.begins = true;
            inside.push_str(&ready());
            inside.push(' ');
            inside.push_str(&self.condition.begin);
        }
        let body = self.statements(body, line)?;
        if predicate.is_empty() {
            write_into(&body, &mut inside);
        } else {
            inside.push_str(" if ((");
            write_into(&constants(predicate), &mut inside);
            inside.push_str(" ) != 0) {");
            write_into(&body, &mut inside);
            inside.push_str(" }");
        }
        // What limits a block depends on where it runs.
        for event in [Event::Begin, Event::Nobody, Event::Process, Event::Stack, Event::Unknown] {
            let same = points.iter().filter(|point| point.event == event);
            let names: Vec<_> = same.map(|point| point.text.as_str()).collect();
            if names.is_empty() {
                continue;
            }
            self.out.push_str(&names.join(",\n"));
            self.out.push('\n');
            if event == Event::Nobody {
                self.of_nobody += names.len() as u64;
            }
            match event {
                Event::Begin | Event::Nobody => self.out.push_str(&format!("{{{inside} }}\n")),
                _ => self.out.push_str(&self.condition.guard(event, &inside)),
            }
        }
        Ok(())
    }

    /// The body with every `printf` written anew.
    fn statements(&mut self, body: &[Token], line: usize) -> Result<Vec<Token>, TraceError> {
        let refuse = |what: &str| {
            let help = "write printf(\"time_:%llu pid:%d\", nsecs, pid)";
            TraceError::new(format!("line {line} of the program: {what}"), help)
        };
        let mut out = Vec::with_capacity(body.len());
        let mut at = 0;
        while let Some(token) = body.get(at) {
            let is_call =
                token.is_word("printf") && body.get(at + 1).is_some_and(|next| next.is("("));
            if !is_call {
                out.push(constant(body, at));
                at += 1;
                continue;
            }
            let (arguments, end) = arguments(body, at + 2)
                .ok_or_else(|| refuse("a printf has no closing parenthesis"))?;
            let [format, values @ ..] = &arguments[..] else {
                return Err(refuse("a printf has no format"));
            };
            let [Token { kind: Kind::Text, text, .. }] = &format[..] else {
                return Err(refuse("the format of a printf must be a text in quotes"));
            };
            let values: Vec<Vec<Token>> = values.iter().map(|value| constants(value)).collect();
            self.printf(text, &values, &refuse, &mut out)?;
            at = end;
        }
        Ok(out)
    }

    fn printf(
        &mut self,
        text: &str,
        values: &[Vec<Token>],
        refuse: &dyn Fn(&str) -> TraceError,
        out: &mut Vec<Token>,
    ) -> Result<(), TraceError> {
        let known = self.printed.take();
        let mut printed = match known {
            Some(known) if known.text == text => known,
            Some(known) => {
                let what = format!(
                    "every printf must have the same format: \"{}\" is not \"{}\"",
                    text.escape_debug(),
                    known.text.escape_debug()
                );
                return Err(refuse(&what));
            }
            None => {
                let format = Format::parse(text)?;
                let plain = vec![true; format.kinds().len()];
                Printed { text: text.to_owned(), format, plain }
            }
        };
        if values.iter().any(Vec::is_empty) {
            return Err(refuse("a printf has an empty value"));
        }
        if values.len() != printed.format.values() {
            let (expected, given) = (printed.format.values(), values.len());
            return Err(refuse(&format!("a printf of {expected} values is given {given}")));
        }
        let (rewritten, taken) = printed.format.rewritten();
        for (plain, at) in printed.plain.iter_mut().zip(taken.iter().skip(1)) {
            *plain &= at.and_then(|at| values.get(at)).is_some_and(|value| is_plain(value));
        }
        out.extend([Token::word("printf"), Token::word("("), Token::quoted(&rewritten)]);
        for at in taken {
            out.push(Token::word(","));
            match at.and_then(|at| values.get(at)) {
                Some(value) => out.extend(value.iter().cloned()),
                None => out.push(Token::word("nsecs")),
            }
        }
        out.push(Token::word(")"));
        self.printed = Some(printed);
        Ok(())
    }
}

/// The arguments of a call that begin at `at`, and where it is over.
fn arguments(tokens: &[Token], at: usize) -> Option<(Vec<Vec<Token>>, usize)> {
    let mut all = vec![Vec::new()];
    let mut depth = 0_usize;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        if depth == 0 && token.is(")") {
            return Some((all, place + 1));
        }
        if depth == 0 && token.is(",") {
            all.push(Vec::new());
            continue;
        }
        if ["(", "[", "{"].iter().any(|sign| token.is(sign)) {
            depth += 1;
        } else if [")", "]", "}"].iter().any(|sign| token.is(sign)) {
            depth = depth.checked_sub(1)?;
        }
        if token.is(";") {
            return None;
        }
        all.last_mut()?.push(token.clone());
    }
    None
}

fn constants(tokens: &[Token]) -> Vec<Token> {
    (0..tokens.len()).map(|at| constant(tokens, at)).collect()
}

/// The token at `at`, or the number that it stands for.
fn constant(tokens: &[Token], at: usize) -> Token {
    let token = &tokens[at];
    let number = CONSTANTS.iter().find(|(name, _)| token.is_word(name) && !is_member(tokens, at));
    match number {
        Some((_, number)) => token.replaced(number),
        None => token.clone(),
    }
}

/// Whether the token at `at` names a member of a record.
fn is_member(tokens: &[Token], at: usize) -> bool {
    match tokens.get(..at) {
        Some([.., before]) if before.is(".") => true,
        Some([.., dash, before]) => dash.is("-") && before.is(">"),
        _ => false,
    }
}

/// Whether a value is nothing that was read from memory.
fn is_plain(value: &[Token]) -> bool {
    match value {
        [Token { kind: Kind::Text, .. }] => true,
        [word] => PLAIN_WORDS.iter().any(|plain| word.is_word(plain)),
        [function, open, .., close] => {
            let is_known = PLAIN_FUNCTIONS.iter().any(|plain| function.is_word(plain));
            is_known
                && open.is("(")
                && close.is(")")
                && arguments(value, 2).is_some_and(|(_, end)| end == value.len())
        }
        _ => false,
    }
}

/// What no block may use.
fn check(tokens: &[Token]) -> Result<(), String> {
    for (at, token) in tokens.iter().enumerate() {
        let name = token.text.trim_start_matches(['$', '@']);
        if token.kind == Kind::Word && name.starts_with("undine") && name.len() < token.text.len() {
            return Err(format!("`{}` is a name of Undine's own; choose another", token.text));
        }
        let is_call = tokens.get(at + 1).is_some_and(|next| next.is("("));
        if is_call
            && !is_member(tokens, at)
            && FUNCTIONS_REFUSED.iter().any(|name| token.is_word(name))
        {
            return Err(format!("`{}` does more than to look, so it is refused", token.text));
        }
    }
    Ok(())
}

/// What a block may not use besides, that a clock runs while anyone may be at work.
fn check_nobody(tokens: &[Token]) -> Result<(), String> {
    let refuse = |what: &str| {
        Err(format!(
            "`{what}` could tell of processes that are not watched: BEGIN, END and interval \
                     blocks may use maps, times and numbers"
        ))
    };
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        match token.kind {
            Kind::Sign if token.is(".") => return refuse("."),
            Kind::Sign if token.is(">") && before.is_some_and(|before| before.is("-")) => {
                return refuse("->");
            }
            // Of a map it is a key, of anything else a place in memory.
            Kind::Sign if token.is("[") => {
                if !before.is_some_and(|before| before.text.starts_with('@')) {
                    return refuse("[");
                }
            }
            Kind::Sign if token.is("*") => {
                let is_product = before.is_some_and(|before| {
                    before.kind == Kind::Word || before.is(")") || before.is("]")
                });
                if !is_product {
                    return refuse("*");
                }
            }
            Kind::Sign | Kind::Text => {}
            Kind::Word => {
                let first = token.text.as_bytes().first().copied().unwrap_or_default();
                let is_own = matches!(first, b'$' | b'@') || first.is_ascii_digit();
                let is_constant = CONSTANTS.iter().any(|(name, _)| token.is_word(name));
                if !is_own && !is_constant && !OF_NOBODY.contains(&token.text.as_str()) {
                    return refuse(&token.text);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
