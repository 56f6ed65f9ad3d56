//! A seal: all rows up to a place become partial states and files, in every tier.
//!
//! No window is ever final: a late row is one more partial state in a later file, and readers
//! merge. Each tier commits for itself, so a crash between two commits leaves tiers of different
//! reach, and the next seal brings each one up from where it stands. What a disk takes to sync is
//! waited for in several commits at once, while the next tier is summarised.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::errors::ParquetError;
use undine_schema::{AppendError, Cube, Incarnation, Seq, Slice, TableDef, TableKind, TimeNs};

use crate::delta::{Change, DeltaError, DeltaLog, FileStats};
use crate::folder::{EXEMPLARS, tier_name};
use crate::hot_tables::{Cold, View};
use crate::loss::{Loss, Reason};
use crate::retention::Limits;
use crate::segment_file::{self, Encoded};
use crate::snapshot::{Segment, TierView};
use crate::state::{Finished, States, by_time, exemplar_rows, exemplars, raw_rows};
use crate::store::Inner;

/// Commits of one table that wait for the disk at once.
const COMMITS_AT_ONCE_MAX: usize = 8;

/// What a seal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Rows that the tiers of their table now hold and did not all hold before.
    pub rows: u64,
    /// Commits to Delta logs.
    pub commits: u64,
    /// Bytes of the files written.
    pub bytes: u64,
    /// Rows that a summary holds under `*`.
    pub folded_rows: u64,
}

/// Why a seal failed. What was not sealed stays in memory and in the log.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Rows could not be synced to the log first.
    #[error("cannot seal, since the log cannot be synced")]
    Log(#[source] AppendError),
    /// A tier's catalog could not be written.
    #[error("cannot seal table {table}")]
    Catalog {
        /// The table.
        table: &'static str,
        /// The cause.
        #[source]
        source: DeltaError,
    },
    /// A file could not be written.
    #[error("cannot write a segment of table {table}; check that the disk has room")]
    Segment {
        /// The table.
        table: &'static str,
        /// The cause.
        #[source]
        source: ParquetError,
    },
    /// Rows could not be summarised.
    #[error("cannot summarise table {table}")]
    Summary {
        /// The table.
        table: &'static str,
        /// The cause.
        #[source]
        source: ArrowError,
    },
    /// What was sealed before still waits for the bucket.
    #[error(
        "table {table} is not sealed, since {bytes} bytes wait for the bucket and spool_bytes_max is {bytes_max}; see why uploads fail, or raise it"
    )]
    SpoolFull {
        /// The table.
        table: &'static str,
        /// Bytes that wait.
        bytes: u64,
        /// Bytes that may wait.
        bytes_max: u64,
    },
    /// Another program or node writes the table.
    #[error("table {table} is not sealed: {reason}")]
    Stopped {
        /// The table.
        table: &'static str,
        /// What was found.
        reason: String,
    },
    /// The work panicked, or no thread could be made for it.
    #[error("the store's background work ended before it was done; see the log for why")]
    Abandoned,
}

/// The catalogs of all tables, in the order of the hot tables. Whoever holds it may seal.
#[derive(Debug)]
pub(crate) struct Sealer {
    pub(crate) tables: Vec<TableTiers>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// Whether the names of all catalogs are on the disk.
    pub(crate) settled: bool,
}

/// The tiers of one table: summaries, finest first and of each width the full one first, then
/// exemplars, then raw rows where they are kept.
#[derive(Debug)]
pub(crate) struct TableTiers {
    pub(crate) table: &'static TableDef,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) incarnation: Incarnation,
}

/// What a tier holds of its table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    States(Cube),
    Exemplars,
    Rows,
}

impl Holds {
    /// The name of a tier of this width, which its folder has too.
    pub(crate) fn tier_name(self, width: Duration) -> String {
        match self {
            Self::States(Cube::Full) | Self::Rows => tier_name(width),
            Self::States(cube) => format!("{}.{}", tier_name(width), cube.name()),
            Self::Exemplars => EXEMPLARS.to_owned(),
        }
    }
}

