//! What goes, and when: segments by age and by bytes, versions that nothing refers to any more.
//!
//! A segment goes as a whole, in a commit that also says from which time on its tier is complete; its
//! file is deleted later. So a reader never believes to have what is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use undine_schema::{Life, TableDef, TableKind, TimeNs};

use crate::backend::Folder;
use crate::config::Config;
use crate::delta::{Change, FileStats};
use crate::io_budget::IoBudget;
use crate::seal::{Holds, SealError, TableTiers, Tier};
use crate::state::int64;
use crate::{segment_file, tidy};

/// How often versions that nothing refers to are looked for.
const VERSIONS_LOOKED_AT_EVERY: Duration = Duration::from_hours(1);

/// How long a tier's rows stay, and how many bytes it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The table; `None` means every table that is summarised.
    pub table: Option<String>,
    /// The tier's folder, such as `raw`, `1m` or `exemplars`; `None` means every one. The smaller
    /// summaries of a width, such as `1m.service`, go with it unless a later rule names them.
    pub tier: Option<String>,
    /// Windows and rows older than this go.
    pub age_max: Option<Duration>,
    /// The oldest segments go where there are more bytes than this.
    pub bytes_max: Option<u64>,
}

/// The same of one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) age_max: Option<Duration>,
    pub(crate) bytes_max: Option<u64>,
    /// When versions were last looked for.
    looked_at: Option<TimeNs>,
}

