//! Passwords in SQL: `CREATE ROLE me PASSWORD 'secret'`, and options of foreign servers.

/// What stands for a password and for what follows it.
const REDACTED: &str = "<redacted>";
const WORD: &[u8] = b"password";

/// The text of a statement without passwords; from the first one on nothing is kept.
pub(super) fn without_passwords(mut sql: String) -> String {
    if let Some(at) = password_at(sql.as_bytes()) {
        sql.truncate(at);
        sql.push_str(REDACTED);
    }
    sql
}

/// Where the first literal starts that follows the word.
fn password_at(sql: &[u8]) -> Option<usize> {
    let words = sql.windows(WORD.len()).enumerate();
    let mut ends =
        words.filter(|(_, word)| word.eq_ignore_ascii_case(WORD)).map(|(at, _)| at + WORD.len());
    ends.find_map(|end| {
        let spaces = sql[end..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        starts_literal(&sql[end + spaces..]).then_some(end + spaces)
    })
}

/// Whether a string starts here: `'…'`, `$$…$$`, `E'…'` or `U&'…'`.
fn starts_literal(sql: &[u8]) -> bool {
    matches!(sql, [b'\'' | b'$', ..] | [b'e' | b'E', b'\'', ..] | [b'u' | b'U', b'&', b'\'', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_cut_off_and_columns_of_that_name_are_not() {
        for (sql, kept) in [
            (
                "CREATE ROLE a LOGIN PASSWORD 'x''y' VALID",
                "CREATE ROLE a LOGIN PASSWORD <redacted>",
            ),
            ("alter user a password\n e'x'", "alter user a password\n <redacted>"),
            ("ALTER ROLE a PASSWORD $$x$$", "ALTER ROLE a PASSWORD <redacted>"),
            ("ALTER ROLE a PASSWORD NULL", "ALTER ROLE a PASSWORD NULL"),
            ("SELECT password FROM t", "SELECT password FROM t"),
            ("SELECT 'é' WHERE password = 'x'", "SELECT 'é' WHERE password = 'x'"),
            ("OPTIONS (user 'a', password 'x')", "OPTIONS (user 'a', password <redacted>"),
        ] {
            assert_eq!(without_passwords(sql.to_owned()), kept);
        }
    }
}