/// One tier.
#[derive(Debug)]
pub(crate) struct Tier {
    /// Zero for raw rows.
    pub(crate) width: Duration,
    pub(crate) holds: Holds,
    pub(crate) limits: Limits,
    pub(crate) schema: SchemaRef,
    /// Its folder, as its segments' paths begin.
    pub(crate) prefix: String,
    pub(crate) log: DeltaLog,
}

/// What a seal needs to know besides rows.
#[derive(Clone, Copy)]
struct Plan {
    upto: Seq,
    now: TimeNs,
    groups_per_window_max: usize,
    /// Whether raw rows keep their places.
    followed: bool,
}

impl Inner {
    /// Seals all rows that the log has synced. Blocks.
    pub(crate) fn seal_synced(&self) -> Result<SealReport, SealError> {
        let mut sealer = self.sealer.lock().unwrap_or_else(PoisonError::into_inner);
        let pressing = Pressing::take(self);
        let mut total = SealReport::default();
        let mut folded = Vec::new();
        let mut outcome = Ok(());
        for number in 0..sealer.tables.len() {
            match self.seal_table(&mut sealer, number) {
                Ok(report) => {
                    total.add(&report);
                    let table = self.hot.all()[number].def.name;
                    folded.extend(folded_loss(table, report.folded_rows));
                }
                Err(error) => {
                    self.hot.lock().tables[number].sealing_to = Seq::ZERO;
                    outcome = outcome.and(Err(error));
                }
            }
        }
        if outcome.is_ok() {
            pressing.settle();
        }
        let settled = sealer.settle();
        drop(sealer);
        self.report(&folded);
        match settled {
            Ok(()) => self.delete_sealed_log(),
            Err(error) => tracing::warn!(%error, "the log grows: catalogs cannot be synced"),
        }
        outcome.map(|()| total)
    }

    fn seal_table(&self, sealer: &mut Sealer, number: usize) -> Result<SealReport, SealError> {
        let tiers = &mut sealer.tables[number];
        let table = tiers.table.name;
        if let Some(reason) = self.stop_of(table) {
            return Err(SealError::Stopped { table, reason });
        }
        let catalog = |source| SealError::Catalog { table, source };
        for tier in &mut tiers.tiers {
            tier.log.refresh().map_err(catalog)?;
        }
        let upto = self.log.synced_seq(number);
        let before = tiers.sealed_to();
        if upto <= before {
            return Ok(SealReport::default());
        }
        self.spool_room().map_err(|(bytes, bytes_max)| SealError::SpoolFull {
            table,
            bytes,
            bytes_max,
        })?;
        self.hot.lock().tables[number].sealing_to = upto;
        let view = self.hot.view(number);
        let plan = Plan {
            upto,
            now: self.config.clock.now(),
            groups_per_window_max: self.config.groups_per_window_max,
            followed: self.config.followed.contains(&tiers.table),
        };
        let sealed = tiers.seal(&view, plan);
        let stopped = tiers.tiers.iter().find_map(|tier| tier.log.stopped());
        if let Some(stop) = stopped {
            self.note_stop(table, &stop);
        }
        let mut report = sealed?;
        report.rows = slices(&view, before, upto).map(|slice| slice.seqs.rows()).sum();
        let cold = tiers.cold(&sealer.objects);
        self.hot.publish_cold(number, cold, upto);
        Ok(report)
    }

    fn delete_sealed_log(&self) {
        let sealed: Vec<_> = self.hot.lock().tables.iter().map(|table| table.sealed_to).collect();
        let sealed_to = |table: &str| self.hot.number_of(table).map(|number| sealed[number]);
        if let Err(error) = self.log.delete_sealed(self.config.clock.now(), sealed_to) {
            tracing::warn!(%error, "a sealed segment of the log cannot be deleted");
        }
    }
}

/// Bytes of rows that a seal takes; they press on if it fails or panics.
struct Pressing<'a> {
    store: &'a Inner,
    bytes: u64,
}

impl<'a> Pressing<'a> {
    fn take(store: &'a Inner) -> Self {
        Self { store, bytes: std::mem::take(&mut store.hot.lock().unsealed_bytes) }
    }

