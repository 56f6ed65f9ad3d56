//! One HTTP request with its response, as it is put together, and what all parsers put out.

use super::dialogue::Timed;
use super::{amqp, cql, dns, kafka, mongo, mysql, nats, pgsql, redis};
use crate::event::ProcessKey;
use crate::redaction::{Mode, Redaction};

/// Quality bit: bytes of a body were not captured.
pub const QUALITY_BODY_INCOMPLETE: u8 = 1;
/// Quality bit: the connection was joined midway.
pub const QUALITY_MIDSTREAM: u8 = 2;
/// Quality bit: the response ended with the connection or, in HTTP/2, with its stream's reset, or
/// was no longer waited for.
pub const QUALITY_ENDED_BY_CLOSE: u8 = 4;
/// Quality bit: headers are not known, because what they refer to was not captured.
pub const QUALITY_HEADERS_INCOMPLETE: u8 = 8;

/// Largest buffer that a finished exchange keeps for the next one.
const POOLED_BYTES_MAX: usize = 16 * 1024;
/// Most finished exchanges that are kept for reuse.
const POOLED_EXCHANGES_MAX: usize = 256;

/// What a body is, as far as rows tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentType {
    /// Anything else.
    #[default]
    Unknown = 0,
    /// JSON.
    Json = 1,
    /// gRPC.
    Grpc = 2,
}

/// How far the response of an exchange has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseProgress {
    /// Nothing of it was seen, or interim responses only.
    #[default]
    Awaited,
    /// Its head was seen.
    Begun,
    /// All of it was seen.
    Complete,
}

/// A body on its way: the first bytes, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The first bytes, at most the configured number.
    pub kept: Vec<u8>,
    /// All bytes.
    pub size: u64,
}

impl Body {
    fn clear(&mut self) {
        self.kept.clear();
        self.kept.shrink_to(POOLED_BYTES_MAX);
        self.size = 0;
    }

    /// Takes the next bytes, and keeps of them what `out` wants to be kept.
    pub(crate) fn take(&mut self, bytes: &[u8], out: &Output) {
        let redacted = out.redaction.bodies == Mode::Redacted;
        self.push(bytes, if redacted { 0 } else { out.body_bytes_max });
    }

    fn push(&mut self, bytes: &[u8], kept_max: usize) {
        let room = kept_max.saturating_sub(self.kept.len());
        // Only what is contiguous from the start is kept.
        if room > 0 && self.kept.len() as u64 == self.size {
            self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
    }
}

/// A request and its response. Header values are redacted already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// When the request's first byte was seen, `CLOCK_MONOTONIC`.
    pub requested_at: u64,
    /// When the response's last byte was seen, or the connection ended without one.
    pub responded_at: u64,
    /// Who read or wrote the request.
    pub process: ProcessKey,
    /// Major version of HTTP.
    pub major_version: u8,
    /// Minor version of HTTP/1; 0 for HTTP/2.
    pub minor_version: u8,
    /// The verb.
    pub method: String,
    /// The target as sent.
    pub path: String,
    /// Request headers as a JSON object.
    pub req_headers: String,
    /// Request body.
    pub req_body: Body,
    /// Status; 0 where there was no response.
    pub resp_status: u16,
    /// Reason phrase.
    pub resp_message: String,
    /// Response headers as a JSON object.
    pub resp_headers: String,
    /// Response body.
    pub resp_body: Body,
    /// What the response's body is.
    pub content_type: ContentType,
    /// A sum of `QUALITY_…`.
    pub quality: u8,
    pub(crate) request_complete: bool,
    pub(crate) response: ResponseProgress,
    pub(crate) probation: bool,
}

impl Exchange {
    fn clear(&mut self) {
        for text in [
            &mut self.method,
            &mut self.path,
            &mut self.req_headers,
            &mut self.resp_message,
            &mut self.resp_headers,
        ] {
            text.clear();
            text.shrink_to(POOLED_BYTES_MAX);
        }
        self.req_body.clear();
        self.resp_body.clear();
        self.requested_at = 0;
        self.responded_at = 0;
        self.process = ProcessKey::default();
        self.major_version = 0;
        self.minor_version = 0;
        self.resp_status = 0;
        self.content_type = ContentType::Unknown;
        self.quality = 0;
        self.request_complete = false;
        self.response = ResponseProgress::Awaited;
        self.probation = false;
    }

    /// Bytes that it holds.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.method.len()
            + self.path.len()
            + self.req_headers.len()
            + self.resp_message.len()
            + self.resp_headers.len()
            + self.req_body.kept.len()
            + self.resp_body.kept.len()
    }
}

/// A request and its response, on the way to their table.
#[derive(Debug)]
pub enum Finished {
    /// To `http_events`.
    Http(Box<Exchange>),
    /// To `mysql_events`.
    Mysql(Box<Timed<mysql::Command>>),
    /// To `pgsql_events`.
    Pgsql(Box<Timed<pgsql::Request>>),
    /// To `dns_events`.
    Dns(Box<Timed<dns::Lookup>>),
    /// To `redis_events`.
    Redis(Box<Timed<redis::Command>>),
    /// To `nats_events.beta`.
    Nats(Box<Timed<nats::Command>>),
    /// To `mongodb_events`.
    Mongo(Box<Timed<mongo::Command>>),
    /// To `amqp_events`.
    Amqp(Box<Timed<amqp::Exchange>>),
    /// To `cql_events`.
    Cql(Box<Timed<cql::Request>>),
    /// To `kafka_events.beta`.
    Kafka(Box<Timed<kafka::Request>>),
}

/// Requests and responses on their way.
pub type Exchanges = Vec<Finished>;

/// What parsers share and where they put what they found.
#[derive(Debug)]
pub struct Output {
    /// What is kept of sensitive values.
    pub redaction: Redaction,
    /// Most bytes that are kept of a body.
    pub body_bytes_max: usize,
    /// Exchanges that are complete, in order.
    pub done: Exchanges,
    /// Set by a parser that saw a client send a request before it had the last response.
    pub pipelining_seen: bool,
    /// Whether the connection's peer is known to do so.
    pub peer_pipelines: bool,
    #[expect(clippy::vec_box, reason = "they are handed out and taken back in their boxes")]
    pool: Vec<Box<Exchange>>,
}

impl Output {
    /// An empty output.
    pub fn new(redaction: Redaction, body_bytes_max: usize) -> Self {
        Self {
            redaction,
            body_bytes_max,
            done: Vec::new(),
            pipelining_seen: false,
            peer_pipelines: false,
            pool: Vec::new(),
        }
    }

    /// An exchange to fill.
    pub fn exchange(&mut self) -> Box<Exchange> {
        self.pool.pop().unwrap_or_default()
    }

    /// Takes back what was written, for reuse.
    pub fn recycle(&mut self, finished: Finished) {
        if let Finished::Http(exchange) = finished {
            self.recycle_exchange(exchange);
        }
    }

    /// Takes an exchange back for reuse.
    pub(crate) fn recycle_exchange(&mut self, mut exchange: Box<Exchange>) {
        if self.pool.len() < POOLED_EXCHANGES_MAX {
            exchange.clear();
            self.pool.push(exchange);
        }
    }
}
