//! Why a log cannot be used, or is not written any more.

use std::io;
use std::path::PathBuf;

/// Why a Delta log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}; check that the place can be reached, has room and lets this user write", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A commit does not say what it should.
    #[error("commit {path} cannot be understood: {what}; restore it from a copy", path = path.display())]
    Corrupt {
        /// The commit.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another writer has taken over.
    #[error("commit {path} was written by life {epoch} of this node; this one no longer writes", path = path.display())]
    Fenced {
        /// The commit.
        path: PathBuf,
        /// Whose it is.
        epoch: u64,
    },
    /// Another program has changed the table.
    #[error("commit {path} was written by {by}, so nothing more is written to this table; undo what it did by deleting that commit and those after it, or move the table's folder away", path = path.display())]
    Foreign {
        /// The commit.
        path: PathBuf,
        /// Who wrote it, as far as it says.
        by: String,
    },
}

/// Why a log is not written any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Fenced { path: PathBuf, epoch: u64 },
    Foreign { path: PathBuf, by: String },
}

impl From<Stop> for DeltaError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fenced { path, epoch } => Self::Fenced { path, epoch },
            Stop::Foreign { path, by } => Self::Foreign { path, by },
        }
    }
}
