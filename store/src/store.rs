//! The store: what its parts do together.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use undine_schema::tables::DATA_LOSS;
use undine_schema::{
    Append, AppendError, Durability, Frame, Incarnation, Part, Pending, SeqRange, TableDef, TimeNs,
};

use crate::background::{self, Priority};
use crate::config::Config;
use crate::hot::{HotList, Measured};
use crate::hot_tables::{Changes, Coming, HotTables, Room};
use crate::io_budget::IoBudget;
use crate::lives::Lives;
use crate::log::{Content, Entry, EntryPart, Log};
use crate::loss::{self, Loss, Reason, rows_of};
use crate::seal::{SealError, SealReport, Sealer};
use crate::snapshot::Snapshot;
use crate::spool::Spool;
use crate::stats::{Recovered, Stats, Upkeep};
use crate::tidy::TidyReport;

/// Time between two rounds of merging and of reporting evicted rows.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How many times as long as it took to tidy the tiers they are left alone, so that merging has a
/// quarter of a core, and of what that writes, at most.
const TIDY_PAUSES: u32 = 3;

/// Keeps tables. Clones are one store.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) hot: HotTables,
    pub(crate) log: Log,
    pub(crate) lives: Lives,
    pub(crate) recovered: Vec<Recovered>,
    /// Held for as long as a seal takes.
    pub(crate) sealer: Mutex<Sealer>,
    /// Held for as long as tidying takes; before the sealer's.
    pub(crate) tidier: Mutex<()>,
    /// What merges of segments may read and write.
    pub(crate) io_budget: IoBudget,
    /// What goes to a bucket, where there is one.
    pub(crate) spool: Option<Spool>,
    /// Tables that are not written any more, and why.
    pub(crate) stopped: Mutex<BTreeMap<&'static str, String>>,
    /// What was done in the background.
    pub(crate) upkeep: Mutex<Upkeep>,
    /// Unsealed rows take much room.
    pub(crate) pressed: Notify,
    /// A seal has ended, well or not.
    pub(crate) sealed: Notify,
    /// Keeps other processes away from the folder until the store is gone.
    pub(crate) lock: File,
}

impl Store {
    /// The table at this moment; never blocks and is never blocked. Empty for an unknown table.
    pub fn snapshot(&self, table: &TableDef) -> Snapshot {
        if let Some(number) = self.inner.hot.number_of(table.name) {
            return self.inner.hot.view(number).snapshot();
        }
        let of_itself = self.inner.snapshot_of_itself(table);
        of_itself.unwrap_or_else(|| Snapshot::in_memory(HotList::default()))
    }

