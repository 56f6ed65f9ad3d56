//! Which protocol a connection speaks, found out from the bytes of both directions, and the parsers.
//!
//! Nothing is sticky that was not proven: a connection is undecided until its first bytes name a
//! protocol, and what was taken for opaque is looked at again whenever an operation starts with
//! what only one protocol sends. A parser is fed by [`Protocol::bytes`], `hole` and `close`, and
//! does no I/O. Most are a [`dialogue::Dialect`], which knows only what its messages look like;
//! adding one is that, a variant of [`ProtocolCode`] and of [`output::Finished`], and its line
//! among what is known of all.

pub mod amqp;
pub mod cql;
pub mod dialogue;
pub mod dns;
pub mod exchange;
pub mod gap;
pub mod headers;
pub mod http1;
pub mod http2;
mod json;
pub mod kafka;
mod line_end;
mod marks;
pub(crate) mod mask;
pub mod mongo;
pub mod mux;
pub mod mysql;
pub mod nats;
pub mod output;
pub mod pgsql;
pub mod redis;
mod silence;
pub mod tls;
mod unpack;

use std::fmt::Debug;

use crate::data_stream::{Missing, Operation};
use crate::event::Flow;
use amqp::Amqp;
use cql::Cql;
use dialogue::{Dialect, Dialogue};
use dns::DnsTcp;
use gap::{LostRows, Start};
use http1::Http1;
use http2::Http2;
use kafka::Kafka;
use mongo::Mongo;
use mux::Mux;
use mysql::Mysql;
use nats::Nats;
use output::Output;
use pgsql::Pgsql;
use redis::Redis;
use tls::Tls;

/// Bytes of a direction that decide before it is taken for opaque.
pub const PROBE_BYTES_MAX: usize = 8 * 1024;

/// The protocol codes of `conn_stats`, as in Pixie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolCode {
    /// Not known, or not yet.
    #[default]
    Unknown = 0,
    /// HTTP/1.x.
    Http = 1,
    /// HTTP/2, and gRPC.
    Http2 = 2,
    /// MySQL and MariaDB.
    Mysql = 3,
    /// CQL, of Cassandra.
    Cql = 4,
    /// PostgreSQL.
    Pgsql = 5,
    /// DNS.
    Dns = 6,
    /// Redis.
    Redis = 7,
    /// NATS.
    Nats = 8,
    /// MongoDB.
    Mongo = 9,
    /// Kafka.
    Kafka = 10,
    /// Mux, of Finagle.
    Mux = 11,
    /// AMQP 0-9-1.
    Amqp = 12,
    /// TLS, whatever is inside.
    Tls = 13,
}

impl ProtocolCode {
    /// Every protocol that is known here.
    pub fn all() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(|known| known.code)
    }

    /// The table that holds its exchanges.
    pub fn table(self) -> &'static str {
        self.known().table
    }

    /// Whether servers also send, unasked, what is a row of its own, so that its loss is one too.
    pub fn servers_push(self) -> bool {
        self.known().servers_push
    }

    /// Fewest bytes of a request, or of what a server pushes; where the protocol is not known, of
    /// those in the same table.
    pub fn request_bytes_min(self) -> u64 {
        self.known().request_bytes_min
    }

    /// Whether both ends of a connection keep their rows where both are observed, as in Pixie.
    pub fn both_ends_keep(self) -> bool {
        self.known().both_ends_keep
    }

    fn known(self) -> &'static Known {
        let found = KNOWN.iter().find(|known| known.code == self);
        // What is not known may be the protocol with the shortest request of them all.
        found.unwrap_or(&HTTP2)
    }
}

/// What a few bytes say about a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// They are its start.
    Yes,
    /// They are not.
    No,
    /// They may be.
    Maybe,
}

