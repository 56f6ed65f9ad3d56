//! Opening a folder: its lock, its life, its catalogs, its log.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tokio::sync::Notify;
use undine_schema::tables::DATA_LOSS;
use undine_schema::{Cube, Incarnation, Seq, TableDef, TimeNs};

use crate::allocated::{Allocated, NAME_BYTES_MAX};
use crate::backend::Folder;
use crate::cache::Shelves;
use crate::config::{BuildError, Config, OnDamage};
use crate::delta::{DeltaError, DeltaLog};
use crate::durable;
use crate::folder::folder_of;
use crate::hot_budget::{self, limits_of};
use crate::hot_tables::{Changes, HotTables};
use crate::io_budget::IoBudget;
use crate::lives::Lives;
use crate::log::{Log, Options, replay};
use crate::loss::{Loss, Reason};
use crate::recover::{Found, Missing, report, wait_synced};
use crate::retention;
use crate::seal::{Holds, Sealer, TableTiers, Tier};
use crate::spool::{Spool, read_mark};
use crate::state::{cube_schema, exemplar_schema, raw_schema};
use crate::stats::Recovered;
use crate::store::{Inner, Store};

/// The widest windows that have exemplars of their own.
const EXEMPLARS_WIDTH_MAX: Duration = Duration::from_mins(1);
/// The least budget for rows in memory.
const HOT_BYTES_MIN: usize = 1024 * 1024;