    fn settle(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Pressing<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.hot.lock().unsealed_bytes += self.bytes;
        }
    }
}

impl TableTiers {
    /// Every tier holds the rows up to here.
    pub(crate) fn sealed_to(&self) -> Seq {
        self.tiers.iter().map(|tier| tier.log.sealed_to()).min().unwrap_or(Seq::ZERO)
    }

    /// What readers see of the tiers.
    pub(crate) fn cold(&self, objects: &Arc<dyn ObjectStore>) -> Cold {
        let mut cold = Cold::default();
        for tier in &self.tiers {
            let view = tier.view(objects);
            match tier.holds {
                Holds::Rows => cold.raw = Some(view),
                Holds::Exemplars => cold.exemplars = Some(view),
                Holds::States(Cube::Full) => cold.tiers.push(view),
                Holds::States(_) => cold.cubes.push(view),
            }
        }
        cold
    }

    /// Brings every tier up to `plan.upto`.
    fn seal(&mut self, view: &View, plan: Plan) -> Result<SealReport, SealError> {
        let table = self.table;
        let mut report = SealReport::default();
        // Those that are made when they are first needed. All of them before any holds a row, so
        // that none of them starts later than another after a crash.
        for tier in self.tiers.iter_mut().filter(|tier| tier.log.is_new()) {
            let begun = tier.log.begin(self.incarnation.get(), Seq::ZERO, None, plan.now);
            begun.map_err(|source| SealError::Catalog { table: table.name, source })?;
        }
        let mut sources = Sources { table, view, plan, done: HashMap::new() };
        thread::scope(|scope| {
            let mut committing = VecDeque::new();
            for tier in self.tiers.iter_mut().filter(|tier| tier.log.sealed_to() < plan.upto) {
                let rows = sources.of(tier, &mut report.folded_rows);
                let rows =
                    rows.map_err(|source| SealError::Summary { table: table.name, source })?;
                let file = rows.filter(|rows| rows.num_rows() > 0);
                let file = file.map(|rows| segment_file::encode(&rows)).transpose();
                let file =
                    file.map_err(|source| SealError::Segment { table: table.name, source })?;
                report.bytes += file.as_ref().map_or(0, |file| file.stats.bytes);
                report.commits += 1;
                if committing.len() == COMMITS_AT_ONCE_MAX {
                    committing.pop_front().map_or(Ok(()), joined)?;
                }
                committing.push_back(scope.spawn(move || tier.commit(table, file, plan)));
            }
            committing.into_iter().try_for_each(joined)
        })?;
        Ok(report)
    }
}

/// What a thread returned; its panic is ours.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the tiers of one table are sealed from: hot rows, and states that were made of the same rows.
struct Sources<'a> {
    table: &'static TableDef,
    view: &'a View,
    plan: Plan,
    /// By cube, the last states of it and after which place they begin.
    done: HashMap<Cube, (Seq, Finished)>,
}

