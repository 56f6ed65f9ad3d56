//! Messages as clients and servers write them.

use super::super::super::dialogue::talk::{Sent, client, server};

/// A message with its tag and length.
pub(crate) fn message(tag: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0"))
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0"))
}

/// A `Bind` whose parameters and results are all text.
pub(crate) fn bind(portal: &str, statement: &str, params: &[Option<&str>]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.extend(values(params));
    body.extend([0, 0]);
    message(b'B', body)
}

/// What `Describe` and `Close` name: a statement, `S`, or a portal, `P`.
pub(crate) fn named(tag: u8, kind: char, name: &str) -> Vec<u8> {
    message(tag, format!("{kind}{name}\0"))
}

pub(crate) fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\0"))
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', "")
}

/// The packet that a session begins with.
pub(crate) fn startup() -> Vec<u8> {
    packet(196_608, "user\0me\0database\0db\0\0")
}

pub(crate) fn packet(code: u32, body: &str) -> Vec<u8> {
    let length = u32::try_from(body.len() + 8).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), body.as_bytes()].concat()
}

pub(crate) fn columns(names: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
    for name in names {
        body.extend(name.bytes());
        body.extend([0; 19]);
    }
    message(b'T', body)
}

pub(crate) fn row(row: &[Option<&str>]) -> Vec<u8> {
    message(b'D', values(row))
}

pub(crate) fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0"))
}

pub(crate) fn ready() -> Vec<u8> {
    message(b'Z', "I")
}

pub(crate) fn error(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{code}\0M{text}\0Fparse.c\0\0"))
}

/// A message of the server without a body.
pub(crate) fn done(tag: char) -> Vec<u8> {
    message(u8::try_from(tag).unwrap(), "")
}

fn values(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend([0xff; 4]),
            Some(value) => {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value.bytes());
            }
        }
    }
    body
}

/// What a client sends in one operation.
pub(crate) fn asks(messages: &[Vec<u8>]) -> Sent {
    client(messages.concat())
}

/// What a server sends in one operation.
pub(crate) fn says(messages: &[Vec<u8>]) -> Sent {
    server(messages.concat())
}