impl Config {
    /// Checks the settings, takes the folder and reads the log back.
    ///
    /// # Errors
    /// See [`BuildError`].
    #[expect(clippy::too_many_lines, reason = "each step needs what those before it found")]
    pub fn build(mut self) -> Result<Store, BuildError> {
        if !self.tables.contains(&&DATA_LOSS) {
            self.tables.push(&DATA_LOSS);
        }
        self.check()?;
        let log_dir = self.dir.join("log");
        let tables_dir = self.dir.join("tables");
        for dir in [&self.dir, &log_dir, &tables_dir] {
            durable::create_dirs(dir).map_err(io_error("make", dir))?;
        }
        let lock = lock(&self.dir)?;
        for dir in [&self.dir, &log_dir] {
            durable::remove_unfinished(dir).map_err(io_error("tidy", dir))?;
        }
        let mut lives = Lives::read(&self.dir, &self.node)?;
        let allocated_path = self.dir.join("allocated");
        let allocated =
            Allocated::read(&allocated_path).map_err(io_error("read", &allocated_path))?;
        let Places { objects, root, shelves } = self.open_places(&tables_dir)?;
        let mut tiers = self.open_tiers(&root)?;
        let spool = self.open_spool(shelves, &mut tiers)?;

        let mut found = Found::new(&self.tables, &tiers);
        let replayed = replay(&log_dir, self.on_damage, &mut |item| found.add(item))?;
        for (table, &last) in &allocated {
            if last != Seq::ZERO {
                lives.note(table, last);
            }
        }
        found.tables.iter().for_each(|table| table.note_in(&mut lives));
        let losses = found.missing(&lives, self.clock.now());
        if self.on_damage == OnDamage::Refuse {
            refuse_damage(&log_dir, &losses)?;
        }

        let newest = found.newest_life().max(newest_life(&tiers)).max(newest_of(&allocated));
        let newest = spool.iter().map(Spool::newest_life).fold(newest, u16::max);
        let incarnation = lives.begin(&self.dir, newest)?;
        let now = self.clock.now();
        spool.iter().try_for_each(|spool| spool.begin(incarnation, now))?;
        begin_tiers(&mut tiers, incarnation, now)?;

        let names = || self.tables.iter().map(|table| table.name);
        let log = Log::start(Options {
            dir: log_dir.clone(),
            next_number: replayed.next_number,
            closed: replayed.segments,
            commit_interval: self.commit_interval,
            sync_interval: self.log_sync_interval,
            tables: names().collect(),
        })
        .map_err(io_error("start the log in", &log_dir))?;
        for (number, table) in found.tables.iter().enumerate() {
            log.set_synced_seq(number, table.last);
        }
        let reported = report(&log, &losses, incarnation, now);
        // A page of the new life says that the losses of the last one are reported and durable.
        wait_synced(&log).map_err(io_error("write the log in", &log_dir))?;
        let page = Allocated::create(&allocated_path, names())
            .map_err(io_error("make", &allocated_path))?;

        let sealer = Sealer { tables: tiers, objects, settled: false };
        let mut changes = Changes {
            incarnation,
            allocated: page,
            retry_keys: found.retry_keys(now),
            tables: Vec::new(),
            bytes: 0,
            numbering_bytes: 0,
            unsealed_bytes: 0,
            evicted: Vec::new(),
            order: found.order,
            stopping: false,
            refused_frames: 0,
            repeated_frames: 0,
            pinned_frames: 0,
        };
        let recovered: Vec<_> = found
            .tables
            .iter()
            .map(|table| {
                let lost = losses.iter().filter(|lost| lost.table == table.def);
                let lost_rows = lost.flat_map(|lost| &lost.gone).map(|gone| gone.seqs.rows()).sum();
                Recovered { rows: table.rows(), lost_rows }
            })
            .collect();
        let views = found.into_views(&sealer, &lives, &mut changes);
        let limits = limits_of(&self.tables, &self.hot_budgets, self.hot_bytes_max);
        let bytes_max = (self.hot_bytes_max, self.hot_pinned_bytes_max);
        let hot = HotTables::new(views.into_iter(), &limits, bytes_max, changes);
        if let Some(rows) = reported {
            let number = self.tables.iter().position(|table| **table == DATA_LOSS).unwrap_or(0);
            let mut changes = hot.lock();
            let seqs = hot.publish(&mut changes, number, hot.measure(number, rows), true);
            drop(changes);
            hot.announce(number, seqs.last);
        }
        let io_budget = IoBudget::new(self.merge_bytes_per_second_max);
        let inner = Inner {
            config: self,
            io_budget,
            hot,
            log,
            lives,
            recovered,
            stopped: Mutex::new(stops_of(&sealer)),
            sealer: Mutex::new(sealer),
            tidier: Mutex::default(),
            spool,
            upkeep: Mutex::default(),
            pressed: Notify::new(),
            sealed: Notify::new(),
            lock,
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Whether every setting is within its bounds.
    fn check(&self) -> Result<(), BuildError> {
        let refused = |key, value: String, remedy| Err(BuildError::Setting { key, value, remedy });
        if self.node.is_empty() || self.node.len() > 200 {
            return refused("node", format!("{:?}", self.node), "give it 1 to 200 bytes");
        }
        if self.hot_bytes_max < HOT_BYTES_MIN {
            return refused(
                "hot_bytes_max",
                self.hot_bytes_max.to_string(),
                "at least 1 MiB is needed",
            );
        }
        hot_budget::check(&self.tables, &self.hot_budgets)?;
        let durations = [
            ("log_sync_interval", self.log_sync_interval),
            ("commit_interval", self.commit_interval),
            ("seal_interval", self.seal_interval),
        ];
        for (key, value) in durations {
            if value.is_zero() {
                return refused(key, format!("{value:?}"), "it must be longer");
            }
        }
        let whole = |width: &Duration| width.subsec_nanos() == 0 && !width.is_zero();
        let nested = |pair: &[Duration]| {
            pair[0] < pair[1] && pair[1].as_secs().is_multiple_of(pair[0].as_secs())
        };
        if self.tiers.is_empty()
            || !self.tiers.iter().all(whole)
            || !self.tiers.windows(2).all(nested)
        {
            let remedy = "name whole seconds, finest first, each a multiple of the one before";
            return refused("tiers", format!("{:?}", self.tiers), remedy);
        }
        for (key, value) in [
            ("groups_per_window_max", self.groups_per_window_max),
            ("log_queue_bytes_max", self.log_queue_bytes_max),
        ] {
            if value == 0 {
                return refused(key, value.to_string(), "it must be at least 1");
            }
        }
        if self.segments_max < 2 {
            return refused("segments_max", self.segments_max.to_string(), "it must be at least 2");
        }
        let long = self.tables.iter().find(|table| table.name.len() > NAME_BYTES_MAX);
        match long {
            Some(table) => refused("tables", table.name.to_owned(), "shorten the table's name"),
            None => Ok(()),
        }
    }

    /// The local disk, before the bucket where there is one.
    fn open_places(&self, tables_dir: &Path) -> Result<Places, BuildError> {
        let Some(bucket) = &self.bucket else {
            if let Some(url) = read_mark(&self.dir)? {
                return Err(BuildError::BucketMissing { dir: self.dir.clone(), url });
            }
            let objects = LocalFileSystem::new_with_prefix(tables_dir)
                .map_err(|error| io_error("open", tables_dir)(io::Error::other(error)))?;
            let root = Folder::on_disk(tables_dir.to_owned());
            return Ok(Places { objects: Arc::new(objects), root, shelves: None });
        };
        let cache = self.dir.join("cache");
        let bytes_max = bucket.cache_bytes_max;
        let shelves =
            Shelves::open(tables_dir, cache.clone(), bytes_max, Arc::clone(&bucket.bucket));
        let shelves = Arc::new(shelves.map_err(io_error("open", &cache))?);
        let root = Folder::before(tables_dir.to_owned(), Arc::clone(&shelves));
        Ok(Places { objects: Arc::clone(&shelves) as _, root, shelves: Some(shelves) })
    }

    fn open_spool(
        &self,
        shelves: Option<Arc<Shelves>>,
        tiers: &mut [TableTiers],
    ) -> Result<Option<Spool>, BuildError> {
        let (Some(bucket), Some(shelves)) = (&self.bucket, shelves) else { return Ok(None) };
        Spool::open(bucket, &self.dir, shelves, tiers, self.clock.now()).map(Some)
    }

    fn open_tiers(&self, root: &Folder) -> Result<Vec<TableTiers>, BuildError> {
        let mut all = Vec::with_capacity(self.tables.len());
        for &table in &self.tables {
            let mut tiers = Vec::new();
            for (width, holds) in self.tiers_of(table) {
                let tier = holds.tier_name(width);
                let folders = [folder_of(table.name), tier.clone(), folder_of(&self.node)];
                let prefix = folders.join("/");
                let dir = root.sub(&prefix);
                let schema = match holds {
                    Holds::States(cube) => cube_schema(table, cube),
                    Holds::Exemplars => exemplar_schema(table),
                    Holds::Rows => raw_schema(table),
                };
                let app_id = format!("undine/{}/{tier}/{}", table.name, self.node);
                let log = DeltaLog::open(dir, app_id, &schema)?;
                let limits = retention::limits(self, table, &tier);
                tiers.push(Tier { width, holds, limits, schema, prefix, log });
            }
            all.push(TableTiers { table, tiers, incarnation: Incarnation::default() });
        }
        retention::keep_versions(&mut all);
        Ok(all)
    }

    /// The widths of a table's tiers and what they hold, in the order in which they are sealed.
    fn tiers_of(&self, table: &TableDef) -> Vec<(Duration, Holds)> {
        let summarised = table.kind.is_summarised();
        let mut tiers = Vec::new();
        for &width in self.tiers.iter().filter(|_| summarised) {
            tiers.extend(table.cubes().map(|cube| (width, Holds::States(cube))));
        }
        if table.exemplified().is_some() {
            let fine = self.tiers.iter().rfind(|width| **width <= EXEMPLARS_WIDTH_MAX);
            let width = fine.or(self.tiers.first()).copied();
            tiers.extend(width.map(|width| (width, Holds::Exemplars)));
        }
        if !summarised || self.raw_for.is_some() {
            tiers.push((Duration::ZERO, Holds::Rows));
        }
        tiers
    }
}

/// Where segments are.
struct Places {
    objects: Arc<dyn ObjectStore>,
    root: Folder,
    shelves: Option<Arc<Shelves>>,
}

/// The tables that another program has changed.
fn stops_of(sealer: &Sealer) -> BTreeMap<&'static str, String> {
    let stops = sealer.tables.iter().filter_map(|table| {
        let stop = table.tiers.iter().find_map(|tier| tier.log.stopped())?;
        Some((table.table.name, stop.to_string()))
    });
    stops.collect()
}

/// Makes the catalogs that are missing. One that comes later than its table's others begins where
/// those stand, and says from which time on it is complete.
fn begin_tiers(
    all: &mut [TableTiers],
    incarnation: Incarnation,
    now: TimeNs,
) -> Result<(), BuildError> {
    for table in all {
        let old = || table.tiers.iter().filter(|tier| !tier.log.is_new());
        let sealed_to = old().map(|tier| tier.log.sealed_to()).min().unwrap_or(Seq::ZERO);
        let sealed = old().flat_map(|tier| tier.log.files()).map(|file| file.last_time).max();
        let from = sealed.map(|last| TimeNs::new(last.get().saturating_add(1)));
        // Most tables never have a row, so their smaller summaries wait for the first seal.
        let waits = |tier: &Tier| {
            let is_main = matches!(tier.holds, Holds::States(Cube::Full) | Holds::Rows);
            sealed_to == Seq::ZERO && !is_main
        };
        table.incarnation = incarnation;
        for tier in table.tiers.iter_mut().filter(|tier| !waits(tier)) {
            tier.log.begin(incarnation.get(), sealed_to, from, now)?;
        }
    }
    Ok(())
}

/// Whether rows are gone that a crash cannot have taken.
fn refuse_damage(log_dir: &Path, losses: &[Missing]) -> Result<(), BuildError> {
    let Some(lost) = losses.iter().find(|lost| lost.reason == Reason::LogDamaged) else {
        return Ok(());
    };
    let parts = Loss::of_places(lost.table.name, lost.reason, &lost.gone);
    let rows: u64 = parts.iter().map(|part| part.rows).sum();
    let detail: Vec<_> = parts.iter().map(|part| part.detail.as_str()).collect();
    let (table, detail) = (lost.table.name, detail.join(", "));
    let what = format!("{rows} rows of {table} are in none of its segments: {detail}");
    Err(BuildError::Damaged { path: log_dir.to_owned(), what })
}

fn newest_life(tiers: &[TableTiers]) -> u16 {
    let logs = tiers.iter().flat_map(|table| &table.tiers).map(|tier| tier.log.last_epoch());
    u16::try_from(logs.max().unwrap_or(0)).unwrap_or(u16::MAX)
}

fn newest_of(allocated: &BTreeMap<String, Seq>) -> u16 {
    allocated.values().map(|last| last.incarnation().get()).max().unwrap_or(0)
}

/// Takes the folder for this process.
pub(crate) fn lock(dir: &Path) -> Result<File, BuildError> {
    let path = dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(io_error("read", &path))?;
            let pid = pid.trim().to_owned();
            return Err(BuildError::Locked { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(io_error("write", &path))?;
    Ok(file)
}

impl From<DeltaError> for BuildError {
    fn from(error: DeltaError) -> Self {
        match error {
            DeltaError::Io { action, path, source } => Self::Io { action, path, source },
            DeltaError::Corrupt { path, what } => Self::Corrupt { path, what },
            DeltaError::Fenced { path, epoch } => {
                Self::Corrupt { path, what: format!("life {epoch} of the node is at work on it") }
            }
            DeltaError::Foreign { path, by } => {
                Self::Corrupt { path, what: format!("{by} has written it") }
            }
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path: PathBuf = path.to_owned();
    move |source| BuildError::Io { action, path, source }
}
