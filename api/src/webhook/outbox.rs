//! What one receiver has still to be told, on disk.
//!
//! ```text
//! <dir>/state.json           how far the table was read, and which alerts are open
//! <dir>/pending/<seq>.json   one notice each, written before the state moves past it
//! <dir>/dead/<seq>.json      what the receiver refused for good
//! <dir>/gone                 which URL answered 410
//! ```
//!
//! Every function blocks on the disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use undine_schema::Seq;

use super::notice::{Notice, OpenAlerts};
use crate::durable_file;

/// One pending delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) notice: Notice,
    /// Nanoseconds since the epoch.
    pub(super) queued_at: i64,
    /// Attempts that failed so far.
    pub(super) attempts: u32,
}

/// How far the table was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    cursor: u64,
    pub(super) open: OpenAlerts,
}

impl State {
    pub(super) fn starting_at(cursor: Seq) -> Self {
        Self { cursor: cursor.raw(), open: OpenAlerts::default() }
    }

    pub(super) const fn cursor(&self) -> Seq {
        Seq::from_raw(self.cursor)
    }

    pub(super) const fn set_cursor(&mut self, cursor: Seq) {
        self.cursor = cursor.raw();
    }
}

/// The pending deliveries of one receiver, oldest first.
#[derive(Debug)]
pub(super) struct Outbox {
    dir: PathBuf,
    entries_max: usize,
    dead_max: usize,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    pending: BTreeSet<u64>,
    dead: BTreeSet<u64>,
}

impl Outbox {
    /// Opens the folder, and makes it where there is none.
    pub(super) fn open(dir: PathBuf, entries_max: usize, dead_max: usize) -> io::Result<Self> {
        fs::create_dir_all(dir.join("pending"))?;
        fs::create_dir_all(dir.join("dead"))?;
        durable_file::sync_parent(&dir)?;
        let files =
            Files { pending: numbers(&dir.join("pending"))?, dead: numbers(&dir.join("dead"))? };
        Ok(Self { dir, entries_max, dead_max, files: Mutex::new(files) })
    }

    /// How far the table was read, none where it never was.
    pub(super) fn state(&self) -> io::Result<Option<State>> {
        let bytes = durable_file::read(&self.dir.join("state.json"))?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other)).transpose()
    }

    /// Remembers how far the table was read.
    pub(super) fn set_state(&self, state: &State) -> io::Result<()> {
        durable_file::replace(&self.dir.join("state.json"), &serde_json::to_vec(state)?)
    }

    /// Makes entries durable; one that is pending already stays as it is.
    pub(super) fn push(&self, entries: &[Entry]) -> io::Result<()> {
        for entry in entries {
            let seq = entry.notice.seq;
            if !self.files().pending.contains(&seq) {
                durable_file::replace(&self.pending(seq), &serde_json::to_vec(entry)?)?;
                self.files().pending.insert(seq);
            }
        }
        Ok(())
    }

    /// The oldest entry; one that cannot be read is buried and the next one taken.
    pub(super) fn head(&self) -> io::Result<Option<Entry>> {
        loop {
            let Some(seq) = self.files().pending.first().copied() else { return Ok(None) };
            let bytes = durable_file::read(&self.pending(seq))?;
            match bytes.map(|bytes| serde_json::from_slice(&bytes)) {
                Some(Ok(entry)) => return Ok(Some(entry)),
                Some(Err(error)) => {
                    tracing::error!(dir = %self.dir.display(), seq, %error,
                        "a pending webhook delivery is damaged and was set aside");
                    self.bury(seq)?;
                }
                None => {
                    self.files().pending.remove(&seq);
                }
            }
        }
    }

    /// Remembers a failed attempt.
    pub(super) fn keep(&self, entry: &Entry) -> io::Result<()> {
        durable_file::replace(&self.pending(entry.notice.seq), &serde_json::to_vec(entry)?)
    }

    /// Forgets what was delivered.
    pub(super) fn acknowledge(&self, seq: u64) -> io::Result<()> {
        durable_file::remove(&self.pending(seq))?;
        self.files().pending.remove(&seq);
        Ok(())
    }

    /// Sets aside what will not be delivered; the oldest such entry makes room where there are
    /// too many.
    pub(super) fn bury(&self, seq: u64) -> io::Result<()> {
        let dead = self.dead(seq);
        match fs::rename(self.pending(seq), &dead) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => durable_file::sync_parent(&dead)?,
        }
        let oldest = {
            let mut files = self.files();
            files.pending.remove(&seq);
            files.dead.insert(seq);
            if files.dead.len() > self.dead_max { files.dead.pop_first() } else { None }
        };
        oldest.map_or(Ok(()), |oldest| durable_file::remove(&self.dead(oldest)))
    }

    /// How many entries wait.
    pub(super) fn len(&self) -> usize {
        self.files().pending.len()
    }

    /// How many more entries fit.
    pub(super) fn room(&self) -> usize {
        self.entries_max.saturating_sub(self.len())
    }

    /// Remembers that `url` answered that it is gone for good.
    pub(super) fn set_gone(&self, url: &str) -> io::Result<()> {
        durable_file::replace(&self.dir.join("gone"), fingerprint(url).as_bytes())
    }

    /// Whether `url` has answered that it is gone; another URL starts afresh.
    pub(super) fn is_gone(&self, url: &str) -> io::Result<bool> {
        let marker = durable_file::read(&self.dir.join("gone"))?;
        Ok(marker.is_some_and(|marker| marker == fingerprint(url).as_bytes()))
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self, seq: u64) -> PathBuf {
        self.dir.join("pending").join(format!("{seq:020}.json"))
    }

    fn dead(&self, seq: u64) -> PathBuf {
        self.dir.join("dead").join(format!("{seq:020}.json"))
    }
}

