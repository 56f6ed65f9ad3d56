//! Figures about the store.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use undine_schema::Seq;

use crate::delta::DeltaError;
use crate::seal::{SealError, SealReport};
use crate::spool::BucketStats;
use crate::store::Inner;
use crate::tidy::TidyReport;

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Each table, in the order of the configuration.
    pub tables: Vec<TableStats>,
    /// Bytes of rows in memory.
    pub hot_bytes: u64,
    /// Bytes of rows that may be in memory.
    pub hot_bytes_max: u64,
    /// Bytes of rows that have left memory and that readers, or the log's queue, still hold.
    pub pinned_bytes: u64,
    /// Frames since the start that found more pinned than `hot_pinned_bytes_max`.
    pub pinned_frames: u64,
    /// Bytes of the log's segments.
    pub log_bytes: u64,
    /// Bytes that wait for the log.
    pub log_queue_bytes: u64,
    /// Frames that were refused since the start because the store was full.
    pub refused_frames: u64,
    /// Retries since the start that were acknowledged and not stored again.
    pub repeated_frames: u64,
    /// Tables that are not written any more since another program or node writes them, and what was
    /// found.
    pub stopped: BTreeMap<&'static str, String>,
    /// What was done in the background.
    pub upkeep: Upkeep,
    /// The bucket side, where there is one.
    pub bucket: Option<BucketStats>,
}

/// What was done in the background since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Seals of all tables.
    pub seals: u64,
    /// Those that failed for a table or more; what they did not seal waits for the next.
    pub failed_seals: u64,
    /// Times that the tiers could not be tidied.
    pub failed_tidies: u64,
    /// Segments that were merged into others.
    pub merged_segments: u64,
    /// Rows and states that were older than they are kept, or too many.
    pub expired_rows: u64,
    /// Files that were deleted.
    pub deleted_files: u64,
    /// Bytes that merges of segments read and wrote.
    pub merge_io_bytes: u64,
    /// How long they waited for [`Config::merge_bytes_per_second_max`](crate::Config).
    pub merge_io_waited: Duration,
}

impl Upkeep {
    pub(crate) fn add_seal(&mut self, outcome: &Result<SealReport, SealError>) {
        self.seals += 1;
        self.failed_seals += u64::from(outcome.is_err());
    }

    pub(crate) fn add_tidy(&mut self, outcome: &Result<TidyReport, SealError>) {
        match outcome {
            Ok(report) => {
                self.merged_segments += report.merged_segments;
                self.expired_rows += report.expired_rows;
                self.deleted_files += report.deleted_files;
            }
            Err(_) => self.failed_tidies += 1,
        }
    }
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
    /// Bytes that its rows keep where memory is short.
    pub hot_share_bytes: u64,
    /// Bytes of its rows that have left memory and are still held.
    pub pinned_bytes: u64,
    /// Rows appended since the start.
    pub appended_rows: u64,
    /// Rows that the log gave back at the start.
    pub recovered_rows: u64,
    /// Rows that the finest tier, or raw where there is no tier, stands for.
    pub sealed_rows: u64,
    /// Rows evicted since the start before they were sealed; each is in `data_loss`.
    pub evicted_rows: u64,
    /// Rows that earlier lives had accepted and that were gone at the start; each is in `data_loss`.
    pub lost_rows: u64,
    /// Files over all tiers.
    pub segments: u64,
    /// Their size.
    pub segment_bytes: u64,
    /// The newest row's place.
    pub newest: Seq,
    /// Every tier holds the rows up to here.
    pub sealed_to: Seq,
}

/// What the start found of one table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) rows: u64,
    pub(crate) lost_rows: u64,
}

impl Stats {
    /// The figures of one table.
    pub fn table(&self, name: &str) -> Option<&TableStats> {
        self.tables.iter().find(|table| table.table == name)
    }
}

impl Inner {
    pub(crate) fn stats(&self) -> Stats {
        let views: Vec<_> = (0..self.hot.all().len()).map(|table| self.hot.view(table)).collect();
        let (log_bytes, log_queue_bytes) = (self.log.bytes(), self.log.queue_bytes());
        let bucket = self.bucket_stats();
        let changes = self.hot.lock();
        let tables = views.iter().enumerate().map(|(number, view)| {
            let table = &self.hot.all()[number];
            let changed = &changes.tables[number];
            let cold = &view.cold;
            let tiers = || cold.tiers.iter().chain(&cold.cubes).chain(&cold.exemplars);
            let all = || tiers().chain(&cold.raw).flat_map(|tier| tier.segments.iter());
            let finest = cold.tiers.first().or(cold.raw.as_ref());
            let sealed = finest.iter().flat_map(|tier| tier.segments.iter());
            TableStats {
                table: table.def.name,
                hot_rows: view.hot.iter().map(|chunk| chunk.seqs.rows()).sum(),
                hot_bytes: changed.bytes,
                hot_share_bytes: table.limit.share_bytes,
                pinned_bytes: self.hot.pinned_bytes_of(&changes, number),
                appended_rows: changed.appended_rows,
                recovered_rows: self.recovered[number].rows,
                sealed_rows: sealed.map(|segment| segment.source_rows).sum(),
                evicted_rows: changed.evicted_rows,
                lost_rows: self.recovered[number].lost_rows,
                segments: all().count() as u64,
                segment_bytes: all().map(|segment| segment.bytes).sum(),
                newest: *table.newest.borrow(),
                sealed_to: changed.sealed_to,
            }
        });
        Stats {
            tables: tables.collect(),
            hot_bytes: changes.bytes,
            hot_bytes_max: self.config.hot_bytes_max as u64,
            pinned_bytes: self.hot.pinned_bytes(&changes),
            pinned_frames: changes.pinned_frames,
            log_bytes,
            log_queue_bytes,
            refused_frames: changes.refused_frames,
            repeated_frames: changes.repeated_frames,
            stopped: self.stops().clone(),
            upkeep: self.upkeep(),
            bucket,
        }
    }

    fn upkeep(&self) -> Upkeep {
        let done = *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.io_budget.used();
        Upkeep { merge_io_bytes: used.bytes, merge_io_waited: used.waited, ..done }
    }

    /// Notes what was done in the background.
    pub(crate) fn note(&self, add: impl FnOnce(&mut Upkeep)) {
        add(&mut self.upkeep.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that a table is not written any more.
    pub(crate) fn note_stop(&self, table: &'static str, stop: &DeltaError) {
        self.stops().entry(table).or_insert_with(|| stop.to_string());
    }

    /// Why a table is not written any more, where it is not.
    pub(crate) fn stop_of(&self, table: &str) -> Option<String> {
        self.stops().get(table).cloned()
    }

    fn stops(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
