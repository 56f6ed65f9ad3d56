//! What was sealed goes to the bucket: files first, then the commit that names them.
//!
//! A tier is committed on the local disk, where a seal needs no network, and its log in the bucket
//! follows: an upload compares the two, puts the files that the bucket lacks, and commits the
//! difference under this life's number. So nothing waits for the bucket while it is away, what is
//! merged meanwhile goes up once, and an upload that was cut short anywhere is simply made again.
//!
//! ```text
//! seal ─► local log + tables/  ──────── upload ────────►  log in the bucket, files
//!                    └ the spool: files that no commit in the bucket names yet, up to spool_bytes_max
//! ```
//!
//! The local catalog is the truth about this node's tiers.

mod takeover;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use undine_schema::TimeNs;

use crate::backend::{BucketConfig, BucketError, Thoroughness};
use crate::cache::{CacheStats, Shelves};
use crate::delta::{Change, DeltaError, DeltaLog, FileStats};
use crate::hot_tables::Cold;
use crate::seal::Holds;
use crate::snapshot::{Segment, TierView};
use crate::store::{Inner, Store};

pub(crate) use self::takeover::read_mark;

/// Pauses between uploads that fail: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// What an upload did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadReport {
    /// Files that the bucket now has and did not have.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Commits to logs in the bucket.
    pub commits: u64,
    /// Files deleted from the bucket.
    pub deleted_files: u64,
}

/// Why an upload failed. Everything stays in the spool, and the next upload goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A log in the bucket cannot be read or written.
    #[error("cannot write the log of table {table} in the bucket")]
    Catalog {
        /// The table.
        table: &'static str,
        /// The cause.
        #[source]
        source: DeltaError,
    },
    /// A file cannot be read here or put there.
    #[error("cannot upload {path} of table {table}", path = path.display())]
    File {
        /// The table.
        table: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store is going.
    #[error("the upload was given up, since the store is stopping")]
    Stopping,
}

/// The bucket side of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketStats {
    /// The bucket's address.
    pub url: String,
    /// Why the last upload failed; `None` after one that did not.
    pub failure: Option<String>,
    /// Files that only the local disk has.
    pub spooled_files: u64,
    /// Their size.
    pub spooled_bytes: u64,
    /// The size at which nothing more is sealed.
    pub spool_bytes_max: u64,
    /// Seals of a table that were put off since the start because the spool was full.
    pub refused_seals: u64,
    /// Files uploaded since the start.
    pub uploaded_files: u64,
    /// Their size.
    pub uploaded_bytes: u64,
    /// Commits to logs in the bucket since the start.
    pub commits: u64,
    /// Uploads that failed since the start.
    pub failed_uploads: u64,
    /// The local copies of the bucket's files.
    pub cache: CacheStats,
}

/// Uploads what is sealed.
#[derive(Debug)]
pub(crate) struct Spool {
    config: BucketConfig,
    tables: PathBuf,
    shelves: Arc<Shelves>,
    /// Held for as long as an upload takes.
    lanes: Mutex<Lanes>,
    figures: Mutex<Figures>,
    pub(crate) pressed: Notify,
    stopping: AtomicBool,
}

#[derive(Debug)]
struct Lanes {
    /// Whether this process knows that the bucket keeps its promises.
    probed: bool,
    all: Vec<Lane>,
    /// Files that were put since the start and that no commit names yet.
    put: HashSet<String>,
}

/// A tier's way into the bucket.
#[derive(Debug)]
struct Lane {
    table: &'static str,
    number: usize,
    width: Duration,
    holds: Holds,
    prefix: String,
    log: DeltaLog,
    /// Whether the log was compared with the local one by this life.
    is_met: bool,
    /// Files that the bucket's log has named for this life.
    known: HashSet<String>,
}

#[derive(Debug, Default)]
struct Figures {
    failure: Option<String>,
    /// The local catalog's files that are in the bucket.
    shelved: HashSet<String>,
    refused_seals: u64,
    uploaded: UploadReport,
    failed_uploads: u64,
}

