//! What a program is made of: blocks with their attach points, and declarations of types.

use std::collections::BTreeSet;

use undine_schema::trace::TraceError;

use super::attach_point::{self, AttachPoint, Event};
use super::tokens::{Cursor, Kind, Token};

/// Most blocks and declarations of a program.
const BLOCKS_MAX: usize = 64;
/// Most levels of nested blocks.
const DEPTH_MAX: usize = 32;

/// Types that say who is watched.
const OF_SCOPE: [&str; 8] = [
    "task_struct",
    "css_set",
    "cgroup",
    "cgroup_subsys_state",
    "kernfs_node",
    "nsproxy",
    "net",
    "ns_common",
];

/// A part of a program.
#[derive(Debug)]
pub(super) enum Block {
    Probe { line: usize, points: Vec<AttachPoint>, predicate: Vec<Token>, body: Vec<Token> },
    Declaration(Vec<Token>),
}

/// The blocks of a program.
///
/// # Errors
/// Where it is none, or holds what cannot be limited.
pub(super) fn parse(text: &str) -> Result<Vec<Block>, TraceError> {
    Parser::new(text).blocks()
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    /// Whether an `#ifdef` is open.
    is_conditional: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut cursor = Cursor::new(text);
        if text.starts_with("#!") {
            cursor.take_line();
        }
        Self { cursor, is_conditional: false }
    }

    fn blocks(mut self) -> Result<Vec<Block>, TraceError> {
        let mut blocks = Vec::new();
        loop {
            self.cursor.skip_blank()?;
            let rest = self.cursor.rest();
            if rest.is_empty() {
                break;
            }
            if blocks.len() == BLOCKS_MAX {
                return Err(self
                    .cursor
                    .error(&format!("a program has {BLOCKS_MAX} blocks at most")));
            }
            let word = rest.split(|char: char| !char.is_ascii_alphanumeric() && char != '_').next();
            match word {
                _ if rest.starts_with('#') => self.directive()?,
                Some("struct" | "union" | "enum") => blocks.push(self.declaration()?),
                _ => blocks.push(self.probe()?),
            }
        }
        if self.is_conditional {
            return Err(self.cursor.error("an #ifdef has no #endif"));
        }
        rename_types(&mut blocks);
        Ok(blocks)
    }

    /// The kernel's own types are always there, so what is for machines without them is left out,
    /// and headers with it.
    fn directive(&mut self) -> Result<(), TraceError> {
        let error = self.cursor.error("only #include and BPFTRACE_HAVE_BTF can be");
        if !self.cursor.begins_line() {
            return Err(error);
        }
        let line = self.cursor.take_line();
        let line = line.split("//").next().unwrap_or_default();
        let words: Vec<_> = line.trim_start_matches('#').split_ascii_whitespace().collect();
        match words[..] {
            [include, ..] if include.starts_with("include") => Ok(()),
            ["ifndef", "BPFTRACE_HAVE_BTF"] if !self.is_conditional => {
                self.is_conditional = true;
                self.skip_branch();
                Ok(())
            }
            ["ifdef", "BPFTRACE_HAVE_BTF"] if !self.is_conditional => {
                self.is_conditional = true;
                Ok(())
            }
            ["else"] if self.is_conditional => {
                self.skip_branch();
                Ok(())
            }
            ["endif", ..] if self.is_conditional => {
                self.is_conditional = false;
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn skip_branch(&mut self) {
        while !self.cursor.rest().is_empty() {
            let line = self.cursor.take_line();
            match line.strip_prefix('#').map(str::trim) {
                Some("else") => return,
                Some(end) if end.starts_with("endif") => {
                    self.is_conditional = false;
                    return;
                }
                _ => {}
            }
        }
    }

    fn declaration(&mut self) -> Result<Block, TraceError> {
        let start = self.cursor;
        let mut tokens = Vec::new();
        let mut depth = 0_usize;
        let mut behind = false;
        while !behind {
            let Some(token) = self.cursor.token()? else {
                return Err(start.error("a declaration has no end"));
            };
            if token.is("{") {
                depth += 1;
            } else if token.is("}") {
                depth = depth.checked_sub(1).ok_or_else(|| start.error("a `}` is too many"))?;
                behind = depth == 0;
            } else if depth == 0 && token.kind != Kind::Word {
                return Err(start.error("a declaration has no `{`"));
            }
            tokens.push(token);
        }
        let mut rest = self.cursor;
        // Not every way to go on is a token: a path is none.
        if rest.token().ok().flatten().is_some_and(|token| token.is(";")) {
            self.cursor = rest;
        }
        if let Some(name) = declared(&tokens).find(|name| OF_SCOPE.contains(name)) {
            let what = format!("`{name}` says who is watched and cannot be declared");
            return Err(start.error(&what));
        }
        let is_odd =
            |token: &&Token| token.text.starts_with("__attribute") || token.text == "_Pragma";
        if let Some(odd) = tokens.iter().find(is_odd) {
            return Err(start.error(&format!("`{}` cannot be", odd.text)));
        }
        Ok(Block::Declaration(tokens))
    }

    fn probe(&mut self) -> Result<Block, TraceError> {
        let line = self.cursor.line();
        let points = attach_point::all(&mut self.cursor)?;
        if points.len() > 1 && points.iter().any(|point| point.event == Event::Begin) {
            return Err(self.cursor.error("BEGIN must stand alone"));
        }
        self.cursor.skip_blank()?;
        let mut predicate = Vec::new();
        if self.cursor.rest().starts_with('/') {
            self.cursor.advance(1);
            predicate = self.predicate()?;
        }
        let body = self.body()?;
        Ok(Block::Probe { line, points, predicate, body })
    }

    /// What stands between two slashes, the second before a block.
    fn predicate(&mut self) -> Result<Vec<Token>, TraceError> {
        let start = self.cursor;
        let mut tokens = Vec::new();
        let mut depth = 0_i32;
        loop {
            let Some(token) = self.cursor.token()? else {
                return Err(start.error("a predicate has no end"));
            };
            depth += i32::from(token.is("(")) - i32::from(token.is(")"));
            let is_end = token.is("/") && {
                let mut behind = self.cursor;
                behind.skip_blank()?;
                behind.rest().starts_with('{')
            };
            if is_end && depth == 0 && !tokens.is_empty() {
                return Ok(tokens);
            }
            let is_assigned = tokens.last().is_some_and(|last: &Token| {
                (last.is("+") && token.is("+")) || (last.is("-") && token.is("-"))
            });
            if depth < 0
                || is_end
                || is_assigned
                || [";", "{", "}"].iter().any(|sign| token.is(sign))
            {
                return Err(self.cursor.error("that is no predicate"));
            }
            tokens.push(token);
        }
    }

    /// A block, without its braces.
    fn body(&mut self) -> Result<Vec<Token>, TraceError> {
        let start = self.cursor;
        if !self.cursor.token()?.is_some_and(|token| token.is("{")) {
            return Err(start.error("here a block `{ … }` should begin"));
        }
        let mut tokens = Vec::new();
        let mut depth = 1_usize;
        loop {
            let Some(token) = self.cursor.token()? else {
                return Err(start.error("a block has no end"));
            };
            if token.is("{") {
                depth += 1;
            } else if token.is("}") {
                depth -= 1;
            }
            if depth == 0 {
                return Ok(tokens);
            }
            if depth > DEPTH_MAX {
                return Err(self.cursor.error(&format!("blocks nest {DEPTH_MAX} deep at most")));
            }
            tokens.push(token);
        }
    }
}

/// The types that tokens declare.
fn declared(tokens: &[Token]) -> impl Iterator<Item = &str> {
    tokens.windows(3).filter_map(|three| match three {
        [kind, name, open] if is_kind(kind) && open.is("{") => Some(name.text.as_str()),
        _ => None,
    })
}

fn is_kind(token: &Token) -> bool {
    ["struct", "union", "enum"].iter().any(|word| token.is_word(word))
}

/// Gives the types that a program declares names of their own. The kernel may have types of the same names
/// behind those that say who is watched, and then bpftrace takes neither.
fn rename_types(blocks: &mut [Block]) {
    let mut names = BTreeSet::new();
    for block in &*blocks {
        if let Block::Declaration(tokens) = block {
            names.extend(declared(tokens).map(str::to_owned));
        }
    }
    let rename = |tokens: &mut Vec<Token>| {
        for at in 1..tokens.len() {
            if is_kind(&tokens[at - 1]) && names.contains(&tokens[at].text) {
                tokens[at] = tokens[at].replaced(&format!("undine_{}", tokens[at].text));
            }
        }
    };
    for block in blocks {
        match block {
            Block::Declaration(tokens) => rename(tokens),
            Block::Probe { predicate, body, .. } => [predicate, body].into_iter().for_each(rename),
        }
    }
}
