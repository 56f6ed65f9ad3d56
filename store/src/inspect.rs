//! What a store's folder or bucket holds, read from outside: beside a running store, or where none runs.
//!
//! Nothing that reads here shares code with what writes: the Delta logs are read by the protocol's rules,
//! as any other engine would, so that `verify` is a second opinion. Reading changes nothing on the
//! disk and takes no lock that would keep a store from starting. A vacuum deletes as a store does.

mod tables;
mod catalog;
mod verify;
mod vacuum;
mod restore;
mod views;
mod fleet;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use undine_schema::{Seq, TimeNs};

use crate::backend::BucketError;
use crate::config::BuildError;
use crate::spool::read_mark;

pub use self::fleet::Fleet;
pub use self::restore::Restored;
pub use self::vacuum::{Vacuum, Vacuumed};
pub use self::verify::{Depth, Verification};
pub use self::views::Dialect;

use self::tables::{Failed, Place, RESTORE, Tables};

/// A store's folder, to be looked at.
#[derive(Clone, Debug)]
pub struct Folder {
    dir: PathBuf,
    /// Where the files are that are not in the folder any more.
    bucket: Option<String>,
    tables: Tables,
}

/// Why a folder cannot be looked at or worked on.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file or folder cannot be used.
    #[error("cannot {action} {path}; check that it is there and that this user may do so", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An object of a table cannot be used.
    #[error("cannot {action} {path} of the tables")]
    Object {
        /// What was tried.
        action: &'static str,
        /// On which object.
        path: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// The folder is no store's.
    #[error("folder {dir} holds no data of undine: it has no folder `tables`; name the data_dir of the configuration", dir = dir.display())]
    NotAStore {
        /// The folder.
        dir: PathBuf,
    },
    /// A restored store would overwrite something.
    #[error("folder {dir} is not empty; restore into a folder that is empty or not there", dir = dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// What is to be copied is damaged.
    #[error(
        "{of} is damaged ({errors} errors, the first: {first}); `undine storage verify` lists them all"
    )]
    Damaged {
        /// The folder or bucket.
        of: String,
        /// How many errors were found.
        errors: usize,
        /// The first of them.
        first: String,
    },
    /// A folder's files are elsewhere.
    #[error("folder {dir} has {files} of its files in bucket {url} alone; make the views of the bucket: `undine storage export-view --bucket {url}`", dir = dir.display())]
    InBucket {
        /// The folder.
        dir: PathBuf,
        /// How many files.
        files: usize,
        /// The bucket.
        url: String,
    },
    /// The folder cannot be taken for oneself.
    #[error(transparent)]
    Taken(#[from] BuildError),
    /// The bucket cannot be read.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A bucket without tables.
    #[error(
        "bucket {url} holds nothing of undine right below this address; write it as `store.bucket` of the nodes has it, prefix and all, and look again when a node has uploaded for the first time (`store.upload_interval`)"
    )]
    Empty {
        /// The address.
        url: String,
    },
    /// A node that has written nothing there.
    #[error("bucket {url} holds nothing of node {node}; name one of those that it holds: {known}")]
    NoNode {
        /// The address.
        url: String,
        /// The node.
        node: String,
        /// Those that are there.
        known: String,
    },
    /// One node is to be restored, and there are more.
    #[error("bucket {url} holds several nodes; name one with --node: {known}")]
    WhichNode {
        /// The address.
        url: String,
        /// Those that are there.
        known: String,
    },
    /// An engine that has no words for a bucket of this kind.
    #[error(
        "views for ClickHouse cannot name what is in {url}; make them for DuckDB, or name s3://, gs:// or file://"
    )]
    Unnamable {
        /// The address.
        url: String,
    },
}

/// What a folder or a bucket holds.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The node that the folder belongs to; none where `store.json` is missing, as in a copy of the
    /// tables alone, and of a bucket, which many nodes share.
    pub node: Option<String>,
    /// How often a store was started on it.
    pub lives: u16,
    /// The process that uses it now, as it wrote itself down.
    pub in_use_by: Option<String>,
    /// The bucket that holds what the folder's catalogs name and its disk does not have any more.
    pub bucket: Option<String>,
    /// Every tier that has a catalog, by table, summaries first and finest first.
    pub tiers: Vec<TierState>,
    /// The segments of the write-ahead log, oldest first.
    pub log: Vec<LogSegment>,
    /// What was found to be wrong while the catalogs were read.
    pub findings: Vec<Finding>,
}

/// One tier of one table and node, as the last version of its Delta log describes it.
#[derive(Clone, Debug, Default)]
pub struct TierState {
    /// The table.
    pub table: String,
    /// The tier: `raw`, or its windows' width such as `10s`.
    pub tier: String,
    /// The node whose rows it holds.
    pub node: String,
    /// Its folder below `tables`.
    pub prefix: ObjectPath,
    /// The last version of its log.
    pub version: u64,
    /// It holds every row up to here.
    pub sealed_to: Seq,
    /// Rows before this time may be missing, since they expired or came before the tier.
    pub complete_from: Option<TimeNs>,
    /// The last life of the node that wrote to it.
    pub life: u64,
    /// Its columns and their types in Delta's words.
    pub columns: Vec<(String, String)>,
    /// Its files, oldest first.
    pub segments: Vec<SegmentState>,
    /// Files on the disk that the last version does not need.
    pub unneeded: Vec<UnneededFile>,
}

