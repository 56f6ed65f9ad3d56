//! Statements of SQL: the word that they begin with is what they do, the rest what people asked.

use super::fill;

/// Words that are kept.
const VERBS: [&str; 42] = [
    "abort",
    "alter",
    "analyze",
    "begin",
    "call",
    "check",
    "commit",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "desc",
    "describe",
    "discard",
    "do",
    "drop",
    "end",
    "execute",
    "explain",
    "fetch",
    "flush",
    "grant",
    "insert",
    "kill",
    "listen",
    "load",
    "lock",
    "notify",
    "prepare",
    "release",
    "replace",
    "revoke",
    "rollback",
    "savepoint",
    "select",
    "set",
    "show",
    "start",
    "truncate",
    "update",
    "use",
];

/// Overwrites a statement but for its first word, where that is one of SQL's; what is before it has to be
/// white space.
pub(crate) fn mask_statement(statement: &mut [u8]) {
    let blanks = statement.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let statement = &mut statement[blanks..];
    let letters = statement.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (verb, rest) = statement.split_at_mut(letters);
    if !VERBS.iter().any(|known| verb.eq_ignore_ascii_case(known.as_bytes())) {
        fill(verb);
    }
    // So that it stays a word of its own.
    let is_kept = |end: &u8| end.is_ascii_whitespace() || *end == b';';
    let kept = usize::from(rest.first().is_some_and(is_kept));
    fill(&mut rest[kept..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_statement_its_verb_is_kept() {
        for (statement, masked) in [
            ("select name from people", "select xxxxxxxxxxxxxxxx"),
            ("  COMMIT;", "  COMMIT;"),
            ("secret", "xxxxxx"),
            ("/* a */ select 1", "xxxxxxxxxxxxxxxx"),
            ("", ""),
        ] {
            let mut text = statement.as_bytes().to_vec();
            mask_statement(&mut text);
            assert_eq!(String::from_utf8_lossy(&text), masked);
        }
    }
}
