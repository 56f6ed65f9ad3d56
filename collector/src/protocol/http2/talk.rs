//! How tests put frames together, let a client and a server talk in them, and look at the rows.

use super::hpack::encoder::Encoder;
use super::*;
use crate::redaction::{Mode, Redaction};

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 0x20;

/// What happens on the connection, one after the other; each is an operation of its own.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    Bytes(Side, Vec<u8>),
    Hole(Side, u64),
}

pub(super) fn c(bytes: impl AsRef<[u8]>) -> Sent {
    Sent::Bytes(Side::Client, bytes.as_ref().to_vec())
}

pub(super) fn s(bytes: impl AsRef<[u8]>) -> Sent {
    Sent::Bytes(Side::Server, bytes.as_ref().to_vec())
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) fn data(stream: u32, payload: &[u8], flags: u8) -> Vec<u8> {
    frame(0, flags, stream, payload)
}

pub(super) fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(4, 0, 0, &pairs.iter().map(pair).collect::<Vec<_>>().concat())
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &8_u32.to_be_bytes())
}

/// The client's first bytes.
pub(super) fn preface() -> Vec<u8> {
    [frame::PREFACE, &settings(&[(3, 100)])].concat()
}

/// The encoders of both ends.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) client: Encoder,
    pub(super) server: Encoder,
}

impl Ends {
    pub(super) const fn new() -> Self {
        Self { client: Encoder::new(), server: Encoder::new() }
    }

    /// The headers of a request for `path`.
    pub(super) fn get(&mut self, stream: u32, path: &str, flags: u8) -> Vec<u8> {
        let headers = [(":method", "GET"), (":scheme", "http"), (":path", path), ("a", "b")];
        frame(1, END_HEADERS | flags, stream, &self.client.block(&headers))
    }

    /// The headers of a response that says which path it answers.
    pub(super) fn ok(&mut self, stream: u32, path: &str, flags: u8) -> Vec<u8> {
        let block = self.server.block(&[(":status", "200"), ("x-path", path)]);
        frame(1, END_HEADERS | flags, stream, &block)
    }

    /// A request and its response, each an operation.
    pub(super) fn exchange(&mut self, stream: u32, path: &str) -> [Sent; 2] {
        let answer = [self.ok(stream, path, 0), data(stream, b"hi", END_STREAM)].concat();
        [c(self.get(stream, path, END_STREAM)), s(answer)]
    }
}

/// A parser at work.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) http: Http2,
    pub(super) out: Output,
    at: u64,
}

impl Run {
    pub(super) fn new(start: Start) -> Self {
        let full = Redaction { headers: Mode::Full, bodies: Mode::Full };
        Self { http: Http2::new(Flow::Ingress, start), out: Output::new(full, 16), at: 0 }
    }

    pub(super) fn send(&mut self, sent: &Sent) {
        self.at += 1;
        let operation = Operation { at: self.at, ..Operation::default() };
        let flow = |side| if side == Side::Client { Flow::Ingress } else { Flow::Egress };
        let out = &mut self.out;
        match sent {
            Sent::Bytes(side, bytes) => self.http.bytes(flow(*side), bytes, operation, out),
            Sent::Hole(side, missing) => {
                self.http.hole(flow(*side), *missing, Missing::Lost, operation, out);
            }
        }
        assert!(self.http.memory_bytes() < 4 * IN_FLIGHT_BYTES_MAX, "memory is bounded");
    }

    pub(super) fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.out.done.iter().filter_map(|finished| {
            let Finished::Http(exchange) = finished else { return None };
            Some(exchange.as_ref())
        })
    }

    /// Closes the connection; a line for each exchange, and one for what is lost.
    pub(super) fn finish(mut self) -> Vec<String> {
        self.http.close(self.at + 1, &mut self.out);
        let mut lines: Vec<_> = self.exchanges().map(line).collect();
        if let Some(lost) = self.http.take_lost_rows() {
            let LostRows { cause, rows_min, rows_max, .. } = lost;
            lines.push(format!("lost {rows_min}..={rows_max} {}", cause.reason()));
        }
        lines
    }
}

pub(super) fn run(sent: &[Sent]) -> Vec<String> {
    let mut run = Run::new(Start::AtItsBeginning);
    for sent in sent {
        run.send(sent);
    }
    run.finish()
}

/// The same conversation in operations of at most `bytes` bytes.
pub(super) fn split(sent: &[Sent], bytes: usize) -> Vec<Sent> {
    let parts = |sent: &Sent| match sent {
        Sent::Bytes(side, whole) => {
            whole.chunks(bytes).map(|part| Sent::Bytes(*side, part.to_vec())).collect()
        }
        hole @ Sent::Hole(..) => vec![hole.clone()],
    };
    sent.iter().flat_map(parts).collect()
}

fn line(exchange: &Exchange) -> String {
    format!(
        "{} {} {} {}:{:?} -> {} {} {} {}:{:?} q{}",
        exchange.method,
        exchange.path,
        exchange.req_headers,
        exchange.req_body.size,
        String::from_utf8_lossy(&exchange.req_body.kept),
        exchange.resp_status,
        exchange.resp_message,
        exchange.resp_headers,
        exchange.resp_body.size,
        String::from_utf8_lossy(&exchange.resp_body.kept),
        exchange.quality,
    )
}
