//! SQL texts without their constants: statements that differ in nothing else are the same.
//!
//! A text is read token by token and never refused: captured SQL may be cut anywhere, so what is
//! left open at the end counts as closed there.

use serde_json::json;

use super::kernel::{self as k, two};
use super::{I, Registry, S};

pub(crate) fn declare(r: &mut Registry) {
    r.plain("normalize_pgsql", &[S, S], S, two::<k::S, k::S, k::S>(pgsql));
    r.plain("normalize_mysql", &[S, I], S, two::<k::S, k::I, k::S>(mysql));
}

/// Parameters that are listed of one statement; further ones are replaced and not listed.
const PARAMETERS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Constants become `$1`, `$2`, …; `"…"` is a name.
    Pgsql,
    /// Constants become `?`; `"…"` is a constant, `` `…` `` a name.
    Mysql,
}

fn pgsql(sql: &str, command: &str) -> String {
    match command {
        "Query" => normalized(Dialect::Pgsql, sql, &[]),
        "Execute" => executed(Dialect::Pgsql, sql),
        other => refused(&format!("the command is {other}, neither Query nor Execute")),
    }
}

fn mysql(sql: &str, command: i64) -> String {
    match command {
        3 => normalized(Dialect::Mysql, sql, &[]),
        23 => executed(Dialect::Mysql, sql),
        other => refused(&format!("the command is {other}, neither 3 (query) nor 23 (execute)")),
    }
}

fn refused(error: &str) -> String {
    json!({ "error": error }).to_string()
}

/// `query=[…] params=[a, b]`; a statement without such a frame stands for itself.
fn executed(dialect: Dialect, text: &str) -> String {
    let Some(rest) = text.strip_prefix("query=[") else { return normalized(dialect, text, &[]) };
    let (query, given) = match rest.rsplit_once("] params=[") {
        Some((query, given)) => (query, given.strip_suffix(']').unwrap_or(given)),
        None => (rest.strip_suffix(']').unwrap_or(rest), ""),
    };
    let given: Vec<&str> = if given.is_empty() { Vec::new() } else { given.split(", ").collect() };
    normalized(dialect, query, &given)
}

fn normalized(dialect: Dialect, sql: &str, given: &[&str]) -> String {
    let mut writer = Writer { dialect, given, query: String::new(), params: Vec::new(), count: 0 };
    writer.statement(sql);
    json!({ "query": writer.query, "params": writer.params }).to_string()
}

struct Writer<'a> {
    dialect: Dialect,
    /// The values of the parameters that the statement has already.
    given: &'a [&'a str],
    query: String,
    params: Vec<String>,
    count: usize,
}