/// URLs may hold secrets, so only their hash is written.
fn fingerprint(url: &str) -> String {
    STANDARD.encode(Sha256::digest(url))
}

/// The numbers that files in `dir` are named by; what a crash left half-written is removed.
fn numbers(dir: &Path) -> io::Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match (extension, stem.and_then(|stem| stem.parse().ok())) {
            (Some("tmp"), _) => fs::remove_file(&path)?,
            (Some("json"), Some(number)) => {
                numbers.insert(number);
            }
            _ => {}
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> Entry {
        let notice = serde_json::json!({
            "seq": seq, "changed_at": 1, "incident_id": "i", "state": "open", "service": "s",
            "pod": "", "severity": "warning", "started_at": 1, "ended_at": 0, "feature": "f",
            "value": 0.1, "expected": null, "score": 1.0, "contributions": "[]",
            "samples": "[]", "summary": "", "pxl": "", "labels": {}, "replaced": null,
        });
        let notice = serde_json::from_value(notice).unwrap();
        Entry { notice, queued_at: 9, attempts: 0 }
    }

    #[test]
    fn what_is_pending_is_there_in_order_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Outbox::open(dir.path().join("ops"), 10, 10).unwrap();
        let outbox = open();
        outbox.push(&[entry(100), entry(9)]).unwrap();
        outbox.push(&[Entry { queued_at: 77, ..entry(9) }]).unwrap();
        fs::write(dir.path().join("ops/pending/7.json.tmp"), "{").unwrap();
        let outbox = open();
        assert_eq!((outbox.len(), outbox.room()), (2, 8));
        assert_eq!(outbox.head().unwrap(), Some(entry(9)));
        outbox.keep(&Entry { attempts: 3, ..entry(9) }).unwrap();
        assert_eq!(open().head().unwrap().unwrap().attempts, 3);
        outbox.acknowledge(9).unwrap();
        assert_eq!(open().head().unwrap(), Some(entry(100)));
        outbox.bury(100).unwrap();
        assert_eq!(open().head().unwrap(), None);
        assert!(dir.path().join("ops/dead/00000000000000000100.json").exists());
    }

    #[test]
    fn a_damaged_entry_is_set_aside_and_the_dead_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path().to_owned(), 10, 2).unwrap();
        outbox.push(&[entry(1), entry(2), entry(3), entry(4)]).unwrap();
        fs::write(outbox.pending(1), "{\"half\":").unwrap();
        assert_eq!(outbox.head().unwrap(), Some(entry(2)));
        outbox.bury(2).unwrap();
        outbox.bury(3).unwrap();
        assert_eq!(numbers(&dir.path().join("dead")).unwrap(), [2, 3].into());
    }

    #[test]
    fn state_and_the_mark_of_a_gone_receiver_survive() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path().to_owned(), 10, 2).unwrap();
        assert_eq!(outbox.state().unwrap(), None);
        let state = State::starting_at(Seq::from_raw(u64::MAX - 1));
        outbox.set_state(&state).unwrap();
        assert_eq!(outbox.state().unwrap(), Some(state));
        outbox.set_gone("http://a/secret").unwrap();
        assert!(outbox.is_gone("http://a/secret").unwrap());
        assert!(!outbox.is_gone("http://b/").unwrap());
    }
}
