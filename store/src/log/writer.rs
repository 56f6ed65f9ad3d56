//! The threads that write and sync the log, and the queue before them.
//!
//! Frames are written to the file soon after they come (`commit_interval`), so that `kill -9` finds
//! them with the kernel, and are synced together: at once where a sender waits, otherwise after
//! `sync_interval`. A sync may take the disk a second; a thread of its own waits for it, while
//! frames go on being written. A full disk is waited out, and the queue fills up to its limit meanwhile; any
//! other error ends the log, since nothing is known about what a failed sync left behind.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use undine_schema::{AppendError, Durability, Seq, TimeNs};

use super::ClosedSegment;
use super::frame::{Entry, decode, encode};
use super::replay::{name_of, note_last};
use crate::disk::{self, File, OpenOptions};
use crate::durable;

/// Size at which a new segment begins.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes in the queue that are written without waiting for more.
const WRITE_AT_BYTES: u64 = 4 * 1024 * 1024;
/// Time between two attempts on a full disk.
const FULL_DISK_RETRY: Duration = Duration::from_secs(1);

/// Settings of the log.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) next_number: u64,
    pub(crate) closed: Vec<ClosedSegment>,
    pub(crate) commit_interval: Duration,
    pub(crate) sync_interval: Duration,
    pub(crate) tables: Vec<&'static str>,
}

/// The log of a running store.
#[derive(Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Told after each sync, for threads.
    progress: Condvar,
    /// The last entry that is durable.
    synced: watch::Sender<u64>,
    /// The last durable place by table.
    synced_seqs: Vec<(&'static str, AtomicU64)>,
    failure: OnceLock<Arc<io::Error>>,
    closed: Mutex<Vec<ClosedSegment>>,
    open_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    entries: Vec<Entry>,
    /// Bytes of entries that are not written yet.
    bytes: u64,
    /// Number of the last entry.
    last: u64,
    /// When the first of the entries came.
    since: Option<Instant>,
    sync_wanted: bool,
    /// How the sync that was under way ended.
    sync_done: Option<io::Result<()>>,
    stop: bool,
}

