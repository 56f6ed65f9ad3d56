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
use undine_schema::{Durability, Incarnation, Seq, SeqRange, TableDef, TimeNs};

use crate::allocated::{Allocated, NAME_BYTES_MAX};
use crate::config::{BuildError, Config};
use crate::delta::{DeltaError, DeltaLog, folder_of, tier_name};
use crate::durable;
use crate::hot::{Chunk, HotList, Measured};
use crate::hot_tables::{Changes, HotTables, TableChanges, View};
use crate::lives::Lives;
use crate::log::{
    Content, Entry, EntryPart, Log, Options, RETRY_KEYS_FOR, decode_rows, key_of, replay,
};
use crate::loss::{Loss, Reason, rows_of};
use crate::retry_keys::RetryKeys;
use crate::seal::{Sealer, TableTiers, Tier};
use crate::state::{raw_schema, summary_schema};
use crate::stats::Recovered;
use crate::store::{Inner, Store, join};

/// The least budget for rows in memory.
const HOT_BYTES_MIN: usize = 1024 * 1024;

impl Config {
    /// Checks the settings, takes the folder and reads the log back.
    ///
    /// # Errors
    /// See [`BuildError`].
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
        let mut lives = Lives::read(&self.dir, &self.node)?;
        let allocated_path = self.dir.join("allocated");
        let allocated =
            Allocated::read(&allocated_path).map_err(io_error("read", &allocated_path))?;
        let objects = LocalFileSystem::new_with_prefix(&tables_dir)
            .map_err(|error| io_error("open", &tables_dir)(io::Error::other(error)))?;
        let objects: Arc<dyn ObjectStore> = Arc::new(objects);
        let mut tiers = self.open_tiers(&tables_dir)?;

        let mut found = Found::new(&self.tables, &tiers);
        let replayed = replay(&log_dir, &mut |header, body| {
            let key = header.retry_key.as_deref().and_then(key_of);
            found.retry_keys.extend(key.map(|key| (TimeNs::new(header.at), key)));
            for part in &header.parts {
                found.add(
                    &part.table,
                    part.seqs(),
                    &part.content,
                    header.commit,
                    body_of(header, part, body),
                )?;
            }
            Ok(())
        })?;
        for (table, &last) in &allocated {
            if last != Seq::ZERO {
                lives.note(table, last);
            }
        }
        found.tables.iter().for_each(|table| table.note_in(&mut lives));
        let damaged = !replayed.damages.is_empty();
        let losses: Vec<_> =
            found.tables.iter().map(|table| (table.def, table.missing(&lives))).collect();

        let newest = found.newest_life().max(newest_life(&tiers)).max(newest_of(&allocated));
        let incarnation = lives.begin(&self.dir, newest)?;
        let now = self.clock.now();
        self.begin_tiers(&mut tiers, incarnation, now)?;

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
        let reported = report(&log, &losses, damaged, incarnation, now);
        // A page of the new life says that the losses of the last one are reported and durable.
        wait_synced(&log).map_err(io_error("write the log in", &log_dir))?;
        let page = Allocated::create(&allocated_path, names())
            .map_err(io_error("make", &allocated_path))?;

