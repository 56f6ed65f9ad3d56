//! Folds the variable parts of a request's path, so that requests to one endpoint group together.
//!
//! The rule has a version, because summaries of two versions must not be mixed unnoticed:
//! version 1 drops query and fragment and replaces by `*` every segment that is an integer, a UUID,
//! hexadecimal of at least [`HEX_BYTES_MIN`] digits with a decimal digit in it, an e-mail address,
//! or a token of at least [`TOKEN_BYTES_MIN`] characters that mixes letters and digits or of at
//! least [`WORD_BYTES_MIN`] without a separator. A file extension is kept: `/img/123.png` is
//! `/img/*.png`. What lies beyond [`SEGMENTS_MAX`] segments is one `*`.

/// Version of the rule.
pub const TEMPLATE_VERSION: u32 = 1;
/// Fewest hexadecimal digits that are taken for an id.
pub const HEX_BYTES_MIN: usize = 8;
/// Fewest characters of mixed letters and digits that are taken for an id.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Fewest characters without any separator that are taken for an id.
pub const WORD_BYTES_MIN: usize = 40;
/// Most segments of a template.
pub const SEGMENTS_MAX: usize = 16;

/// Appends the template of `path` to `out`.
pub fn template_into(path: &str, out: &mut String) {
    let path = without_query(without_origin(path));
    if !path.starts_with('/') {
        // `*` of OPTIONS, or the authority of CONNECT.
        out.push_str(path);
        return;
    }
    let mut rest = path;
    for _ in 0..SEGMENTS_MAX {
        // What is left begins with a slash, which is one byte of UTF-8.
        out.push('/');
        rest = &rest[1..];
        let end = rest.bytes().position(|b| b == b'/');
        fold_segment(&rest[..end.unwrap_or(rest.len())], out);
        let Some(end) = end else { return };
        rest = &rest[end..];
    }
    out.push_str("/*");
}

/// The template of `path`.
pub fn template(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    template_into(path, &mut out);
    out
}

/// The path of an absolute-form target, as a proxy is asked.
fn without_origin(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    let Some((scheme, rest)) = target.split_once("://") else { return target };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return target;
    }
    rest.find('/').map_or("/", |at| &rest[at..])
}

fn without_query(path: &str) -> &str {
    path.bytes().position(|b| matches!(b, b'?' | b'#')).map_or(path, |at| &path[..at])
}

fn fold_segment(segment: &str, out: &mut String) {
    if segment.bytes().all(|b| b.is_ascii_alphabetic()) && segment.len() < WORD_BYTES_MIN {
        out.push_str(segment);
    } else if is_id(segment) {
        out.push('*');
    } else {
        match segment.rsplit_once('.') {
            Some((stem, extension)) if is_extension(extension) && is_id(stem) => {
                out.push_str("*.");
                out.push_str(extension);
            }
            _ => out.push_str(segment),
        }
    }
}

fn is_extension(text: &str) -> bool {
    (1..=5).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
        && text.bytes().any(|b| b.is_ascii_alphabetic())
}

fn is_id(segment: &str) -> bool {
    is_integer(segment)
        || is_uuid(segment)
        || is_hex(segment)
        || is_email(segment)
        || is_token(segment)
}

fn is_integer(segment: &str) -> bool {
    let digits = segment.strip_prefix('-').unwrap_or(segment);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_uuid(segment: &str) -> bool {
    segment.len() == 36
        && segment.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn is_hex(segment: &str) -> bool {
    let digits = segment.strip_prefix("0x").unwrap_or(segment);
    digits.len() >= HEX_BYTES_MIN
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && digits.bytes().any(|b| b.is_ascii_digit())
}

fn is_email(segment: &str) -> bool {
    if !segment.bytes().any(|b| matches!(b, b'@' | b'%')) {
        return false;
    }
    let at = segment.split_once('@').or_else(|| segment.split_once("%40"));
    at.is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
}

fn is_token(segment: &str) -> bool {
    if segment.len() < TOKEN_BYTES_MIN {
        return false;
    }
    let plain =
        segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'='));
    if !plain {
        return false;
    }
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let separators = segment.bytes().filter(|b| matches!(b, b'_' | b'-')).count();
    // Words joined by hyphens are a name; a token has few separators for its length and digits
    // strewn over it.
    (digits >= 3 && separators * 8 <= segment.len())
        || (separators == 0 && segment.len() >= WORD_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn variable_parts_are_folded_and_names_are_kept() {
        for (path, expected) in [
            ("/", "/"),
            ("", ""),
            ("*", "*"),
            ("example.com:443", "example.com:443"),
            ("/users/42", "/users/*"),
            ("/users/42/orders/7?x=1#y", "/users/*/orders/*"),
            ("/users/-3/", "/users/*/"),
            ("/v1/users", "/v1/users"),
            ("/v2/2024", "/v2/*"),
            ("/o/6f1e1b6e-93a4-4d4c-8f0a-0c2f6f1f9a77", "/o/*"),
            ("/git/deadbeef01", "/git/*"),
            ("/git/0xdeadbeef01", "/git/*"),
            ("/feedface", "/feedface"),
            ("/mail/ann@example.org/inbox", "/mail/*/inbox"),
            ("/mail/ann%40example.org", "/mail/*"),
            ("/img/123.png", "/img/*.png"),
            ("/app.3f9a8b7c.js", "/app.3f9a8b7c.js"),
            ("/index.html", "/index.html"),
            ("/t/eyJhbGciOiJIUzI1NiJ9abc123", "/t/*"),
            ("/terms-and-conditions-of-use-2024", "/terms-and-conditions-of-use-2024"),
            ("/recommendationservice", "/recommendationservice"),
            ("http://shop.example/cart/9?a=b", "/cart/*"),
            ("http://shop.example", "/"),
            ("/a//b", "/a//b"),
        ] {
            assert_eq!(template(path), expected, "{path}");
        }
    }

    #[test]
    fn a_deep_path_is_cut() {
        let deep = "/a".repeat(SEGMENTS_MAX + 9);
        assert_eq!(template(&deep), format!("{}/*", "/a".repeat(SEGMENTS_MAX)));
    }

    proptest! {
        #[test]
        fn a_template_is_its_own_template_and_holds_no_query(path in "/[a-zA-Z0-9/@._%?#=-]{0,80}") {
            let once = template(&path);
            prop_assert_eq!(template(&once), once.clone());
            prop_assert!(!once.contains('?'));
            prop_assert!(once.len() <= path.len() + 1);
        }
    }
}
