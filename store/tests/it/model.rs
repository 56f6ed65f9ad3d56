//! Any sequence of operations gives the answers that a `Vec` of the rows gives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::{
    Append, AppendError, Clock, Durability, Feed, Frame, ManualClock, Part, RetryKey, Seq, TimeNs,
};
use undine_store::{Config, Snapshot, Store, TierView};

use super::fixture::{
    NOTES, REQUESTS, Row, SECOND, clock, config, copy, files, groups_in, groups_of, hot_rows,
    integers, lost_places, notes, requests,
};

#[derive(Clone, Debug)]
enum Step {
    Append {
        rows: Vec<(u8, i64, i64)>,
        path_bytes: usize,
        durability: Durability,
        notes: usize,
    },
    /// The last acknowledged request comes once more.
    Retry,
    Seal,
    MergeHot,
    Tidy,
    /// A slow follower reads so many times so many rows.
    Follow(usize, usize),
    Wait(u64),
    Restart,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![
        3 => Just(Durability::Interval),
        2 => Just(Durability::Commit),
        1 => Just(Durability::Memory),
    ];
    let row = (0..30_u8, -40_000..40_000_i64, 0..100_000_i64);
    let path_bytes = prop_oneof![8 => 0..20_usize, 3 => 10_000..20_000_usize];
    let append = (prop::collection::vec(row, 1..12), path_bytes, durability, 0..3_usize);
    prop_oneof![
        12 => append.prop_map(|(rows, path_bytes, durability, notes)| {
            Step::Append { rows, path_bytes, durability, notes }
        }),
        3 => Just(Step::Seal),
        2 => Just(Step::MergeHot),
        2 => Just(Step::Tidy),
        2 => (1..4_usize, 1..40_usize).prop_map(|(reads, rows)| Step::Follow(reads, rows)),
        1 => (1..100_u64).prop_map(Step::Wait),
        // Raw rows are kept for an hour.
        1 => (3_600..3_700_u64).prop_map(Step::Wait),
        1 => Just(Step::Retry),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// The store under test beside what it should hold.
struct World {
    runtime: Runtime,
    dir: TempDir,
    clock: Arc<ManualClock>,
    store: Option<Store>,
    /// Every row that was accepted, with how safe it had to be.
    rows: BTreeMap<Seq, (Row, Durability)>,
    notes: BTreeMap<Seq, (i64, Durability)>,
    forgotten_notes: BTreeSet<Seq>,
    /// Rows that went with a process, as they were to.
    forgotten: BTreeSet<Seq>,
    /// One that reads after every step, and one that comes when it comes.
    prompt: Seq,
    slow: Seq,
    next_note: i64,
    /// The last request that was acknowledged: its rows, its key, and when.
    acknowledged: Option<(Vec<Part>, RetryKey, TimeNs)>,
    keys: u8,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (dir, clock) = (TempDir::new().unwrap(), clock());
        let mut world = Self {
            runtime,
            dir,
            clock,
            store: None,
            rows: BTreeMap::new(),
            notes: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            forgotten_notes: BTreeSet::new(),
            prompt: Seq::ZERO,
            slow: Seq::ZERO,
            next_note: 0,
            acknowledged: None,
            keys: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let clock: Arc<ManualClock> = Arc::clone(&self.clock);
        let config = Config { hot_bytes_max: 1 << 20, ..config(self.dir.path(), clock) };
        self.store = Some(config.build().unwrap());
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append { rows, path_bytes, durability, notes } => {
                self.append(rows, *path_bytes, *durability, *notes);
            }
            Step::Retry => self.retry(),
            Step::Seal => {
                self.runtime.block_on(self.store().seal()).unwrap();
            }
            Step::MergeHot => self.runtime.block_on(self.store().merge_hot()).unwrap(),
            Step::Tidy => {
                self.runtime.block_on(self.store().tidy()).unwrap();
            }
            Step::Follow(reads, rows_max) => {
                let gone = self.gone();
                for _ in 0..*reads {
                    self.slow = self.read_on(self.slow, *rows_max, &gone);
                }
            }
            Step::Wait(seconds) => self.clock.advance(SECOND * u32::try_from(*seconds).unwrap()),
            Step::Restart => {
                self.forget();
                self.store = None;
                self.open();
            }
            Step::Crash => {
                self.forget();
                let copied = TempDir::new().unwrap();
                copy(self.dir.path(), copied.path());
                self.store = None;
                self.dir = copied;
                self.open();
            }
        }
    }

    fn append(
        &mut self,
        rows: &[(u8, i64, i64)],
        path_bytes: usize,
        durability: Durability,
        notes_count: usize,
    ) {
        let now = self.clock.now().get();
        let rows: Vec<_> = rows
            .iter()
            .map(|&(kind, ms, value)| Row { time: now + ms * 1_000_000, kind, value, path_bytes })
            .collect();
        let ids: Vec<_> = (0..notes_count)
            .map(|_| {
                self.next_note += 1;
                self.next_note
            })
            .collect();
        let mut parts = vec![Part { table: &REQUESTS, rows: requests(&rows) }];
        if !ids.is_empty() {
            parts.push(Part { table: &NOTES, rows: notes(&ids, now) });
        }
        let before = self.store().stats().table("requests").unwrap().evicted_rows;
        self.keys = self.keys.wrapping_add(1);
        let key = RetryKey([self.keys; 32]);
        let retry_key = (durability == Durability::Commit).then_some(key);
        let frame = Frame { parts: parts.clone(), durability, retry_key };
        let pending = match self.store().append(frame) {
            Ok(pending) => pending,
            Err(AppendError::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        let seqs = self.runtime.block_on(pending.durable()).unwrap();
        if retry_key.is_some() {
            self.acknowledged = Some((parts, key, self.clock.now()));
        }
        for (at, row) in rows.into_iter().enumerate() {
            let seq = Seq::from_raw(seqs[0].first.raw() + at as u64);
            assert!(self.rows.insert(seq, (row, durability)).is_none(), "a place is given once");
        }
        for (at, id) in ids.into_iter().enumerate() {
            let seq = Seq::from_raw(seqs[1].first.raw() + at as u64);
            assert!(self.notes.insert(seq, (id, durability)).is_none(), "a place is given once");
        }
        if self.store().stats().table("requests").unwrap().evicted_rows > before {
            self.runtime.block_on(self.store().merge_hot()).unwrap();
        }
    }

    fn retry(&mut self) {
        let Some((parts, key, at)) = self.acknowledged.clone() else { return };
        if self.clock.now().since(at) >= SECOND * 600 {
            return;
        }
        let (durability, retry_key) = (Durability::Commit, Some(key));
        let pending = self.store().append(Frame { parts, durability, retry_key }).unwrap();
        assert_eq!(self.runtime.block_on(pending.durable()).unwrap(), [], "it is there already");
    }

    /// Rows that were in memory only go with the process.
    fn forget(&mut self) {
        let sealed_to = self.store().stats().table("requests").unwrap().sealed_to;
        let unsealed = self.rows.range(Seq::from_raw(sealed_to.raw() + 1)..);
        let memory = unsealed.filter(|(_, (_, durability))| *durability == Durability::Memory);
        self.forgotten.extend(memory.map(|(&seq, _)| seq));
        let sealed_to = self.store().stats().table(NOTES.name).unwrap().sealed_to;
        let unsealed = self.notes.range(Seq::from_raw(sealed_to.raw() + 1)..);
        let memory = unsealed.filter(|(_, (_, durability))| *durability == Durability::Memory);
        self.forgotten_notes.extend(memory.map(|(&seq, _)| seq));
    }

    fn check(&mut self) {
        let store = self.store.clone().unwrap();
        let dir = self.dir.path().to_owned();
        let lost = lost_places(&dir, &store, &REQUESTS);
        for seq in &lost {
            let (_, durability) = &self.rows[seq];
            assert_ne!(*durability, Durability::Commit, "{seq} was acknowledged and is lost");
        }
        let kept = |seq: &Seq| !lost.contains(seq) && !self.forgotten.contains(seq);
        let expected: BTreeMap<Seq, Row> = self
            .rows
            .iter()
            .filter(|(seq, _)| kept(seq))
            .map(|(&seq, (row, _))| (seq, row.clone()))
            .collect();
        let snapshot = store.snapshot(&REQUESTS);
        assert_eq!(snapshot.tiers.len(), 2);
        for tier in &snapshot.tiers {
            let exact = groups_of(expected.values(), tier.width);
            assert_eq!(groups_in(&dir, &snapshot, tier), exact, "tier {:?}", tier.width);
        }
        for tier in snapshot.tiers.iter().chain(&snapshot.raw) {
            assert_segments_say_what_they_span(&dir, tier);
        }
        // Of raw rows, those before `complete_from` may have expired; equal rows at equal times
        // give equal answers over any range of time.
        let complete_from = snapshot.raw.as_ref().unwrap().complete_from.get();
        let mut raw = rows_by_time(&dir, &snapshot);
        let mut wanted = BTreeMap::new();
        for row in expected.values() {
            *wanted.entry((row.time, row.value)).or_insert(0) += 1;
        }
        for (row, count) in &raw {
            assert!(wanted.get(row) >= Some(count), "raw holds {row:?} {count} times");
        }
        raw.retain(|(time, _), _| *time >= complete_from);
        wanted.retain(|(time, _), _| *time >= complete_from);
        assert_eq!(raw, wanted, "raw rows");
        let hot = hot_rows(&snapshot, Seq::ZERO);
        for (seq, row) in &hot {
            assert_eq!(expected.get(seq), Some(row), "hot row {seq}");
        }
        for (seq, row) in &expected {
            let promised = TimeNs::new(row.time) >= snapshot.hot_complete_from;
            assert!(!promised || hot.contains_key(seq), "{seq} is not hot, as it should be");
        }
        let lost = lost_places(&dir, &store, &NOTES);
        let kept = self
            .notes
            .iter()
            .filter(|(seq, _)| !lost.contains(seq) && !self.forgotten_notes.contains(seq));
        let mut ids: Vec<_> = kept.map(|(_, &(id, _))| id).collect();
        ids.sort_unstable();
        assert_eq!(integers(&dir, &store.snapshot(&NOTES), "id"), ids, "notes");
        let stats = store.stats();
        assert!(stats.hot_bytes <= 1 << 21, "{stats:?}");
        let gone = self.gone();
        loop {
            let cursor = self.read_on(self.prompt, 7, &gone);
            if cursor == self.prompt {
                break;
            }
            self.prompt = cursor;
        }
        let newest = self.rows.last_key_value().map(|(&seq, _)| seq);
        assert!(newest.is_none_or(|newest| newest <= self.prompt), "everything is read");
    }

    /// Places whose rows are in no file and not in memory, each for a reason.
    fn gone(&self) -> BTreeSet<Seq> {
        let raw = self.store().snapshot(&REQUESTS).raw.unwrap();
        let expired = self.rows.iter().filter(|(_, (row, _))| row.time < raw.complete_from.get());
        let mut gone = lost_places(self.dir.path(), self.store(), &REQUESTS);
        gone.extend(expired.map(|(&seq, _)| seq));
        gone.extend(&self.forgotten);
        gone
    }

    /// Reads on from `cursor`: each row after it as it was appended, in order, or missed and `gone`.
    fn read_on(&self, cursor: Seq, rows_max: usize, gone: &BTreeSet<Seq>) -> Seq {
        let read = self.store().read(&REQUESTS, cursor, rows_max);
        let progress = self.runtime.block_on(read).unwrap();
        let mut given = BTreeSet::new();
        let mut after: Option<Seq> = None;
        for slice in &progress.slices {
            assert!(slice.seqs.first > cursor, "no row is given twice");
            let first = slice.seqs.first;
            let follows = |after: Seq| after == first || after.incarnation() < first.incarnation();
            assert!(after.is_none_or(follows), "slices follow each other");
            after = Some(Seq::from_raw(slice.seqs.last.raw() + 1));
            assert_eq!(slice.rows.schema(), REQUESTS.arrow_schema());
            assert_eq!(slice.rows.num_rows() as u64, slice.seqs.rows());
            for (seq, row) in (slice.seqs.first.raw()..).zip(0..slice.rows.num_rows()) {
                let (expected, _) = &self.rows[&Seq::from_raw(seq)];
                let of = requests(std::slice::from_ref(expected));
                assert_eq!(slice.rows.slice(row, 1), of, "the row that was appended");
                given.insert(Seq::from_raw(seq));
            }
        }
        assert!(given.len() <= rows_max);
        assert!(progress.cursor >= cursor);
        let passed = self.rows.keys().filter(|&&seq| cursor < seq && seq <= progress.cursor);
        let missed: Vec<_> = passed.filter(|seq| !given.contains(seq)).collect();
        assert!(missed.iter().all(|seq| gone.contains(seq)), "{missed:?} are told as missed");
        assert_eq!(missed.len() as u64, progress.missed_rows, "each row is seen or missed");
        progress.cursor
    }
}

/// Raw rows in files and the hot rows above them: how often each time and size is there.
fn rows_by_time(dir: &Path, snapshot: &Snapshot) -> BTreeMap<(i64, i64), usize> {
    let raw = snapshot.raw.as_ref().unwrap();
    let mut rows: Vec<_> = hot_rows(snapshot, raw.sealed_to).into_values().collect();
    for batch in files(dir, raw) {
        let int = |name: &str| batch[name].as_primitive::<Int64Type>().clone();
        let (times, sizes) = (int("time_"), int("size"));
        let row = |at: usize| (times.value(at), sizes.value(at));
        rows.extend((0..batch.num_rows()).map(row).map(|(time, value)| Row {
            time,
            kind: 0,
            value,
            path_bytes: 0,
        }));
    }
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry((row.time, row.value)).or_insert(0) += 1;
    }
    counts
}

/// Readers leave out segments by their times, so these must be those of the rows.
fn assert_segments_say_what_they_span(dir: &Path, tier: &TierView) {
    for segment in tier.segments.iter() {
        let one = TierView { segments: [segment.clone()].into(), ..tier.clone() };
        let (first, last) =
            if tier.width.is_zero() { ("time_", "time_") } else { ("first_time", "last_time") };
        let batches = files(dir, &one);
        let all = |name: &str| {
            let columns = batches.iter().map(|batch| batch[name].as_primitive::<Int64Type>());
            columns.flat_map(|column| column.values().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(all(first).into_iter().min(), Some(segment.first_time.get()));
        assert_eq!(all(last).into_iter().max(), Some(segment.last_time.get()));
    }
}

/// Runs random histories and compares after every step.
fn check_histories(cases: u32, steps: usize, rng: Option<TestRng>) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    };
    let mut runner = match rng {
        Some(rng) => TestRunner::new_with_rng(config, rng),
        None => TestRunner::new(config),
    };
    let histories = prop::collection::vec(step(), 1..steps);
    let outcome = runner.run(&histories, |steps| {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.check();
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn any_history_of_a_store_gives_the_answers_of_a_list_of_its_rows() {
    check_histories(25, 30, Some(TestRng::deterministic_rng(RngAlgorithm::ChaCha)));
}

#[test]
#[ignore = "takes minutes; `cargo xtask full` runs it, each time with other histories"]
fn many_long_histories_of_a_store_give_the_answers_of_a_list_of_its_rows() {
    check_histories(400, 60, None);
}
