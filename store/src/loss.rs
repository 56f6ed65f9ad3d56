//! What the store lost, as rows of `data_loss`.

use arrow::array::RecordBatch;
use undine_schema::tables::{DataLoss, DataLosses};
use undine_schema::{SeqRange, TimeNs, Upid};

/// Why rows are missing, or not what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Evicted before they were sealed.
    Evicted,
    /// Published and not yet logged when the process ended.
    Crash,
    /// In a part of the log that was damaged.
    LogDamaged,
    /// Summarised with `*` in the place of a dimension; no row is missing.
    Folded,
}

/// Rows of one table that one cause took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) table: &'static str,
    pub(crate) reason: Reason,
    pub(crate) rows: u64,
    pub(crate) detail: String,
}

impl Loss {
    /// The loss of all rows at some places.
    pub(crate) fn of_places(table: &'static str, reason: Reason, places: &[SeqRange]) -> Self {
        /// Ranges that are spelt out in the row.
        const RANGES_MAX: usize = 16;
        let rows = places.iter().map(SeqRange::rows).sum();
        let spelt = places.iter().take(RANGES_MAX);
        let spelt: Vec<_> = spelt.map(|seqs| format!("{} to {}", seqs.first, seqs.last)).collect();
        let more = match places.len().saturating_sub(RANGES_MAX) {
            0 => String::new(),
            more => format!(" and {more} more ranges"),
        };
        Self { table, reason, rows, detail: format!("rows {}{more}", spelt.join(", ")) }
    }
}

/// The rows of `data_loss` that tell of `losses`.
pub(crate) fn rows_of(losses: &[Loss], now: TimeNs) -> RecordBatch {
    let mut rows = DataLosses::new(losses.len());
    for loss in losses {
        let missing = match loss.reason {
            Reason::Folded => 0,
            _ => i64::try_from(loss.rows).unwrap_or(i64::MAX),
        };
        rows.push(&DataLoss {
            time_: now,
            source_table: loss.table,
            stage: "store",
            reason: loss.reason.name(),
            operations: 0,
            bytes: 0,
            rows_min: missing,
            rows_max: missing,
            upid: Upid::default(),
            conn: "",
            detail: &loss.detail,
        });
    }
    rows.finish()
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Crash => "crash",
            Self::LogDamaged => "log_damaged",
            Self::Folded => "folded",
        }
    }
}
