//! Keeping the tiers small: segments merged, rows expired, files deleted.
//!
//! A merge changes files and nothing else: one commit takes the old ones away and adds the new one,
//! and partial states of one group become one state. Files stay on disk for a while after they
//! went, since a query may still read an older version.

use std::path::PathBuf;
use std::sync::PoisonError;

use arrow::array::RecordBatch;
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow::error::ArrowError;
use undine_schema::{TableDef, TimeNs};

use crate::delta::{Change, FileStats};
use crate::seal::{SealError, Tier};
use crate::segment_file;
use crate::state::States;
use crate::store::Inner;

/// A segment of this size is not merged any more.
const SMALL_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of the segments that are merged at once.
const MERGED_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What tidying did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TidyReport {
    /// Segments that were merged into others.
    pub merged_segments: u64,
    /// Raw rows that were older than they are kept.
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
        let settled = sealer.settle();
        if let Err(error) = &settled {
            tracing::warn!(%error, "old files stay: catalogs cannot be synced");
        }
        for (number, table) in sealer.tables.iter_mut().enumerate() {
            let before = report;
            for tier in &mut table.tiers {
                let catalog = |source| SealError::Catalog { table: table.table.name, source };
                tier.log.refresh().map_err(catalog)?;
                report.expired_rows += tier.expire(table.table, now)?;
                report.merged_segments += tier.merge(table.table, self.config.segments_max, now)?;
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
        Ok(report)
    }
}

impl Tier {
    /// Takes segments away whose every row is older than the tier keeps rows.
    fn expire(&mut self, table: &'static TableDef, now: TimeNs) -> Result<u64, SealError> {
        let Some(retention) = self.retention else { return Ok(0) };
        let horizon = now.saturating_sub(retention);
        let old: Vec<_> =
            self.log.files().iter().filter(|file| file.last_time < horizon).cloned().collect();
        let Some(last) = old.iter().map(|file| file.last_time).max() else { return Ok(0) };
        let after = TimeNs::new(last.get().saturating_add(1));
        let change = Change {
            operation: "DELETE",
            sealed_to: None,
            complete_from: Some(self.log.complete_from().max(after)),
            add: Vec::new(),
            remove: old.iter().map(|file| file.name.clone()).collect(),
        };
        let catalog = |source| SealError::Catalog { table: table.name, source };
        self.log.commit(&change, now).map_err(catalog)?;
        Ok(old.iter().map(|file| file.rows).sum())
    }

    /// Merges small segments where there are too many.
    fn merge(
        &mut self,
        table: &'static TableDef,
        segments_max: usize,
        now: TimeNs,
    ) -> Result<u64, SealError> {
        let small = self.small_files();
        if small.len() <= segments_max {
            return Ok(0);
        }
        let segment = |source| SealError::Segment { table: table.name, source };
        let mut batches = Vec::new();
        for file in &small {
            batches.extend(segment_file::read(&self.path_of(file)).map_err(segment)?);
        }
        let merged = if self.width.is_zero() {
            self.merge_rows(&batches)
        } else {
            self.merge_states(table, &batches)
        };
        let merged = merged.map_err(|source| SealError::Summary { table: table.name, source })?;
        let file = segment_file::write(self.log.dir(), &merged).map_err(segment)?;
        let source_rows: u64 = small.iter().map(|file| file.source_rows).sum();
        assert_eq!(file.source_rows, source_rows, "a merge keeps every row of {}", table.name);
        let change = Change {
            operation: "OPTIMIZE",
            sealed_to: None,
            complete_from: None,
            add: vec![file],
            remove: small.iter().map(|file| file.name.clone()).collect(),
        };
        let catalog = |source| SealError::Catalog { table: table.name, source };
        self.log.commit(&change, now).map_err(catalog)?;
        Ok(small.len() as u64)
    }

    /// The small segments, oldest first, as many as are merged at once.
    fn small_files(&self) -> Vec<FileStats> {
        let mut bytes = 0;
        let small = self.log.files().iter().filter(|file| file.bytes < SMALL_BYTES_MAX);
        let fits = small.take_while(|file| {
            bytes += file.bytes;
            bytes <= MERGED_BYTES_MAX
        });
        fits.cloned().collect()
    }

    fn path_of(&self, file: &FileStats) -> PathBuf {
        self.log.dir().join(&file.name)
    }

    fn merge_states(
        &self,
        table: &'static TableDef,
        batches: &[RecordBatch],
    ) -> Result<RecordBatch, ArrowError> {
        let mut states = States::new(table, self.width, usize::MAX)?;
        for batch in batches {
            states.add_states(batch)?;
        }
        states.finish()
    }

    fn merge_rows(&self, batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
        let rows = concat_batches(&self.schema, batches)?;
        let order = sort_to_indices(rows.column(0), None, None)?;
        take_record_batch(&rows, &order)
    }
}
