//! Which protocol a connection speaks, found out from the bytes of both directions.
//!
//! Nothing is sticky that was not proven: a connection is undecided until its first bytes name a
//! protocol, and what was taken for opaque is looked at again whenever an operation starts with
//! what only that protocol sends. Adding a protocol is a variant of [`Verdict`] and one of
//! `conn_tracker::Parser`; a parser is fed by `bytes`, `hole` and `close`, and does no I/O.

pub mod exchange;
pub mod http1;

use crate::event::Flow;

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
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// HTTP/1.x, whose requests go this way.
    Http1 {
        /// The direction of requests.
        requests: Flow,
    },
    /// More bytes are needed.
    NeedMore,
    /// No protocol that is known here.
    Opaque,
}

/// Decides by the first bytes of both directions, either of which may be empty.
pub fn infer(ingress: &[u8], egress: &[u8]) -> Verdict {
    let mut undecided = ingress.is_empty() && egress.is_empty();
    for (flow, bytes) in [(Flow::Ingress, ingress), (Flow::Egress, egress)] {
        match (http1::probe_request(bytes), http1::probe_response(bytes)) {
            (http1::Probe::Yes, _) => return Verdict::Http1 { requests: flow },
            (_, http1::Probe::Yes) => return Verdict::Http1 { requests: flow.opposite() },
            (http1::Probe::No, http1::Probe::No) => {}
            _ => undecided |= !bytes.is_empty() && bytes.len() < PROBE_BYTES_MAX,
        }
    }
    if undecided { Verdict::NeedMore } else { Verdict::Opaque }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_of_either_direction_decide() {
        use Verdict::{Http1, NeedMore, Opaque};
        for (ingress, egress, expected) in [
            ("", "", NeedMore),
            ("GET / HTTP/1.1\r\n", "", Http1 { requests: Flow::Ingress }),
            ("", "GET / HTTP/1.1\r\n", Http1 { requests: Flow::Egress }),
            ("HTTP/1.1 200 OK\r\n", "", Http1 { requests: Flow::Egress }),
            ("GET /long", "", NeedMore),
            ("PRI * HTTP/2.0\r\n", "", Opaque),
            ("GET is not a verb here\r\n", "", Opaque),
            ("\x16\x03\x01", "", Opaque),
            ("*1\r\n$4\r\nPING\r\n", "", Opaque),
            ("SSH-2.0-OpenSSH", "", Opaque),
            ("SELECT 1;", "", NeedMore),
            ("SELECT 1;\n", "", Opaque),
        ] {
            assert_eq!(infer(ingress.as_bytes(), egress.as_bytes()), expected, "{ingress:?}");
        }
    }
}
