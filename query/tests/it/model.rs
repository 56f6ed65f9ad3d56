//! Any sequence of operations of a store gives its queries the answers that a `Vec` of the rows gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_query::{Engine, Note, ResultTable};
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{
    Append, AppendError, Clock, Durability, Frame, ManualClock, Part, Seq, TimeNs,
};
use undine_store::{Config, Retention, Store};

use super::fixture::{Order, SECOND, START, config, engine, run, text};

#[derive(Clone, Debug)]
enum Step {
    Append {
        rows: Vec<(u8, i64, i64)>,
        body_bytes: usize,
        durability: Durability,
    },
    Seal,
    MergeHot,
    /// Merges segments, lets rows and windows expire, deletes files.
    Tidy,
    Wait(u64),
    /// What is there is sealed and gets so old.
    Age(u64),
    /// Asks for a range, in seconds before now, each way.
    Query {
        from: i64,
        until: i64,
        unit: i64,
    },
    Restart,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![
        3 => Just(Durability::Interval),
        2 => Just(Durability::Commit),
        1 => Just(Durability::Memory),
    ];
    let row = (0..12_u8, -40_000..40_000_i64, 0..100_000_i64);
    let body_bytes = prop_oneof![5 => 0..20_usize, 4 => 15_000..25_000_usize];
    let append = (prop::collection::vec(row, 1..12), body_bytes, durability);
    let query = (-60..9_000_i64, -60..9_000_i64, prop_oneof![Just(1), Just(10), Just(60)]);
    prop_oneof![
        12 => append.prop_map(|(rows, body_bytes, durability)| {
            Step::Append { rows, body_bytes, durability }
        }),
        4 => Just(Step::Seal),
        2 => Just(Step::MergeHot),
        2 => Just(Step::Tidy),
        2 => (1..100_u64).prop_map(Step::Wait),
        // Windows of ten seconds are kept for half an hour, raw rows for an hour.
        2 => (1_000..3_700_u64).prop_map(Step::Age),
        6 => query.prop_map(|(a, b, unit)| Step::Query { from: a.max(b), until: a.min(b), unit }),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// What is known of a row.
#[derive(Clone, Copy, Debug)]
struct Row {
    time: i64,
    kind: u8,
    latency: i64,
}

impl Row {
    fn service(self) -> &'static str {
        ["cart", "shop", ""][usize::from(self.kind) % 3]
    }

    fn status(self) -> i64 {
        [200, 404, 500, 503][usize::from(self.kind) % 4]
    }
}

/// The answer's rows as text, of the rows in its range.
type Oracle = fn(&[Row]) -> String;

/// What was answered, and from where.
#[derive(Debug, Default)]
struct Seen {
    tiers: BTreeSet<String>,
    clipped: u64,
    widened: u64,
    lost_rows: u64,
}

/// The store and the engine under test beside what they should know.
struct World {
    runtime: Runtime,
    dir: TempDir,
    clock: Arc<ManualClock>,
    parts: Option<(Store, Engine)>,
    rows: BTreeMap<Seq, (Row, Durability)>,
    /// Rows that went with a process, as they were to.
    forgotten: BTreeSet<Seq>,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut world = Self {
            runtime,
            dir: memory_dir(),
            clock: Arc::new(ManualClock::new(TimeNs::new(START + 60 * SECOND))),
            parts: None,
            rows: BTreeMap::new(),
            forgotten: BTreeSet::new(),
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let half_an_hour = Retention {
            table: None,
            tier: Some("10s".to_owned()),
            age_max: Some(Duration::from_mins(30)),
            bytes_max: None,
        };
        let store = Config {
            hot_bytes_max: 1 << 20,
            raw_for: Some(Duration::from_hours(1)),
            retention: vec![half_an_hour],
            segments_max: 3,
            deleted_files_for: Duration::from_mins(1),
            // What was not waited for goes with a crash.
            log_sync_interval: Duration::from_hours(1),
            ..config(self.dir.path(), &self.clock)
        };
        let store = store.build().unwrap();
        let engine = engine(&store, &self.clock, None, 1);
        self.parts = Some((store, engine));
    }

    fn store(&self) -> &Store {
        &self.parts.as_ref().unwrap().0
    }

    fn run(&mut self, step: &Step, seen: &mut Seen) {
        match step {
            Step::Append { rows, body_bytes, durability } => {
                self.append(rows, *body_bytes, *durability);
            }
            Step::Seal => {
                self.runtime.block_on(self.store().seal()).unwrap();
            }
            Step::MergeHot => self.runtime.block_on(self.store().merge_hot()).unwrap(),
            Step::Tidy => {
                self.runtime.block_on(self.store().tidy()).unwrap();
            }
            Step::Wait(seconds) => self.clock.advance(Duration::from_secs(*seconds)),
            Step::Age(seconds) => {
                for step in [Step::Seal, Step::Wait(*seconds), Step::Tidy] {
                    self.run(&step, seen);
                }
            }
            Step::Query { from, until, unit } => {
                let now = self.clock.now().get();
                let at = |seconds: i64| {
                    let width = unit * SECOND;
                    (now - seconds * SECOND).div_euclid(width) * width
                };
                self.query(at(*from)..at(*until) + unit * SECOND, seen);
            }
            Step::Restart => {
                self.forget();
                self.parts = None;
                self.open();
            }
            Step::Crash => {
                self.forget();
                let copied = memory_dir();
                copy(self.dir.path(), copied.path());
                self.parts = None;
                self.dir = copied;
                self.open();
            }
        }
    }