impl Writer<'_> {
    fn statement(&mut self, sql: &str) {
        let mut rest = sql;
        // The depth of parentheses at which numbers belong to a type: `varchar(20)`.
        let (mut depth, mut kept_at) = (0_usize, None);
        let mut after_type = false;
        let mut position = 0;
        while let Some(first) = rest.chars().next() {
            let (length, token) = token(self.dialect, rest, first);
            let (text, tail) = rest.split_at(length.max(first.len_utf8()).min(rest.len()));
            match token {
                Token::Number if kept_at.is_some() => self.query.push_str(text),
                Token::Number | Token::Text | Token::Truth => self.constant(text),
                Token::Parameter => {
                    let at = match self.dialect {
                        Dialect::Pgsql => {
                            text[1..].parse::<usize>().ok().and_then(|n| n.checked_sub(1))
                        }
                        Dialect::Mysql => Some(position),
                    };
                    position += 1;
                    let value = at.and_then(|at| self.given.get(at)).copied().unwrap_or(text);
                    self.constant(value);
                }
                Token::Open => {
                    depth += 1;
                    if after_type && kept_at.is_none() {
                        kept_at = Some(depth);
                    }
                    self.query.push_str(text);
                }
                Token::Close => {
                    if kept_at == Some(depth) {
                        kept_at = None;
                    }
                    depth = depth.saturating_sub(1);
                    self.query.push_str(text);
                }
                Token::Word | Token::Blank | Token::Other => self.query.push_str(text),
            }
            if token != Token::Blank {
                after_type = token == Token::Word && is_type(text);
            }
            rest = tail;
        }
    }

    fn constant(&mut self, value: &str) {
        self.count += 1;
        match self.dialect {
            Dialect::Pgsql => self.query.push_str(&format!("${}", self.count)),
            Dialect::Mysql => self.query.push('?'),
        }
        if self.params.len() < PARAMETERS_MAX {
            self.params.push(value.to_owned());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Word,
    Number,
    Text,
    Truth,
    /// `$1` or `?`, which stands for a constant already.
    Parameter,
    Open,
    Close,
    /// White space and comments.
    Blank,
    Other,
}

/// The length in bytes of the token that `sql` begins with, and what it is.
fn token(dialect: Dialect, sql: &str, first: char) -> (usize, Token) {
    let bytes = sql.as_bytes();
    let next = bytes.get(1).copied();
    match first {
        c if c.is_whitespace() => {
            (sql.find(|c: char| !c.is_whitespace()).unwrap_or(sql.len()), Token::Blank)
        }
        '-' if next == Some(b'-') => (line(sql), Token::Blank),
        '#' if dialect == Dialect::Mysql => (line(sql), Token::Blank),
        '/' if next == Some(b'*') => {
            (sql[2..].find("*/").map_or(sql.len(), |at| at + 4), Token::Blank)
        }
        '\'' => (quoted(bytes, b'\'', dialect == Dialect::Mysql), Token::Text),
        '"' if dialect == Dialect::Mysql => (quoted(bytes, b'"', true), Token::Text),
        '"' => (quoted(bytes, b'"', false), Token::Word),
        '`' => (quoted(bytes, b'`', false), Token::Word),
        '?' if dialect == Dialect::Mysql => (1, Token::Parameter),
        '$' if dialect == Dialect::Pgsql => dollar(sql),
        '.' if next.is_some_and(|b| b.is_ascii_digit()) => (number(bytes), Token::Number),
        '0'..='9' => (number(bytes), Token::Number),
        '(' => (1, Token::Open),
        ')' => (1, Token::Close),
        c if is_word(c) => word(dialect, sql),
        c => (c.len_utf8(), Token::Other),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line(sql: &str) -> usize {
    sql.find('\n').unwrap_or(sql.len())
}

/// Up to and with the closing quote; a doubled quote, and where they escape a backslash before one,
/// do not close.
fn quoted(bytes: &[u8], quote: u8, escapes: bool) -> usize {
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        if escapes && byte == b'\\' {
            at += 2;
        } else if byte != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    bytes.len()
}

/// `12`, `1.5`, `.5`, `1e-3`, `0xff`
fn number(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let signed = matches!(byte, b'+' | b'-')
            && matches!(bytes.get(at.wrapping_sub(1)), Some(b'e' | b'E'))
            && !bytes.starts_with(b"0x")
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || signed) {
            break;
        }
        at += 1;
    }
    at
}

/// `$1`, or a text between tags: `$tag$…$tag$`.
fn dollar(sql: &str) -> (usize, Token) {
    let digits = sql[1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        return (1 + digits, Token::Parameter);
    }
    let name = sql[1..].find(|c: char| !is_word(c)).map_or(sql.len(), |at| at + 1);
    if sql.as_bytes().get(name) != Some(&b'$') {
        return (1, Token::Other);
    }
    let tag = &sql[..=name];
    let end = sql[tag.len()..].find(tag).map_or(sql.len(), |at| at + 2 * tag.len());
    (end, Token::Text)
}

/// A word; of one letter before a quote it is part of a constant: `E'…'`, `X'…'`.
fn word(dialect: Dialect, sql: &str) -> (usize, Token) {
    let end = sql
        .find(|c: char| !(is_word(c) || (c == '$' && dialect == Dialect::Mysql)))
        .unwrap_or(sql.len());
    let text = &sql[..end];
    let rest = &sql.as_bytes()[end..];
    if rest.first() == Some(&b'\'') && matches!(text, "e" | "E" | "x" | "X" | "b" | "B" | "n" | "N")
    {
        let escapes = dialect == Dialect::Mysql || matches!(text, "e" | "E");
        return (end + quoted(rest, b'\'', escapes), Token::Text);
    }
    if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
        return (end, Token::Truth);
    }
    (end, Token::Word)
}