        let sealer = Sealer { tables: tiers, objects };
        let mut changes = Changes {
            incarnation,
            allocated: page,
            retry_keys: found.retry_keys(now),
            tables: Vec::new(),
            bytes: 0,
            unsealed_bytes: 0,
            evicted: Vec::new(),
            order: found.order,
            stopping: false,
            refused_frames: 0,
            repeated_frames: 0,
        };
        let mut recovered = Vec::new();
        let mut views = Vec::new();
        for (number, table) in found.tables.into_iter().enumerate() {
            let lost_rows = losses[number].1.iter().map(SeqRange::rows).sum();
            let places = TableChanges { sealed_to: table.sealed_to, ..TableChanges::default() };
            recovered.push(Recovered { rows: table.rows(), lost_rows });
            let newest = table.last.max(lives.newest(table.def.name));
            let def = table.def;
            let (view, bytes) = table.view(&sealer.tables[number], &sealer.objects);
            changes.bytes += bytes;
            changes.unsealed_bytes += bytes;
            changes.tables.push(TableChanges { bytes, ..places });
            views.push((def, view, newest));
        }
        let hot = HotTables::new(views.into_iter(), self.hot_bytes_max, changes);
        if let Some(rows) = reported {
            let number = self.tables.iter().position(|table| **table == DATA_LOSS).unwrap_or(0);
            let mut changes = hot.lock();
            let seqs = hot.publish(&mut changes, number, Measured::new(rows), true);
            drop(changes);
            hot.announce(number, seqs.last);
        }
        let inner = Inner {
            config: self,
            hot,
            log,
            lives,
            recovered,
            sealer: Mutex::new(sealer),
            pressed: Notify::new(),
            _lock: lock,
        };
        Ok(Store { inner: Arc::new(inner) })
    }

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

    fn open_tiers(&self, tables_dir: &Path) -> Result<Vec<TableTiers>, BuildError> {
        let mut all = Vec::with_capacity(self.tables.len());
        for &table in &self.tables {
            let summarised = table.kind.is_summarised();
            let widths: &[Duration] = if summarised { &self.tiers } else { &[] };
            let raw = !summarised || self.raw_for.is_some();
            let widths = widths.iter().copied().chain(raw.then_some(Duration::ZERO));
            let mut tiers = Vec::new();
            for width in widths {
                let folders = [folder_of(table.name), tier_name(width), folder_of(&self.node)];
                let prefix = folders.join("/");
                let dir =
                    folders.iter().fold(tables_dir.to_owned(), |dir, folder| dir.join(folder));
                let raw = width.is_zero();
                let schema = if raw { raw_schema(table) } else { summary_schema(table) };
                let app_id = format!("undine/{}/{}/{}", table.name, tier_name(width), self.node);
                let log = DeltaLog::open(dir, app_id, &schema)?;
                let retention = self.raw_for.filter(|_| summarised && raw);
                tiers.push(Tier { width, retention, schema, prefix, log });
            }
            all.push(TableTiers { table, tiers });
        }
        Ok(all)
    }

    /// Makes the catalogs that are missing. One that comes later than its table's others begins
    /// where those stand, and says from which time on it is complete.
    fn begin_tiers(
        &self,
        all: &mut [TableTiers],
        incarnation: Incarnation,
        now: TimeNs,
    ) -> Result<(), BuildError> {
        for table in all {
            let old = || table.tiers.iter().filter(|tier| !tier.log.is_new());
            let sealed_to = old().map(|tier| tier.log.sealed_to()).min().unwrap_or(Seq::ZERO);
            let sealed = old().flat_map(|tier| tier.log.files()).map(|file| file.last_time).max();
            let from = sealed.map(|last| TimeNs::new(last.get().saturating_add(1)));
            for tier in &mut table.tiers {
                tier.log.begin(incarnation.get(), sealed_to, from, now)?;
            }
        }
        Ok(())
    }
}

/// What the log holds.
struct Found {
    tables: Vec<FoundTable>,
    retry_keys: Vec<(TimeNs, undine_schema::RetryKey)>,
    order: u64,
}

/// What the log holds of one table.
struct FoundTable {
    def: &'static TableDef,
    sealed_to: Seq,
    /// The newest place that the log or a tier knows.
    last: Seq,
    chunks: BTreeMap<Seq, Chunk>,
    /// Places whose rows are gone for a reason that is on record.
    settled: Vec<SeqRange>,
    evicted: Vec<SeqRange>,
}

