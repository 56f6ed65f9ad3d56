//! Requests and responses on their streams.

use std::collections::BTreeMap;

use super::super::exchange::{Exchange, ResponseProgress};
use super::super::headers::{UNKNOWN, content_type, headers_into, trailers_into};
use super::super::output::{Output, QUALITY_BODY_INCOMPLETE, QUALITY_HEADERS_INCOMPLETE};
use super::IN_FLIGHT_BYTES_MAX;
use super::hpack::{Field, Fields};
use crate::protocol::dialogue::Side;
use crate::redaction::{Mode, header_value_into};

/// Streams whose requests wait for their response.
#[derive(Debug, Default)]
pub(super) struct Streams {
    exchanges: BTreeMap<u32, Box<Exchange>>,
    bytes: usize,
}

impl Streams {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Bytes that they hold.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is a stream of this number.
    pub(super) fn has(&self, stream: u32) -> bool {
        self.exchanges.contains_key(&stream)
    }

    /// Begins a stream.
    pub(super) fn begin(&mut self, stream: u32, exchange: Box<Exchange>) {
        self.bytes += exchange.memory_bytes();
        self.exchanges.insert(stream, exchange);
    }

    /// Ends a stream.
    pub(super) fn end(&mut self, stream: u32) -> Option<Box<Exchange>> {
        let exchange = self.exchanges.remove(&stream)?;
        self.bytes = self.bytes.saturating_sub(exchange.memory_bytes());
        Some(exchange)
    }

    /// Ends the stream with the lowest number.
    pub(super) fn end_first(&mut self) -> Option<Box<Exchange>> {
        let first = *self.exchanges.keys().next()?;
        self.end(first)
    }

    /// The numbers of all streams after `stream`.
    pub(super) fn after(&self, stream: u32) -> Vec<u32> {
        self.exchanges.range(stream.saturating_add(1)..).map(|(stream, _)| *stream).collect()
    }

    /// Changes a stream's headers or progress, where there is one of this number.
    pub(super) fn change(&mut self, stream: u32, change: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.exchanges.get_mut(&stream) {
            let before = exchange.memory_bytes();
            change(exchange);
            self.bytes = (self.bytes + exchange.memory_bytes()).saturating_sub(before);
        }
    }

    /// Takes the next bytes of a body. They are counted only where there is no room for more.
    pub(super) fn body(&mut self, stream: u32, sender: Side, bytes: &[u8], at: u64, out: &Output) {
        let Some(exchange) = self.exchanges.get_mut(&stream) else { return };
        let is_full = self.bytes + bytes.len().min(out.body_bytes_max) > IN_FLIGHT_BYTES_MAX;
        if sender == Side::Server {
            exchange.responded_at = at;
        }
        let body = body_of(exchange, sender);
        let kept = body.kept.len();
        if is_full {
            body.size += bytes.len() as u64;
            exchange.quality |= QUALITY_BODY_INCOMPLETE;
        } else {
            body.take(bytes, out);
            self.bytes += body.kept.len() - kept;
        }
    }

    /// Takes notice that bytes of a body are not there.
    pub(super) fn body_hole(&mut self, stream: u32, sender: Side, missing: u64, at: u64) {
        let Some(exchange) = self.exchanges.get_mut(&stream) else { return };
        exchange.quality |= QUALITY_BODY_INCOMPLETE;
        if sender == Side::Server {
            exchange.responded_at = at;
        }
        let body = body_of(exchange, sender);
        body.size = body.size.saturating_add(missing);
    }
}

fn body_of(exchange: &mut Exchange, sender: Side) -> &mut super::super::exchange::Body {
    match sender {
        Side::Client => &mut exchange.req_body,
        Side::Server => &mut exchange.resp_body,
    }
}

/// What the headers of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A request's.
    Request,
    /// A response's, with its status; 0 where that is not known.
    Response(u16),
    /// A response's that does not answer the request yet.
    Interim,
    /// They come after a body, or they say nothing.
    Trailers,
}

/// Tells what headers are by their pseudo-headers.
pub(super) fn role(fields: &Fields) -> Role {
    for field in fields.iter() {
        match field.name {
            Some(b":status") => return status(field),
            Some([b':', ..]) => return Role::Request,
            _ => {}
        }
    }
    Role::Trailers
}

fn status(field: Field<'_>) -> Role {
    let digits = field.value.and_then(|value| std::str::from_utf8(value).ok());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(100..200) => Role::Interim,
        status => Role::Response(status.unwrap_or(0)),
    }
}

/// Fills in what the headers of a request say.
pub(super) fn request_into(fields: &Fields, mode: Mode, exchange: &mut Exchange) {
    for field in fields.iter() {
        match field.name {
            Some(b":method") => text_into(field.value, &mut exchange.method),
            Some(b":path") => text_into(field.value, &mut exchange.path),
            _ => {}
        }
    }
    if fields.are_incomplete() {
        exchange.quality |= QUALITY_HEADERS_INCOMPLETE;
        for text in [&mut exchange.method, &mut exchange.path] {
            if text.is_empty() {
                text.push_str(UNKNOWN);
            }
        }
    }
    headers_into(&shown(fields), mode, &mut exchange.req_headers);
}

/// Fills in what the headers of a response say, in place of those before them.
pub(super) fn response_into(fields: &Fields, status: u16, mode: Mode, exchange: &mut Exchange) {
    exchange.response = ResponseProgress::Begun;
    exchange.resp_status = status;
    exchange.resp_headers.clear();
    headers_into(&shown(fields), mode, &mut exchange.resp_headers);
    for field in fields.iter() {
        if let (Some(b"content-type"), Some(value)) = (field.name, field.value) {
            exchange.content_type = content_type(value);
        }
    }
    response_facts(fields, mode, exchange);
}

/// Adds trailers to the headers before them.
pub(super) fn add_trailers(fields: &Fields, sender: Side, mode: Mode, exchange: &mut Exchange) {
    match sender {
        Side::Client => {
            trailers_into(&shown(fields), mode, &mut exchange.req_headers);
            if fields.are_incomplete() {
                exchange.quality |= QUALITY_HEADERS_INCOMPLETE;
            }
        }
        Side::Server => {
            trailers_into(&shown(fields), mode, &mut exchange.resp_headers);
            response_facts(fields, mode, exchange);
        }
    }
}

/// What gRPC says in headers or, mostly, in trailers.
fn response_facts(fields: &Fields, mode: Mode, exchange: &mut Exchange) {
    if fields.are_incomplete() {
        exchange.quality |= QUALITY_HEADERS_INCOMPLETE;
    }
    for field in fields.iter() {
        if let (Some(b"grpc-message"), Some(value)) = (field.name, field.value) {
            let text = String::from_utf8_lossy(value);
            exchange.resp_message.clear();
            header_value_into(mode, "grpc-message", &text, &mut exchange.resp_message);
        }
    }
}

/// The fields that columns of their own do not show.
fn shown(fields: &Fields) -> Vec<Field<'_>> {
    let has_column = |field: &Field<'_>| {
        matches!(field.name, Some(b":method" | b":path" | b":scheme" | b":status"))
    };
    fields.iter().filter(|field| !has_column(field)).collect()
}

fn text_into(value: Option<&[u8]>, text: &mut String) {
    match value {
        Some(value) => text.push_str(&String::from_utf8_lossy(value)),
        None => text.push_str(UNKNOWN),
    }
}
