//! The component between an in-memory feed and an in-memory append port, under a clock that the
//! test moves.

use std::path::Path;
use std::sync::Mutex;

use arrow::array::{AsArray, RecordBatch};
use tokio::sync::watch;
use undine_schema::tables::HttpEvents;
use undine_schema::{Incarnation, ManualClock, Pending, Progress, SeqRange, Slice, TableDef};

use super::*;
use crate::learner::tests::{Scene, link};

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_800_000_000 * SECOND;

/// Rows in memory, of which the oldest can be evicted; takes findings and remembers them.
#[derive(Debug)]
struct Memory {
    rows: Mutex<Vec<Slice>>,
    newest: watch::Sender<Seq>,
    evicted: Mutex<u64>,
    told: Mutex<Vec<(String, RecordBatch)>>,
    keys: Mutex<Vec<RetryKey>>,
    is_full: Mutex<bool>,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            newest: watch::Sender::new(Seq::ZERO),
            evicted: Mutex::default(),
            told: Mutex::default(),
            keys: Mutex::default(),
            is_full: Mutex::default(),
        })
    }

    fn put(&self, rows: RecordBatch) {
        let first = Seq::new(Incarnation::new(1), self.newest.borrow().counter() + 1);
        let seqs = SeqRange::new(first, rows.num_rows());
        self.rows.lock().unwrap().push(Slice { seqs, rows });
        self.newest.send_replace(seqs.last);
    }

    fn evict_all(&self) {
        self.rows.lock().unwrap().clear();
        *self.evicted.lock().unwrap() = self.newest.borrow().raw();
    }

    fn rows_of(&self, table: &str) -> Vec<RecordBatch> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(name, _)| name == table).map(|(_, rows)| rows.clone()).collect()
    }

    fn column(&self, table: &str, column: &str) -> Vec<String> {
        let batches = self.rows_of(table);
        let texts = batches.iter().flat_map(|rows| rows[column].as_string::<i32>().iter());
        texts.map(|text| text.unwrap().to_owned()).collect()
    }
}

#[async_trait::async_trait]
impl Feed for Memory {
    async fn read(
        &self,
        _: &'static TableDef,
        cursor: Seq,
        rows_max: usize,
    ) -> Result<Progress, FeedError> {
        let evicted = Seq::from_raw(*self.evicted.lock().unwrap());
        let mut progress = Progress { cursor, ..Progress::default() };
        if evicted > cursor {
            progress.missed_rows = evicted.counter() - cursor.counter();
            progress.cursor = evicted;
        }
        let mut count = 0;
        for slice in self.rows.lock().unwrap().iter() {
            if slice.seqs.first > cursor && count < rows_max {
                count += slice.rows.num_rows();
                progress.cursor = slice.seqs.last;
                progress.slices.push(slice.clone());
            }
        }
        Ok(progress)
    }

    fn newest(&self, _: &'static TableDef) -> Result<watch::Receiver<Seq>, FeedError> {
        Ok(self.newest.subscribe())
    }
}

impl Append for Memory {
    fn append(&self, frame: Frame) -> Result<Pending, AppendError> {
        if *self.is_full.lock().unwrap() {
            return Err(AppendError::Full { retry_after: Duration::from_secs(1) });
        }
        let mut keys = self.keys.lock().unwrap();
        let is_retry = frame.retry_key.is_some_and(|key| keys.contains(&key));
        keys.extend(frame.retry_key);
        if !is_retry {
            for part in frame.parts {
                assert_eq!(part.rows.schema(), part.table.arrow_schema());
                self.told.lock().unwrap().push((part.table.name.to_owned(), part.rows));
            }
        }
        Ok(Pending::new(Vec::new(), async { Ok(()) }))
    }
}

fn config(state_path: Option<&Path>) -> Config {
    Config {
        window: Duration::from_secs(5),
        lateness: Duration::from_secs(1),
        warmup_windows: 12,
        memory_windows: 120,
        open_decades: 5.0,
        resolve_windows: 4,
        relearn_after: Duration::from_mins(30),
        latency_resolution: Duration::from_millis(1),
        silence: Silence::Incident,
        entities_max: 100,
        edges_max: 100,
        state_path: state_path.map(Path::to_owned),
        state_interval: Duration::from_mins(1),
    }
}