    fn append(&mut self, rows: &[(u8, i64, i64)], body_bytes: usize, durability: Durability) {
        let now = self.clock.now().get();
        let rows: Vec<_> = rows
            .iter()
            .map(|&(kind, ms, latency)| Row { time: now + ms * 1_000_000, kind, latency })
            .collect();
        let part = Part { table: &HTTP_EVENTS, rows: batch(&rows, body_bytes) };
        let evicted =
            |world: &Self| world.store().stats().table("http_events").unwrap().evicted_rows;
        let before = evicted(self);
        let frame = Frame { parts: vec![part], durability, retry_key: None };
        let pending = match self.store().append(frame) {
            Ok(pending) => pending,
            Err(AppendError::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        let seqs = self.runtime.block_on(pending.durable()).unwrap();
        for (seq, row) in (seqs[0].first.raw()..).zip(rows) {
            self.rows.insert(Seq::from_raw(seq), (row, durability));
        }
        if evicted(self) > before {
            self.runtime.block_on(self.store().merge_hot()).unwrap();
        }
    }

    /// Rows that were in memory only go with the process.
    fn forget(&mut self) {
        let sealed_to = self.store().stats().table("http_events").unwrap().sealed_to;
        let unsealed = self.rows.range(Seq::from_raw(sealed_to.raw() + 1)..);
        let memory = unsealed.filter(|(_, (_, durability))| *durability == Durability::Memory);
        self.forgotten.extend(memory.map(|(&seq, _)| seq));
    }

    /// Asks for all there is, and holds what is kept of it against the rows.
    fn query_all(&self, seen: &mut Seen) {
        let now = self.clock.now().get();
        self.query(START - 600 * SECOND..now + 600 * SECOND, seen);
    }

    fn query(&self, asked: std::ops::Range<i64>, seen: &mut Seen) {
        if asked.is_empty() {
            return;
        }
        let lost = self.lost();
        seen.lost_rows += lost.len() as u64;
        for seq in &lost {
            let (_, durability) = &self.rows[seq];
            assert_ne!(*durability, Durability::Commit, "{seq} was acknowledged and is lost");
        }
        let kept = self.rows.iter().filter(|(seq, _)| !lost.contains(seq));
        let kept = kept.filter(|(seq, _)| !self.forgotten.contains(seq));
        let kept: Vec<Row> = kept.map(|(_, (row, _))| *row).collect();
        let (start, end) = (asked.start, asked.end);
        let script = |body: &str| {
            format!(
                "import px\n\
                 df = px.DataFrame('http_events', start_time={start}, end_time={end})\n\
                 df.service = df.ctx['service']\n\
                 {body}\n\
                 px.display(df)"
            )
        };
        let groups = "df = df.groupby(['service', 'resp_status']).agg(n=('latency', px.count), \
                      s=('latency', px.sum), lo=('latency', px.min), hi=('latency', px.max))";
        let rows = "df = df[['time_', 'service', 'resp_status', 'latency']]";
        for (body, oracle) in [(groups, groups_of as Oracle), (rows, lines_of)] {
            let answer = self.answer(&script(body));
            self.compare(body, &asked, &answer, &kept, oracle, seen);
        }
        let sql = format!(
            "SELECT count(*) AS n, sum(latency) AS s FROM http_events \
             WHERE time_ >= {start} AND time_ < {end}"
        );
        let engine = &self.parts.as_ref().unwrap().1;
        let answer = self.runtime.block_on(engine.sql(&sql)).unwrap();
        self.compare(&sql, &asked, &answer, &kept, totals_of, seen);
    }

    fn compare(
        &self,
        question: &str,
        asked: &std::ops::Range<i64>,
        answer: &ResultTable,
        kept: &[Row],
        oracle: Oracle,
        seen: &mut Seen,
    ) {
        let mut range = asked.clone();
        for note in &answer.notes {
            match note {
                Note::Clipped { from, .. } | Note::SummariesStart { from, .. } => {
                    seen.clipped += 1;
                    range.start = range.start.max(from.get());
                }
                Note::Widened { from, until, .. } => {
                    seen.widened += 1;
                    range = from.get()..until.get();
                }
                _ => {}
            }
        }
        seen.tiers.extend(answer.sources.iter().map(|source| source.tier.to_string()));
        let within: Vec<Row> =
            kept.iter().filter(|row| range.contains(&row.time)).copied().collect();
        let shown = text(answer, Order::Sorted);
        let (_, shown) = shown.split_once('\n').unwrap();
        let at = self.clock.now();
        assert_eq!(
            shown,
            oracle(&within),
            "{question} asked {asked:?}, answered {range:?} at {at:?}: {:?} {:?}",
            answer.notes,
            answer.sources
        );
    }

    fn answer(&self, script: &str) -> ResultTable {
        let engine = &self.parts.as_ref().unwrap().1;
        let answer = self.runtime.block_on(run(engine, script));
        let answer = answer.unwrap_or_else(|error| panic!("{script}: {error}"));
        answer.tables.into_iter().next().unwrap()
    }

    /// The places that `data_loss` says are missing.
    fn lost(&self) -> BTreeSet<Seq> {
        let engine = &self.parts.as_ref().unwrap().1;
        let sql = "SELECT detail FROM data_loss \
                   WHERE source_table = 'http_events' AND reason <> 'folded'";
        let answer = self.runtime.block_on(engine.sql(sql)).unwrap();
        let mut places = BTreeSet::new();
        for batch in &answer.batches {
            let details = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8);
            for detail in details.unwrap().as_string::<i32>().iter().flatten() {
                for range in detail.strip_prefix("rows ").unwrap().split(", ") {
                    let (first, last) = range.split_once(" to ").unwrap();
                    places.extend((place(first)..=place(last)).map(Seq::from_raw));
                }
            }
        }
        places
    }
}

/// A folder that no disk slows down, where there is one.
fn memory_dir() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { TempDir::new_in(shm).unwrap() } else { TempDir::new().unwrap() }
}

fn place(text: &str) -> u64 {
    let (life, counter) = text.split_once('.').unwrap();
    life.parse::<u64>().unwrap() << 48 | counter.parse::<u64>().unwrap()
}

fn batch(rows: &[Row], body_bytes: usize) -> arrow::array::RecordBatch {
    let mut builder = HttpEvents::new(rows.len());
    let body = "x".repeat(body_bytes);
    for row in rows {
        builder.push(&HttpEvent {
            time_: TimeNs::new(row.time),
            trace_role: 2,
            req_method: "GET",
            req_path: "/item/7",
            req_path_template: "/item/*",
            req_body: &body,
            resp_status: row.status(),
            latency: row.latency,
            service: row.service(),
            node: "node-1",
            ..HttpEvent::default()
        });
    }
    builder.finish()
}

fn groups_of(rows: &[Row]) -> String {
    let mut groups: BTreeMap<(&str, i64), Vec<i64>> = BTreeMap::new();
    for row in rows {
        groups.entry((row.service(), row.status())).or_default().push(row.latency);
    }
    sorted(groups.into_iter().map(|((service, status), latencies)| {
        let (n, s) = (latencies.len(), latencies.iter().sum::<i64>());
        let (lo, hi) = (latencies.iter().min().unwrap(), latencies.iter().max().unwrap());
        format!("{service} | {status} | {n} | {s} | {lo} | {hi}")
    }))
}

fn lines_of(rows: &[Row]) -> String {
    sorted(rows.iter().map(|row| {
        format!("{} | {} | {} | {}", row.time, row.service(), row.status(), row.latency)
    }))
}

/// As SQL has it, the sum of no rows is nothing.
fn totals_of(rows: &[Row]) -> String {
    let sum: i64 = rows.iter().map(|row| row.latency).sum();
    let sum = if rows.is_empty() { String::new() } else { sum.to_string() };
    format!("{} | {sum}\n", rows.len())
}

fn sorted(lines: impl Iterator<Item = String>) -> String {
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines.iter().fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").unwrap();
        text
    })
}