impl Spool {
    /// Counts the files that only the local disk has, and their bytes.
    fn spooled<'a>(&self, segments: impl Iterator<Item = &'a Segment>) -> (u64, u64) {
        let figures = self.figures();
        let waiting = segments.filter(|segment| !figures.shelved.contains(segment.path.as_ref()));
        waiting.fold((0, 0), |(files, bytes), segment| (files + 1, bytes + segment.bytes))
    }

    /// Brings the logs in the bucket up to what `colds` says of each table. A tier that fails does
    /// not keep the others from going on. Blocks.
    fn upload(
        &self,
        colds: &[Arc<Cold>],
        now: TimeNs,
        stopped: &mut dyn FnMut(&'static str, &DeltaError),
    ) -> Result<UploadReport, UploadError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if !lanes.probed {
            self.config.bucket.probe(Thoroughness::Brief)?;
            lanes.probed = true;
        }
        let Lanes { all, put, .. } = &mut *lanes;
        let mut total = UploadReport::default();
        let mut outcome = Ok(());
        for lane in all {
            let cold = &colds[lane.number];
            let is_its = |(holds, view): &(Holds, &TierView)| {
                *holds == lane.holds && view.width == lane.width
            };
            let Some((_, view)) = cold.tiers().find(is_its) else { continue };
            match self.upload_lane(lane, put, view, now) {
                Ok(report) => total.add(report),
                Err(UploadError::Stopping) => return Err(UploadError::Stopping),
                Err(error) => {
                    if let Some(stop) = lane.log.stopped() {
                        stopped(lane.table, &stop);
                    }
                    outcome = outcome.and(Err(error));
                }
            }
        }
        self.figures().uploaded.add(total);
        outcome.map(|()| total)
    }

    fn upload_lane(
        &self,
        lane: &mut Lane,
        put: &mut HashSet<String>,
        view: &TierView,
        now: TimeNs,
    ) -> Result<UploadReport, UploadError> {
        let table = lane.table;
        let catalog = |source| UploadError::Catalog { table, source };
        if !lane.is_met {
            lane.meet(view, now).map_err(catalog)?;
        }
        lane.log.refresh().map_err(catalog)?;
        // A commit whose answer was lost may have been made.
        self.shelve(lane);
        let there: HashSet<_> = lane.log.files().iter().map(|file| file.name.as_str()).collect();
        let here: HashMap<_, _> =
            view.segments.iter().filter_map(|s| Some((s.path.filename()?, s))).collect();
        let add: Vec<_> = view.segments.iter().map(FileStats::from).collect();
        let add: Vec<_> =
            add.into_iter().filter(|file| !there.contains(file.name.as_str())).collect();
        let remove: Vec<String> = there
            .iter()
            .filter(|name| !here.contains_key(*name))
            .map(|name| (*name).to_owned())
            .collect();
        if let Some(name) = remove.iter().find(|name| !lane.known.contains(*name)) {
            lane.log.stop_since(&format!("another undine (it added {name})"));
            return Err(catalog(lane.log.stopped().expect("it was stopped just now")));
        }
        let is_same = add.is_empty()
            && remove.is_empty()
            && (lane.log.sealed_to(), lane.log.complete_from())
                == (view.sealed_to, view.complete_from);
        let mut report = UploadReport::default();
        if !is_same {
            for file in &add {
                self.put(lane, put, file)?;
                report.files += 1;
                report.bytes += file.bytes;
            }
            let names: Vec<_> = add.iter().map(|file| file.name.clone()).collect();
            let complete_from = Some(view.complete_from);
            let change = Change {
                operation: "WRITE",
                sealed_to: Some(view.sealed_to),
                complete_from: complete_from.filter(|from| *from != lane.log.complete_from()),
                add,
                remove,
            };
            lane.known.extend(names.iter().cloned());
            lane.log.commit(&change, now).map_err(catalog)?;
            report.commits += 1;
            put.retain(|key| !names.iter().any(|name| *key == lane.key(name)));
            self.shelve(lane);
        }
        match lane.log.collect_garbage(now, self.config.deleted_files_for) {
            Ok(deleted) => report.deleted_files = deleted,
            Err(error) => {
                tracing::warn!(table, %error, "old files of the bucket cannot be deleted");
            }
        }
        Ok(report)
    }

    /// Puts a file, unless that was done already and only the commit failed.
    fn put(
        &self,
        lane: &Lane,
        put: &mut HashSet<String>,
        file: &FileStats,
    ) -> Result<(), UploadError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(UploadError::Stopping);
        }
        let key = lane.key(&file.name);
        if put.contains(&key) {
            return Ok(());
        }
        let path = self.tables.join(&key);
        let sent =
            std::fs::read(&path).and_then(|bytes| self.config.bucket.put(&key, bytes.into()));
        sent.map_err(|source| UploadError::File { table: lane.table, path, source })?;
        put.insert(key);
        Ok(())
    }

    /// Lets go of the local files that the bucket's log names: they are copies from now on.
    fn shelve(&self, lane: &Lane) {
        let named: HashSet<_> = lane.log.files().iter().map(|file| lane.key(&file.name)).collect();
        let ours = |key: &str| key.strip_prefix(&lane.prefix).is_some_and(|k| k.starts_with('/'));
        let mut figures = self.figures();
        figures.shelved.retain(|key| !ours(key) || named.contains(key));
        let new: Vec<_> = named.difference(&figures.shelved).cloned().collect();
        figures.shelved.extend(new.iter().cloned());
        drop(figures);
        for key in new {
            if let Err(error) = self.shelves.take(&key, &self.tables.join(&key)) {
                tracing::warn!(file = key, %error, "an uploaded file cannot be moved to the cache");
            }
        }
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Reads the bucket's log, or begins it, and makes sure that it does not know more than we do.
    fn meet(&mut self, view: &TierView, now: TimeNs) -> Result<(), DeltaError> {
        self.log.read()?;
        if let Some(stop) = self.log.stopped() {
            return Err(stop);
        }
        if self.log.is_overtaken() || self.log.sealed_to() > view.sealed_to {
            self.log.stop_since("a later life of this node, or one with another folder");
            return Err(self.log.stopped().expect("it was stopped just now"));
        }
        if self.log.is_new() {
            self.log.create(undine_schema::Seq::ZERO, None, Vec::new(), now)?;
        }
        self.known = self.log.files().iter().map(|file| file.name.clone()).collect();
        self.is_met = true;
        Ok(())
    }
}