impl Found {
    fn new(tables: &[&'static TableDef], tiers: &[TableTiers]) -> Self {
        let tables = tables.iter().zip(tiers).map(|(&def, tiers)| FoundTable {
            def,
            sealed_to: tiers.sealed_to(),
            last: tiers.tiers.iter().map(|tier| tier.log.sealed_to()).max().unwrap_or(Seq::ZERO),
            chunks: BTreeMap::new(),
            settled: Vec::new(),
            evicted: Vec::new(),
        });
        Self { tables: tables.collect(), retry_keys: Vec::new(), order: 0 }
    }

    fn add(
        &mut self,
        table: &str,
        seqs: SeqRange,
        content: &Content<u64>,
        commit: bool,
        body: &[u8],
    ) -> Result<(), String> {
        let Some(table) = self.tables.iter_mut().find(|found| found.def.name == table) else {
            tracing::warn!(table, rows = seqs.rows(), "the log holds rows of an unknown table");
            return Ok(());
        };
        table.last = table.last.max(seqs.last);
        if seqs.last <= table.sealed_to {
            return Ok(());
        }
        match content {
            Content::Rows(_) => {
                let rows = decode_rows(table.def, body).map_err(|error| error.to_string())?;
                if rows.num_rows() as u64 != seqs.rows() {
                    return Err(format!(
                        "{} rows stand at {} places",
                        rows.num_rows(),
                        seqs.rows()
                    ));
                }
                self.order += 1;
                let chunk = Measured::new(rows).place(seqs, commit, self.order);
                table.chunks.insert(seqs.first, chunk);
            }
            Content::Memory | Content::Lost => table.settled.push(seqs),
            Content::Evicted => table.evicted.push(seqs),
        }
        Ok(())
    }

    fn newest_life(&self) -> u16 {
        self.tables.iter().map(|table| table.last.incarnation().get()).max().unwrap_or(0)
    }

    fn retry_keys(&self, now: TimeNs) -> RetryKeys {
        let mut keys = RetryKeys::default();
        let young = self.retry_keys.iter().filter(|(at, _)| now.since(*at) < RETRY_KEYS_FOR);
        young.for_each(|&(at, key)| keys.insert(key, 0, at));
        keys
    }
}

impl FoundTable {
    fn note_in(&self, lives: &mut Lives) {
        let chunks = self.chunks.values().map(|chunk| chunk.seqs.last);
        let settled = self.settled.iter().chain(&self.evicted).map(|seqs| seqs.last);
        for last in chunks.chain(settled).chain([self.last]) {
            if last != Seq::ZERO {
                lives.note(self.def.name, last);
            }
        }
    }

    /// Places above the tiers that were given out, and about which the log says nothing.
    fn missing(&self, lives: &Lives) -> Vec<SeqRange> {
        let known = self.chunks.values().map(|chunk| chunk.seqs);
        let known: Vec<_> =
            known.chain(self.settled.iter().chain(&self.evicted).copied()).collect();
        let known = join(&known);
        let mut missing = Vec::new();
        for (&life, counters) in lives.ended.range(self.sealed_to.incarnation().get()..) {
            let Some(&end) = counters.get(self.def.name) else { continue };
            let life = Incarnation::new(life);
            let mut next = Seq::new(life, 1);
            if self.sealed_to.incarnation() == life {
                next = Seq::new(life, self.sealed_to.counter() + 1);
            }
            let end = Seq::new(life, end);
            for seqs in known.iter().filter(|seqs| seqs.first.incarnation() == life) {
                if seqs.last < next || seqs.first > end {
                    continue;
                }
                if next < seqs.first {
                    let last = Seq::from_raw(seqs.first.raw() - 1);
                    missing.push(SeqRange { first: next, last });
                }
                next = Seq::from_raw(seqs.last.raw() + 1);
            }
            if next <= end {
                missing.push(SeqRange { first: next, last: end });
            }
        }
        missing
    }

    fn rows(&self) -> u64 {
        let kept = self.chunks.values().filter(|chunk| !self.is_evicted(chunk));
        kept.map(|chunk| chunk.seqs.rows()).sum()
    }

    fn is_evicted(&self, chunk: &Chunk) -> bool {
        let covers =
            |seqs: &SeqRange| seqs.first <= chunk.seqs.first && chunk.seqs.last <= seqs.last;
        self.evicted.iter().any(covers)
    }

