//! The saved state: what was learned and up to which row, as one versioned file.
//!
//! It is written beside the old one, synced and renamed over it, so that there is always a whole one.
//! A file of another version, of another window or one that cannot be read is not used: the model
//! then starts fresh and says so.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use undine_schema::{Seq, TimeNs};

use crate::learner::Learner;

const FORMAT: &str = "undine-ml-state";
const VERSION: u32 = 1;
/// A larger file is not read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What is saved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    #[serde(rename = "format")]
    kind: String,
    version: u32,
    window_ns: u64,
    /// The last row that was taken in.
    cursor: u64,
    /// When it was saved, in nanoseconds since the epoch.
    at_ns: i64,
    learner: Box<Learner>,
}

/// Only what tells whether the rest can be read.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
    window_ns: u64,
}

/// Where the model's knowledge comes from at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There was nothing to load.
    Fresh,
    /// It goes on after the last row that the saved state had taken in.
    Resumed,
    /// There was a state, but it could not be used.
    Discarded {
        /// Why.
        reason: String,
    },
}

/// Why a state was not used or not saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("cannot read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}; check that its folder exists and is writable", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} has {bytes} bytes, more than {FILE_BYTES_MAX}", path = path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path} is not a saved model", path = path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} is of version {version}, this program reads {VERSION}", path = path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("{path} was learned with windows of {window:?}", path = path.display())]
    Window { path: PathBuf, window: Duration },
}

impl Saved {
    /// A state to save.
    pub(crate) fn new(learner: Box<Learner>, window: Duration, cursor: Seq, at: TimeNs) -> Self {
        Self {
            kind: FORMAT.to_owned(),
            version: VERSION,
            window_ns: nanos(window),
            cursor: cursor.raw(),
            at_ns: at.get(),
            learner,
        }
    }

    /// The learner, the cursor and when they were saved.
    pub(crate) fn into_parts(self) -> (Box<Learner>, Seq, TimeNs) {
        (self.learner, Seq::from_raw(self.cursor), TimeNs::new(self.at_ns))
    }

    /// Writes it in place of the file at `path`.
    pub(crate) fn write(&self, path: &Path) -> Result<(), StateError> {
        let write = || -> io::Result<()> {
            let beside = path.with_extension("new");
            let mut file = File::create(&beside)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                Some(folder) => File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(|source| StateError::Write { path: path.to_owned(), source })
    }

    /// Reads the file at `path`; nothing if there is none.
    pub(crate) fn read(path: &Path, window: Duration) -> Result<Option<Self>, StateError> {
        let read_error = |source| StateError::Read { path: path.to_owned(), source };
        let bytes = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_error(error)),
            Ok(metadata) => metadata.len(),
        };
        if bytes > FILE_BYTES_MAX {
            return Err(StateError::TooLarge { path: path.to_owned(), bytes });
        }
        let text = fs::read(path).map_err(read_error)?;
        let malformed = |source| StateError::Malformed { path: path.to_owned(), source };
        let head: Head = serde_json::from_slice(&text).map_err(malformed)?;
        if head.format != FORMAT || head.version != VERSION {
            return Err(StateError::Version { path: path.to_owned(), version: head.version });
        }
        if head.window_ns != nanos(window) {
            let window = Duration::from_nanos(head.window_ns);
            return Err(StateError::Window { path: path.to_owned(), window });
        }
        let mut saved: Self = serde_json::from_slice(&text).map_err(malformed)?;
        saved.learner.reindex();
        Ok(Some(saved))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
