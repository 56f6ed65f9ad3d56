//! Keeping the tiers small: segments merged, rows expired, files deleted.
//!
//! A merge changes files and nothing else: one commit takes the old ones away and adds the new one,
//! and partial states of one group become one state. Files stay on disk for a while after they
//! went, since a query may still read an older version.
//!
//! No tier is made of another's files: each is made of rows and says by itself how far it reaches. So
//! a merge cannot reach over another tier's place, whatever it merges.

use std::sync::PoisonError;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::error::ArrowError;
use undine_schema::{TableDef, TableKind, TimeNs};

use crate::delta::{Change, FileStats};
use crate::evolve::evolve;
use crate::seal::{Holds, SealError, Tier};
use crate::segment_file;
use crate::state::{States, by_first_time, exemplars, in_order, int64};
use crate::store::Inner;

/// A segment of this size is not merged any more.
const SMALL_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of the segments that are merged at once.
const MERGED_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Small segments that an older bucket may have.
const OLD_SEGMENTS_MAX: usize = 4;
/// Bounds of the time that one segment of rows holds.
const BUCKET_MIN: Duration = Duration::from_mins(10);
const BUCKET_MAX: Duration = Duration::from_hours(30 * 24);

/// What tidying did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TidyReport {
    /// Segments that were merged into others.
    pub merged_segments: u64,
    /// Rows and states that were older than they are kept, or too many.
    pub expired_rows: u64,
    /// Files deleted from the disk.
    pub deleted_files: u64,
}

impl Inner {
    /// Merges small segments, lets raw rows expire and deletes files that nobody needs. Blocks.
    pub(crate) fn tidy(&self) -> Result<TidyReport, SealError> {
        let mut sealer = self.sealer.lock().unwrap_or_else(PoisonError::into_inner);
        let sealer = &mut *sealer;
        let now = self.config.clock.now();
        let mut report = TidyReport::default();
        let mut outcome = Ok(());
        let settled = sealer.settle();
        if let Err(error) = &settled {
            tracing::warn!(%error, "old files stay: catalogs cannot be synced");
        }
        for (number, table) in sealer.tables.iter_mut().enumerate() {
            let before = report;
            for tier in table.tiers.iter_mut().filter(|tier| !tier.log.is_new()) {
                // One table that cannot be tidied does not keep the others from it.
                let tidied = tier.tidy(table.table, self.config.segments_max, now, &mut report);
                outcome = outcome.and(tidied);
                if settled.is_err() {
                    continue;
                }
                match tier.log.collect_garbage(now, self.config.deleted_files_for) {
                    Ok(deleted) => report.deleted_files += deleted,
                    Err(error) => tracing::warn!(
                        dir = %tier.log.dir().display(), %error, "old files cannot be deleted"
                    ),
                }
            }
            let changed = (before.expired_rows, before.merged_segments)
                != (report.expired_rows, report.merged_segments);
            if changed {
                let sealed_to = table.sealed_to();
                self.hot.publish_cold(number, table.cold(&sealer.objects), sealed_to);
            }
        }
        outcome.map(|()| report)
    }
}

/// Segments of one stretch of time.
struct Bucket(i64);

impl Tier {
    /// Expires and merges, unless another program writes the log.
    fn tidy(
        &mut self,
        table: &'static TableDef,
        segments_max: usize,
        now: TimeNs,
        report: &mut TidyReport,
    ) -> Result<(), SealError> {
        if self.log.stopped().is_some() {
            return Ok(());
        }
        let catalog = |source| SealError::Catalog { table: table.name, source };
        self.log.refresh().map_err(catalog)?;
        report.expired_rows += self.expire(table, now)?;
        report.merged_segments += self.merge(table, segments_max, now)?;
        Ok(())
    }

    /// Merges small segments where there are too many.
    fn merge(
        &mut self,
        table: &'static TableDef,
        segments_max: usize,
        now: TimeNs,
    ) -> Result<u64, SealError> {
        let mut merged = 0;
        for files in self.mergeable(segments_max) {
            merged += self.merge_files(table, &files, now)?;
        }
        Ok(merged)
    }

    fn merge_files(
        &mut self,
        table: &'static TableDef,
        files: &[FileStats],
        now: TimeNs,
    ) -> Result<u64, SealError> {
        let segment = |source| SealError::Segment { table: table.name, source };
        let wrong = |source| SealError::Summary { table: table.name, source };
        let mut batches = Vec::new();
        for file in files {
            for batch in segment_file::read(self.log.dir(), &file.name).map_err(segment)? {
                batches.push(evolve(&batch, &self.schema).map_err(wrong)?);
            }
        }
        let rows = concat_batches(&self.schema, &batches).map_err(wrong)?;
        let merged = self.merged(table, &rows).map_err(wrong)?;
        let parts = self.by_bucket(merged, files.len()).map_err(wrong)?;
        let mut add = Vec::with_capacity(parts.len());
        for part in &parts {
            add.push(segment_file::write(self.log.dir(), part).map_err(segment)?);
        }
        if self.holds != Holds::Exemplars {
            let count = |files: &[FileStats]| files.iter().map(|f| f.source_rows).sum::<u64>();
            assert_eq!(count(&add), count(files), "a merge keeps every row of {}", table.name);
        }
        let change = Change {
            operation: "OPTIMIZE",
            sealed_to: None,
            complete_from: None,
            add,
            remove: files.iter().map(|file| file.name.clone()).collect(),
        };
        let catalog = |source| SealError::Catalog { table: table.name, source };
        self.log.commit(&change, now).map_err(catalog)?;
        Ok(files.len() as u64)
    }

