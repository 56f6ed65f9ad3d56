//! The read port for followers: every row of a table in order, by cursor.

use arrow::array::RecordBatch;
use async_trait::async_trait;
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
    /// Rows between the cursor and the first slice that were gone before they were read.
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
    /// Rows that are not in memory any more cannot be read at the moment.
    #[error("cannot read older rows of table {table} from file {path}")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Follows tables. A follower keeps the cursor, durably beside what it has made of the rows before it;
/// the store keeps nothing about it.
#[async_trait]
pub trait Feed: Send + Sync + std::fmt::Debug {
    /// Rows after `cursor`, at most about `rows_max`, without waiting for any to come. Those that have
    /// left memory are read from where they are kept with their places, and are missed otherwise.
    ///
    /// # Errors
    /// When the table is not kept, and when files cannot be read for now: the cursor stays good.
    async fn read(
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
