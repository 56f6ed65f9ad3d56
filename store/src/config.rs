//! What a store needs to know, and why it cannot be built.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use undine_schema::{Clock, TableDef};

use crate::backend::{BucketConfig, BucketError};
use crate::hot_budget::HotBudget;
use crate::retention::Retention;

/// Settings of a store. [`build`](Self::build) checks them.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder for everything that is kept; made where it is missing. One process at a time.
    pub dir: PathBuf,
    /// Name of this node, the last folder of each tier's path.
    pub node: String,
    /// The tables that are kept, usually [`undine_schema::tables::ALL`]. `data_loss` is kept always.
    pub tables: Vec<&'static TableDef>,
    /// Those of them that followers read by cursor also after rows have left memory. Their raw segments
    /// keep the place of each row, which takes up to two bytes; of other tables followers get what is
    /// in memory.
    pub followed: Vec<&'static TableDef>,
    /// Bytes of rows that stay in memory over all tables, at least 1 MiB.
    pub hot_bytes_max: usize,
    /// What single tables may take of it; tables that are not named share what is left.
    pub hot_budgets: Vec<HotBudget>,
    /// Bytes of rows that have left memory and are still held by readers. Above it sealed rows make
    /// room for them, and it is counted in [`Stats::pinned_frames`](crate::Stats::pinned_frames).
    pub hot_pinned_bytes_max: usize,
    /// Bytes of accepted rows that may wait for the log; more are refused as full.
    pub log_queue_bytes_max: usize,
    /// Longest time that captured rows stay unsynced.
    pub log_sync_interval: Duration,
    /// Shortest time between two syncs for rows that a sender waits for.
    pub commit_interval: Duration,
    /// Time between seals.
    pub seal_interval: Duration,
    /// Widths of the summaries' windows, finest first; each a multiple of the one before.
    pub tiers: Vec<Duration>,
    /// How long the single rows of summarised tables stay on disk; `None` keeps only summaries.
    /// Rows of tables that are not summarised stay for ever.
    pub raw_for: Option<Duration>,
    /// What goes when, beside `raw_for`; where more than one speaks of a tier, the last one counts.
    pub retention: Vec<Retention>,
    /// Groups of one window and seal before paths are folded into `*`.
    pub groups_per_window_max: usize,
    /// Segments of one tier before they are merged into one.
    pub segments_max: usize,
    /// Bytes a second that merges of segments may read and write, together; `None` sets no limit.
    /// Seals, which memory waits for, have none.
    pub merge_bytes_per_second_max: Option<u64>,
    /// How long files stay after no version refers to them any more.
    pub deleted_files_for: Duration,
    /// Where segments go to from the local disk; `None` keeps them there.
    pub bucket: Option<BucketConfig>,
    /// What happens when rows that were synced are gone from the log.
    pub on_damage: OnDamage,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

/// What a start does with a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Keeps the damaged segment under another name, loads the rest, and reports in `data_loss`
    /// which rows are gone.
    SetAside,
    /// Is refused, with the log as it was found.
    Refuse,
}

/// Why a store cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A setting is out of its bounds.
    #[error("store setting {key} is {value}: {remedy}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// A file or folder cannot be used.
    #[error("cannot {action} {path}; check that the disk has room and that this user may write there", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses the folder.
    #[error("folder {dir} is in use by another undine (pid {pid}); stop it or choose another folder", dir = dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// What the other process wrote down as its id.
        pid: String,
    },
    /// The folder belongs to another node.
    #[error("folder {dir} holds the data of node {found}, not of {expected}; name the node {found} or choose another folder", dir = dir.display())]
    OtherNode {
        /// The folder.
        dir: PathBuf,
        /// Whose data it holds.
        found: String,
        /// The configured name.
        expected: String,
    },
    /// A newer version wrote the folder.
    #[error("folder {dir} has format {found}, and this version reads up to {known}; use a newer undine", dir = dir.display())]
    NewerFormat {
        /// The folder.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is understood.
        known: u32,
    },
    /// The node was started too often for its sequence numbers.
    #[error("folder {dir} was opened {lives} times, and sequence numbers allow no more; move its tables away and start with an empty folder", dir = dir.display())]
    LivesUsedUp {
        /// The folder.
        dir: PathBuf,
        /// How often.
        lives: u16,
    },
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The folder's older segments are in a bucket.
    #[error("folder {dir} keeps its older segments in bucket {url}, and none is configured; configure it or choose another folder", dir = dir.display())]
    BucketMissing {
        /// The folder.
        dir: PathBuf,
        /// The bucket that it has used.
        url: String,
    },
    /// Rows that were synced are gone from the log, and the start is to be refused then.
    #[error("the log {path} is damaged: {what}; restore it from a copy, or start without strict to keep the rest and have the missing rows reported in data_loss", path = path.display())]
    Damaged {
        /// The segment or the log's folder.
        path: PathBuf,
        /// What is gone.
        what: String,
    },
    /// A file of the store does not say what it should.
    #[error("file {path} cannot be understood: {what}; restore it from a copy or move it away", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}
