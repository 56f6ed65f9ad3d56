//! Every state that a power loss can leave, and what the store makes of it.
//!
//! A recording of a store's work is cut after each of its operations. What was synced by then is on
//! the disk; of the rest, each operation on a name (a file's name made, linked, renamed, removed)
//! and the bytes of each file may or may not be. Tried are, for names: all, none, each alone, and
//! all but each; for bytes: all and none, and with all names, for each file alone: half of what was
//! not synced, all but its last byte, and its full length in zeros (a name and a length can reach
//! the disk before the bytes do). A sync of a file does not sync its name.

mod disk_states;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
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
use crate::{Config, Snapshot, Store, TierView};

/// Frames of a kind are numbered from here on.
const ACKED: u64 = 1 << 32;

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
fn late_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(TimeNs::new(4_000_000_000_000_000_000)))
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = memory_dir();
        let recording = Recording::start(dir.path());
        Self { runtime, dir, recording, clock: late_clock(), frames: 0 }
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

/// Opens a store on a state of the disk and compares what it holds with what is known.
fn check(
    tree: &Tree,
    clock: &Arc<ManualClock>,
    known: &Known,
    runtime: &Runtime,
) -> Result<(), String> {
    let dir = memory_dir();
    tree.write(dir.path());
    let config = config(dir.path(), Arc::clone(clock));
    let store = config.build().map_err(|error| format!("the store does not open: {error}"))?;
    let ids = ids_in(dir.path(), &store)?;
    if let Some(id) = known.acked.difference(&ids).next() {
        return Err(format!("frame {id} was acknowledged and is lost"));
    }
    if let Some(id) = ids.difference(&known.sent).next() {
        return Err(format!("frame {id} was never sent"));
    }
    runtime.block_on(store.seal()).map_err(|error| format!("it does not seal: {error}"))?;
    let sealed = ids_in(dir.path(), &store)?;
    if sealed != ids {
        return Err(format!("a seal changed what is there: {ids:?} {sealed:?}"));
    }
    Ok(())
}

/// States of a disk that were tried, each once, and what went wrong.
#[derive(Default)]
struct Cuts {
    tried: HashSet<(u64, usize, usize)>,
    failures: Vec<String>,
}