struct World {
    memory: Arc<Memory>,
    clock: Arc<ManualClock>,
    scene: Scene,
    second: i64,
    rows: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let chain = [link("gateway", 2.0), link("orders", 5.0), link("inventory", 8.0)];
        Self {
            memory: Memory::new(),
            clock: Arc::new(ManualClock::new(TimeNs::new(START))),
            scene: Scene::new(&chain, seed),
            second: 0,
            rows: 0,
        }
    }

    fn model(&self, config: Config) -> Model {
        let (feed, append) = (Arc::clone(&self.memory), Arc::clone(&self.memory));
        config.build(feed, append, Arc::clone(&self.clock) as Arc<dyn Clock>).unwrap()
    }

    /// One second of load, with a fault in the middle of the chain in a given stretch.
    fn load(&mut self, fault: std::ops::Range<i64>) {
        let is_faulty = fault.contains(&self.second);
        self.scene.chain[1].own_ms = if is_faulty { 205.0 } else { 5.0 };
        self.scene.chain[1].errors = if is_faulty { 0.3 } else { 0.0 };
        let mut rows = HttpEvents::new(64);
        self.scene.second(self.second, 40.0, &mut rows);
        self.second += 1;
        self.clock.set(TimeNs::new(START + self.second * SECOND));
        if !rows.is_empty() {
            self.rows += rows.len() as u64;
            self.memory.put(rows.finish());
        }
    }

    async fn play(&mut self, model: &mut Model, until: i64, fault: std::ops::Range<i64>) {
        while self.second < until {
            self.load(fault.clone());
            model.pass().await;
        }
    }
}

#[tokio::test]
async fn every_row_is_seen_and_the_fault_is_told_explained_and_resolved() {
    let mut world = World::new(1);
    let mut model = world.model(config(None));
    world.play(&mut model, 180, 90..130).await;
    let stats = model.stats().snapshot();
    assert_eq!(stats.rows_seen, world.rows);
    assert_eq!((stats.rows_missed, stats.rows_late, stats.services), (0, 0, 3));
    assert_eq!((stats.incidents_opened, stats.incidents_resolved, stats.incidents_open), (1, 1, 0));

    let memory = &world.memory;
    let states = memory.column("incidents", "state");
    assert_eq!(states.first().unwrap(), "open");
    assert_eq!(states.last().unwrap(), "resolved");
    let services = memory.column("incidents", "service");
    assert!(services.iter().all(|service| service == "orders"), "{services:?}");
    let ids = memory.column("incidents", "incident_id");
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    for summary in memory.column("incidents", "summary") {
        println!("{summary}");
        assert!(summary.contains("orders"), "{summary}");
    }
    let worst = states.len() - 2;
    let contributions = &memory.column("incidents", "contributions")[worst];
    let contributions: serde_json::Value = serde_json::from_str(contributions).unwrap();
    println!("{contributions:#}");
    assert_eq!(contributions[0]["service"], "orders");
    let symptoms: Vec<_> =
        contributions.as_array().unwrap().iter().filter(|c| c["role"] == "symptom").collect();
    assert_eq!(symptoms[0]["service"], "gateway", "{contributions:#}");
    let samples = &memory.column("incidents", "samples")[0];
    println!("{samples}");
    assert!(samples.contains("/thing/7") && !samples.contains("secret"), "{samples}");
    println!("{}", memory.column("incidents", "pxl")[0]);
    assert!(memory.column("incidents", "pxl")[0].contains("df.service == 'orders'"));

    let anomalies = memory.column("anomalies", "incident_id");
    assert!(anomalies.contains(&ids[0]), "{anomalies:?}");
    assert_eq!(stats.anomalies, anomalies.len() as u64);
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_fault_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let told = |memory: &Memory| {
        let mut rows = memory.rows_of("anomalies");
        rows.extend(memory.rows_of("incidents"));
        rows
    };
    let mut whole = World::new(2);
    let mut model = whole.model(config(None));
    whole.play(&mut model, 240, 120..160).await;

    let mut cut = World::new(2);
    let mut model = cut.model(config(Some(&path)));
    assert_eq!(*model.origin(), Origin::Fresh);
    for until in [33, 80, 128, 141, 170] {
        cut.play(&mut model, until, 120..160).await;
        model.finish().await;
        drop(model);
        model = cut.model(config(Some(&path)));
        assert_eq!(*model.origin(), Origin::Resumed);
    }
    cut.play(&mut model, 240, 120..160).await;

    let expected = told(&whole.memory);
    assert!(expected.len() > 5);
    assert_eq!(told(&cut.memory), expected);
}

#[tokio::test]
async fn after_a_crash_rows_are_read_again_and_nothing_is_told_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let mut world = World::new(3);
    let mut model = world.model(config(Some(&path)));
    world.play(&mut model, 170, 120..160).await;
    drop(model);
    let before = world.memory.column("incidents", "state");
    let mut model = world.model(config(Some(&path)));
    assert_eq!(*model.origin(), Origin::Resumed);
    world.play(&mut model, 240, 120..160).await;
    let after = world.memory.column("incidents", "state");
    assert!(model.stats().snapshot().rows_seen > 0);
    assert_eq!(after[..before.len()], before);
    assert_eq!(after.iter().filter(|state| *state == "open").count(), 1, "{after:?}");
    assert_eq!(after.iter().filter(|state| *state == "resolved").count(), 1, "{after:?}");
}

