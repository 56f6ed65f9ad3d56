//! Every state that a power loss can leave, and what the store makes of it.
//!
//! A recording of a store's work is cut after each of its operations. What was synced by then is on
//! the disk; of the rest, each operation on a name (a file's name made, linked, renamed, removed)
//! and the bytes of each file may or may not be. Tried are, for names: every subset of up to four, and of
//! more the first few of any number, each alone, and all but each; for bytes, with each of those: all and
//! none, and with all names every mix of the states of up to two files, or each state of each: whole,
//! as it was synced (empty, where it never was), half of what was not synced, that half missing, all but
//! its last byte, and its full length in zeros (a name and a length can reach the disk before the bytes
//! do). A sync of a file does not sync its name.
//!
//! On each state a store opens, seals, merges and deletes, and is then looked at by `verify` too.

mod disk_states;
mod cycles;
mod kills;
mod catalog;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::{Append, Clock, Durability, Frame, ManualClock, Part, Pending, TimeNs};

use self::disk_states::{Disk, Tree};
use crate::disk::recorded::{Op, Recording};
use crate::fixture::{NOTES, REQUESTS, Row, config, files, integers, notes, requests};
use crate::inspect::{Depth, Folder};
use crate::{Config, Snapshot, Store, TierView};

/// Frames of a kind are numbered from here on.
const ACKED: u64 = 1 << 32;
/// After so much time files go that no version names any more.
const LONG_AGO: Duration = Duration::from_secs(61);

/// A store whose disk is recorded.
struct Work {
    runtime: Runtime,
    dir: TempDir,
    recording: Recording,
    clock: Arc<ManualClock>,
    frames: u64,
}

/// Which frames had been sent and acknowledged at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    sent: BTreeSet<i64>,
    acked: BTreeSet<i64>,
}

impl Known {
    fn at(ops: &[Op]) -> Self {
        let mut known = Self::default();
        for op in ops {
            match *op {
                Op::Mark(mark) if mark >= ACKED => known.acked.insert(id_of(mark - ACKED)),
                Op::Mark(mark) => known.sent.insert(id_of(mark)),
                _ => false,
            };
        }
        known
    }
}

fn id_of(mark: u64) -> i64 {
    i64::try_from(mark).unwrap()
}

fn memory_dir() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { TempDir::new_in(shm).unwrap() } else { TempDir::new().unwrap() }
}

/// So late that every file is old.
const LATE: TimeNs = TimeNs::new(4_000_000_000_000_000_000);

/// Later than anything that is recorded.
const LATER: TimeNs = TimeNs::new(LATE.get() + 600_000_000_000);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn open(dir: &Path, clock: &Arc<ManualClock>) -> Store {
    let config = Config {
        // Nothing is synced unless somebody waits for it.
        log_sync_interval: Duration::from_hours(1),
        segments_max: 2,
        ..config(dir, Arc::clone(clock))
    };
    config.build().unwrap()
}

impl Work {
    fn new() -> Self {
        let dir = memory_dir();
        let recording = Recording::start(dir.path());
        let clock = Arc::new(ManualClock::new(LATE));
        Self { runtime: runtime(), dir, recording, clock, frames: 0 }
    }

    fn open(&self) -> Store {
        open(self.dir.path(), &self.clock)
    }

    /// Appends one row to each of two tables in one frame.
    fn append(&mut self, store: &Store, durability: Durability) -> (u64, Pending) {
        self.frames += 1;
        let id = id_of(self.frames);
        let now = self.clock.now().get();
        let row = Row { time: now, kind: 1, value: id, path_bytes: 5 };
        let parts = vec![
            Part { table: &REQUESTS, rows: requests(&[row]) },
            Part { table: &NOTES, rows: notes(&[id], now) },
        ];
        self.recording.mark(self.frames);
        let frame = Frame { parts, durability, retry_key: None };
        (self.frames, store.append(frame).unwrap())
    }

    fn commit(&mut self, store: &Store) {
        let (frame, pending) = self.append(store, Durability::Commit);
        self.runtime.block_on(pending.durable()).unwrap();
        self.recording.mark(ACKED + frame);
    }

    fn capture(&mut self, store: &Store) {
        drop(self.append(store, Durability::Interval));
    }

    fn seal(&self, store: &Store) {
        self.runtime.block_on(store.seal()).unwrap();
    }

    fn tidy(&self, store: &Store) -> crate::TidyReport {
        self.runtime.block_on(store.tidy()).unwrap()
    }
}

/// The ids that a store holds, the same in every table and tier, none twice.
fn ids_in(dir: &Path, store: &Store) -> Result<BTreeSet<i64>, String> {
    let in_notes = integers(dir, &store.snapshot(&NOTES), "id");
    let snapshot = store.snapshot(&REQUESTS);
    let in_requests = integers(dir, &snapshot, "size");
    if in_notes != in_requests {
        return Err(format!("a frame is there in part: {in_notes:?} {in_requests:?}"));
    }
    let ids: BTreeSet<_> = in_notes.iter().copied().collect();
    if ids.len() != in_notes.len() {
        return Err(format!("a row is there twice: {in_notes:?}"));
    }
    for tier in &snapshot.tiers {
        let (rows, sum) = totals(dir, &snapshot, tier);
        let expected = (i64::try_from(ids.len()).unwrap(), ids.iter().sum::<i64>());
        if (rows, sum) != expected {
            return Err(format!("tier {:?} holds {rows}, {sum}; not {expected:?}", tier.width));
        }
    }
    Ok(ids)
}

