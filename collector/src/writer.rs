//! Hands batches to the store, and keeps those that it cannot take yet.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use undine_schema::{Append, AppendError, Frame, TableDef};

/// Most batches that wait for room in the store; then the oldest go.
pub(crate) const REFUSED_BATCHES_MAX: usize = 64;

/// Rows of a table that are not stored, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The table.
    pub(crate) table: &'static str,
    /// Why.
    pub(crate) reason: &'static str,
    /// How many.
    pub(crate) rows: u64,
}

/// The way to the store.
#[derive(Debug)]
pub(crate) struct Writer {
    append: Arc<dyn Append>,
    waiting: VecDeque<(&'static TableDef, RecordBatch)>,
    refused_rows: u64,
}

impl Writer {
    /// A way to `append`.
    pub(crate) const fn new(append: Arc<dyn Append>) -> Self {
        Self { append, waiting: VecDeque::new(), refused_rows: 0 }
    }

    /// Rows that are not stored.
    pub(crate) const fn refused_rows(&self) -> u64 {
        self.refused_rows
    }

    /// Hands over what waits and `batches`; what is not stored is told to `refused`.
    pub(crate) fn write(
        &mut self,
        batches: Vec<(&'static TableDef, RecordBatch)>,
        refused: &mut dyn FnMut(Refused),
    ) {
        self.waiting.extend(batches);
        while let Some((table, rows)) = self.waiting.pop_front() {
            // Rows of this level are visible at once; what a crash loses the store accounts for.
            match self.append.append(Frame::captured(table, rows.clone())) {
                Ok(_) => {}
                Err(AppendError::Full { .. }) => {
                    self.waiting.push_front((table, rows));
                    break;
                }
                Err(error) => {
                    tracing::warn!(table = table.name, %error, "rows were refused by the store");
                    self.refuse(table, &rows, "refused", refused);
                }
            }
        }
        while self.waiting.len() > REFUSED_BATCHES_MAX {
            if let Some((table, rows)) = self.waiting.pop_front() {
                self.refuse(table, &rows, "full", refused);
            }
        }
    }

    /// Gives up what waits.
    pub(crate) fn give_up(&mut self, refused: &mut dyn FnMut(Refused)) {
        while let Some((table, rows)) = self.waiting.pop_front() {
            self.refuse(table, &rows, "full", refused);
        }
    }

    fn refuse(
        &mut self,
        table: &'static TableDef,
        rows: &RecordBatch,
        reason: &'static str,
        refused: &mut dyn FnMut(Refused),
    ) {
        let rows = rows.num_rows() as u64;
        self.refused_rows += rows;
        refused(Refused { table: table.name, reason, rows });
    }
}
