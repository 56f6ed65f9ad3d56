//! The words of a bpftrace program, read so that they can be written again without a doubt.
//!
//! What is written holds no comment, no preprocessor line and no character that bpftrace could take
//! for anything but what it was taken for here, so that where a block ends is not a matter of opinion.

use undine_schema::trace::TraceError;

/// A word of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// As it is written; of a text what it stands for.
    pub(super) text: String,
    /// Whether something is between it and the one before.
    spaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or number, a variable `$x` or a map `@x`.
    Word,
    /// A text in quotes.
    Text,
    /// A single character.
    Sign,
}

/// Characters that stand for themselves.
const SIGNS: &[u8] = b".,;:?()[]{}<>=!&|^~+-*/%";

impl Token {
    pub(super) fn word(text: &str) -> Self {
        Self { kind: Kind::Word, text: text.to_owned(), spaced: true }
    }

    pub(super) fn quoted(text: &str) -> Self {
        Self { kind: Kind::Text, text: text.to_owned(), spaced: true }
    }

    /// Another word in its place.
    pub(super) fn replaced(&self, text: &str) -> Self {
        Self { text: text.to_owned(), ..self.clone() }
    }

    pub(super) fn is(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }
}

/// Writes tokens as bpftrace reads them.
pub(super) fn write_into(tokens: &[Token], out: &mut String) {
    for token in tokens {
        if token.spaced {
            out.push(' ');
        }
        match token.kind {
            Kind::Word | Kind::Sign => out.push_str(&token.text),
            Kind::Text => quote_into(&token.text, out),
        }
    }
}

/// Writes a text in quotes.
pub(super) fn quote_into(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control.is_ascii_control() => {
                out.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}

/// A place in a program's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Where it is, for people.
    pub(super) fn line(&self) -> usize {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    /// Whether it is the first but blanks in its line.
    pub(super) fn begins_line(&self) -> bool {
        let before = self.text.get(..self.at).unwrap_or_default();
        before.rsplit('\n').next().is_some_and(|line| line.trim().is_empty())
    }

    /// Takes the rest of the line.
    pub(super) fn take_line(&mut self) -> &'a str {
        let line = self.rest().split_inclusive('\n').next().unwrap_or_default();
        self.at += line.len();
        line.trim()
    }

    /// Takes bytes as long as they are of a kind.
    pub(super) fn take_while(&mut self, is_one: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.bytes().position(|byte| !is_one(byte)).unwrap_or(rest.len());
        // Every kind asked for is ASCII, so that it ends between characters.
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// Goes behind blanks and comments; gives whether there were any.
    pub(super) fn skip_blank(&mut self) -> Result<bool, TraceError> {
        let start = self.at;
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.take_line();
            } else if let Some(inside) = trimmed.strip_prefix("/*") {
                let end = inside.find("*/").ok_or_else(|| self.error("a comment has no end"))?;
                self.at += end + 4;
            } else {
                return Ok(self.at > start);
            }
        }
    }

    /// The next token; none at the end.
    pub(super) fn token(&mut self) -> Result<Option<Token>, TraceError> {
        let spaced = self.skip_blank()?;
        let Some(&first) = self.rest().as_bytes().first() else { return Ok(None) };
        if first == b'"' {
            let text = self.quoted()?;
            return Ok(Some(Token { kind: Kind::Text, text, spaced }));
        }
        if SIGNS.contains(&first) {
            self.at += 1;
            let text = char::from(first).to_string();
            return Ok(Some(Token { kind: Kind::Sign, text, spaced }));
        }
        let start = self.at;
        if matches!(first, b'$' | b'@') {
            self.at += 1;
        }
        self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if self.at == start {
            let char = self.rest().chars().next().unwrap_or_default();
            return Err(self.error(&format!("`{}` cannot stand here", char.escape_debug())));
        }
        let text = self.text.get(start..self.at).unwrap_or_default().to_owned();
        Ok(Some(Token { kind: Kind::Word, text, spaced }))
    }

    /// What a text in quotes stands for.
    pub(super) fn quoted(&mut self) -> Result<String, TraceError> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    self.at += at + 1;
                    return Ok(out);
                }
                '\n' => break,
                '\\' => {
                    let escaped = chars.next().map(|(_, escaped)| escaped);
                    out.push(match escaped {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('r') => '\r',
                        Some(same @ ('"' | '\\')) => same,
                        _ => {
                            return Err(self.error(
                                "a text has an escape other than \\n, \\t, \\r, \\\" and \\\\",
                            ));
                        }
                    });
                }
                control if control.is_control() && control != '\t' => {
                    return Err(self.error("a text has a control character"));
                }
                plain => out.push(plain),
            }
        }
        Err(self.error("a text has no end"))
    }

    pub(super) fn error(&self, what: &str) -> TraceError {
        TraceError::new(format!("line {} of the program: {what}", self.line()), "see bpftrace(8)")
    }
}