/// The limits of one tier, by its table and the name of its folder.
pub(crate) fn limits(config: &Config, table: &TableDef, tier: &str) -> Limits {
    let summarised = table.kind.is_summarised();
    let raw_for = config.raw_for.filter(|_| summarised && tier == "raw");
    let mut limits = Limits { age_max: raw_for, ..Limits::default() };
    for rule in &config.retention {
        let names_table = rule.table.as_deref().map_or(summarised, |name| name == table.name);
        let is_of = |name: &str| {
            tier.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if names_table && rule.tier.as_deref().is_none_or(is_of) {
            limits.age_max = rule.age_max.or(limits.age_max);
            limits.bytes_max = rule.bytes_max.or(limits.bytes_max);
        }
    }
    limits
}

/// Versions of what exists stay as long as the longest tier that may refer to them: for ever, unless
/// every summary goes some day.
pub(crate) fn keep_versions(all: &mut [TableTiers]) {
    let summarised = all.iter().filter(|table| table.table.kind.is_summarised());
    let ages: Vec<_> =
        summarised.flat_map(|table| &table.tiers).map(|tier| tier.limits.age_max).collect();
    if ages.is_empty() || ages.contains(&None) {
        return;
    }
    let longest = ages.into_iter().max().flatten();
    let versions = all.iter_mut().filter(|table| table.table.kind == TableKind::State);
    for tier in versions.flat_map(|table| &mut table.tiers) {
        tier.limits.age_max = tier.limits.age_max.or(longest);
    }
}

impl Tier {
    /// Takes away what is older than the tier keeps it, or too much. How many rows went; none of what
    /// has [`old_versions`](Self::old_versions).
    pub(crate) fn expire(
        &mut self,
        table: &'static TableDef,
        now: TimeNs,
    ) -> Result<u64, SealError> {
        if table.kind == TableKind::State {
            return Ok(0);
        }
        let old = self.outlived(now);
        let Some(after) = old.iter().map(|file| self.end_of(file)).max() else { return Ok(0) };
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

    /// The segments that are to go, oldest first.
    fn outlived(&self, now: TimeNs) -> Vec<FileStats> {
        let mut files = self.log.files().to_vec();
        files.sort_by_key(|file| (self.end_of(file), file.first_time));
        let horizon = self.limits.age_max.map(|age_max| now.saturating_sub(age_max));
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let goes = |file: &FileStats| {
            let is_old = horizon.is_some_and(|horizon| self.end_of(file) <= horizon);
            let is_much = self.limits.bytes_max.is_some_and(|bytes_max| bytes > bytes_max);
            bytes = bytes.saturating_sub(file.bytes);
            is_old || is_much
        };
        let mut goes = goes;
        let count = files.iter().take_while(|file| goes(file)).count();
        files.truncate(count);
        files
    }

    /// The first time that is after everything in the file.
    fn end_of(&self, file: &FileStats) -> TimeNs {
        match self.holds {
            Holds::States(_) => file.last_window.saturating_add(self.width),
            Holds::Exemplars | Holds::Rows => TimeNs::new(file.last_time.get().saturating_add(1)),
        }
    }

    /// The segments with versions that were followed by others before the horizon, or of what had ended
    /// by then. What was in force at the horizon or later stays, however old it is, so the tier stays
    /// complete for every time that a summary can still ask for.
    pub(crate) fn old_versions(
        &mut self,
        table: &'static TableDef,
        now: TimeNs,
    ) -> Option<OldVersions> {
        let age_max = self.limits.age_max.filter(|_| table.kind == TableKind::State)?;
        let looked = self.limits.looked_at;
        if looked.is_some_and(|at| now.since(at) < VERSIONS_LOOKED_AT_EVERY) {
            return None;
        }
        self.limits.looked_at = Some(now);
        let horizon = now.saturating_sub(age_max);
        let files = self.log.files().iter().filter(|file| file.first_time < horizon);
        let files: Vec<_> = files.cloned().collect();
        let (schema, dir) = (Arc::clone(&self.schema), self.log.dir().clone());
        (!files.is_empty()).then_some(OldVersions { table, horizon, schema, dir, files })
    }
}

/// Segments some of whose versions may go, and what has to be known of their tier while others seal it.
pub(crate) struct OldVersions {
    table: &'static TableDef,
    horizon: TimeNs,
    schema: SchemaRef,
    dir: Folder,
    pub(crate) files: Vec<FileStats>,
}

impl OldVersions {
    /// The segments that take the place of its files, on the disk and in no version yet; nothing where
    /// every version stays.
    pub(crate) fn write(&self, budget: &IoBudget) -> Result<Option<Vec<FileStats>>, SealError> {
        let table = self.table.name;
        let rows = tidy::read(self.table, &self.dir, &self.files, &self.schema, budget)?;
        let kept = versions_since(self.table, &rows, self.horizon)
            .map_err(|source| SealError::Summary { table, source })?;
        if kept.num_rows() == rows.num_rows() {
            return Ok(None);
        }
        if kept.num_rows() == 0 {
            return Ok(Some(Vec::new()));
        }
        let written = segment_file::encode(&kept).and_then(|file| {
            budget.spend(file.stats.bytes);
            file.write(&self.dir)
        });
        written.map(|file| Some(vec![file])).map_err(|source| SealError::Segment { table, source })
    }
}

/// The versions that were in force at `horizon` or later.
fn versions_since(
    table: &TableDef,
    rows: &RecordBatch,
    horizon: TimeNs,
) -> Result<RecordBatch, ArrowError> {
    let Some(key) = table.life(Life::Key) else { return Ok(rows.clone()) };
    let times = int64(rows, "time_")?;
    let ends = table.life(Life::End).map(|end| int64(rows, end.name)).transpose()?;
    let keys = rows.column_by_name(key.name).ok_or_else(|| {
        ArrowError::SchemaError(format!("column {} of {} is missing", key.name, table.name))
    })?;
    let fields = vec![SortField::new(keys.data_type().clone())];
    let keys = RowConverter::new(fields)?.convert_columns(&[Arc::clone(keys)])?;
    // Of each thing the last version at or before the horizon; of two at one time the later row.
    let mut in_force = HashMap::new();
    for (at, &time) in times.iter().enumerate().filter(|(_, time)| **time <= horizon.get()) {
        let last = in_force.entry(keys.row(at)).or_insert(at);
        if times[*last] <= time {
            *last = at;
        }
    }
    let is_kept = |at: usize| {
        let ended = ends.is_some_and(|ends| ends[at] != 0 && ends[at] < horizon.get());
        times[at] > horizon.get() || (in_force.get(&keys.row(at)) == Some(&at) && !ended)
    };
    let kept: BooleanArray = (0..rows.num_rows()).map(|at| Some(is_kept(at))).collect();
    filter_record_batch(rows, &kept)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use undine_schema::tables::{PROCESSES, ProcessVersion, Processes};
    use undine_schema::{Seq, SeqRange, Slice, Upid};

    use super::*;
    use crate::state::raw_rows;

    #[test]
    fn a_version_stays_while_it_was_in_force_within_the_time_that_is_kept() {
        let mut builder = Processes::new(0);
        let mut version = |pid: u32, time: i64, stop: i64| {
            let upid = Upid::new(1, pid, 7);
            let (time_, stop_time) = (TimeNs::new(time), TimeNs::new(stop));
            builder.push(&ProcessVersion {
                time_,
                upid,
                pid: time,
                stop_time,
                ..Default::default()
            });
        };
        // Replaced at 20, in force at 100; gone at 50; gone at 150; begun later.
        version(1, 10, 0);
        version(1, 20, 0);
        version(2, 11, 0);
        version(2, 50, 49);
        version(3, 12, 0);
        version(3, 150, 149);
        version(4, 101, 0);
        let rows = builder.finish();
        let seqs = SeqRange::new(Seq::from_raw(1), rows.num_rows());
        let rows = raw_rows(&PROCESSES, &[Slice { seqs, rows }], false).unwrap();
        let kept = versions_since(&PROCESSES, &rows, TimeNs::new(100)).unwrap();
        let times = kept["time_"].as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(times, [12, 20, 101, 150]);
    }
}
