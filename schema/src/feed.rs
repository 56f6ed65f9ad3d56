//! The read port for followers: every row of a table in order, by cursor.

use arrow::array::RecordBatch;
use tokio::sync::watch;

use crate::{Seq, SeqRange, TableDef};

/// Consecutive rows of one table.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Where they stand; dense, one place a row.
    pub seqs: SeqRange,
    /// The rows.
    pub rows: RecordBatch,
}

/// What a follower gets by one read.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Rows after the cursor, in order.
    pub slices: Vec<Slice>,
    /// Rows between the cursor and the first slice that were evicted before they were read.
    pub missed_rows: u64,
    /// The cursor for the next read: the last row given or known to be missed.
    pub cursor: Seq,
}

/// Why a feed cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No such table here.
    #[error("table {0} is not kept by this store")]
    UnknownTable(&'static str),
}

/// Follows tables. A follower keeps the cursor; the store keeps nothing about it.
pub trait Feed: Send + Sync + std::fmt::Debug {
    /// Rows after `cursor`, at most about `rows_max`, without waiting.
    ///
    /// # Errors
    /// When the table is not kept.
    fn read(
        &self,
        table: &'static TableDef,
        cursor: Seq,
        rows_max: usize,
    ) -> Result<Progress, FeedError>;

    /// The place of the table's newest row, changing with every append.
    ///
    /// # Errors
    /// When the table is not kept.
    fn newest(&self, table: &'static TableDef) -> Result<watch::Receiver<Seq>, FeedError>;
}
