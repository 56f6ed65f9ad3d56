//! Keeping the tiers small: segments merged, rows expired, files deleted.
//!
//! A merge changes files and nothing else: one commit takes the old ones away and adds the new one,
//! and partial states of one group become one state. Files stay on disk for a while after they
//! went, since a query may still read an older version.
//!
//! No tier is made of another's files: each is made of rows and says by itself how far it reaches. So
//! a merge cannot reach over another tier's place, whatever it merges.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use undine_schema::{TableDef, TableKind, TimeNs};

use crate::backend::Folder;
use crate::delta::{Change, FileStats};
use crate::evolve::evolve;
use crate::io_budget::IoBudget;
use crate::seal::{Holds, SealError, Sealer, Tier};
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

/// Stretches of time of one length, each of which has segments of its own.
#[derive(Clone, Copy)]
struct Bucket(i64);

/// Small segments that become one, and what has to be known of their tier while others seal it.
struct Merge {
    table: &'static TableDef,
    holds: Holds,
    width: Duration,
    bucket: Bucket,
    schema: SchemaRef,
    dir: Folder,
    files: Vec<FileStats>,
}

impl Inner {
    /// Merges small segments, lets raw rows expire and deletes files that nobody needs. Blocks, but
    /// seals wait only for its commits: what it reads and writes, it does beside them.
    pub(crate) fn tidy(&self) -> Result<TidyReport, SealError> {
        // Only the one who tidies takes files away, so those that are to be merged stay.
        let _alone = self.tidier.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.config.clock.now();
        let (tiers, settled) = {
            let mut sealer = self.sealer();
            let tables = sealer.tables.iter().enumerate();
            let tiers: Vec<(usize, usize)> = tables
                .flat_map(|(table, of)| (0..of.tiers.len()).map(move |tier| (table, tier)))
                .collect();
            (tiers, sealer.settle())
        };
        if let Err(error) = &settled {
            tracing::warn!(%error, "old files stay: catalogs cannot be synced");
        }
        let mut report = TidyReport::default();
        let mut outcome = Ok(());
        for at in tiers {
            // One table that cannot be tidied does not keep the others from it.
            outcome = outcome.and(self.tidy_tier(at, now, &mut report));
            if settled.is_ok() {
                report.deleted_files += self.collect_garbage(at, now);
            }
        }
        outcome.map(|()| report)
    }

    fn tidy_tier(
        &self,
        at: (usize, usize),
        now: TimeNs,
        report: &mut TidyReport,
    ) -> Result<(), SealError> {
        let old_versions = {
            let mut sealer = self.sealer();
            let (table, tier) = sealer.tier(at);
            if !tier.is_written(table)? {
                return Ok(());
            }
            let expired = tier.expire(table, now)?;
            let old_versions = tier.old_versions(table, now);
            report.expired_rows += expired;
            if expired > 0 {
                self.publish_tiers(&sealer, at.0);
            }
            old_versions
        };
        if let Some(old) = old_versions
            && let Some(written) = old.write(&self.io_budget)?
        {
            let mut sealer = self.sealer();
            let (table, tier) = sealer.tier(at);
            let gone = rows_of(&old.files) - rows_of(&written);
            tier.replace(table, "DELETE", &old.files, written, now)?;
            report.expired_rows += gone;
            self.publish_tiers(&sealer, at.0);
        }
        let merges = {
            let mut sealer = self.sealer();
            let (table, tier) = sealer.tier(at);
            tier.merges(table, self.config.segments_max)
        };
        for merge in merges {
            // Nobody waits for a merge to stop; it is chosen again at the next start.
            if self.hot.lock().stopping {
                break;
            }
            let written = merge.write(&self.io_budget)?;
            let mut sealer = self.sealer();
            let (table, tier) = sealer.tier(at);
            tier.replace(table, "OPTIMIZE", &merge.files, written, now)?;
            report.merged_segments += merge.files.len() as u64;
            self.publish_tiers(&sealer, at.0);
        }
        Ok(())
    }

