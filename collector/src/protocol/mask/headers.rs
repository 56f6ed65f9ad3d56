//! Headers of HTTP: whose names are no secret, and of which of them the values are structure.

use super::fill;

/// Names that are kept. Others may say something of those who made them up.
const NAMES: [&str; 78] = [
    ":authority",
    ":method",
    ":path",
    ":protocol",
    ":scheme",
    ":status",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "access-control-allow-origin",
    "access-control-request-method",
    "age",
    "allow",
    "alt-svc",
    "authorization",
    "b3",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "from",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "grpc-timeout",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-b3-traceid",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];
/// Values of `connection`, `upgrade`, `te` and `transfer-encoding` that are kept.
const TOKENS: [&str; 14] = [
    "br",
    "chunked",
    "close",
    "compress",
    "deflate",
    "gzip",
    "h2c",
    "http2-settings",
    "identity",
    "keep-alive",
    "te",
    "trailers",
    "upgrade",
    "websocket",
];
/// Types of content that are kept.
const TYPES: [&str; 16] = [
    "application/grpc",
    "application/grpc+json",
    "application/grpc+proto",
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/javascript",
    "application/json",
    "application/octet-stream",
    "application/problem+json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "text/css",
    "text/event-stream",
    "text/html",
    "text/plain",
    "text/xml",
];
/// How types end that make a body JSON.
const JSON: &[u8] = b"+json";

/// Whether a header's name is kept.
pub(crate) fn keeps_name(name: &[u8]) -> bool {
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Overwrites what is content in a header's value.
pub(crate) fn mask_value(name: &[u8], value: &mut [u8]) {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let is_digits = value.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b' '));
    if is("content-type") {
        mask_type(value);
    } else if is(":method") {
        if value.len() > 20 || !value.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
        {
            fill(value);
        }
    } else if is("content-length") || is(":status") || is("grpc-status") {
        if !is_digits {
            fill(value);
        }
    } else if is(":scheme") {
        if !matches!(&*value, b"http" | b"https") {
            fill(value);
        }
    } else if is("connection") || is("upgrade") || is("te") || is("transfer-encoding") {
        mask_tokens(value);
    } else {
        fill(value);
    }
}

/// Keeps the part of a list whose words are all known, or nothing.
fn mask_tokens(value: &mut [u8]) {
    for word in value.split_mut(|byte| *byte == b',') {
        let is_known =
            TOKENS.iter().any(|known| word.trim_ascii().eq_ignore_ascii_case(known.as_bytes()));
        if !is_known {
            fill(word);
        }
    }
}

/// Keeps a type that is known, or of another the end that tells what a body is.
fn mask_type(value: &mut [u8]) {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let (kind, parameters) = value.split_at_mut(end);
    if let Some(parameters) = parameters.get_mut(1..) {
        fill(parameters);
    }
    let known = TYPES.iter().any(|known| kind.trim_ascii().eq_ignore_ascii_case(known.as_bytes()));
    if !known {
        let kept = kind.len() >= JSON.len() && kind.ends_with(JSON);
        let filled = kind.len() - if kept { JSON.len() } else { 0 };
        fill(&mut kind[..filled]);
    }
}

/// Overwrites a path but for the slash that it begins with.
pub(crate) fn mask_path(path: &mut [u8]) {
    match path {
        [b'/', rest @ ..] => fill(rest),
        [b'*'] => {}
        path => fill(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_values_only_what_parsers_need_is_kept() {
        for (name, value, masked) in [
            ("Content-Length", "17", "17"),
            ("content-length", "17a", "xxx"),
            ("Content-Type", "application/json; charset=utf-8", "application/json;xxxxxxxxxxxxxx"),
            ("content-type", "application/vnd.acme+json", "xxxxxxxxxxxxxxxxxxxx+json"),
            ("content-type", "image/png", "xxxxxxxxx"),
            ("Connection", "Keep-Alive, acme", "Keep-Alive,xxxxx"),
            ("Cookie", "a=b", "xxx"),
            (":method", "GET", "GET"),
            (":status", "404", "404"),
            ("acme", "1", "x"),
        ] {
            let mut value = value.as_bytes().to_vec();
            mask_value(name.as_bytes(), &mut value);
            assert_eq!(String::from_utf8_lossy(&value), masked, "{name}");
        }
        assert!(keeps_name(b"Set-Cookie") && !keeps_name(b"x-acme"));
    }
}