impl Log {
    /// Starts the thread. Its first segment is made with its first frame.
    pub(crate) fn start(options: Options) -> io::Result<Self> {
        let synced_seqs = options.tables.iter().map(|&name| (name, AtomicU64::new(0))).collect();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            progress: Condvar::new(),
            synced: watch::Sender::new(0),
            synced_seqs,
            failure: OnceLock::new(),
            closed: Mutex::new(options.closed),
            open_bytes: AtomicU64::new(0),
        });
        let (syncs, wanted) = mpsc::sync_channel(1);
        let syncer = Syncer { shared: Arc::clone(&shared), wanted };
        let syncer = std::thread::Builder::new()
            .name("undine-log-sync".to_owned())
            .spawn(move || syncer.run())?;
        let writer = Writer {
            shared: Arc::clone(&shared),
            syncs: Some(syncs),
            syncer: Some(syncer),
            syncing: None,
            dir: options.dir,
            next_number: options.next_number,
            commit_interval: options.commit_interval,
            sync_interval: options.sync_interval,
            open: None,
            backlog: Vec::new(),
            written: 0,
            unsynced_since: None,
            unsynced: Vec::new(),
            sync_wanted: false,
            last_sync: None,
            retry_at: None,
        };
        let thread = std::thread::Builder::new()
            .name("undine-log".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Puts an entry in the queue and gives its number. Never waits for the disk.
    pub(crate) fn push(&self, entry: Entry) -> u64 {
        let commit = entry.durability == Durability::Commit;
        let mut queue = self.shared.lock();
        queue.last += 1;
        queue.bytes += entry.bytes;
        queue.sync_wanted |= commit;
        let wake = commit || queue.entries.is_empty() || queue.bytes >= WRITE_AT_BYTES;
        if queue.entries.is_empty() {
            queue.since = Some(Instant::now());
        }
        queue.entries.push(entry);
        let number = queue.last;
        drop(queue);
        if wake {
            self.shared.wake.notify_one();
        }
        number
    }

    /// Bytes that are not written yet.
    pub(crate) fn queue_bytes(&self) -> u64 {
        self.shared.lock().bytes
    }

    /// Why nothing can be written any more, if so.
    pub(crate) fn failure(&self) -> Option<AppendError> {
        self.shared.failure.get().map(|error| AppendError::Log(Arc::clone(error)))
    }

    /// The last durable place of table number `table`.
    pub(crate) fn synced_seq(&self, table: usize) -> Seq {
        Seq::from_raw(self.shared.synced_seqs[table].1.load(Ordering::Acquire))
    }

    /// Sets the last durable place of table number `table`, for what was there before the start.
    pub(crate) fn set_synced_seq(&self, table: usize, seq: Seq) {
        self.shared.synced_seqs[table].1.store(seq.raw(), Ordering::Release);
    }

    /// Waits until entry `number` is durable.
    pub(crate) fn durable(
        &self,
        number: u64,
    ) -> impl Future<Output = Result<(), AppendError>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let mut synced = shared.synced.subscribe();
            loop {
                if *synced.borrow_and_update() >= number {
                    return Ok(());
                }
                if let Some(error) = shared.failure.get() {
                    return Err(AppendError::Log(Arc::clone(error)));
                }
                if synced.changed().await.is_err() {
                    return Err(AppendError::Stopping);
                }
            }
        }
    }

    /// Asks for everything pushed so far to be synced; resolves when it is.
    pub(crate) fn sync(&self) -> impl Future<Output = Result<(), AppendError>> + Send + use<> {
        let last = {
            let mut queue = self.shared.lock();
            queue.sync_wanted = true;
            queue.last
        };
        self.shared.wake.notify_one();
        self.durable(last)
    }

    /// As [`sync`](Self::sync), for a thread that may wait.
    pub(crate) fn wait_synced(&self) -> Result<(), AppendError> {
        let last = {
            let mut queue = self.shared.lock();
            queue.sync_wanted = true;
            queue.last
        };
        self.shared.wake.notify_one();
        let mut queue = self.shared.lock();
        loop {
            if *self.shared.synced.borrow() >= last {
                return Ok(());
            }
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            let step = Duration::from_millis(10);
            let waited = self.shared.progress.wait_timeout(queue, step);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes and syncs what is in the queue and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the log's thread panicked");
        }
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        let closed: u64 = self.closed().iter().map(|segment| segment.bytes).sum();
        closed + self.shared.open_bytes.load(Ordering::Relaxed)
    }

    /// Deletes the closed segments whose rows are all sealed and whose retry keys are too old.
    pub(crate) fn delete_sealed(
        &self,
        now: TimeNs,
        sealed_to: impl Fn(&str) -> Option<Seq>,
    ) -> io::Result<()> {
        let done = |segment: &ClosedSegment| {
            let sealed =
                |(table, last): &(String, Seq)| sealed_to(table).is_none_or(|s| *last <= s);
            segment.keep_until <= now && segment.last.iter().all(sealed)
        };
        let gone: Vec<_> = self.closed().extract_if(.., |segment| done(segment)).collect();
        for segment in &gone {
            disk::remove_file(&segment.path)?;
        }
        match gone.first() {
            Some(segment) => durable::sync_dir(durable::parent(&segment.path)),
            None => Ok(()),
        }
    }

    fn closed(&self) -> MutexGuard<'_, Vec<ClosedSegment>> {
        self.shared.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is synced at once.
struct Sync {
    file: Arc<File>,
    /// The log's folder, where the file's name is to be synced too.
    dir: Option<PathBuf>,
    /// Number of the last entry in the file.
    written: u64,
    /// Last places by table.
    last: Vec<(String, Seq)>,
}

/// The thread that waits for the disk.
struct Syncer {
    shared: Arc<Shared>,
    wanted: mpsc::Receiver<Sync>,
}

impl Syncer {
    fn run(self) {
        for sync in self.wanted {
            let data = sync.file.sync_data();
            let name = || sync.dir.as_deref().map_or(Ok(()), durable::sync_dir);
            let outcome = data.and_then(|()| name());
            if outcome.is_ok() {
                self.shared.publish(sync.written, &sync.last);
            }
            self.shared.lock().sync_done = Some(outcome);
            self.shared.wake.notify_one();
        }
    }
}