/// A copy of a folder, as `kill -9` would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            // A file that its writer renamed meanwhile was not there yet.
            let _gone = fs::copy(entry.path(), target);
        }
    }
}

/// Runs random histories and compares after every step; says what the answers were made of.
fn check_histories(cases: u32, steps: usize, rng: Option<TestRng>) -> Seen {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    };
    let mut runner = match rng {
        Some(rng) => TestRunner::new_with_rng(config, rng),
        None => TestRunner::new(config),
    };
    let seen = std::cell::RefCell::new(Seen::default());
    let histories = prop::collection::vec(step(), 1..steps);
    let outcome = runner.run(&histories, |steps| {
        let mut world = World::new();
        for step in &steps {
            let mut seen = seen.borrow_mut();
            world.run(step, &mut seen);
            world.query_all(&mut seen);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    seen.into_inner()
}

#[test]
fn any_history_of_a_store_gives_queries_the_answers_of_a_list_of_its_rows() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let seen = check_histories(32, 30, Some(rng));
    println!("{seen:?}");
    for tier in ["hot", "raw", "10s", "1m"] {
        assert!(seen.tiers.iter().any(|of| of.starts_with(tier)), "{tier}: {seen:?}");
    }
    assert!(seen.clipped > 0 && seen.widened > 0 && seen.lost_rows > 0, "{seen:?}");
}

#[test]
#[ignore = "takes minutes; `cargo xtask full` runs it, each time with other histories"]
fn many_long_histories_of_a_store_give_queries_the_answers_of_a_list_of_its_rows() {
    check_histories(200, 60, None);
}
