//! Text: lengths and places count bytes, patterns are linear-time regular expressions.

use regex::{NoExpand, Regex, RegexBuilder};

use super::kernel::{self as k, one, prepared, three, two};
use super::{B, I, Registry, S};

/// Largest compiled pattern, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

pub(crate) fn declare(r: &mut Registry) {
    r.plain("contains", &[S, S], B, two::<k::S, k::S, k::B>(|s, part| s.contains(part)));
    r.plain("length", &[S], I, one::<k::S, k::I>(|s| index(s.len())));
    r.plain("find", &[S, S], I, two::<k::S, k::S, k::I>(|s, part| s.find(part).map_or(-1, index)));
    r.plain("substring", &[S, I, I], S, three::<k::S, k::I, k::I, k::S>(substring));
    r.plain("strip_prefix", &[S, S], S, two::<k::S, k::S, k::S>(strip_prefix));
    r.plain("tolower", &[S], S, one::<k::S, k::S>(str::to_ascii_lowercase));
    r.plain("toupper", &[S], S, one::<k::S, k::S>(str::to_ascii_uppercase));
    r.plain("trim", &[S], S, one::<k::S, k::S>(|s| s.trim().to_owned()));
    r.plain("replace", &[S, S, S], S, prepared::<_, k::S>(Replacement::new, Replacement::apply));
    r.plain(
        "regex_match",
        &[S, S],
        B,
        prepared::<_, k::B>(whole_match, |regex, args| {
            regex.as_ref().is_some_and(|regex| regex.is_match(args[0]))
        }),
    );
    r.plain("bytes_to_hex", &[S], S, one::<k::S, k::S>(hex));
    r.plain("hex_to_ascii", &[S], S, one::<k::S, k::S>(|s| ascii(s).unwrap_or_default()));
}

fn index(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

/// Bytes `pos..pos + length`, clipped; a character that is cut becomes U+FFFD.
fn substring(text: &str, pos: i64, length: i64) -> String {
    let (Ok(pos), Ok(length)) = (usize::try_from(pos), usize::try_from(length)) else {
        return String::new();
    };
    let bytes = text.as_bytes().get(pos..).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..length.min(bytes.len())]).into_owned()
}

fn strip_prefix(prefix: &str, text: &str) -> String {
    text.strip_prefix(prefix).unwrap_or(text).to_owned()
}

fn build(pattern: &str, dot_takes_newline: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .dot_matches_new_line(dot_takes_newline)
        .size_limit(REGEX_BYTES_MAX)
        .build()
}

/// Matches the whole text only; `None` for a bad pattern, which matches nothing.
fn whole_match(pattern: &str) -> Option<Regex> {
    build(&format!(r"\A(?:{pattern})\z"), true).ok()
}

/// A pattern whose every match is replaced.
struct Replacement(Result<Regex, String>);

impl Replacement {
    fn new(pattern: &str) -> Self {
        Self(build(pattern, false).map_err(|error| format!("Invalid regex expr: {error}")))
    }

    /// `args` are the text and what replaces; `\0` to `\9` there stand for what a group took.
    /// A bad pattern gives its error as the text, as upstream does.
    fn apply(&self, args: &[&str]) -> String {
        let (text, with) = (args[0], args[1]);
        match &self.0 {
            Err(error) => error.clone(),
            Ok(regex) if !with.contains('\\') => {
                regex.replace_all(text, NoExpand(with)).into_owned()
            }
            Ok(regex) => regex
                .replace_all(text, |captures: &regex::Captures<'_>| rewrite(with, captures))
                .into_owned(),
        }
    }
}

fn rewrite(with: &str, captures: &regex::Captures<'_>) -> String {
    let mut out = String::with_capacity(with.len());
    let mut chars = with.chars();
    while let Some(c) = chars.next() {
        match (c, chars.as_str().chars().next()) {
            ('\\', Some(digit @ '0'..='9')) => {
                let group = digit.to_digit(10).unwrap_or(0) as usize;
                out.push_str(captures.get(group).map_or("", |m| m.as_str()));
                chars.next();
            }
            ('\\', Some('\\')) => {
                out.push('\\');
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
        hex.push_str("\\x");
        hex.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        hex
    })
}

fn ascii(text: &str) -> Option<String> {
    let bytes = (0..text.len() / 2)
        .map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok())
        .collect::<Option<Vec<u8>>>()?;
    (text.len().is_multiple_of(2)).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_takes_every_match_and_knows_groups() {
        let replace = |p, s, w| Replacement::new(p).apply(&[s, w]);
        assert_eq!(replace("[0-9]+", "a1b22", "#"), "a#b#");
        assert_eq!(replace("(a)(b)", "ab ab", r"\2\1"), "ba ba");
        assert_eq!(replace("a", "a", "$1"), "$1");
        assert!(replace("(", "a", "").starts_with("Invalid regex expr"));
    }

    #[test]
    fn a_match_is_of_the_whole_text_and_passes_newlines() {
        assert!(whole_match("a.*b").unwrap().is_match("a\nb"));
        assert!(!whole_match("a|ab").unwrap().is_match("abc"));
        assert!(whole_match("a|ab").unwrap().is_match("ab"));
        assert!(whole_match("(").is_none());
    }

    #[test]
    fn substrings_are_clipped_never_refused() {
        assert_eq!(substring("hello", 1, 3), "ell");
        assert_eq!(substring("hello", 3, 99), "lo");
        assert_eq!(substring("hello", -1, 3), "");
        assert_eq!(substring("hello", 9, 3), "");
        assert_eq!(substring("hello", 1, -1), "");
        assert_eq!(substring("ä", 1, 1), "\u{fffd}");
    }
}
