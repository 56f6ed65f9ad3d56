//! The write port: how a component hands rows to whatever keeps them.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::{SeqRange, TableDef};

/// What an acknowledged row survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nothing: the row is gone after a restart.
    Memory,
    /// A crash, but for the rows of the last commit interval, whose number is then reported.
    Interval,
    /// Everything: the row is on the disk before the acknowledgement, and it is never evicted
    /// before it is sealed.
    Commit,
}

/// Identifies a request, so that a sender's identical retry within minutes is not stored again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryKey(pub [u8; 32]);

/// Rows of one table.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which table.
    pub table: &'static TableDef,
    /// At least one row, with exactly the table's Arrow schema.
    pub rows: RecordBatch,
}

/// What is accepted or refused as one: the rows of one request, also where they span tables.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The rows.
    pub parts: Vec<Part>,
    /// What they must survive before they count as accepted.
    pub durability: Durability,
    /// Set where a sender may retry.
    pub retry_key: Option<RetryKey>,
}

impl Frame {
    /// Rows of one table at [`Durability::Interval`], the level of everything that is captured.
    pub fn captured(table: &'static TableDef, rows: RecordBatch) -> Self {
        let parts = vec![Part { table, rows }];
        Self { parts, durability: Durability::Interval, retry_key: None }
    }

    /// Rows of one table at [`Durability::Commit`].
    pub fn committed(table: &'static TableDef, rows: RecordBatch) -> Self {
        let parts = vec![Part { table, rows }];
        Self { parts, durability: Durability::Commit, retry_key: None }
    }
}

/// Why a frame was refused. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Rows that must not be lost fill the store; the sender should come back.
    #[error("the store is full; retry in {retry_after:?}")]
    Full {
        /// When room can be expected.
        retry_after: Duration,
    },
    /// The rows do not have the table's schema.
    #[error("rows for table {table} have another schema than it declares: {difference}")]
    Schema {
        /// The table's name.
        table: &'static str,
        /// What differs.
        difference: String,
    },
    /// The log cannot be written; the store accepts nothing until it is restarted.
    #[error("cannot write the log, rows are no longer accepted")]
    Log(#[source] std::sync::Arc<std::io::Error>),
    /// The store is stopping.
    #[error("the store is stopping")]
    Stopping,
}

/// Rows that readers see already; await [`durable`](Self::durable) before telling a sender.
pub struct Pending {
    /// Where each part of the frame stands, in order. Empty for a retry that was stored before.
    pub seqs: Vec<SeqRange>,
    durable: Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send>>,
}

impl Pending {
    /// Rows at `seqs` that are durable once `durable` resolves.
    pub fn new(
        seqs: Vec<SeqRange>,
        durable: impl Future<Output = Result<(), AppendError>> + Send + 'static,
    ) -> Self {
        Self { seqs, durable: Box::pin(durable) }
    }

    /// Waits until the frame's durability is reached: at once for [`Durability::Memory`] and
    /// [`Durability::Interval`], for the next group commit for [`Durability::Commit`].
    ///
    /// # Errors
    /// When the log cannot be written; the frame must then be taken as refused.
    pub async fn durable(self) -> Result<Vec<SeqRange>, AppendError> {
        self.durable.await?;
        Ok(self.seqs)
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("seqs", &self.seqs).finish_non_exhaustive()
    }
}

/// Takes rows. Never blocks for longer than a memory copy, so that a capture thread may call it.
pub trait Append: Send + Sync + std::fmt::Debug {
    /// Publishes a frame to readers and hands it to the log.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of a refused frame is stored.
    fn append(&self, frame: Frame) -> Result<Pending, AppendError>;
}