/// The writing thread's own state.
struct Writer {
    shared: Arc<Shared>,
    /// None once the syncer is to end.
    syncs: Option<mpsc::SyncSender<Sync>>,
    syncer: Option<JoinHandle<()>>,
    /// The bytes of the open segment that are being synced.
    syncing: Option<u64>,
    dir: PathBuf,
    next_number: u64,
    commit_interval: Duration,
    sync_interval: Duration,
    open: Option<OpenSegment>,
    /// Taken from the queue and not written.
    backlog: Vec<Entry>,
    /// Number of the last entry written.
    written: u64,
    unsynced_since: Option<Instant>,
    /// Last places written since the last sync.
    unsynced: Vec<(String, Seq)>,
    sync_wanted: bool,
    last_sync: Option<Instant>,
    /// When a full disk is tried again.
    retry_at: Option<Instant>,
}

struct OpenSegment {
    file: Arc<File>,
    about: ClosedSegment,
    /// Its bytes that are surely on the disk.
    synced: u64,
    /// Whether its name is on the disk.
    is_named: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (stop, synced) = self.take_work();
            let synced = synced.map_or(Ok(()), |outcome| self.end_sync(outcome));
            let written = synced.and_then(|()| self.write());
            if let Err(error) = written.and_then(|()| self.sync_where_due(stop)) {
                self.fail(error);
                return;
            }
            if stop && self.backlog.is_empty() {
                return;
            }
            if stop && self.retry_at.is_some() {
                self.fail(io::Error::from(io::ErrorKind::StorageFull));
                return;
            }
        }
    }

    fn fail(&self, error: io::Error) {
        tracing::error!(dir = %self.dir.display(), %error, "the log cannot be written any more");
        self.shared.failure.get_or_init(|| Arc::new(error));
        self.shared.synced.send_modify(|_| {});
    }

    /// Waits until there is something to do, takes the queue, and says whether to stop and how a
    /// sync ended.
    fn take_work(&mut self) -> (bool, Option<io::Result<()>>) {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.lock();
        loop {
            let now = Instant::now();
            queue = match self.due(&queue, now) {
                Some(due) if due <= now => break,
                Some(due) => {
                    let waited = shared.wake.wait_timeout(queue, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        self.backlog.append(&mut queue.entries);
        queue.since = None;
        self.sync_wanted |= std::mem::take(&mut queue.sync_wanted);
        (queue.stop, queue.sync_done.take())
    }

    /// When the next thing is to be done.
    fn due(&self, queue: &Queue, now: Instant) -> Option<Instant> {
        if queue.stop || queue.sync_done.is_some() {
            return Some(now);
        }
        let idle = self.syncing.is_none();
        let waiting = !queue.entries.is_empty() || !self.backlog.is_empty();
        let commit =
            (queue.sync_wanted || self.sync_wanted) && (waiting || self.unsynced_since.is_some());
        if self.retry_at.is_some() {
            return self.retry_at;
        }
        let full = queue.entries.iter().map(|entry| entry.bytes).sum::<u64>() >= WRITE_AT_BYTES;
        [
            (commit && idle).then(|| self.commit_due(now)),
            full.then_some(now),
            queue.since.map(|since| since + self.commit_interval),
            self.unsynced_since.filter(|_| idle).map(|since| since + self.sync_interval),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn commit_due(&self, now: Instant) -> Instant {
        self.last_sync.map_or(now, |last| last + self.commit_interval)
    }

    fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        let mut outcome = Ok(());
        let backlog = std::mem::take(&mut self.backlog);
        for entry in &backlog {
            outcome = self.write_entry(entry);
            if outcome.is_err() {
                break;
            }
            written += 1;
        }
        let bytes: u64 = backlog[..written].iter().map(|entry| entry.bytes).sum();
        self.written += written as u64;
        self.backlog = backlog;
        self.backlog.drain(..written);
        self.shared.lock().bytes -= bytes;
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::error!(dir = %self.dir.display(), "no room for the log; free some space");
                self.retry_at = Some(Instant::now() + FULL_DISK_RETRY);
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.retry_at = None;
                Ok(())
            }
        }
    }

    /// Writes one frame, or leaves the segment as it was.
    fn write_entry(&mut self, entry: &Entry) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.about.bytes >= SEGMENT_BYTES_MAX) {
            // A start takes every segment but the last for synced.
            let wanted = self.sync_wanted;
            self.sync_and_wait()?;
            self.sync_wanted = wanted;
            if let Some(full) = self.open.take() {
                let closed = &self.shared.closed;
                closed.lock().unwrap_or_else(PoisonError::into_inner).push(full.about);
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let path = self.dir.join(name_of(self.next_number));
                let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
                self.next_number += 1;
                let (last, keep_until) = (Vec::new(), TimeNs::ZERO);
                none.insert(OpenSegment {
                    file: Arc::new(file),
                    about: ClosedSegment { path, bytes: 0, last, keep_until },
                    synced: 0,
                    is_named: false,
                })
            }
        };
        let frame = encode(entry, open.synced).map_err(io::Error::other)?;
        if let Err(error) = (&*open.file).write_all(&frame) {
            open.file.set_len(open.about.bytes)?;
            return Err(error);
        }
        open.about.bytes += frame.len() as u64;
        self.shared.open_bytes.store(open.about.bytes, Ordering::Relaxed);
        if let Some((header, _, _)) = decode(&frame).filter(|_| entry.retry_key.is_some()) {
            open.about.note(&header);
        }
        for part in &entry.parts {
            note_last(&mut open.about.last, part.table.name, part.seqs.last);
            note_last(&mut self.unsynced, part.table.name, part.seqs.last);
        }
        self.unsynced_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn sync_where_due(&mut self, stop: bool) -> io::Result<()> {
        if stop {
            return self.sync_and_wait();
        }
        if self.syncing.is_some() {
            return Ok(());
        }
        let Some(since) = self.unsynced_since else {
            if self.backlog.is_empty() {
                self.sync_wanted = false;
            }
            return Ok(());
        };
        let now = Instant::now();
        let commit = self.sync_wanted && self.commit_due(now) <= now;
        if commit || since + self.sync_interval <= now {
            self.begin_sync();
        }
        Ok(())
    }

    /// Hands everything written so far to the syncer.
    fn begin_sync(&mut self) {
        let (Some(open), Some(syncs)) = (&self.open, &self.syncs) else { return };
        self.unsynced_since = None;
        self.sync_wanted = !self.backlog.is_empty();
        let last = std::mem::take(&mut self.unsynced);
        let dir = (!open.is_named).then(|| self.dir.clone());
        let sync = Sync { file: Arc::clone(&open.file), dir, written: self.written, last };
        self.syncing = Some(open.about.bytes);
        // The syncer waits for this: it holds one at a time, and goes after this thread.
        if syncs.send(sync).is_err() {
            let gone = io::Error::other("the thread that syncs the log is gone");
            self.shared.lock().sync_done = Some(Err(gone));
        }
    }

    fn end_sync(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        self.last_sync = Some(Instant::now());
        let synced = self.syncing.take();
        outcome?;
        if let (Some(open), Some(bytes)) = (&mut self.open, synced) {
            open.synced = bytes;
            open.is_named = true;
        }
        Ok(())
    }

    /// Syncs everything written so far, also where a sync is under way already.
    fn sync_and_wait(&mut self) -> io::Result<()> {
        loop {
            if self.syncing.is_some() {
                let outcome = self.shared.wait_sync_done();
                self.end_sync(outcome)?;
            }
            if self.unsynced_since.is_none() {
                return Ok(());
            }
            self.begin_sync();
        }
    }
}

impl Shared {
    /// Says that entries and places are durable.
    fn publish(&self, written: u64, last: &[(String, Seq)]) {
        for (table, last) in last {
            let place = self.synced_seqs.iter().find(|(name, _)| name == table);
            if let Some((_, place)) = place {
                place.store(last.raw(), Ordering::Release);
            }
        }
        self.synced.send_replace(written);
        self.progress.notify_all();
    }

    fn wait_sync_done(&self) -> io::Result<()> {
        let mut queue = self.lock();
        loop {
            if let Some(outcome) = queue.sync_done.take() {
                return outcome;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.syncs = None;
        if let Some(Err(_)) = self.syncer.take().map(JoinHandle::join) {
            tracing::error!("the thread that syncs the log panicked");
        }
    }
}