impl Cuts {
    fn try_all(&mut self, when: &str, states: Vec<(String, Tree)>, known: &Known, work: &Work) {
        for (what, tree) in states {
            let state = (tree.fingerprint(), known.acked.len(), known.sent.len());
            if !self.tried.insert(state) {
                continue;
            }
            if let Err(problem) = check(&tree, &work.clock, known, &work.runtime) {
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
fn cut_everywhere(work: &Work, from: usize, states_min: usize) {
    let ops = work.recording.ops();
    let mut disk = Disk::default();
    let mut cuts = Cuts::default();
    for (at, op) in ops.iter().enumerate() {
        disk.apply(op);
        if at >= from {
            let when = format!("after {} ({op:?})", at + 1);
            cuts.try_all(&when, disk.states(), &Known::at(&ops[..=at]), work);
        }
    }
    cuts.finish(states_min);
}

#[test]
fn a_replayed_recording_is_the_folder_that_was_recorded() {
    let mut work = Work::new();
    let store = work.open();
    for _ in 0..4 {
        work.commit(&store);
        work.capture(&store);
        work.seal(&store);
    }
    work.tidy(&store);
    work.clock.advance(Duration::from_secs(3700));
    work.tidy(&store);
    drop(store);
    drop(work.open());
    let mut disk = Disk::default();
    work.recording.ops().iter().for_each(|op| disk.apply(op));
    let (mut replayed, mut real) = (disk.shown(), Tree::read(work.dir.path()));
    // The lock is no data, and the page of given places is written through memory.
    for tree in [&mut replayed, &mut real] {
        tree.files.remove(Path::new("LOCK"));
        tree.files.remove(Path::new("allocated"));
    }
    let differ = |path: &&PathBuf| real.files.get(*path) != replayed.files.get(*path);
    let paths: BTreeSet<_> = real.files.keys().chain(replayed.files.keys()).collect();
    let wrong: Vec<_> = paths.into_iter().filter(differ).collect();
    assert!(wrong.is_empty(), "not every change of the disk is recorded: {wrong:?}");
    assert_eq!(real.dirs, replayed.dirs);
    assert!(real.files.len() > 20);
}

#[test]
fn a_power_loss_at_any_moment_of_a_flush_loses_nothing_that_was_acknowledged() {
    let mut work = Work::new();
    let store = work.open();
    work.commit(&store);
    work.capture(&store);
    work.seal(&store);
    work.commit(&store);
    work.capture(&store);
    work.capture(&store);
    work.seal(&store);
    work.commit(&store);
    drop(store);
    // Another life: the log of the first one is sealed and goes.
    let store = work.open();
    work.commit(&store);
    work.seal(&store);
    drop(store);
    cut_everywhere(&work, 0, 300);
}

#[test]
fn a_power_loss_at_any_moment_of_a_compaction_and_a_vacuum_loses_nothing() {
    let mut work = Work::new();
    let store = work.open();
    for _ in 0..3 {
        work.commit(&store);
        work.seal(&store);
    }
    let from = work.recording.ops().len();
    let tidied = work.tidy(&store);
    assert!(tidied.merged_segments > 8, "{tidied:?}");
    work.commit(&store);
    work.clock.advance(Duration::from_secs(61));
    let tidied = work.tidy(&store);
    assert!(tidied.deleted_files > 8, "{tidied:?}");
    work.commit(&store);
    work.seal(&store);
    drop(store);
    cut_everywhere(&work, from, 300);
}

#[test]
fn a_power_loss_after_a_kill_and_a_restart_loses_nothing_either() {
    let mut work = Work::new();
    let store = work.open();
    work.commit(&store);
    work.seal(&store);
    let from = work.recording.ops().len();
    work.commit(&store);
    work.seal(&store);
    drop(store);
    let first = work.recording.ops();
    let mut disk = Disk::default();
    let mut cuts = Cuts::default();
    for (at, op) in first.iter().enumerate() {
        disk.apply(op);
        // Names that only the kernel knows are what a kill leaves for the next life to trip over.
        if at < from || !disk.has_unsynced_names() {
            continue;
        }
        let second = Work { frames: work.frames, ..Work::new() };
        disk.shown().write(second.dir.path());
        let store = second.open();
        second.seal(&store);
        second.clock.advance(Duration::from_secs(61));
        second.tidy(&store);
        drop(store);
        let mut ended = disk.clone();
        let ops = second.recording.ops();
        for op in &ops {
            ended.apply(op);
        }
        assert!(ops.iter().any(|op| matches!(op, Op::Remove(_))), "the sealed log goes");
        let killed = format!("killed after {} ({op:?}), restarted, cut", at + 1);
        cuts.try_all(&killed, ended.states_without(), &Known::at(&first[..=at]), &work);
    }
    cuts.finish(20);
}

#[test]
fn a_power_loss_while_a_start_recovers_from_another_loses_nothing() {
    let mut work = Work::new();
    let store = work.open();
    work.commit(&store);
    work.capture(&store);
    work.commit(&store);
    drop(store);
    let first = work.recording.ops();
    // The log's last frame was acknowledged; one more was written and torn.
    let mut disk = Disk::default();
    for op in &first {
        disk.apply(op);
    }
    let known = Known::at(&first);
    let log = Path::new("log/0000000000000001.log").to_owned();
    disk.apply(&Op::Write(log.clone(), b"UWL1torn".to_vec()));
    disk.apply(&Op::Sync(log));
    let second = Work::new();
    disk.shown().write(second.dir.path());
    let store = second.open();
    second.seal(&store);
    drop(store);
    let mut cuts = Cuts::default();
    for (at, op) in second.recording.ops().iter().enumerate() {
        disk.apply(op);
        let what = format!("after {} ({op:?}) of the second start", at + 1);
        cuts.try_all(&what, disk.states(), &known, &second);
    }
    cuts.finish(60);
}
