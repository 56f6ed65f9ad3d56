//! Passwords in SQL, which are never kept.
//!
//! A string after `IDENTIFIED` or `SET PASSWORD` is one up to the end of the statement, and after
//! any other word that ends with `PASSWORD` up to the next word.

/// What stands for a secret.
pub(super) const REDACTED: &str = "<redacted>";

/// Whether `sql` speaks of passwords.
pub(super) fn speaks_of_secrets(sql: &str) -> bool {
    let contains = |word: &[u8]| {
        sql.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
    };
    contains(b"password") || contains(b"identified")
}

/// How long strings are secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secret {
    No,
    ToNextWord,
    ToEndOfStatement,
}

/// `sql` without the strings that are passwords.
pub(super) fn without_secrets(sql: &str) -> String {
    let mut kept = String::with_capacity(sql.len());
    let mut secret = Secret::No;
    let mut last_word = "";
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let (token, tail) = rest.split_at(token_bytes(rest, first));
        rest = tail;
        if first == '\'' || first == '"' {
            if secret == Secret::No {
                kept.push_str(token);
            } else {
                kept.push_str(REDACTED);
            }
            continue;
        }
        kept.push_str(token);
        if first == ';' {
            secret = Secret::No;
        } else if is_word(first) {
            secret = match secret {
                Secret::ToEndOfStatement => secret,
                _ if token.eq_ignore_ascii_case("identified") => Secret::ToEndOfStatement,
                _ if !ends_with_password(token) => Secret::No,
                _ if last_word.eq_ignore_ascii_case("set") => Secret::ToEndOfStatement,
                _ => Secret::ToNextWord,
            };
            last_word = token;
        }
    }
    kept
}

/// Bytes of the word, the string or the single character that `sql` starts with.
fn token_bytes(sql: &str, first: char) -> usize {
    if is_word(first) {
        return sql.find(|next| !is_word(next)).unwrap_or(sql.len());
    }
    if first != '\'' && first != '"' {
        return first.len_utf8();
    }
    let mut chars = sql.char_indices().skip(1).peekable();
    while let Some((at, next)) = chars.next() {
        if next == '\\' || (next == first && chars.peek().is_some_and(|(_, after)| *after == first))
        {
            chars.next();
        } else if next == first {
            return at + next.len_utf8();
        }
    }
    sql.len()
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn ends_with_password(word: &str) -> bool {
    let ending = word.len().checked_sub("password".len()).and_then(|at| word.get(at..));
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("password"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strings_that_are_passwords_are_taken_out() {
        for (sql, expected) in [
            ("SELECT 'a''b\\'c', password FROM t WHERE name='x'", ""),
            (
                "create user 'a'@'h' identified by 'hun''ter2' require none",
                "create user 'a'@'h' identified by <redacted> require none",
            ),
            (
                "SET PASSWORD FOR 'u'@'h' = PASSWORD(\"x\"); SELECT 'y'",
                "SET PASSWORD FOR <redacted>@<redacted> = PASSWORD(<redacted>); SELECT 'y'",
            ),
            (
                "CHANGE MASTER TO MASTER_PASSWORD='x', MASTER_HOST='h'",
                "CHANGE MASTER TO MASTER_PASSWORD=<redacted>, MASTER_HOST='h'",
            ),
            (
                "GRANT ALL ON *.* TO u IDENTIFIED BY 'cut off",
                "GRANT ALL ON *.* TO u IDENTIFIED BY <redacted>",
            ),
            ("select * from t where Password = 'é' and b='c'", ""),
        ] {
            let expected = match expected {
                "" => sql.replace("'é'", REDACTED),
                expected => expected.to_owned(),
            };
            assert_eq!(without_secrets(sql), expected);
            assert!(speaks_of_secrets(sql));
        }
        assert!(!speaks_of_secrets("SELECT pass FROM words"));
    }
}
