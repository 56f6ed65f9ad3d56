//! Undine's own errors and losses, as rows of `collector_errors`.
//!
//! Any source of data reports here, from any thread; the collector's thread writes the rows. Errors
//! that are alike are one row in [`WINDOW`], and every row says how many it stands for, so that
//! their sum is exact however many there are.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use undine_schema::tables::{CollectorError, CollectorErrors};
use undine_schema::{TimeNs, Upid};

/// How often errors that are alike may be a row.
pub const WINDOW: Duration = Duration::from_mins(1);
/// Most kinds of errors that are told apart in a window; further ones are one kind for each source.
pub const KINDS_MAX: usize = 64;
/// Most bytes that are kept of what an error says.
pub const ERROR_BYTES_MAX: usize = 512;

/// What further kinds are called.
const FURTHER: &str = "errors of more kinds than are told apart";

/// What kind of error it is, with Pixie's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// What was read is not what it should be.
    Invalid = 3,
    /// Something that should be there is not.
    NotFound = 5,
    /// A right is missing.
    Denied = 7,
    /// A mistake of our own.
    Internal = 9,
    /// The kernel has no such thing.
    Unavailable = 10,
    /// A limit was reached.
    Exhausted = 11,
    /// The system refused.
    System = 12,
}

/// Gathers errors until they are written; shared by all sources.
#[derive(Debug, Default)]
pub struct ErrorLog(Mutex<BTreeMap<Kind, Count>>);

/// Errors that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    source: &'static str,
    status: Status,
    error: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Errors that no row stands for yet.
    open: u64,
    /// When there was a row the last time.
    written_at: Option<TimeNs>,
}

impl ErrorLog {
    /// Takes note of an error that happened `count` times. What differs between errors that are
    /// alike does not belong into `error`.
    pub fn report(&self, source: &'static str, status: Status, error: &str, count: u64) {
        if count == 0 {
            return;
        }
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let error = cut(error).to_owned();
        let mut kind = Kind { source, status, error };
        if kinds.len() >= KINDS_MAX && !kinds.contains_key(&kind) {
            FURTHER.clone_into(&mut kind.error);
            kind.status = Status::Exhausted;
        }
        let entry = kinds.entry(kind).or_default();
        entry.open = entry.open.saturating_add(count);
    }

    /// Writes what may be a row at `now`; everything where nothing will be written later.
    pub(crate) fn write(
        &self,
        rows: &mut CollectorErrors,
        now: TimeNs,
        (upid, node): (Upid, &str),
        is_last: bool,
    ) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.retain(|kind, count| {
            let is_due = count.written_at.is_none_or(|at| now.since(at) >= WINDOW);
            if count.open == 0 {
                return !is_due;
            }
            if is_due || is_last {
                let context = serde_json::json!({ "count": count.open });
                rows.push(&CollectorError {
                    time_: now,
                    upid,
                    source_connector: kind.source,
                    status: kind.status as i64,
                    error: &kind.error,
                    context: &context.to_string(),
                    node,
                });
                *count = Count { open: 0, written_at: Some(now) };
            }
            true
        });
    }
}

/// As much of a text as may be kept.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written at `seconds`, as `source status error count`.
    fn written(log: &ErrorLog, seconds: i64, is_last: bool) -> Vec<String> {
        use arrow::array::AsArray;
        let mut rows = CollectorErrors::new(0);
        let now = TimeNs::new(seconds * 1_000_000_000);
        log.write(&mut rows, now, (Upid::default(), "knot"), is_last);
        let batch = rows.finish();
        let text = |column: &str, row| {
            batch.column_by_name(column).unwrap().as_string::<i32>().value(row).to_owned()
        };
        let row = |row| format!("{} {}", text("error", row), text("context", row));
        (0..batch.num_rows()).map(row).collect()
    }

    #[test]
    fn errors_that_are_alike_are_a_row_a_minute_that_says_how_many_they_were() {
        let log = ErrorLog::default();
        log.report("host", Status::Denied, "no", 2);
        log.report("host", Status::Denied, "no", 1);
        assert_eq!(written(&log, 0, false), ["no {\"count\":3}"]);
        for _ in 0..1000 {
            log.report("host", Status::Denied, "no", 1);
        }
        assert_eq!(written(&log, 59, false), Vec::<String>::new());
        assert_eq!(written(&log, 60, false), ["no {\"count\":1000}"]);
        log.report("host", Status::Denied, "no", 1);
        assert_eq!(written(&log, 61, true), ["no {\"count\":1}"]);
    }

    #[test]
    fn kinds_are_bounded_and_none_is_lost_for_it() {
        let log = ErrorLog::default();
        for number in 0..KINDS_MAX + 10 {
            log.report("jvm", Status::Invalid, &format!("error {number:03}"), 1);
        }
        let rows = written(&log, 0, false);
        assert_eq!(rows.len(), KINDS_MAX + 1);
        assert!(rows.iter().any(|row| row == &format!("{FURTHER} {{\"count\":10}}")), "{rows:?}");
        // What is a minute old makes room.
        assert_eq!(written(&log, 60, false), Vec::<String>::new());
        log.report("jvm", Status::Invalid, "another", 1);
        assert_eq!(written(&log, 61, false), ["another {\"count\":1}"]);
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let log = ErrorLog::default();
        log.report("host", Status::Internal, &"ä".repeat(400), 1);
        log.report("host", Status::Internal, "none", 0);
        let rows = written(&log, 0, false);
        assert_eq!(rows, [format!("{} {{\"count\":1}}", "ä".repeat(256))]);
    }
}