    fn merged(
        &self,
        table: &'static TableDef,
        rows: &RecordBatch,
    ) -> Result<RecordBatch, ArrowError> {
        match self.holds {
            Holds::Rows => in_order(table, rows),
            Holds::Exemplars => exemplars(table, self.width, rows),
            Holds::States(cube) => {
                let mut states = States::new(table, cube, self.width, usize::MAX)?;
                if table.kind == TableKind::Counter {
                    states.add_states(&by_first_time(rows)?)?;
                } else {
                    states.add_states(rows)?;
                }
                Ok(states.finish()?.states)
            }
        }
    }

    /// Stretches of small segments that follow each other in time, none of which reaches over a
    /// bucket or a large segment: a counter's states are joined with their neighbours only, and a
    /// segment can go when its time has come. The newest bucket may have `segments_max` of them.
    fn mergeable(&self, segments_max: usize) -> Vec<Vec<FileStats>> {
        let mut files = self.log.files().to_vec();
        files.sort_by(|a, b| (a.first_window, &a.name).cmp(&(b.first_window, &b.name)));
        let bucket = self.bucket();
        let newest = files.last().map(|file| bucket.of(file.first_window.get()));
        let mut stretches: Vec<(i64, u64, Vec<FileStats>)> = Vec::new();
        let mut is_open = false;
        for file in files {
            if file.bytes >= SMALL_BYTES_MAX {
                is_open = false;
                continue;
            }
            let of = bucket.of(file.first_window.get());
            match stretches.last_mut() {
                Some((last, bytes, stretch))
                    if is_open && *last == of && *bytes + file.bytes <= MERGED_BYTES_MAX =>
                {
                    *bytes += file.bytes;
                    stretch.push(file);
                }
                _ => stretches.push((of, file.bytes, vec![file])),
            }
            is_open = true;
        }
        let too_many = |(of, _, files): &(i64, u64, Vec<FileStats>)| {
            let is_newest = Some(*of) == newest;
            let max = if is_newest { segments_max } else { segments_max.min(OLD_SEGMENTS_MAX) };
            files.len() > max
        };
        stretches.into_iter().filter(too_many).map(|(.., files)| files).collect()
    }

    /// How much time the segments of this tier should hold at most: a thousand windows, of rows an
    /// eighth of the time that they are kept.
    fn bucket(&self) -> Bucket {
        let width = match (self.holds, self.limits.age_max) {
            (Holds::States(_), _) => self.width * 1000,
            (_, Some(age_max)) => (age_max / 8).max(BUCKET_MIN),
            (_, None) => BUCKET_MAX,
        };
        Bucket(i64::try_from(width.as_nanos()).unwrap_or(i64::MAX))
    }

    /// The rows of each bucket for themselves; those of the oldest buckets together, so that there
    /// are fewer parts than the segments that they are made of.
    fn by_bucket(
        &self,
        rows: RecordBatch,
        segments: usize,
    ) -> Result<Vec<RecordBatch>, ArrowError> {
        let of_time = match self.holds {
            Holds::States(_) => "window_start",
            Holds::Exemplars | Holds::Rows => "time_",
        };
        let bucket = self.bucket();
        let of: Vec<i64> = int64(&rows, of_time)?.iter().map(|&time| bucket.of(time)).collect();
        let mut buckets = of.clone();
        buckets.sort_unstable();
        buckets.dedup();
        if buckets.len() < 2 {
            return Ok(vec![rows]);
        }
        let together = (buckets.len() + 1).saturating_sub(segments.max(2) - 1).max(1);
        let last_of_oldest = buckets[together - 1];
        let mut parts = Vec::new();
        let part = |is_in: &dyn Fn(i64) -> bool| {
            let mask: BooleanArray = of.iter().map(|&bucket| Some(is_in(bucket))).collect();
            filter_record_batch(&rows, &mask)
        };
        parts.push(part(&|bucket| bucket <= last_of_oldest)?);
        for &own in &buckets[together..] {
            parts.push(part(&|bucket| bucket == own)?);
        }
        Ok(parts)
    }
}

impl Bucket {
    const fn of(&self, time: i64) -> i64 {
        time.div_euclid(self.0)
    }
}