    fn collect_garbage(&self, at: (usize, usize), now: TimeNs) -> u64 {
        let mut sealer = self.sealer();
        let log = &mut sealer.tier(at).1.log;
        if log.is_new() {
            return 0;
        }
        log.collect_garbage(now, self.config.deleted_files_for).unwrap_or_else(|error| {
            tracing::warn!(dir = %log.dir().display(), %error, "old files cannot be deleted");
            0
        })
    }

    fn sealer(&self) -> MutexGuard<'_, Sealer> {
        self.sealer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows readers the tiers of a table as they are now.
    fn publish_tiers(&self, sealer: &Sealer, number: usize) {
        let table = &sealer.tables[number];
        self.hot.publish_cold(number, table.cold(&sealer.objects), table.sealed_to());
    }
}

impl Sealer {
    fn tier(&mut self, (table, tier): (usize, usize)) -> (&'static TableDef, &mut Tier) {
        let table = &mut self.tables[table];
        (table.table, &mut table.tiers[tier])
    }
}

impl Tier {
    /// Whether the tier has a log, as far as it got, that no other program writes.
    fn is_written(&mut self, table: &'static TableDef) -> Result<bool, SealError> {
        if self.log.is_new() || self.log.stopped().is_some() {
            return Ok(false);
        }
        let catalog = |source| SealError::Catalog { table: table.name, source };
        self.log.refresh().map_err(catalog)?;
        Ok(true)
    }

    /// The merges of small segments where there are too many.
    fn merges(&self, table: &'static TableDef, segments_max: usize) -> Vec<Merge> {
        let merge = |files| Merge {
            table,
            holds: self.holds,
            width: self.width,
            bucket: self.bucket(),
            schema: Arc::clone(&self.schema),
            dir: self.log.dir().clone(),
            files,
        };
        self.mergeable(segments_max).into_iter().map(merge).collect()
    }

    /// Commits what was written in the place of segments, which was made of them.
    fn replace(
        &mut self,
        table: &'static TableDef,
        operation: &'static str,
        segments: &[FileStats],
        written: Vec<FileStats>,
        now: TimeNs,
    ) -> Result<(), SealError> {
        let change = Change {
            operation,
            sealed_to: None,
            complete_from: None,
            add: written,
            remove: segments.iter().map(|file| file.name.clone()).collect(),
        };
        let catalog = |source| SealError::Catalog { table: table.name, source };
        self.log.commit(&change, now).map_err(catalog)
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
}

impl Merge {
    /// The segments that take the place of its files, on the disk and in no version yet.
    fn write(&self, budget: &IoBudget) -> Result<Vec<FileStats>, SealError> {
        let table = self.table.name;
        let segment = |source| SealError::Segment { table, source };
        let wrong = |source| SealError::Summary { table, source };
        let rows = read(self.table, &self.dir, &self.files, &self.schema, budget)?;
        let parts = self.merged(&rows).and_then(|merged| self.by_bucket(merged));
        let parts = parts.map_err(wrong)?;
        let written = parts.iter().map(|part| {
            let file = segment_file::encode(part)?;
            budget.spend(file.stats.bytes);
            file.write(&self.dir)
        });
        let written: Vec<_> = written.collect::<Result<_, _>>().map_err(segment)?;
        if self.holds != Holds::Exemplars {
            let count = |files: &[FileStats]| files.iter().map(|f| f.source_rows).sum::<u64>();
            assert_eq!(count(&written), count(&self.files), "a merge keeps every row of {table}");
        }
        Ok(written)
    }

    fn merged(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        match self.holds {
            Holds::Rows => in_order(self.table, rows),
            Holds::Exemplars => exemplars(self.table, self.width, rows),
            Holds::States(cube) => {
                let mut states = States::new(self.table, cube, self.width, usize::MAX)?;
                if self.table.kind == TableKind::Counter {
                    states.add_states(&by_first_time(rows)?)?;
                } else {
                    states.add_states(rows)?;
                }
                Ok(states.finish()?.states)
            }
        }
    }