#[tokio::test]
async fn a_state_that_cannot_be_used_is_said_and_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let world = World::new(4);
    for (text, why) in [
        ("not json", "is not a saved model"),
        (r#"{"format":"undine-ml-state","version":99,"window_ns":5000000000}"#, "version 99"),
        (r#"{"format":"undine-ml-state","version":1,"window_ns":7000000000}"#, "windows of 7s"),
        (r#"{"format":"undine-ml-state","version":1,"window_ns":5000000000}"#, "missing field"),
    ] {
        std::fs::write(&path, text).unwrap();
        let mut model = world.model(config(Some(&path)));
        let Origin::Discarded { reason } = model.origin().clone() else {
            panic!("{:?} for {text}", model.origin());
        };
        assert!(reason.contains(why), "{reason}");
        model.finish().await;
        assert_eq!(*world.model(config(Some(&path))).origin(), Origin::Resumed);
    }
}

#[tokio::test]
async fn rows_evicted_before_they_were_read_are_counted_and_recorded() {
    let mut world = World::new(5);
    let mut model = world.model(config(None));
    world.play(&mut model, 30, 0..0).await;
    let seen = model.stats().snapshot().rows_seen;
    for _ in 0..10 {
        world.load(0..0);
    }
    world.memory.evict_all();
    world.play(&mut model, 60, 0..0).await;
    let stats = model.stats().snapshot();
    assert!(stats.rows_missed > 0);
    assert_eq!(stats.rows_seen + stats.rows_missed, world.rows);
    assert!(stats.rows_seen > seen);
    assert_eq!(world.memory.column("data_loss", "stage"), ["ml"]);
    let expected = format!("{} rows of http_events were not learned from", stats.rows_missed);
    assert_eq!(world.memory.column("data_loss", "detail"), [expected]);
}

#[tokio::test]
async fn rows_that_come_too_late_are_seen_counted_and_recorded() {
    let mut world = World::new(10);
    let mut model = world.model(config(None));
    world.play(&mut model, 30, 0..0).await;
    let mut rows = HttpEvents::new(64);
    world.scene.second(2, 40.0, &mut rows);
    let late = rows.len() as u64;
    world.rows += late;
    world.memory.put(rows.finish());
    world.play(&mut model, 60, 0..0).await;
    let stats = model.stats().snapshot();
    assert_eq!((stats.rows_seen, stats.rows_late), (world.rows, late));
    assert_eq!(world.memory.column("data_loss", "reason"), ["late"]);
}

#[tokio::test]
async fn findings_wait_while_the_store_is_full() {
    let mut world = World::new(6);
    let mut model = world.model(config(None));
    world.play(&mut model, 110, 100..140).await;
    *world.memory.is_full.lock().unwrap() = true;
    world.play(&mut model, 135, 100..140).await;
    let held = world.memory.column("incidents", "state").len();
    *world.memory.is_full.lock().unwrap() = false;
    world.play(&mut model, 180, 100..140).await;
    let states = world.memory.column("incidents", "state");
    assert!(states.len() > held);
    assert_eq!(states.last().unwrap(), "resolved");
    assert_eq!(model.stats().snapshot().frames_lost, 0);
}

#[tokio::test]
async fn history_from_before_the_start_is_learned_from_but_not_told() {
    let mut world = World::new(7);
    while world.second < 300 {
        world.load(200..230);
    }
    let mut model = world.model(config(None));
    world.play(&mut model, 330, 0..0).await;
    assert!(world.memory.column("incidents", "state").is_empty());
    assert_eq!(model.stats().snapshot().rows_seen, world.rows);
    world.play(&mut model, 400, 340..400).await;
    assert_eq!(world.memory.column("incidents", "state").first().unwrap(), "open");
}

#[tokio::test]
async fn run_takes_in_the_last_rows_and_saves_before_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let mut world = World::new(8);
    let model = world.model(config(Some(&path)));
    let stats = model.stats();
    while world.second < 20 {
        world.load(0..0);
    }
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    model.run(shutdown).await;
    assert_eq!(stats.snapshot().rows_seen, world.rows);
    assert_eq!(stats.snapshot().state_saves, 1);
    assert_eq!(*world.model(config(Some(&path))).origin(), Origin::Resumed);
}

#[test]
fn a_value_out_of_bounds_is_named() {
    let world = World::new(9);
    let bad = Config { warmup_windows: 1, ..config(None) };
    let (feed, append) = (Arc::clone(&world.memory), Arc::clone(&world.memory));
    let error = bad.build(feed, append, Arc::clone(&world.clock) as Arc<dyn Clock>).unwrap_err();
    assert_eq!(error.to_string(), "ml.warmup_windows is 1; set it to at least 3");
}
