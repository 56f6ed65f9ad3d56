//! Which bytes of a conversation are its structure, and which are what people said: the latter are
//! overwritten, so that a recording can be given away and still be read as before.
//!
//! A [`Mask`] walks over the bytes of both sides as the parser of its protocol does, but keeps only what
//! that parser needs to find the same messages: heads, lengths, commands, status codes. All else becomes
//! [`FILLER`], byte for byte, so that lengths stay true. What a mask does not know it overwrites; where it
//! does not know how far something reaches it gives up, and nothing that follows is kept.
//!
//! Structure that cannot be kept: what is compressed. A compressed message of MongoDB is recorded as one,
//! without what is in it; CQL's compressed segments are given up; headers of HTTP/2 lose their Huffman
//! coding, which leaves values with as many bytes as they had on the wire.

pub(crate) mod fields;
pub(crate) mod headers;
pub(crate) mod sides;
pub(crate) mod sql;
#[cfg(test)]
pub(crate) mod talk;

use std::fmt::Debug;

use super::dialogue::Side;
use super::{
    ProtocolCode, amqp, cql, dns, http1, http2, kafka, mongo, mux, mysql, nats, pgsql, redis, tls,
};
use crate::mask::Addresses;

/// What stands for every byte of content.
pub(crate) const FILLER: u8 = b'x';
/// Most bytes that a mask wants to see at once.
pub(crate) const WINDOW_BYTES_MAX: usize = 128 * 1024;

/// What a mask did with the bytes at hand, which begin where its last step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it wants to see this many at once, more than it was given.
    Need(usize),
    /// This many may be recorded as they are now.
    Took(usize),
    /// The next so many are content, whether or not they were captured.
    Content(u64),
    /// Nothing more of the connection can be told apart.
    Lost,
    /// What follows is another protocol, which may be TLS.
    Another,
}

/// Tells structure from content in what the two sides of a connection say.
pub(crate) trait Mask: Debug + Send {
    /// Takes bytes from `side` and overwrites what is content in those that it takes; with none at hand it
    /// says what it wants. Addresses that are structure are replaced by those of `addresses`.
    fn take(&mut self, side: Side, bytes: &mut [u8], addresses: &mut Addresses) -> Step;
    /// Whether after [`Step::Another`] the same conversation goes on inside TLS, from where it was left.
    fn goes_on_in_tls(&mut self) -> bool {
        false
    }
}

/// The mask of a connection that speaks `code`; none where that is not known.
pub(crate) fn start(code: ProtocolCode) -> Option<Box<dyn Mask>> {
    let mask: Box<dyn Mask> = match code {
        ProtocolCode::Unknown => return None,
        ProtocolCode::Http => Box::<http1::mask::Http1Mask>::default(),
        ProtocolCode::Http2 => Box::<http2::mask::Http2Mask>::default(),
        ProtocolCode::Mysql => Box::<mysql::mask::MysqlMask>::default(),
        ProtocolCode::Cql => Box::<cql::mask::CqlMask>::default(),
        ProtocolCode::Pgsql => Box::<pgsql::mask::PgsqlMask>::default(),
        ProtocolCode::Dns => Box::<dns::mask::DnsMask>::default(),
        ProtocolCode::Redis => Box::<redis::mask::RedisMask>::default(),
        ProtocolCode::Nats => Box::<nats::mask::NatsMask>::default(),
        ProtocolCode::Mongo => Box::<mongo::mask::MongoMask>::default(),
        ProtocolCode::Kafka => Box::<kafka::mask::KafkaMask>::default(),
        ProtocolCode::Mux => Box::<mux::mask::MuxMask>::default(),
        ProtocolCode::Amqp => Box::<amqp::mask::AmqpMask>::default(),
        ProtocolCode::Tls => Box::<tls::mask::TlsMask>::default(),
    };
    Some(mask)
}

/// Overwrites content.
pub(crate) fn fill(bytes: &mut [u8]) {
    bytes.fill(FILLER);
}

/// Overwrites content that is a text of which zeros and blanks are the structure.
pub(crate) fn fill_words(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| !matches!(byte, 0 | b' ' | b'\t' | b'\r' | b'\n')) {
        *byte = FILLER;
    }
}

/// Overwrites content but for the zeros in it, which end its parts.
pub(crate) fn fill_between_zeros(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != 0) {
        *byte = FILLER;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::sides::{Outcome, Sides};
    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_masked_in_their_place_or_given_up(
            parts in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300), 0_u64..40),
                1..8,
            ),
            // Numbers begin with zeros.
            zeros in 0_usize..4,
        ) {
            for code in ProtocolCode::all() {
                let mut sides = Sides::new(start(code).unwrap());
                let (mut came, mut decided) = ([0; 2], [0; 2]);
                for (from_client, bytes, missing) in &parts {
                    let side = if *from_client { Side::Client } else { Side::Server };
                    let mut bytes = bytes.clone();
                    bytes.iter_mut().take(zeros).for_each(|byte| *byte = 0);
                    came[side as usize] += bytes.len();
                    let mut addresses = Addresses::default();
                    let count = &mut decided[side as usize];
                    let mut outcome = sides.bytes(side, &bytes, &mut addresses, &mut |bytes| *count += bytes.len());
                    if outcome == Outcome::GoesOn && *missing > 20 {
                        outcome = sides.hole(side, *missing, &mut addresses);
                    }
                    if outcome != Outcome::GoesOn {
                        break;
                    }
                }
                prop_assert!(decided[0] <= came[0] && decided[1] <= came[1], "{:?}", code);
            }
        }
    }
}