/// One file of a tier, as its Delta log names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentState {
    /// Its name in the tier's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows: states in a summary, the table's own rows in raw.
    pub rows: u64,
    /// How many of the table's rows it stands for.
    pub source_rows: u64,
    /// Smallest and largest time of a row that it stands for.
    pub times: Option<(TimeNs, TimeNs)>,
    /// The size that the file has, if it is there.
    pub found_bytes: Option<u64>,
}

/// A file that the last version of a tier does not need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnneededFile {
    /// Its name in the tier's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Since when it is not needed: since it was removed, or else since it was last changed.
    pub since: TimeNs,
    /// Why it is not needed.
    pub why: Unneeded,
}

/// Why a file is not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unneeded {
    /// A later version replaced it or let it expire.
    Removed,
    /// No version has ever named it.
    Orphan,
    /// A checkpoint stands for this part of the log.
    OldCommit,
    /// A commit that a power loss cut short, set aside.
    Unfinished,
}

impl Unneeded {
    /// In a word, for people and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Orphan => "orphan",
            Self::OldCommit => "old commit",
            Self::Unfinished => "unfinished commit",
        }
    }
}

/// A file of the write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSegment {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it is a damaged one that was set aside.
    pub quarantined: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Data is missing or wrong.
    Error,
    /// Nothing is missing, but somebody should look.
    Warning,
}

impl Severity {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or folder, below the store's folder.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn error(place: impl Into<String>, what: impl Into<String>, remedy: &str) -> Self {
        let (place, what, remedy) = (place.into(), what.into(), remedy.to_owned());
        Self { severity: Severity::Error, place, what, remedy }
    }

    fn warning(place: impl Into<String>, what: impl Into<String>, remedy: &str) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, what, remedy) }
    }
}

impl TierState {
    /// Bytes of the files that the last version names.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Rows of those files.
    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.rows).sum()
    }

    /// The table's rows that they stand for.
    pub fn source_rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.source_rows).sum()
    }

    /// Smallest and largest time of a row in it.
    pub fn times(&self) -> Option<(TimeNs, TimeNs)> {
        let times = self.segments.iter().filter_map(|segment| segment.times);
        times.reduce(|(first, last), (a, b)| (first.min(a), last.max(b)))
    }
}

impl Folder {
    /// A folder on a local disk.
    ///
    /// # Errors
    /// Where it holds no store.
    pub fn open(dir: &Path) -> Result<Self, InspectError> {
        let tables = dir.join("tables");
        if !tables.is_dir() {
            return Err(InspectError::NotAStore { dir: dir.to_owned() });
        }
        let objects = LocalFileSystem::new_with_prefix(&tables)
            .map_err(|source| object_error("open", "tables")(source))?;
        let dir = dir.canonicalize().map_err(io_error("open", dir))?;
        let bucket = read_mark(&dir)?;
        let tables = Tables { objects: Arc::new(objects), place: Place::Folder };
        Ok(Self { dir, bucket, tables })
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads every catalog; what is wrong with one is a finding, not a failure.
    ///
    /// # Errors
    /// Where the folder cannot be listed.
    pub async fn inspect(&self) -> Result<Inspection, InspectError> {
        let mut held = Inspection { log: log_segments(&self.dir)?, ..Inspection::default() };
        held.in_use_by = in_use_by(&self.dir)?;
        held.bucket.clone_from(&self.bucket);
        match store_json(&self.dir) {
            Ok(Some((node, lives))) => (held.node, held.lives) = (Some(node), lives),
            Ok(None) => {}
            Err(what) => held.findings.push(Finding::error("store.json", what, RESTORE)),
        }
        let found = self.tables.read(None).await?;
        held.findings.extend(found.findings);
        held.tiers = found.tiers;
        Ok(held)
    }
}

/// What `store.json` says: the node and the lives. None where it is missing.
fn store_json(dir: &Path) -> Result<Option<(String, u16)>, String> {
    let text = match fs::read(dir.join("store.json")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| format!("it is not JSON: {error}"))?;
    let node = value["node"].as_str().ok_or("it names no node")?;
    let lives = value["incarnation"].as_u64().and_then(|lives| u16::try_from(lives).ok());
    Ok(Some((node.to_owned(), lives.ok_or("it counts no lives")?)))
}

/// The process that holds the folder. A shared lock for a moment tells; a store that starts in just
/// that moment would take the folder for used, and says so.
fn in_use_by(dir: &Path) -> Result<Option<String>, InspectError> {
    let path = dir.join("LOCK");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", &path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => {
            file.unlock().map_err(io_error("unlock", &path))?;
            Ok(None)
        }
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            Ok(Some(pid.trim().to_owned()))
        }
        Err(TryLockError::Error(error)) => Err(io_error("look at the lock of", &path)(error)),
    }
}

fn log_segments(dir: &Path) -> Result<Vec<LogSegment>, InspectError> {
    let dir = dir.join("log");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", &dir)(error)),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", &dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let quarantined = name.contains(".log.quarantined");
        // One that is deleted meanwhile is sealed.
        let Ok(about) = entry.metadata() else { continue };
        if quarantined || name.strip_suffix(".log").is_some() {
            segments.push(LogSegment { name, bytes: about.len(), quarantined });
        }
    }
    segments.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(segments)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InspectError {
    let path = path.to_owned();
    move |source| InspectError::Io { action, path, source }
}

impl From<Failed> for InspectError {
    fn from(Failed { path, source }: Failed) -> Self {
        Self::Object { action: "read", path, source }
    }
}

fn object_error(
    action: &'static str,
    path: &str,
) -> impl FnOnce(object_store::Error) -> InspectError {
    let path = path.to_owned();
    move |source| InspectError::Object { action, path, source }
}