/// A connection's parser.
pub trait Protocol: Debug + Send {
    /// What is spoken.
    fn code(&self) -> ProtocolCode;
    /// The direction of requests.
    fn requests(&self) -> Flow;
    /// Whether what follows is another protocol, for good.
    fn is_opaque(&self) -> bool;
    /// Whether the conversation goes on with TLS, as it was begun: what is heard from here on is the
    /// plaintext.
    fn goes_on_in_tls(&mut self) -> bool {
        false
    }
    /// Whether nothing is paired at the moment, because of a gap.
    fn is_out_of_step(&self) -> bool;
    /// Whether the next byte of a direction begins a message, by what was read of it so far.
    fn is_between_messages(&self, flow: Flow) -> bool;
    /// Requests that wait for their response.
    fn in_flight(&self) -> usize;
    /// Bytes that it holds.
    fn memory_bytes(&self) -> usize;
    /// Takes the next bytes of a direction.
    fn bytes(&mut self, flow: Flow, bytes: &[u8], operation: Operation, out: &mut Output);
    /// Takes notice that the next `missing` bytes of a direction are not there.
    fn hole(
        &mut self,
        flow: Flow,
        missing: u64,
        why: Missing,
        operation: Operation,
        out: &mut Output,
    );
    /// Takes notice that the connection is gone.
    fn close(&mut self, at: u64, out: &mut Output);
    /// Whether rows are known to be missing since the last [`Self::take_lost_rows`].
    fn has_lost_rows(&self) -> bool;
    /// Takes the rows that are known to be missing since the last call.
    fn take_lost_rows(&mut self) -> Option<LostRows>;
}

/// A parser of a connection that speaks `code`, and whose requests go the way of `requests`.
pub fn start(code: ProtocolCode, requests: Flow, start: Start) -> Box<dyn Protocol> {
    (code.known().start)(requests, start)
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A protocol.
    Speaks {
        /// Which.
        code: ProtocolCode,
        /// The direction of its requests.
        requests: Flow,
    },
    /// More bytes are needed.
    NeedMore,
    /// No protocol that is known here.
    Opaque,
}

/// What is known of a protocol before anyone speaks it.
struct Known {
    code: ProtocolCode,
    table: &'static str,
    request_bytes_min: u64,
    both_ends_keep: bool,
    servers_push: bool,
    /// What a request's first byte may be, as ranges with their ends: others are not probed where
    /// bytes are looked at again and again.
    first_bytes: &'static [[u8; 2]],
    /// What bytes are if they are the first of a client.
    probe_request: fn(&[u8]) -> Probe,
    /// What bytes are if they are the first of a server.
    probe_response: fn(&[u8]) -> Probe,
    start: fn(Flow, Start) -> Box<dyn Protocol>,
}

/// What the first byte may be where a number comes first whose lowest byte it is.
const ANY: &[[u8; 2]] = &[[0, 0xff]];

/// A protocol whose servers cannot be told by what they say first.
const fn dialect<D: Dialect + 'static>(
    table: &'static str,
    request_bytes_min: u64,
    first_bytes: &'static [[u8; 2]],
    probe_request: fn(&[u8]) -> Probe,
) -> Known {
    Known {
        code: D::CODE,
        table,
        request_bytes_min,
        both_ends_keep: false,
        servers_push: false,
        first_bytes,
        probe_request,
        probe_response: |_| Probe::No,
        start: |requests, start| Box::new(Dialogue::<D>::new(requests, start)),
    }
}

const HTTP1: Known = Known {
    code: ProtocolCode::Http,
    table: "http_events",
    request_bytes_min: http1::REQUEST_BYTES_MIN,
    both_ends_keep: false,
    servers_push: false,
    first_bytes: &[[b'A', b'Z'], [b'-', b'-']],
    probe_request: http1::probe_request,
    probe_response: http1::probe_response,
    start: |requests, start| Box::new(Http1::new(requests, start)),
};

const HTTP2: Known = Known {
    code: ProtocolCode::Http2,
    table: "http_events",
    request_bytes_min: http2::REQUEST_BYTES_MIN,
    both_ends_keep: false,
    servers_push: false,
    first_bytes: &[[0, 0], [b'P', b'P']],
    probe_request: http2::probe_request,
    probe_response: http2::probe_response,
    start: |requests, start| Box::new(Http2::new(requests, start)),
};