impl Sources<'_> {
    /// What `tier` is to hold of the rows that it does not stand for yet; how many of them are folded
    /// is noted if they are more than before.
    fn of(&mut self, tier: &Tier, folded: &mut u64) -> Result<Option<RecordBatch>, ArrowError> {
        let from = tier.log.sealed_to();
        match tier.holds {
            Holds::Rows => self.rows(from),
            Holds::Exemplars => self.exemplars(from, tier.width),
            Holds::States(cube) => {
                let finished = self.states(from, tier.width, cube)?;
                *folded = finished.folded_rows.max(*folded);
                Ok(Some(finished.states))
            }
        }
    }

    /// The states of the rows after `from`: from finer windows of the same cube, or from a cube with
    /// more dimensions unless something is folded in it, or from the rows.
    fn states(&mut self, from: Seq, width: Duration, cube: Cube) -> Result<Finished, ArrowError> {
        let mut states = States::new(self.table, cube, width, self.plan.groups_per_window_max)?;
        let of_same_rows = |cube: &Cube| self.done.get(cube).filter(|(after, _)| *after == from);
        let wider = cube.wider().iter().filter_map(of_same_rows);
        let wider = wider.filter(|(_, wider)| wider.folded_rows == 0);
        let smallest = wider.min_by_key(|(_, wider)| wider.states.num_rows());
        if let Some((_, finer)) = of_same_rows(&cube).or(smallest) {
            states.add_states(&finer.states)?;
        } else if self.table.kind == TableKind::Counter {
            let slices = slices(self.view, from, self.plan.upto);
            let rows: Vec<_> = slices.map(|slice| slice.rows).collect();
            let rows = concat_batches(&self.table.arrow_schema(), &rows)?;
            states.add_rows(&by_time(&rows)?)?;
        } else {
            for slice in slices(self.view, from, self.plan.upto) {
                states.add_rows(&slice.rows)?;
            }
        }
        let finished = states.finish()?;
        self.done.insert(cube, (from, finished.clone()));
        Ok(finished)
    }

    fn exemplars(&self, from: Seq, width: Duration) -> Result<Option<RecordBatch>, ArrowError> {
        let mut chosen = Vec::new();
        for slice in slices(self.view, from, self.plan.upto) {
            chosen.push(exemplars(self.table, width, &slice.rows)?);
        }
        if chosen.is_empty() {
            return Ok(None);
        }
        let chosen = concat_batches(&self.table.arrow_schema(), &chosen)?;
        exemplar_rows(self.table, &exemplars(self.table, width, &chosen)?).map(Some)
    }

    fn rows(&self, from: Seq) -> Result<Option<RecordBatch>, ArrowError> {
        let rows: Vec<Slice> = slices(self.view, from, self.plan.upto).collect();
        let placed = self.plan.followed;
        if rows.is_empty() { Ok(None) } else { raw_rows(self.table, &rows, placed).map(Some) }
    }
}

impl Tier {
    /// Writes a file and commits it; from then on the tier stands for the rows up to `plan.upto`.
    fn commit(
        &mut self,
        table: &TableDef,
        file: Option<Encoded>,
        plan: Plan,
    ) -> Result<(), SealError> {
        let table = table.name;
        let written = file.map(|file| file.write(self.log.dir())).transpose();
        let written = written.map_err(|source| SealError::Segment { table, source })?;
        let change = Change {
            operation: "WRITE",
            sealed_to: Some(plan.upto),
            complete_from: None,
            add: written.into_iter().collect(),
            remove: Vec::new(),
        };
        let committed = self.log.commit(&change, plan.now);
        committed.map_err(|source| SealError::Catalog { table, source })
    }

    fn view(&self, objects: &Arc<dyn ObjectStore>) -> TierView {
        TierView {
            width: self.width,
            cube: match self.holds {
                Holds::States(cube) => cube,
                Holds::Exemplars | Holds::Rows => Cube::Full,
            },
            sealed_to: self.log.sealed_to(),
            complete_from: self.log.complete_from(),
            segments: self.log.files().iter().map(|file| self.segment(file)).collect(),
            schema: Arc::clone(&self.schema),
            objects: Arc::clone(objects),
        }
    }

    fn segment(&self, file: &FileStats) -> Segment {
        Segment {
            path: Path::from(format!("{}/{}", self.prefix, file.name)),
            bytes: file.bytes,
            rows: file.rows,
            source_rows: file.source_rows,
            first_time: file.first_time,
            last_time: file.last_time,
            first_window: file.first_window,
            last_window: file.last_window,
            places: file.places,
        }
    }
}

impl SealReport {
    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.commits += other.commits;
        self.bytes += other.bytes;
        self.folded_rows += other.folded_rows;
    }
}

/// The hot rows after `from` and up to `upto`.
fn slices(view: &View, from: Seq, upto: Seq) -> impl Iterator<Item = Slice> {
    let chunks = view.hot.after(from).take_while(move |chunk| chunk.seqs.first <= upto);
    chunks.filter_map(move |chunk| chunk.between(from, upto))
}

fn folded_loss(table: &'static str, rows: u64) -> Option<Loss> {
    let detail = format!(
        "{rows} rows are summarised under *, since their windows hold more groups than \
         groups_per_window_max; no row is missing"
    );
    (rows > 0).then_some(Loss { table, reason: Reason::Folded, rows, times: None, detail })
}
