//! What a store's folder holds, read from outside: beside a running store, or where none runs.
//!
//! Nothing here shares code with what writes: the Delta logs are read by the protocol's rules, as
//! any other engine would, so that `verify` is a second opinion. Reading changes nothing on the
//! disk and takes no lock that would keep a store from starting.

mod catalog;
mod verify;
mod vacuum;
mod restore;
mod views;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore};
use undine_schema::{Seq, TimeNs};

use crate::config::BuildError;

pub use self::restore::Restored;
pub use self::vacuum::{Vacuum, Vacuumed};
pub use self::verify::{Depth, Verification};
pub use self::views::Dialect;

use self::catalog::Catalog;

/// A store's folder, to be looked at.
#[derive(Clone, Debug)]
pub struct Folder {
    dir: PathBuf,
    objects: Arc<dyn ObjectStore>,
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
    #[error("folder {dir} is damaged ({errors} errors, the first: {first}); `undine storage verify` lists them all", dir = dir.display())]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// How many errors were found.
        errors: usize,
        /// The first of them.
        first: String,
    },
    /// The folder cannot be taken for oneself.
    #[error(transparent)]
    Taken(#[from] BuildError),
}

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The node that the folder belongs to; none where `store.json` is missing, as in a copy of the
    /// tables alone.
    pub node: Option<String>,
    /// How often a store was started on it.
    pub lives: u16,
    /// The process that uses it now, as it wrote itself down.
    pub in_use_by: Option<String>,
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

/// What to do about a damaged or missing file.
const RESTORE: &str = "put the file back from a copy, or restore the whole folder from one \
                       (`undine storage restore`); check the disk";

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

    /// Its place below the store's folder.
    fn place(&self) -> String {
        format!("tables/{}", self.prefix)
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
        Ok(Self { dir, objects: Arc::new(objects) })
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
        let mut found = Inspection { log: log_segments(&self.dir)?, ..Inspection::default() };
        found.in_use_by = in_use_by(&self.dir)?;
        match store_json(&self.dir) {
            Ok(Some((node, lives))) => (found.node, found.lives) = (Some(node), lives),
            Ok(None) => {}
            Err(what) => found.findings.push(Finding::error("store.json", what, RESTORE)),
        }
        for table in self.folders(None).await? {
            for tier in self.folders(Some(&table)).await? {
                for node in self.folders(Some(&tier)).await? {
                    self.inspect_tier(node, &mut found).await?;
                }
            }
        }
        found.tiers.sort_by_cached_key(|tier| {
            let width = seconds_of(&tier.tier);
            (tier.table.clone(), width == 0, width, tier.node.clone())
        });
        Ok(found)
    }

    async fn inspect_tier(
        &self,
        prefix: ObjectPath,
        found: &mut Inspection,
    ) -> Result<(), InspectError> {
        let commits = self.files(&prefix.clone().join("_delta_log")).await?;
        let files = self.files(&prefix).await?;
        if commits.is_empty() {
            if !files.is_empty() {
                found.findings.push(Finding::error(
                    format!("tables/{prefix}"),
                    format!("{} files have no catalog", files.len()),
                    RESTORE,
                ));
            }
            return Ok(());
        }
        let catalog = match Catalog::read(&*self.objects, &commits).await {
            Ok(catalog) => catalog,
            Err(finding) => {
                found.findings.push(finding);
                return Ok(());
            }
        };
        let mut parts = prefix.parts();
        let mut part = || parts.next().map(|part| name_of(part.as_ref())).unwrap_or_default();
        let (table, tier, node) = (part(), part(), part());
        found.findings.extend(catalog.findings.iter().cloned());
        found.tiers.push(catalog.state(table, tier, node, prefix, &files, &commits));
        Ok(())
    }

    async fn folders(&self, prefix: Option<&ObjectPath>) -> Result<Vec<ObjectPath>, InspectError> {
        let place = prefix.map_or_else(|| "tables".to_owned(), ToString::to_string);
        let listed = self.objects.list_with_delimiter(prefix).await;
        let mut folders = listed.map_err(object_error("list", &place))?.common_prefixes;
        folders.retain(|folder| folder.filename() != Some("_delta_log"));
        folders.sort();
        Ok(folders)
    }

    async fn files(&self, prefix: &ObjectPath) -> Result<Vec<ObjectMeta>, InspectError> {
        let listed = self.objects.list_with_delimiter(Some(prefix)).await;
        let mut files = listed.map_err(object_error("list", prefix.as_ref()))?.objects;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files)
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

/// What a folder's name stands for: `+5F` and its like are bytes.
fn name_of(folder: &str) -> String {
    let mut bytes = Vec::with_capacity(folder.len());
    let mut rest = folder.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'+');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The width that a tier's name says, in seconds; 0 for raw.
fn seconds_of(tier: &str) -> u64 {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let width = units.into_iter().find_map(|(unit, seconds)| {
        let number: u64 = tier.strip_suffix(unit)?.parse().ok()?;
        Some(number.saturating_mul(seconds))
    });
    width.unwrap_or(0)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InspectError {
    let path = path.to_owned();
    move |source| InspectError::Io { action, path, source }
}

fn object_error(
    action: &'static str,
    path: &str,
) -> impl FnOnce(object_store::Error) -> InspectError {
    let path = path.to_owned();
    move |source| InspectError::Object { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::folder::{folder_of, tier_name};

    #[test]
    fn a_folders_name_says_which_table_or_tier_it_holds() {
        for name in ["http_events", "stack_traces.beta", "_a", ".a", "a/b", "a+b", "..", "é"] {
            assert_eq!(name_of(&folder_of(name)), name);
        }
        for seconds in [0, 10, 60, 90, 3600, 86_400] {
            assert_eq!(seconds_of(&tier_name(Duration::from_secs(seconds))), seconds);
        }
    }
}
