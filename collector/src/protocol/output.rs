//! What all parsers put out: requests with their responses, on the way to their tables.

use super::dialogue::Timed;
use super::exchange::Exchange;
use super::http1::usual_head::Room;
use super::{amqp, cql, dns, kafka, mongo, mux, mysql, nats, pgsql, redis, tls};
use crate::event::ProcessKey;
use crate::redaction::Redaction;

/// Quality bit: bytes of a body were not captured.
pub const QUALITY_BODY_INCOMPLETE: u8 = 1;
/// Quality bit: the connection was joined midway.
pub const QUALITY_MIDSTREAM: u8 = 2;
/// Quality bit: the response ended with the connection or, in HTTP/2, with its stream's reset, or
/// was no longer waited for.
pub const QUALITY_ENDED_BY_CLOSE: u8 = 4;
/// Quality bit: headers are not known, because what they refer to was not captured.
pub const QUALITY_HEADERS_INCOMPLETE: u8 = 8;
/// Quality bit: it is not known which connection carries this plaintext.
pub const QUALITY_UNBOUND: u8 = 16;

/// Most finished exchanges that are kept for reuse.
const POOLED_EXCHANGES_MAX: usize = 256;

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
    /// To `mux_events`.
    Mux(Box<Timed<mux::Exchange>>),
    /// To `tls_events`.
    Tls(Box<Timed<tls::Handshake>>),
}

impl Finished {
    /// Who read or wrote the request.
    pub fn process(&self) -> ProcessKey {
        match self {
            Self::Http(exchange) => exchange.process,
            Self::Mysql(timed) => timed.process,
            Self::Pgsql(timed) => timed.process,
            Self::Dns(timed) => timed.process,
            Self::Redis(timed) => timed.process,
            Self::Nats(timed) => timed.process,
            Self::Mongo(timed) => timed.process,
            Self::Amqp(timed) => timed.process,
            Self::Cql(timed) => timed.process,
            Self::Kafka(timed) => timed.process,
            Self::Mux(timed) => timed.process,
            Self::Tls(timed) => timed.process,
        }
    }
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
    /// Where parsers of HTTP/1 put headers together.
    pub(super) room: Room,
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
            room: Room::default(),
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