    /// The tables that are kept.
    pub fn tables(&self) -> impl Iterator<Item = &'static TableDef> {
        self.inner.hot.all().iter().map(|table| table.def)
    }

    /// Which life of the node's store this is.
    pub fn incarnation(&self) -> Incarnation {
        self.inner.hot.lock().incarnation
    }

    /// Seals everything that was appended before the call. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`SealError`]; what was not sealed stays in memory and in the log.
    pub async fn seal(&self) -> Result<SealReport, SealError> {
        self.seal_at(Priority::Usual).await
    }

    async fn seal_at(&self, priority: Priority) -> Result<SealReport, SealError> {
        self.inner.report_evictions().map_err(SealError::Log)?;
        self.inner.log.sync().await.map_err(SealError::Log)?;
        let inner = Arc::clone(&self.inner);
        let seal = move || tracing::info_span!("seal").in_scope(|| inner.seal_synced());
        let sealed = background::run("seal", priority, seal).await;
        let sealed = sealed.unwrap_or(Err(SealError::Abandoned));
        self.inner.note(|upkeep| upkeep.add_seal(&sealed));
        sealed
    }

    /// Waits until everything appended so far is synced.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn sync(&self) -> Result<(), AppendError> {
        self.inner.log.sync().await
    }

    /// What the store holds now.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Seals, merges and evicts until `shutdown`; then accepts nothing more, syncs the log and
    /// returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut beside = JoinSet::new();
        beside.spawn(self.clone().upload_until(shutdown.clone()));
        beside.spawn(self.clone().tidy_until(shutdown.clone()));
        let mut next_seal = Instant::now() + self.inner.config.seal_interval;
        loop {
            let pressed = tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.inner.pressed.notified() => true,
                () = tokio::time::sleep(UPKEEP_INTERVAL) => false,
            };
            // Rows that wait for memory cannot wait for a merge or a seal.
            let priority = if pressed { Priority::Usual } else { Priority::Low };
            if let Err(error) = self.merge_hot_at(priority).await {
                tracing::error!(%error, "evicted rows cannot be reported");
            }
            if !pressed && Instant::now() < next_seal {
                continue;
            }
            next_seal = Instant::now() + self.inner.config.seal_interval;
            let sealed = self.seal_at(priority).await;
            self.inner.sealed.notify_one();
            if let Err(error) = sealed {
                tracing::error!(%error, cause = %Causes(&error), "a seal failed; it is tried again");
                // Without a pause, a full disk and full memory would call for seal after seal.
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(UPKEEP_INTERVAL) => {}
                }
            }
        }
        self.inner.hot.lock().stopping = true;
        self.inner.io_budget.end();
        let reported = self.inner.report_evictions();
        if let Err(error) = reported.and(self.inner.log.sync().await) {
            tracing::error!(%error, cause = %Causes(&error), "the log is not synced at the end");
        }
        while beside.join_next().await.is_some() {}
    }

    /// Tidies after seals until `shutdown`, beside the next ones: merges take longer than unsealed rows
    /// have room.
    async fn tidy_until(self, shutdown: CancellationToken) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.inner.sealed.notified() => {}
            }
            let begun = Instant::now();
            if let Err(error) = self.tidy().await {
                tracing::error!(%error, cause = %Causes(&error), "the tiers are not tidied; it is tried again");
            }
            pause = begun.elapsed() * TIDY_PAUSES;
        }
    }

    /// Merges small batches in memory and reports what was evicted; [`run`](Self::run) does so
    /// every second. Needs a tokio runtime.
    ///
    /// # Errors
    /// When evicted rows cannot be reported since the log cannot be written.
    pub async fn merge_hot(&self) -> Result<(), AppendError> {
        self.merge_hot_at(Priority::Usual).await
    }

    async fn merge_hot_at(&self, priority: Priority) -> Result<(), AppendError> {
        let inner = Arc::clone(&self.inner);
        let merge = move || {
            (0..inner.hot.all().len()).for_each(|table| inner.hot.merge(table));
            inner.hot.say_what_is_pinned();
            inner.report_evictions()
        };
        let merged = background::run("merge", priority, merge).await;
        merged.unwrap_or(Err(AppendError::Stopping))
    }

    /// Merges small segments, lets raw rows expire and deletes files that nobody needs;
    /// [`run`](Self::run) does so after each seal. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`SealError`]; the tiers are as they were or tidied in part.
    pub async fn tidy(&self) -> Result<TidyReport, SealError> {
        let inner = Arc::clone(&self.inner);
        let tidied = background::run("tidy", Priority::Lowest, move || inner.tidy()).await;
        let tidied = tidied.unwrap_or(Err(SealError::Abandoned));
        self.inner.note(|upkeep| upkeep.add_tidy(&tidied));
        tidied
    }
}

impl Append for Store {
    fn append(&self, frame: Frame) -> Result<Pending, AppendError> {
        self.inner.append(frame)
    }
}

impl Inner {
    fn append(&self, frame: Frame) -> Result<Pending, AppendError> {
        let Frame { parts, durability, retry_key } = frame;
        let parts: Vec<_> =
            parts.into_iter().map(|part| self.check(part)).collect::<Result<_, _>>()?;
        let bytes: u64 = parts.iter().map(|(_, rows)| rows.bytes).sum();
        let coming = |&(table, ref rows): &(usize, Measured)| Coming { table, bytes: rows.bytes };
        let coming: Vec<_> = parts.iter().map(coming).collect();
        let room = match durability {
            Durability::Commit => Room::BySealed,
            Durability::Interval | Durability::Memory => Room::ByCaptured,
        };
        let now = self.config.clock.now();
        let mut gone = Vec::new();
        let mut changes = self.hot.lock();
        if changes.stopping {
            return Err(AppendError::Stopping);
        }
        if let Some(failure) = self.log.failure() {
            return Err(failure);
        }
        if let Some(entry) = retry_key.and_then(|key| changes.retry_keys.find(key, now)) {
            changes.repeated_frames += 1;
            return Ok(Pending::new(Vec::new(), self.log.durable(entry)));
        }
        let queued = self.log.queue_bytes();
        if queued > 0 && queued + bytes > self.config.log_queue_bytes_max as u64 {
            changes.refused_frames += 1;
            return Err(AppendError::Full { retry_after: self.config.log_sync_interval });
        }
        if !self.hot.make_room(&mut changes, &coming, room, &mut gone) {
            changes.refused_frames += 1;
            self.pressed.notify_one();
            return Err(AppendError::Full { retry_after: UPKEEP_INTERVAL });
        }
        let (seqs, entry) =
            self.accept(&mut changes, parts, durability, Vec::new(), now, retry_key);
        if self.hot.is_pressed(&changes) {
            self.pressed.notify_one();
        }
        drop(changes);
        drop(gone);
        let log_wait = (durability == Durability::Commit).then(|| self.log.durable(entry));
        Ok(Pending::new(seqs, async move {
            match log_wait {
                Some(durable) => durable.await,
                None => Ok(()),
            }
        }))
    }