/// Rows and sum of sizes in a tier and the hot rows above it.
fn totals(dir: &Path, snapshot: &Snapshot, tier: &TierView) -> (i64, i64) {
    let hot = crate::fixture::hot_rows(snapshot, tier.sealed_to);
    let mut total = (i64::try_from(hot.len()).unwrap(), hot.values().map(|row| row.value).sum());
    for batch in files(dir, tier) {
        let sum = |name: &str| batch[name].as_primitive::<Int64Type>().values().iter().sum::<i64>();
        total = (total.0 + sum("rows"), total.1 + sum("size_sum"));
    }
    total
}

/// Opens a store on a state of the disk and compares what it holds, and what it makes of it, with what
/// is known.
fn check(tree: &Tree, known: &Known) -> Result<(), String> {
    let dir = memory_dir();
    tree.write(dir.path());
    let (clock, runtime) = (Arc::new(ManualClock::new(LATER)), &runtime());
    verify(dir.path(), runtime).map_err(|problem| format!("as it is left: {problem}"))?;
    let config = Config { segments_max: 2, ..config(dir.path(), Arc::clone(&clock)) };
    let store = config.build().map_err(|error| format!("the store does not open: {error}"))?;
    let ids = ids_in(dir.path(), &store)?;
    if let Some(id) = known.acked.difference(&ids).next() {
        return Err(format!("frame {id} was acknowledged and is lost"));
    }
    if let Some(id) = ids.difference(&known.sent).next() {
        return Err(format!("frame {id} was never sent"));
    }
    runtime.block_on(store.seal()).map_err(|error| format!("it does not seal: {error}"))?;
    // Merges, and then deletes what that left.
    for _ in 0..2 {
        runtime.block_on(store.tidy()).map_err(|error| format!("it is not tidied: {error}"))?;
        clock.advance(LONG_AGO);
    }
    let after = ids_in(dir.path(), &store)?;
    if after != ids {
        return Err(format!("seals, merges and deletions change {ids:?} to {after:?}"));
    }
    drop(store);
    verify(dir.path(), runtime).map_err(|problem| format!("in the end: {problem}"))
}

/// What `undine storage verify` says to a folder.
fn verify(dir: &Path, runtime: &Runtime) -> Result<(), String> {
    // A store that has never sealed has no tables yet.
    let Ok(folder) = Folder::open(dir) else { return Ok(()) };
    let verified = runtime.block_on(folder.verify(Depth::Footers)).map_err(|e| e.to_string())?;
    verified.errors().next().map_or(Ok(()), |error| Err(format!("{error:?}")))
}

/// States of a disk that were tried, each once, and what went wrong.
#[derive(Default)]
struct Cuts {
    tried: HashSet<(u64, usize, usize)>,
    failures: Vec<String>,
}

impl Cuts {
    fn try_all(
        &mut self,
        when: &str,
        states: Vec<(String, Tree)>,
        known: &Known,
        check: impl Fn(&Tree, &Known) -> Result<(), String>,
    ) {
        for (what, tree) in states {
            let state = (tree.fingerprint(), known.acked.len(), known.sent.len());
            if !self.tried.insert(state) {
                continue;
            }
            if let Err(problem) = check(&tree, known) {
                self.failures.push(format!("{when}, with {what}: {problem}"));
            }
        }
    }

    /// Requires that all went well, in at least so many states.
    fn finish(self, states_min: usize) {
        let (wrong, tried) = (self.failures.len(), self.tried.len());
        println!("{tried} states");
        assert!(wrong == 0, "{wrong} of {tried}: {:#?}", &self.failures[..wrong.min(5)]);
        assert!(tried >= states_min, "{tried} states were tried");
    }
}

/// Cuts the power after every operation from number `from` on.
fn cut_everywhere(
    recording: &Recording,
    from: usize,
    check: impl Fn(&Tree, &Known) -> Result<(), String>,
) -> Cuts {
    let ops = recording.ops();
    let mut disk = Disk::default();
    let mut cuts = Cuts::default();
    for (at, op) in ops.iter().enumerate() {
        disk.apply(op);
        // What is left between many deletions in a row is among what is left at their end.
        let goes_on = matches!((op, ops.get(at + 1)), (Op::Remove(_), Some(Op::Remove(_))));
        if at >= from && !(goes_on && disk.has_many_unsynced_names()) {
            let when = format!("after {} ({op:?})", at + 1);
            cuts.try_all(&when, disk.states(), &Known::at(&ops[..=at]), &check);
        }
    }
    cuts
}
