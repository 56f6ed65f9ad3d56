//! The write-ahead log of a node: what was accepted and is not sealed yet.
//!
//! ```text
//! append ──► queue ──► log thread: encode, write ──► sync ──► Pending::durable, seals
//! DIR/log/0000000000000001.log   frames, 64 MiB a segment
//! ```
//!
//! A frame holds one accepted request, also where that spans tables, so it comes back whole or not
//! at all. Facts about seals are not in it: those are the Delta logs' own.

mod frame;
mod replay;
mod writer;
mod examine;

pub(crate) use examine::examine;
pub(crate) use frame::{Content, Entry, EntryPart, Header, PartHeader, decode_rows, key_of};
pub(crate) use replay::{Hole, Item, RETRY_KEYS_FOR, replay};
pub(crate) use writer::{Log, Options};

/// A segment that is no longer written to.
#[derive(Debug)]
pub(crate) struct ClosedSegment {
    path: std::path::PathBuf,
    bytes: u64,
    /// The last place by table.
    last: Vec<(String, undine_schema::Seq)>,
    /// Its retry keys are needed until then.
    keep_until: undine_schema::TimeNs,
}