    /// Gives a frame its places, queues it for the log and shows it to readers.
    fn accept(
        &self,
        changes: &mut Changes,
        parts: Vec<(usize, Measured)>,
        durability: Durability,
        markers: Vec<EntryPart>,
        now: TimeNs,
        retry_key: Option<undine_schema::RetryKey>,
    ) -> (Vec<SeqRange>, u64) {
        changes.order += 1;
        let mut seqs = Vec::with_capacity(parts.len());
        let mut logged = markers;
        let mut bytes = 0;
        let mut numbers = Vec::with_capacity(parts.len());
        for (number, rows) in parts {
            let content = if durability == Durability::Memory {
                Content::Memory
            } else {
                bytes += rows.bytes;
                Content::Rows(rows.rows().clone())
            };
            let commit = durability == Durability::Commit;
            let places = self.hot.publish(changes, number, rows, commit);
            let table = self.hot.all()[number].def;
            logged.push(EntryPart { table, seqs: places, content });
            numbers.push(number);
            seqs.push(places);
        }
        let entry = Entry { at: now, durability, retry_key, parts: logged, bytes };
        let entry = self.log.push(entry);
        if let Some(key) = retry_key {
            changes.retry_keys.insert(key, entry, now);
        }
        for (&number, places) in numbers.iter().zip(&seqs) {
            self.hot.announce(number, places.last);
        }
        (seqs, entry)
    }

    /// Puts rows of `data_loss` in place for what was evicted since the last call.
    pub(crate) fn report_evictions(&self) -> Result<(), AppendError> {
        if self.hot.lock().evicted.is_empty() {
            return Ok(());
        }
        if let Some(failure) = self.log.failure() {
            return Err(failure);
        }
        let now = self.config.clock.now();
        let mut changes = self.hot.lock();
        let evicted = std::mem::take(&mut changes.evicted);
        let tables = self.hot.all().iter().enumerate();
        let losses = tables.flat_map(|(number, table)| {
            let of_it = evicted.iter().filter(|&&(evicted, _)| evicted == number);
            let gone: Vec<_> = of_it.map(|&(_, gone)| gone).collect();
            Loss::of_places(table.def.name, Reason::Evicted, &loss::together(gone))
        });
        let rows = rows_of(&losses.collect::<Vec<_>>(), now);
        let markers = evicted.iter().map(|&(number, gone)| {
            let table = self.hot.all()[number].def;
            EntryPart { table, seqs: gone.seqs, content: Content::Evicted }
        });
        self.accept_own(&mut changes, rows, markers.collect(), now);
        Ok(())
    }

    /// Puts rows of `data_loss` in place.
    pub(crate) fn report(&self, losses: &[Loss]) {
        if losses.is_empty() {
            return;
        }
        let now = self.config.clock.now();
        let rows = rows_of(losses, now);
        self.accept_own(&mut self.hot.lock(), rows, Vec::new(), now);
    }

    fn accept_own(
        &self,
        changes: &mut Changes,
        rows: RecordBatch,
        markers: Vec<EntryPart>,
        now: TimeNs,
    ) {
        let Some(number) = self.hot.number_of(DATA_LOSS.name) else { return };
        let rows = self.hot.measure(number, rows);
        let mut gone = Vec::new();
        let coming = Coming { table: number, bytes: rows.bytes };
        self.hot.make_room(changes, &[coming], Room::Regardless, &mut gone);
        let parts = vec![(number, rows)];
        self.accept(changes, parts, Durability::Commit, markers, now, None);
    }

    /// Whether a part may be stored, and how much memory it takes.
    fn check(&self, part: Part) -> Result<(usize, Measured), AppendError> {
        let table = part.table.name;
        let refused = |difference: String| AppendError::Schema { table, difference };
        let number = self
            .hot
            .number_of(table)
            .ok_or_else(|| refused("the store does not keep the table".to_owned()))?;
        if part.rows.num_rows() == 0 {
            return Err(refused("a part holds no rows".to_owned()));
        }
        let declared = part.table.arrow_schema();
        if Arc::ptr_eq(&declared, &part.rows.schema()) {
            return Ok((number, self.hot.measure(number, part.rows)));
        }
        let found = part.rows.schema();
        let names = |schema: &arrow::datatypes::Schema| {
            let fields = schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type()));
            fields.collect::<Vec<_>>()
        };
        let (wanted, got) = (names(&declared), names(&found));
        if wanted != got {
            let at = wanted.iter().zip(&got).take_while(|(a, b)| a == b).count();
            let show =
                |fields: &[String]| fields.get(at).map_or("nothing".to_owned(), String::clone);
            let (wanted, got) = (show(&wanted), show(&got));
            return Err(refused(format!("column {at} should be {wanted} and is {got}")));
        }
        let rows = RecordBatch::try_new(declared, part.rows.columns().to_vec())
            .map_err(|error| refused(error.to_string()))?;
        Ok((number, self.hot.measure(number, rows)))
    }
}

/// Shows what an error came from.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.report_evictions() {
            tracing::error!(%error, "evicted rows cannot be reported");
        }
        self.log.stop();
        // Closing is not enough: a child process between fork and exec holds the file open too.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the folder stays locked until this process ends");
        }
    }
}
