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

/// Ranges of places that one row of `data_loss` spells out.
const RANGES_MAX: usize = 16;

/// Rows of one table that one cause took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) table: &'static str,
    pub(crate) reason: Reason,
    pub(crate) rows: u64,
    /// First and last time that they may have, where that can be told.
    pub(crate) times: Option<(TimeNs, TimeNs)>,
    pub(crate) detail: String,
}

/// Places that are empty, and which times their rows may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) seqs: SeqRange,
    pub(crate) times: (TimeNs, TimeNs),
}

impl Loss {
    /// The loss of all rows at some places: as many losses as it takes to name each range.
    pub(crate) fn of_places(table: &'static str, reason: Reason, gone: &[Gone]) -> Vec<Self> {
        let loss = |gone: &[Gone]| Self {
            table,
            reason,
            rows: gone.iter().map(|gone| gone.seqs.rows()).sum(),
            times: gone.iter().map(|gone| gone.times).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))),
            detail: spelt(gone),
        };
        gone.chunks(RANGES_MAX).map(loss).collect()
    }
}

/// Neighbouring places as one range.
pub(crate) fn together(mut gone: Vec<Gone>) -> Vec<Gone> {
    gone.sort_unstable_by_key(|gone| gone.seqs.first);
    gone.dedup_by(|next, gone| {
        let joins = gone.seqs.extend(next.seqs);
        if joins {
            gone.times = (gone.times.0.min(next.times.0), gone.times.1.max(next.times.1));
        }
        joins
    });
    gone
}

fn spelt(gone: &[Gone]) -> String {
    let ranges = gone.iter().map(|Gone { seqs, .. }| format!("{} to {}", seqs.first, seqs.last));
    format!("rows {}", ranges.collect::<Vec<_>>().join(", "))
}

/// The rows of `data_loss` that tell of `losses`.
pub(crate) fn rows_of(losses: &[Loss], now: TimeNs) -> RecordBatch {
    let mut rows = DataLosses::new(losses.len());
    for loss in losses {
        let missing = match loss.reason {
            Reason::Folded => 0,
            _ => i64::try_from(loss.rows).unwrap_or(i64::MAX),
        };
        let (rows_from, rows_until) = loss.times.unwrap_or_default();
        rows.push(&DataLoss {
            time_: now,
            rows_from,
            rows_until,
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

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use undine_schema::{Incarnation, Seq};

    use super::*;

    #[test]
    fn every_range_of_places_is_named_however_many_there_are() {
        let place = |counter: u64| Seq::new(Incarnation::new(1), counter);
        let gone = |at: u64| Gone {
            seqs: SeqRange { first: place(10 * at), last: place(10 * at + 4) },
            times: (TimeNs::new(100 * at.cast_signed()), TimeNs::new(100 * at.cast_signed() + 7)),
        };
        let gone: Vec<_> = (1..=40).map(gone).collect();
        let losses = Loss::of_places("http_events", Reason::Evicted, &together(gone.clone()));
        let rows = rows_of(&losses, TimeNs::new(9999));
        let integers = |name: &str| {
            let column = rows.column_by_name(name).unwrap();
            column.as_primitive::<Int64Type>().values().to_vec()
        };
        assert_eq!(integers("rows_min").iter().sum::<i64>(), 200);
        assert_eq!(integers("rows_from"), [100, 1700, 3300]);
        assert_eq!(integers("rows_until"), [1607, 3207, 4007]);
        let details = rows.column_by_name("detail").unwrap();
        let details: String = details.as_string::<i32>().iter().flatten().collect();
        for Gone { seqs, .. } in gone {
            assert!(details.contains(&format!("{} to {}", seqs.first, seqs.last)), "{details}");
        }
    }
}
