//! The store.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use undine_schema::{
    Append, AppendError, Feed, FeedError, Frame, Pending, Progress, Seq, TableDef,
};

use crate::config::{BuildError, Config};
use crate::snapshot::Snapshot;

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Each table, in the order of the configuration.
    pub tables: Vec<TableStats>,
    /// Bytes of rows in memory.
    pub hot_bytes: u64,
    /// Bytes of the log's segments.
    pub log_bytes: u64,
    /// Bytes that wait for the log.
    pub log_queue_bytes: u64,
    /// Frames that were refused since the start because the store was full.
    pub refused_frames: u64,
    /// Retries since the start that were acknowledged and not stored again.
    pub repeated_frames: u64,
}

/// What the store holds of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// The table's name.
    pub table: &'static str,
    /// Rows in memory.
    pub hot_rows: u64,
    /// Bytes of rows in memory.
    pub hot_bytes: u64,
    /// Rows appended since the start.
    pub appended_rows: u64,
    /// Rows that the log gave back at the start.
    pub recovered_rows: u64,
    /// Rows that the finest tier, or raw where there is no tier, stands for.
    pub sealed_rows: u64,
    /// Rows evicted since the start before they were sealed; each is in `data_loss`.
    pub evicted_rows: u64,
    /// Rows that the last life had accepted and that were gone at the start; each is in `data_loss`.
    pub lost_rows: u64,
    /// Files over all tiers.
    pub segments: u64,
    /// Their size.
    pub segment_bytes: u64,
    /// The newest row's place.
    pub newest: Seq,
}

/// What a seal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Rows that every tier of their table now holds and did not before.
    pub rows: u64,
    /// Commits to Delta logs.
    pub commits: u64,
    /// Bytes of the files written.
    pub bytes: u64,
    /// Rows whose path was folded into `*`.
    pub folded_rows: u64,
}

/// Why a seal failed. What was not sealed stays in memory and in the log.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The store is gone.
    #[error("the store is stopping")]
    Stopping,
}

/// Keeps tables. Clones are one store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<()>,
}

impl Config {
    /// Checks the settings, takes the folder and reads the log back.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Store, BuildError> {
        unimplemented!("being written")
    }
}

impl Store {
    /// The table at this moment; never blocks and is never blocked. Empty for an unknown table.
    pub fn snapshot(&self, _table: &TableDef) -> Snapshot {
        unimplemented!("being written")
    }

    /// Seals everything that was appended before the call.
    ///
    /// # Errors
    /// See [`SealError`].
    pub async fn seal(&self) -> Result<SealReport, SealError> {
        unimplemented!("being written")
    }

    /// What the store holds now.
    pub fn stats(&self) -> Stats {
        unimplemented!("being written")
    }

    /// Seals, merges and evicts until `shutdown`, then syncs the log and accepts no more.
    pub async fn run(self, _shutdown: CancellationToken) {
        unimplemented!("being written")
    }
}

impl Append for Store {
    fn append(&self, _frame: Frame) -> Result<Pending, AppendError> {
        unimplemented!("being written")
    }
}

impl Feed for Store {
    fn read(&self, _t: &'static TableDef, _c: Seq, _m: usize) -> Result<Progress, FeedError> {
        unimplemented!("being written")
    }

    fn newest(&self, _table: &'static TableDef) -> Result<watch::Receiver<Seq>, FeedError> {
        unimplemented!("being written")
    }
}