const MYSQL: Known = Known {
    both_ends_keep: true,
    probe_response: mysql::probe_response,
    ..dialect::<Mysql>("mysql_events", mysql::REQUEST_BYTES_MIN, ANY, mysql::probe_request)
};

const PGSQL: Known = dialect::<Pgsql>(
    "pgsql_events",
    pgsql::REQUEST_BYTES_MIN,
    &[[0, 0], [b'B', b'B'], [b'P', b'Q']],
    pgsql::probe_request,
);

const REDIS: Known = dialect::<Redis>(
    "redis_events",
    redis::REQUEST_BYTES_MIN,
    &[[b'*', b'*']],
    redis::probe_request,
);

const NATS: Known = Known {
    servers_push: true,
    probe_response: nats::probe_response,
    ..dialect::<Nats>(
        "nats_events.beta",
        nats::REQUEST_BYTES_MIN,
        &[[b'C', b'C'], [b'c', b'c'], [b'H', b'H'], [b'P', b'P']],
        nats::probe_request,
    )
};

const MONGO: Known = Known {
    probe_response: mongo::probe_response,
    ..dialect::<Mongo>("mongodb_events", mongo::REQUEST_BYTES_MIN, ANY, mongo::probe_request)
};

const AMQP: Known = Known {
    servers_push: true,
    probe_response: amqp::probe_response,
    ..dialect::<Amqp>(
        "amqp_events",
        amqp::REQUEST_BYTES_MIN,
        &[[1, 1], [b'A', b'A']],
        amqp::probe_request,
    )
};

const CQL: Known = dialect::<Cql>("cql_events", cql::REQUEST_BYTES_MIN, ANY, cql::probe_request);

const KAFKA: Known = dialect::<Kafka>(
    "kafka_events.beta",
    kafka::REQUEST_BYTES_MIN,
    &[[0, 0x10]],
    kafka::probe_request,
);

/// Over TCP. What is said over UDP never comes here.
const DNS: Known = Known {
    both_ends_keep: true,
    ..dialect::<DnsTcp>("dns_events", dns::REQUEST_BYTES_MIN, &[[0, 4]], dns::probe_request)
};

const MUX: Known = Known {
    servers_push: true,
    ..dialect::<Mux>("mux_events", mux::REQUEST_BYTES_MIN, mux::FIRST_BYTES, mux::probe_request)
};

const TLS: Known =
    dialect::<Tls>("tls_events", tls::REQUEST_BYTES_MIN, tls::FIRST_BYTES, tls::probe_request);

/// Every protocol; where bytes can be of two of them the earlier one wins.
static KNOWN: [Known; 13] =
    [HTTP1, TLS, MYSQL, PGSQL, HTTP2, REDIS, NATS, MONGO, AMQP, CQL, KAFKA, MUX, DNS];

/// Decides by the first bytes of both directions, either of which may be empty.
pub fn infer(ingress: &[u8], egress: &[u8]) -> Verdict {
    let mut undecided = ingress.is_empty() && egress.is_empty();
    for (flow, bytes) in [(Flow::Ingress, ingress), (Flow::Egress, egress)] {
        if bytes.is_empty() {
            continue;
        }
        for known in &KNOWN {
            let code = known.code;
            match ((known.probe_request)(bytes), (known.probe_response)(bytes)) {
                (Probe::Yes, _) => return Verdict::Speaks { code, requests: flow },
                (_, Probe::Yes) => return Verdict::Speaks { code, requests: flow.opposite() },
                (Probe::No, Probe::No) => {}
                _ => undecided |= bytes.len() < PROBE_BYTES_MAX,
            }
        }
    }
    if undecided { Verdict::NeedMore } else { Verdict::Opaque }
}

/// What starts here after a gap or in an opaque connection: only what no other bytes can be.
///
/// Called for every operation of an opaque connection, so only those are asked whose requests may
/// have its first byte.
pub fn request_starts(bytes: &[u8]) -> Option<ProtocolCode> {
    let mut asked = KNOWN_BY_FIRST_BYTE[usize::from(*bytes.first()?)];
    while asked != 0 {
        let known = &KNOWN[asked.trailing_zeros() as usize];
        if (known.probe_request)(bytes) == Probe::Yes {
            return Some(known.code);
        }
        asked &= asked - 1;
    }
    None
}

