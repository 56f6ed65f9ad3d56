//! URIs and address ranges.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::json::members;
use super::kernel::{self as k, Kernel, one};
use super::{I, Registry, S};

pub(crate) fn declare(r: &mut Registry) {
    r.plain("uri_parse", &[S], S, one::<k::S, k::S>(parse));
    r.plain("uri_recompose", &[S, S, S, I, S, S, S], S, recompose_kernel());
}

/// The parts that are present, as a JSON object.
fn parse(uri: &str) -> String {
    let (rest, fragment) = split(uri, '#');
    let (rest, query) = split(rest, '?');
    let mut parts = Map::new();
    let path = match rest.split_once("://") {
        Some((scheme, rest)) => {
            parts.insert("scheme".to_owned(), scheme.into());
            let (authority, path) = split(rest, '/');
            let (user, host) = match authority.rsplit_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, authority),
            };
            if let Some(user) = user {
                parts.insert("userInfo".to_owned(), user.into());
            }
            let (host, port) = match host.rsplit_once(':') {
                Some((host, port))
                    if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) =>
                {
                    (host, port.parse::<u16>().ok())
                }
                _ => (host, None),
            };
            if !host.is_empty() {
                parts.insert("host".to_owned(), host.into());
            }
            if let Some(port) = port {
                parts.insert("port".to_owned(), port.into());
            }
            path.unwrap_or_default()
        }
        None => rest.strip_prefix('/').unwrap_or(rest),
    };
    if !path.is_empty() {
        parts.insert("path".to_owned(), path.into());
    }
    for (name, part) in [("query", query), ("fragment", fragment)] {
        if let Some(part) = part {
            parts.insert(name.to_owned(), part.into());
        }
    }
    Value::Object(parts).to_string()
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn recompose_kernel() -> Kernel {
    Box::new(|_, inputs| {
        inputs.rows_of(|row| {
            let text = |index| row.text(index);
            Ok(recompose(
                [text(0)?, text(1)?, text(2)?],
                row.integer(3)?,
                [text(4)?, text(5)?, text(6)?],
            ))
        })
    })
}

fn recompose(
    [scheme, user, host]: [&str; 3],
    port: i64,
    [path, query, fragment]: [&str; 3],
) -> String {
    let mut uri = String::new();
    if !scheme.is_empty() {
        uri.push_str(scheme);
        uri.push(':');
    }
    if !host.is_empty() {
        uri.push_str("//");
        if !user.is_empty() {
            uri.push_str(user);
            uri.push('@');
        }
        uri.push_str(host);
        if port != 0 {
            uri.push(':');
            uri.push_str(&port.to_string());
        }
    }
    if !path.is_empty() {
        uri.push('/');
        uri.push_str(path);
    }
    for (mark, part) in [('?', query), ('#', fragment)] {
        if !part.is_empty() {
            uri.push(mark);
            uri.push_str(part);
        }
    }
    uri
}

/// Whether one of the ranges of a JSON list holds the address.
pub(crate) fn cidrs_contain_ip(cidrs: &str, ip: &str) -> bool {
    let Ok(ip) = ip.parse::<IpAddr>() else { return false };
    members(cidrs).is_some_and(|list| list.iter().any(|cidr| contains(cidr, ip) == Some(true)))
}

fn contains(cidr: &str, ip: IpAddr) -> Option<bool> {
    let (base, bits) = cidr.split_once('/')?;
    let bits: u32 = bits.parse().ok()?;
    let (base, ip, width) = match (base.parse().ok()?, ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => {
            (u128::from(base.to_bits()), u128::from(ip.to_bits()), 32)
        }
        (IpAddr::V6(base), IpAddr::V6(ip)) => (base.to_bits(), ip.to_bits(), 128),
        _ => return Some(false),
    };
    let shift = u32::checked_sub(width, bits)?;
    Some(base.checked_shr(shift).unwrap_or(0) == ip.checked_shr(shift).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_taken_apart_and_put_together_again() {
        let uri = "http://u:p@host:8080/a/b?q=1#f";
        assert_eq!(
            parse(uri),
            r#"{"scheme":"http","userInfo":"u:p","host":"host","port":8080,"path":"a/b","query":"q=1","fragment":"f"}"#
        );
        assert_eq!(recompose(["http", "u:p", "host"], 8080, ["a/b", "q=1", "f"]), uri);
        assert_eq!(parse("/a?x"), r#"{"path":"a","query":"x"}"#);
    }

    #[test]
    fn ranges_hold_their_own_addresses_only() {
        let cidrs = r#"["10.0.0.0/8","::/0"]"#;
        assert!(cidrs_contain_ip(cidrs, "10.9.8.7"));
        assert!(!cidrs_contain_ip(cidrs, "11.0.0.1"));
        assert!(cidrs_contain_ip(cidrs, "fe80::1"));
        assert!(!cidrs_contain_ip(cidrs, "-"));
        assert!(!cidrs_contain_ip(r#"["10.0.0.0/99"]"#, "10.0.0.1"));
    }
}