    /// The table as readers first see it, and the bytes of its rows.
    fn view(self, tiers: &TableTiers, objects: &Arc<dyn ObjectStore>) -> (View, u64) {
        let gone = self.chunks.values().filter(|chunk| self.is_evicted(chunk));
        let sealed = tiers.tiers.iter().flat_map(|tier| tier.log.files());
        let times = gone.map(|chunk| chunk.last_time).chain(sealed.map(|file| file.last_time));
        let after = times.max().map(|last| TimeNs::new(last.get().saturating_add(1)));
        let expired = tiers.tiers.iter().map(|tier| tier.log.complete_from()).max();
        let evicted = self.evicted;
        let covered = |chunk: &Chunk| {
            evicted.iter().any(|s| s.first <= chunk.seqs.first && chunk.seqs.last <= s.last)
        };
        let kept = self.chunks.into_values().filter(|chunk| !covered(chunk)).map(Arc::new);
        let hot: HotList = kept.collect();
        let bytes = hot.iter().map(|chunk| chunk.bytes).sum();
        let least = TimeNs::new(i64::MIN);
        let hot_complete_from = after.max(expired).unwrap_or(least).max(least);
        (View { hot, hot_complete_from, cold: Arc::new(tiers.cold(objects)) }, bytes)
    }
}

/// Logs what is missing, in one frame with the markers that keep it from being reported again.
fn report(
    log: &Log,
    losses: &[(&'static TableDef, Vec<SeqRange>)],
    damaged: bool,
    incarnation: Incarnation,
    now: TimeNs,
) -> Option<arrow::array::RecordBatch> {
    let reason = if damaged { Reason::LogDamaged } else { Reason::Crash };
    let lossy = || losses.iter().filter(|(_, missing)| !missing.is_empty());
    let rows: Vec<_> =
        lossy().map(|(table, missing)| Loss::of_places(table.name, reason, missing)).collect();
    if rows.is_empty() {
        return None;
    }
    for loss in &rows {
        tracing::warn!(table = loss.table, rows = loss.rows, detail = loss.detail, "rows are lost");
    }
    let rows = rows_of(&rows, now);
    let markers = lossy().flat_map(|&(table, ref missing)| {
        missing.iter().map(move |&seqs| EntryPart { table, seqs, content: Content::Lost })
    });
    let seqs = SeqRange::new(Seq::new(incarnation, 1), rows.num_rows());
    let content = Content::Rows(rows.clone());
    let parts = markers.chain([EntryPart { table: &DATA_LOSS, seqs, content }]).collect();
    let (durability, retry_key) = (Durability::Commit, None);
    log.push(Entry { at: now, durability, retry_key, parts, bytes: 0 });
    Some(rows)
}

fn wait_synced(log: &Log) -> io::Result<()> {
    log.wait_synced().map_err(|error| match error {
        undine_schema::AppendError::Log(cause) => io::Error::new(cause.kind(), cause),
        other => io::Error::other(other),
    })
}

/// The bytes of a part within its frame's body.
fn body_of<'a>(
    header: &crate::log::Header,
    part: &crate::log::PartHeader,
    body: &'a [u8],
) -> &'a [u8] {
    let mut at = 0;
    for other in &header.parts {
        let Content::Rows(bytes) = other.content else { continue };
        let end = at + usize::try_from(bytes).unwrap_or(usize::MAX - at);
        if std::ptr::eq(other, part) {
            return body.get(at..end).unwrap_or_default();
        }
        at = end;
    }
    &[]
}

fn newest_life(tiers: &[TableTiers]) -> u16 {
    let logs = tiers.iter().flat_map(|table| &table.tiers).map(|tier| tier.log.last_epoch());
    u16::try_from(logs.max().unwrap_or(0)).unwrap_or(u16::MAX)
}

fn newest_of(allocated: &BTreeMap<String, Seq>) -> u16 {
    allocated.values().map(|last| last.incarnation().get()).max().unwrap_or(0)
}

/// Takes the folder for this process.
fn lock(dir: &Path) -> Result<File, BuildError> {
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
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path: PathBuf = path.to_owned();
    move |source| BuildError::Io { action, path, source }
}