impl UploadReport {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.commits += other.commits;
        self.deleted_files += other.deleted_files;
    }
}

impl From<&Segment> for FileStats {
    fn from(segment: &Segment) -> Self {
        Self {
            name: segment.path.filename().unwrap_or_default().to_owned(),
            bytes: segment.bytes,
            rows: segment.rows,
            source_rows: segment.source_rows,
            first_time: segment.first_time,
            last_time: segment.last_time,
            first_window: segment.first_window,
            last_window: segment.last_window,
            places: segment.places,
        }
    }
}

impl Inner {
    /// Uploads what is sealed. Blocks.
    pub(crate) fn upload(&self) -> Result<UploadReport, UploadError> {
        let Some(spool) = &self.spool else { return Ok(UploadReport::default()) };
        let now = self.config.clock.now();
        let uploaded =
            spool.upload(&self.colds(), now, &mut |table, stop| self.note_stop(table, stop));
        let mut figures = spool.figures();
        figures.failure = uploaded.as_ref().err().map(|error| chain(error));
        figures.failed_uploads += u64::from(uploaded.is_err());
        drop(figures);
        uploaded
    }

    /// The versions of every table's tiers.
    fn colds(&self) -> Vec<Arc<Cold>> {
        let tables = 0..self.hot.all().len();
        tables.map(|number| Arc::clone(&self.hot.view(number).cold)).collect()
    }

    /// Files that only the local disk has, and their bytes; none where there is no bucket.
    fn spooled(&self) -> (u64, u64) {
        let Some(spool) = &self.spool else { return (0, 0) };
        let colds = self.colds();
        let views = colds.iter().flat_map(|cold| cold.tiers());
        spool.spooled(views.flat_map(|(_, view)| view.segments.iter()))
    }

    /// Whether what a seal writes has room until the bucket takes it: `Err` names how much waits.
    pub(crate) fn spool_room(&self) -> Result<(), (u64, u64)> {
        let Some(spool) = &self.spool else { return Ok(()) };
        let (bytes, bytes_max) = (self.spooled().1, spool.config.spool_bytes_max);
        if bytes > bytes_max / 2 {
            spool.pressed.notify_one();
        }
        if bytes < bytes_max {
            return Ok(());
        }
        spool.figures().refused_seals += 1;
        Err((bytes, bytes_max))
    }

    pub(crate) fn bucket_stats(&self) -> Option<BucketStats> {
        let spool = self.spool.as_ref()?;
        let (spooled_files, spooled_bytes) = self.spooled();
        let figures = spool.figures();
        Some(BucketStats {
            url: spool.config.bucket.url().to_owned(),
            failure: figures.failure.clone(),
            spooled_files,
            spooled_bytes,
            spool_bytes_max: spool.config.spool_bytes_max,
            refused_seals: figures.refused_seals,
            uploaded_files: figures.uploaded.files,
            uploaded_bytes: figures.uploaded.bytes,
            commits: figures.uploaded.commits,
            failed_uploads: figures.failed_uploads,
            cache: spool.shelves.stats(),
        })
    }
}

impl Store {
    /// Uploads what is sealed to the bucket, where there is one; [`run`](Self::run) does so from time
    /// to time. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`UploadError`]; what was not uploaded waits on the local disk.
    pub async fn upload(&self) -> Result<UploadReport, UploadError> {
        let inner = Arc::clone(&self.inner);
        let uploaded = tokio::task::spawn_blocking(move || inner.upload()).await;
        uploaded.unwrap_or(Err(UploadError::Stopping))
    }

    /// Uploads until `shutdown`; after a failure sooner than usual, then with longer and longer pauses.
    pub(crate) async fn upload_until(self, shutdown: CancellationToken) {
        let Some(spool) = &self.inner.spool else { return };
        let mut pause = spool.config.upload_interval;
        let mut failures = 0_u32;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = spool.pressed.notified(), if failures == 0 => {}
                () = sleep(pause) => {}
            }
            let upload = self.upload();
            tokio::pin!(upload);
            let uploaded = tokio::select! {
                () = shutdown.cancelled() => {
                    spool.stopping.store(true, Ordering::Relaxed);
                    break;
                }
                uploaded = &mut upload => uploaded,
            };
            pause = match uploaded {
                Ok(_) => {
                    failures = 0;
                    spool.config.upload_interval
                }
                Err(error) => {
                    failures += 1;
                    let waiting = self.inner.spooled().1;
                    tracing::error!(
                        error = chain(&error),
                        waiting_bytes = waiting,
                        "an upload failed; what waits is kept here"
                    );
                    PAUSE_MAX.min(PAUSE_MIN * 2_u32.saturating_pow(failures - 1))
                }
            };
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
