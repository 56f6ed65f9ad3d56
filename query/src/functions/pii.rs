//! What looks like personal data in a text, replaced by what it looks like.
//!
//! By form alone, where a form can be checked by its checksum too: what is personal and looks
//! like nothing of this is kept, and now and then something else is taken for it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

use super::kernel::{self as k, one};
use super::{Registry, S};

pub(crate) fn declare(r: &mut Registry) {
    r.plain("redact_pii_best_effort", &[S], S, one::<k::S, k::S>(redact));
}

struct Recogniser {
    mark: &'static str,
    pattern: Regex,
    accepts: Accepts,
}

/// How many bytes of what has the form are meant, 0 for none.
type Accepts = fn(&str) -> usize;

/// In this order: an e-mail address may hold an address, an address the form of another number.
static RECOGNISERS: LazyLock<Vec<Recogniser>> = LazyLock::new(|| {
    let known: [(&str, &str, Accepts); 8] = [
        (
            "<REDACTED_EMAIL>",
            r"[A-Za-z0-9._%+*-]+(?:@|%40)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*",
            str::len,
        ),
        (
            "<REDACTED_IPV6>",
            r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:\.[0-9]{1,3}){0,3}",
            ipv6,
        ),
        ("<REDACTED_MAC_ADDR>", r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}", str::len),
        ("<REDACTED_IPV4>", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", |text| {
            whole(text, text.parse::<Ipv4Addr>().is_ok())
        }),
        ("<REDACTED_IBAN>", r"[A-Z]{2} ?[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}", iban),
        ("<REDACTED_IMEI>", r"[0-9]{2}-[0-9]{6}-[0-9]{6}-[0-9]{1,2}", str::len),
        ("<REDACTED_CC_NUMBER>", r"[0-9](?:[ -]?[0-9]){12,18}", card),
        ("<REDACTED_SSN>", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", social_security),
    ];
    known
        .into_iter()
        .filter_map(|(mark, pattern, accepts)| {
            Some(Recogniser { mark, pattern: Regex::new(pattern).ok()?, accepts })
        })
        .collect()
});

fn redact(text: &str) -> String {
    let mut text = text.to_owned();
    for recogniser in RECOGNISERS.iter() {
        if recogniser.pattern.is_match(&text) {
            text = recogniser.replaced(&text);
        }
    }
    text
}

impl Recogniser {
    fn replaced(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let (mut kept, mut from) = (0, 0);
        while let Some(found) = self.pattern.find_at(text, from) {
            let start = found.start();
            let accepted = (self.accepts)(found.as_str());
            let end = if accepted == 0 { found.end() } else { start + accepted };
            if accepted > 0 && stands_alone(text, start, end) {
                out.push_str(&text[kept..start]);
                out.push_str(self.mark);
                kept = end;
            }
            from = end.max(start + 1);
            while !text.is_char_boundary(from) {
                from += 1;
            }
        }
        out.push_str(&text[kept..]);
        out
    }
}

/// Whether it is no part of a longer word, number or address.
fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let before = text[..start].chars().next_back();
    let mut after = text[end..].chars();
    match (after.next(), after.next()) {
        (Some(c), _) if joins(c) => return false,
        // `1.2.3.4.5` is no address, one at the end of a sentence is.
        (Some('.' | ':'), Some(c)) if joins(c) => return false,
        _ => {}
    }
    !before.is_some_and(|c| joins(c) || c == '.')
}

fn whole(text: &str, accepted: bool) -> usize {
    if accepted { text.len() } else { 0 }
}

fn ipv6(text: &str) -> usize {
    let is_one = text.bytes().any(|byte| byte.is_ascii_hexdigit());
    whole(text, is_one && text.parse::<Ipv6Addr>().is_ok())
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

/// By Luhn's checksum.
fn card(text: &str) -> usize {
    let sum: u32 = digits(text)
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &digit)| match (at % 2, digit) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    whole(text, sum.is_multiple_of(10) && digits(text).iter().any(|&digit| digit != 0))
}

/// By its checksum (ISO 13616); capitals that follow it are no part of it.
fn iban(text: &str) -> usize {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
    let mut ends = ends.take_while(|&end| end >= 15);
    ends.find(|&end| !text[end..].starts_with(char::is_alphanumeric) && is_iban(&text[..end]))
        .unwrap_or(0)
}

fn is_iban(text: &str) -> bool {
    let plain: Vec<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let moved = plain.iter().skip(4).chain(plain.iter().take(4));
    let rest = moved.filter_map(|c| c.to_digit(36)).fold(0_u32, |rest, value| {
        if value < 10 { (rest * 10 + value) % 97 } else { (rest * 100 + value) % 97 }
    });
    rest == 1
}

/// No such number has an area of 000, 666 or 900 and above, a group of 00, or a serial of 0000.
fn social_security(text: &str) -> usize {
    let area = &text[..3];
    let never = area == "000" || area == "666" || area >= "900";
    whole(text, !(never || &text[4..6] == "00" || &text[7..] == "0000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_replaced_by_its_name() {
        for (text, wanted) in [
            ("mail a.b+c@example.org now", "mail <REDACTED_EMAIL> now"),
            ("q=a%40example.org", "q=<REDACTED_EMAIL>"),
            ("from 10.0.0.1.", "from <REDACTED_IPV4>."),
            ("at [2001:db8::7]:80", "at [<REDACTED_IPV6>]:80"),
            ("::ffff:1.2.3.4", "<REDACTED_IPV6>"),
            ("mac 00:1b:44:11:3a:b7", "mac <REDACTED_MAC_ADDR>"),
            ("\"4111-1111-1111-1111\"", "\"<REDACTED_CC_NUMBER>\""),
            ("GB29 NWBK 6016 1331 9268 19 AND", "<REDACTED_IBAN> AND"),
            ("01-786058-312233-6", "<REDACTED_IMEI>"),
            ("ssn 211-21-2222,", "ssn <REDACTED_SSN>,"),
        ] {
            assert_eq!(redact(text), wanted);
        }
    }

    #[test]
    fn what_only_resembles_one_is_kept() {
        for text in [
            "999.999.0.0",
            "1.2.3.4.5",
            "12:30:45",
            "std::vec::Vec",
            "5555 0000 0000 0000",
            "GB29 NWBK 6016 1331 9268 18",
            "000-12-1234",
            "abcdef00123459689",
            "é 7",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn all_of_a_text_are_replaced() {
        assert_eq!(
            redact("10.0.0.1, 10.0.0.2 é 10.0.0.3"),
            "<REDACTED_IPV4>, <REDACTED_IPV4> é <REDACTED_IPV4>"
        );
    }
}