    /// The rows of each bucket for themselves; those of the oldest buckets together, so that there
    /// are fewer parts than the segments that they are made of.
    fn by_bucket(&self, rows: RecordBatch) -> Result<Vec<RecordBatch>, ArrowError> {
        let of_time = match self.holds {
            Holds::States(_) => "window_start",
            Holds::Exemplars | Holds::Rows => "time_",
        };
        let of: Vec<i64> =
            int64(&rows, of_time)?.iter().map(|&time| self.bucket.of(time)).collect();
        let mut buckets = of.clone();
        buckets.sort_unstable();
        buckets.dedup();
        if buckets.len() < 2 {
            return Ok(vec![rows]);
        }
        let together = (buckets.len() + 1).saturating_sub(self.files.len().max(2) - 1).max(1);
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

/// All rows of some segments, with the schema of today.
pub(crate) fn read(
    table: &TableDef,
    dir: &Folder,
    files: &[FileStats],
    schema: &SchemaRef,
    budget: &IoBudget,
) -> Result<RecordBatch, SealError> {
    let table = table.name;
    let mut batches = Vec::new();
    for file in files {
        budget.spend(file.bytes);
        let read = segment_file::read(dir, &file.name);
        for batch in read.map_err(|source| SealError::Segment { table, source })? {
            let batch = evolve(&batch, schema);
            batches.push(batch.map_err(|source| SealError::Summary { table, source })?);
        }
    }
    concat_batches(schema, &batches).map_err(|source| SealError::Summary { table, source })
}

fn rows_of(files: &[FileStats]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}

impl Bucket {
    const fn of(self, time: i64) -> i64 {
        time.div_euclid(self.0)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use undine_schema::{Append, Clock, Frame};

    use crate::config::Config;
    use crate::fixture::{NOTES, clock, config, integers, notes};
    use crate::io_budget::IoBudget;

    #[test]
    fn what_is_sealed_while_a_merge_is_at_work_stays_and_so_does_what_was_merged() {
        let (dir, clock) = (TempDir::new().unwrap(), clock());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = config(dir.path(), std::sync::Arc::clone(&clock)).build().unwrap();
        let now = clock.now();
        let seal = |ids: &[i64]| {
            store.append(Frame::captured(&NOTES, notes(ids, now.get()))).unwrap();
            runtime.block_on(store.seal()).unwrap();
        };
        seal(&[1, 2]);
        seal(&[3]);
        let at = (store.inner.hot.number_of(NOTES.name).unwrap(), 0);
        let merges = store.inner.sealer().tier(at).1.merges(&NOTES, 1);
        assert_eq!(merges.len(), 1);
        let written = merges[0].write(&IoBudget::new(None)).unwrap();
        seal(&[4, 5]);
        let merged = &merges[0].files;
        let mut sealer = store.inner.sealer();
        sealer.tier(at).1.replace(&NOTES, "OPTIMIZE", merged, written, now).unwrap();
        drop(sealer);
        store.inner.publish_tiers(&store.inner.sealer(), at.0);
        let snapshot = store.snapshot(&NOTES);
        let segments = snapshot.raw.as_ref().unwrap().segments.len();
        assert_eq!((merged.len(), segments), (2, 2), "one of the merge, one of the seal beside it");
        assert_eq!(integers(dir.path(), &snapshot, "id"), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_store_that_stops_begins_no_further_merge() {
        let (dir, clock) = (TempDir::new().unwrap(), clock());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config =
            Config { segments_max: 2, ..config(dir.path(), std::sync::Arc::clone(&clock)) };
        let store = config.build().unwrap();
        for id in [1, 2, 3] {
            let rows = notes(&[id], clock.now().get());
            store.append(Frame::captured(&NOTES, rows)).unwrap();
            runtime.block_on(store.seal()).unwrap();
        }
        store.inner.hot.lock().stopping = true;
        assert_eq!(runtime.block_on(store.tidy()).unwrap().merged_segments, 0);
        store.inner.hot.lock().stopping = false;
        let tidied = runtime.block_on(store.tidy()).unwrap();
        assert!(tidied.merged_segments >= 3);
        let upkeep = store.stats().upkeep;
        assert_eq!((upkeep.seals, upkeep.failed_seals, upkeep.failed_tidies), (3, 0, 0));
        assert_eq!(upkeep.merged_segments, tidied.merged_segments);
        assert!(upkeep.merge_io_bytes > 0 && upkeep.merge_io_waited.is_zero());
    }
}