/// Types that say a size in parentheses.
const TYPES: [&str; 28] = [
    "bigint",
    "binary",
    "bit",
    "blob",
    "char",
    "character",
    "datetime",
    "dec",
    "decimal",
    "double",
    "float",
    "int",
    "integer",
    "interval",
    "mediumint",
    "nchar",
    "numeric",
    "nvarchar",
    "real",
    "smallint",
    "text",
    "time",
    "timestamp",
    "tinyint",
    "varbinary",
    "varbit",
    "varchar",
    "varying",
];

fn is_type(word: &str) -> bool {
    TYPES.iter().any(|name| word.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pg(sql: &str) -> String {
        pgsql(sql, "Query")
    }

    #[test]
    fn statements_that_differ_in_constants_only_are_the_same() {
        assert_eq!(
            pg("SELECT a FROM t WHERE b=12 AND c='it''s' AND d IN (1.5, true)"),
            r#"{"query":"SELECT a FROM t WHERE b=$1 AND c=$2 AND d IN ($3, $4)","params":["12","'it''s'","1.5","true"]}"#
        );
        assert_eq!(
            mysql(r#"insert into t values (-1, "x\"y", X'00', 1e-3)"#, 3),
            r#"{"query":"insert into t values (-?, ?, ?, ?)","params":["1","\"x\\\"y\"","X'00'","1e-3"]}"#
        );
    }

    #[test]
    fn names_types_and_comments_are_left_as_they_are() {
        for sql in [
            "CREATE TABLE t1 (a varchar(20), b numeric (10, 2), \"c 3\" text)",
            "SELECT a_1.b2 FROM a_1 -- 7 of 'them'",
            "SELECT a FROM b /* 7 */ WHERE c IS NULL",
        ] {
            assert!(pg(sql).ends_with(r#""params":[]}"#), "{}", pg(sql));
        }
        assert_eq!(
            mysql("SELECT `7` FROM t # 8", 3),
            r#"{"query":"SELECT `7` FROM t # 8","params":[]}"#
        );
    }

    #[test]
    fn the_parameters_of_an_execution_are_counted_anew_among_its_constants() {
        assert_eq!(
            pgsql("query=[SELECT 7 FROM t WHERE a=$2 OR b=$1 OR c=$1] params=[x, y]", "Execute"),
            r#"{"query":"SELECT $1 FROM t WHERE a=$2 OR b=$3 OR c=$4","params":["7","y","x","x"]}"#
        );
        assert_eq!(
            mysql("query=[SELECT a FROM t WHERE a=? AND b=?] params=[x]", 23),
            r#"{"query":"SELECT a FROM t WHERE a=? AND b=?","params":["x","?"]}"#
        );
    }

    #[test]
    fn what_is_cut_anywhere_is_read_to_its_end() {
        let sql = "SELECT $a$b$a$, E'\\'x', 'é', 0x1f, $1, \"n\" /* é */ FROM t WHERE x = 'y' -- z";
        for cut in (0..sql.len()).filter(|&cut| sql.is_char_boundary(cut)) {
            assert!(pg(&sql[..cut]).starts_with("{\"query\":"), "{cut}");
            assert!(mysql(&sql[..cut], 3).starts_with("{\"query\":"), "{cut}");
        }
        assert!(pg("[12 bytes]").contains("bytes"));
    }

    #[test]
    fn other_commands_are_refused_by_name() {
        assert_eq!(
            pgsql("x", "Parse"),
            r#"{"error":"the command is Parse, neither Query nor Execute"}"#
        );
    }
}
