//! How tests let a client and a server talk, and look at what a dialect made of it.

use super::*;
use crate::redaction::{Mode, Redaction};

/// Most bytes of a text that the tests keep.
pub(crate) const TEXT_BYTES_MAX: usize = 64;

/// What happens on the connection, one after the other; each is an operation of its own.
#[derive(Clone, Debug)]
pub(crate) enum Sent {
    Client(Vec<u8>),
    Server(Vec<u8>),
    /// So many bytes of a side are not there.
    Hole(Side, u64),
}

pub(crate) fn client(bytes: impl AsRef<[u8]>) -> Sent {
    Sent::Client(bytes.as_ref().to_vec())
}

pub(crate) fn server(bytes: impl AsRef<[u8]>) -> Sent {
    Sent::Server(bytes.as_ref().to_vec())
}

impl From<(Side, Vec<u8>)> for Sent {
    fn from((side, bytes): (Side, Vec<u8>)) -> Self {
        match side {
            Side::Client => Self::Client(bytes),
            Side::Server => Self::Server(bytes),
        }
    }
}

/// What a file says of a conversation: on each line who sends, and what in hexadecimal.
pub(crate) fn flights(text: &str) -> Vec<(Side, Vec<u8>)> {
    let flight = |line: &str| {
        let (side, hex) = line.split_once(' ').unwrap();
        let digits: Vec<_> = hex.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        let bytes = digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap());
        (if side == "client" { Side::Client } else { Side::Server }, bytes.collect())
    };
    text.lines().map(flight).collect()
}

/// Feeds a conversation to a fresh parser, closes it, and gives a line for each call that it found
/// by `show`, and one for what it says is lost.
pub(crate) fn hear<D: Dialect>(sent: &[Sent], show: impl Fn(&Finished) -> String) -> Vec<String> {
    hear_keeping::<D>(TEXT_BYTES_MAX, sent, show)
}

/// As [`hear`], with at most `text_bytes_max` bytes kept of a text.
pub(crate) fn hear_keeping<D: Dialect>(
    text_bytes_max: usize,
    sent: &[Sent],
    show: impl Fn(&Finished) -> String,
) -> Vec<String> {
    let mut parser = Dialogue::<D>::new(Flow::Ingress, Start::AtItsBeginning);
    let full = Redaction { headers: Mode::Full, bodies: Mode::Full };
    let mut out = Output::new(full, text_bytes_max);
    let mut at = 0;
    for sent in sent {
        at += 1;
        let operation = Operation { at, ..Operation::default() };
        match sent {
            Sent::Client(bytes) => parser.bytes(Flow::Ingress, bytes, operation, &mut out),
            Sent::Server(bytes) => parser.bytes(Flow::Egress, bytes, operation, &mut out),
            Sent::Hole(side, missing) => {
                let flow = if *side == Side::Client { Flow::Ingress } else { Flow::Egress };
                parser.hole(flow, *missing, Missing::Lost, operation, &mut out);
            }
        }
        assert!(parser.memory_bytes() < 16 << 20, "memory is bounded");
    }
    parser.close(at + 1, &mut out);
    let mut lines: Vec<_> = out.done.iter().map(show).collect();
    if let Some(lost) = parser.take_lost_rows() {
        lines.push(format!("lost {}..={} {}", lost.rows_min, lost.rows_max, lost.cause.reason()));
    }
    lines
}

/// The same conversation in operations of at most `bytes` bytes.
pub(crate) fn split(sent: &[Sent], bytes: usize) -> Vec<Sent> {
    let mut parts = Vec::new();
    for sent in sent {
        match sent {
            Sent::Client(whole) => parts.extend(whole.chunks(bytes).map(client)),
            Sent::Server(whole) => parts.extend(whole.chunks(bytes).map(server)),
            hole @ Sent::Hole(..) => parts.push(hole.clone()),
        }
    }
    parts
}

/// Checks that a conversation gives the same calls however its bytes are cut into operations;
/// `show` must leave times out.
pub(crate) fn check_any_split<D: Dialect>(sent: &[Sent], show: impl Fn(&Finished) -> String) {
    let whole = hear::<D>(sent, &show);
    for bytes in [1, 2, 3, 5, 7, 16, 61] {
        assert_eq!(hear::<D>(&split(sent, bytes), &show), whole, "in parts of {bytes} bytes");
    }
}

/// Checks that any bytes at all are read without a panic and within bounds.
pub(crate) fn check_any_bytes<D: Dialect>(parts: Vec<(bool, Vec<u8>)>) {
    let sent: Vec<_> = parts
        .into_iter()
        .map(|(from_client, bytes)| if from_client { client(bytes) } else { server(bytes) })
        .collect();
    hear::<D>(&sent, |finished| format!("{finished:?}"));
}