/// Whether an operation starts with the hello of a TLS client, which other protocols go over to.
pub fn begins_tls(bytes: &[u8]) -> bool {
    tls::probe_request(bytes) == Probe::Yes
}

/// Whether more bytes may make it one.
pub fn may_begin_tls(bytes: &[u8]) -> bool {
    tls::probe_request(bytes) == Probe::Maybe
}

/// For every first byte the protocols, a bit for each of [`KNOWN`], whose requests may have it.
static KNOWN_BY_FIRST_BYTE: [u16; 256] = known_by_first_byte();

const fn known_by_first_byte() -> [u16; 256] {
    assert!(KNOWN.len() <= u16::BITS as usize);
    let mut table = [0; 256];
    let mut at = 0;
    while at < KNOWN.len() {
        let mut ranges = KNOWN[at].first_bytes;
        while let [[first, last], rest @ ..] = ranges {
            let mut byte = *first as usize;
            while byte <= *last as usize {
                table[byte] |= 1 << at;
                byte += 1;
            }
            ranges = rest;
        }
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What starts here according to every protocol, whatever the first byte.
    fn asked_all(bytes: &[u8]) -> Option<ProtocolCode> {
        let known = KNOWN.iter().find(|known| (known.probe_request)(bytes) == Probe::Yes);
        known.map(|known| known.code)
    }

    #[test]
    fn the_first_bytes_of_either_direction_decide() {
        use Verdict::{NeedMore, Opaque};
        let speaks = |code| move |requests| Verdict::Speaks { code, requests };
        let amqp = speaks(ProtocolCode::Amqp);
        let cql = speaks(ProtocolCode::Cql);
        let dns = speaks(ProtocolCode::Dns);
        let http = speaks(ProtocolCode::Http);
        let http2 = speaks(ProtocolCode::Http2);
        let kafka = speaks(ProtocolCode::Kafka);
        let mysql = speaks(ProtocolCode::Mysql);
        let mux = speaks(ProtocolCode::Mux);
        let nats = speaks(ProtocolCode::Nats);
        let pgsql = speaks(ProtocolCode::Pgsql);
        let redis = speaks(ProtocolCode::Redis);
        let tls = speaks(ProtocolCode::Tls);
        let query = "\0\x13\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        for (ingress, egress, expected) in [
            ("", "", NeedMore),
            ("GET / HTTP/1.1\r\n", "", http(Flow::Ingress)),
            ("", "GET / HTTP/1.1\r\n", http(Flow::Egress)),
            ("HTTP/1.1 200 OK\r\n", "", http(Flow::Egress)),
            ("GET /long", "", NeedMore),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", http2(Flow::Ingress)),
            ("PRI * HTTP/2.0\r\n", "", NeedMore),
            ("PRI * HTTP/2.1\r\n", "", Opaque),
            ("", "\0\0\0\x04\0\0\0\0\0", NeedMore),
            ("GET is not a verb here\r\n", "", Opaque),
            ("\x16\x03\x01", "", NeedMore),
            ("\x16\x03\x01\0\x7a\x01\0\0\x76\x03\x03", "", tls(Flow::Ingress)),
            ("", "\x16\x03\x01\x01\x7a\x02\0\0\x76\x03\x03", Opaque),
            ("", "\x17\x03\x03\x01\x05hello, hello", Opaque),
            ("\0\0\0\x0f\x7f\0\0\x01tinit check", "", mux(Flow::Ingress)),
            ("\0\0\0\x06\x44\0\0\x01\0\x01", "", mux(Flow::Ingress)),
            ("\0\0\0\x06\x44\0\0\x01\0", "", NeedMore),
            ("*1\r\n$4\r\nPING\r\n", "", redis(Flow::Ingress)),
            ("", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", redis(Flow::Egress)),
            ("*1\r\n$4\r\nPI", "", NeedMore),
            ("*1\r\n$4\r\n\x00\x01\x02\x03\r\n", "", Opaque),
            ("\x09\0\0\0\x03SELECT 1", "", mysql(Flow::Ingress)),
            ("\x09\0\0\0", "", NeedMore),
            ("", "\x40\0\0\0\x0a8.0.33\0\x01\0\0\0saltsalt\0", mysql(Flow::Ingress)),
            ("\x09\0\0\0\x03SELECT 1;", "", Opaque),
            ("\0\0\0\x08\x04\u{d2}\x16", "", Opaque),
            ("\0\0\0\x0e\0\x03\0\0user\0", "", pgsql(Flow::Ingress)),
            ("", "Q\0\0\0\x0dSELECT 1\0", pgsql(Flow::Egress)),
            ("Q\0\0\0\x0dSELE", "", NeedMore),
            ("", "INFO {\"server_id\":\"N\"}\r\n", nats(Flow::Ingress)),
            ("", "CONNECT {\"verbose\":false}\r\n", nats(Flow::Egress)),
            ("CONNECT {", "", NeedMore),
            ("PUB a 5\r\nhello\r\n", "", nats(Flow::Ingress)),
            ("MSG a 1 5\r\nhello\r\n", "", nats(Flow::Egress)),
            ("PUB a 5\r\nhello, all\r\n", "", Opaque),
            ("AMQP\0\0\x09\x01", "", amqp(Flow::Ingress)),
            ("AMQP\0\x01\0\0", "", Opaque),
            ("\0\0\0\x0a\0\x12\0\0\0\0\0\x01\0\0", "", Opaque),
            ("\0\0\0\x0c\0\x12\0\0\0\0\0\x01\0\x02me", "", kafka(Flow::Ingress)),
            ("\0\0\0\x0c\0\x12\0\0\0\0\0\x01\0\x02", "", NeedMore),
            ("\x04\0\0\0\x05\0\0\0\0", "", cql(Flow::Ingress)),
            ("\x04\0\0\0\x05\0\0\0", "", NeedMore),
            (query, "", dns(Flow::Ingress)),
            ("", &query[..2], NeedMore),
            ("", &query[..20], NeedMore),
            ("\0\x13\x12\x34\x01\0\0\x02", "", Opaque),
            ("SSH-2.0-OpenSSH", "", Opaque),
            ("SELECT 1;", "", NeedMore),
            ("SELECT 1;\n", "", Opaque),
        ] {
            assert_eq!(infer(ingress.as_bytes(), egress.as_bytes()), expected, "{ingress:?}");
        }
    }

    #[test]
    fn a_request_is_found_whatever_its_first_byte_rules_out() {
        assert_eq!(request_starts(b""), asked_all(b""));
        // Whatever is a request with some first byte is also one where only that differs, or not,
        // just as if all were asked.
        for request in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"\x09\0\0\0\x03SELECT 1",
            b"\0\0\0\x0e\0\x03\0\0user\0",
            b"Q\0\0\0\x0dSELECT 1\0",
            b"CONNECT {\"verbose\":false}\r\n",
            b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
            b"PUB a 5\r\nhello\r\n",
            b"AMQP\0\0\x09\x01",
            b"\0\0\0\x0c\0\x12\0\0\0\0\0\x01\0\x02me",
            b"\x04\0\0\0\x05\0\0\0\0",
            b"\0\0\0\x0f\x7f\0\0\x01tinit check",
            b"\x16\x03\x01\0\x7a\x01\0\0\x76\x03\x03",
            b"\0\x13\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01",
        ] {
            assert_ne!(request_starts(request), None, "{request:?}");
            for first in 0..=u8::MAX {
                let mut bytes = request.to_vec();
                bytes[0] = first;
                assert_eq!(request_starts(&bytes), asked_all(&bytes), "{bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_start_what_they_would_if_all_were_asked(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..64),
            zeros in 0_usize..8,
        ) {
            // Numbers begin with zeros.
            bytes.iter_mut().skip(1).take(zeros).for_each(|byte| *byte = 0);
            for first in 0..=u8::MAX {
                bytes[0] = first;
                prop_assert_eq!(request_starts(&bytes), asked_all(&bytes));
            }
        }
    }
}
