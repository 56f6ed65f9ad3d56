//! How each kind of table ages: what its summaries keep is what a plain computation over all rows gives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::tables::{
    HTTP_EVENTS, HttpEvent, HttpEvents, PROCESSES, ProcessVersion, Processes, STACK_TRACES,
    StackTrace, StackTraces,
};
use undine_schema::{Append, Clock, Cube, Frame, ManualClock, TableDef, TimeNs, Upid};
use undine_store::sketch::Sketch;
use undine_store::{Config, Retention, Snapshot, Store, TierView};

use super::fixture::{clock, config, files, losses};

undine_schema::table! {
    /// Meters of a test.
    METERS = "meters": Counter, Meter, Meters {
        /// When.
        time_: Time [time],
        /// Whose.
        upid: Process [dimension],
        /// How much so far.
        bytes: ByteCount [counter],
        /// How much now.
        level: Int [measure],
    }
}

undine_schema::table! {
    /// As an older version had it.
    GROWN_BEFORE = "grown": Event, GrownBefore, GrownsBefore {
        /// When.
        time_: Time [time],
        /// Who.
        service: ServiceName [dimension, context],
        /// How long.
        latency: DurationNs [sketched],
    }
}

undine_schema::table! {
    /// As this version has it.
    GROWN = "grown": Event, GrownRow, Growns {
        /// When.
        time_: Time [time],
        /// What.
        verb: Text [dimension],
        /// Who.
        service: ServiceName [dimension, context],
        /// How long.
        latency: DurationNs [sketched],
        /// How much.
        size: ByteCount [measure],
    }
}

const SECOND: i64 = 1_000_000_000;

struct World {
    runtime: Runtime,
    dir: TempDir,
    clock: Arc<ManualClock>,
    store: Store,
}

impl World {
    fn new(tables: &[&'static TableDef], change: impl FnOnce(Config) -> Config) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (dir, clock) = (TempDir::new().unwrap(), clock());
        let config = config(dir.path(), Arc::clone(&clock));
        let store = change(Config { tables: tables.to_vec(), segments_max: 2, ..config });
        let store = store.build().unwrap();
        Self { runtime, dir, clock, store }
    }

    fn now(&self) -> i64 {
        self.clock.now().get()
    }

    fn append(&self, table: &'static TableDef, rows: RecordBatch) {
        drop(self.store.append(Frame::captured(table, rows)).unwrap());
    }

    fn seal(&self) {
        self.runtime.block_on(self.store.seal()).unwrap();
    }

    fn tidy(&self) {
        self.runtime.block_on(self.store.tidy()).unwrap();
    }

    fn files(&self, tier: &TierView) -> Vec<RecordBatch> {
        let batches = files(self.dir.path(), tier);
        for batch in &batches {
            assert_eq!(batch.schema().fields(), tier.schema.fields());
        }
        batches
    }
}

fn int(batch: &RecordBatch, name: &str, at: usize) -> i64 {
    batch[name].as_primitive::<Int64Type>().value(at)
}

fn all_views(snapshot: &Snapshot) -> impl Iterator<Item = &TierView> {
    snapshot.tiers.iter().chain(&snapshot.cubes)
}

/// What is known of a counter and a gauge in one window.
#[derive(Clone, Debug, PartialEq)]
struct MeterState {
    rows: i64,
    times: (i64, i64),
    bytes: (i64, i64, i64, i64, i64),
    increase: i64,
    level: (i64, i64, i64, i64, i64),
}

/// From the readings in their order.
fn meters_plainly(
    readings: &[(i64, u32, i64, i64)],
    width: i64,
) -> BTreeMap<(u32, i64), MeterState> {
    let mut states: BTreeMap<_, MeterState> = BTreeMap::new();
    for &(time, pid, bytes, level) in readings {
        let key = (pid, time.div_euclid(width) * width);
        let of = |value| (value, value, value, value, value);
        let Some(state) = states.get_mut(&key) else {
            let times = (time, time);
            let (bytes, level) = (of(bytes), of(level));
            states.insert(key, MeterState { rows: 1, times, bytes, increase: 0, level });
            continue;
        };
        let last = state.bytes.4;
        state.increase += if bytes < last { bytes } else { bytes - last };
        state.rows += 1;
        state.times.1 = time;
        for (kept, value) in [(&mut state.bytes, bytes), (&mut state.level, level)] {
            *kept = (kept.0 + value, kept.1.min(value), kept.2.max(value), kept.3, value);
        }
    }
    states
}

/// From a tier's files; states of one window stand in several of them until they are merged.
fn meters_kept(world: &World, tier: &TierView) -> BTreeMap<(u32, i64), MeterState> {
    let mut parts: Vec<((u32, i64), MeterState)> = Vec::new();
    for batch in world.files(tier) {
        for at in 0..batch.num_rows() {
            let upid =
                Upid::from_bytes(batch["upid"].as_binary::<i32>().value(at).try_into().unwrap());
            let of = |m: &str| {
                let state = |state: &str| int(&batch, &format!("{m}_{state}"), at);
                (state("sum"), state("min"), state("max"), state("first"), state("last"))
            };
            let state = MeterState {
                rows: int(&batch, "rows", at),
                times: (int(&batch, "first_time", at), int(&batch, "last_time", at)),
                bytes: of("bytes"),
                increase: int(&batch, "bytes_increase", at),
                level: of("level"),
            };
            parts.push(((upid.pid(), int(&batch, "window_start", at)), state));
        }
    }
    parts.sort_by_key(|(_, state)| state.times);
    let mut states: BTreeMap<_, MeterState> = BTreeMap::new();
    for (key, part) in parts {
        let Some(state) = states.get_mut(&key) else {
            states.insert(key, part);
            continue;
        };
        let (last, next) = (state.bytes.4, part.bytes.3);
        state.increase += part.increase + if next < last { next } else { next - last };
        state.rows += part.rows;
        state.times.1 = part.times.1;
        for (kept, part) in [(&mut state.bytes, part.bytes), (&mut state.level, part.level)] {
            *kept = (kept.0 + part.0, kept.1.min(part.1), kept.2.max(part.2), kept.3, part.4);
        }
    }
    states
}

/// One request of the test, by what its summaries can tell.
#[derive(Clone, Debug)]
struct Hit {
    second: i64,
    service: u8,
    path: u8,
    pod: u8,
    failed: bool,
    latency: i64,
}

impl Hit {
    fn row(&self, start: i64, batch: &mut HttpEvents) {
        let path = format!("/p{}", self.path);
        let pod = format!("pod-{}", self.pod);
        batch.push(&HttpEvent {
            time_: TimeNs::new(start + self.second * SECOND),
            trace_role: 2,
            req_method: "GET",
            req_path: &path,
            req_path_template: &path,
            resp_status: if self.failed { 500 } else { 200 },
            resp_body_size: self.latency % 7,
            latency: self.latency,
            service: ["cart", "shop", "front"][usize::from(self.service) % 3],
            remote_service: ["web", "job"][usize::from(self.pod) % 2],
            remote_pod: &pod,
            pod: &pod,
            node: "node-1",
            ..HttpEvent::default()
        });
    }
}

fn batch_of(hits: &[Hit], start: i64) -> RecordBatch {
    let mut batch = HttpEvents::new(hits.len());
    for hit in hits {
        hit.row(start, &mut batch);
    }
    batch.finish()
}

fn hit() -> impl Strategy<Value = Hit> {
    (0..200_i64, 0..3_u8, 0..4_u8, 0..3_u8, any::<bool>(), 0..1_000_000_i64).prop_map(
        |(second, service, path, pod, failed, latency)| Hit {
            second,
            service,
            path,
            pod,
            failed,
            latency,
        },
    )
}

type Key = (i64, Vec<String>);
type Kept = (i64, i64, i64, i64, i64, i64, i64, Sketch);

fn key_of(batch: &RecordBatch, at: usize, window: i64, dimensions: &[&str]) -> Key {
    let value = |name: &&str| array_value_to_string(&batch[*name], at).unwrap();
    (window, dimensions.iter().map(value).collect())
}

fn put(kept: &mut BTreeMap<Key, Kept>, key: Key, other: &Kept) {
    let none = (0, i64::MAX, i64::MIN, 0, i64::MAX, i64::MIN, 0, Sketch::new());
    let state = kept.entry(key).or_insert(none);
    state.0 += other.0;
    state.1 = state.1.min(other.1);
    state.2 = state.2.max(other.2);
    state.3 += other.3;
    state.4 = state.4.min(other.4);
    state.5 = state.5.max(other.5);
    state.6 += other.6;
    state.7.merge(&other.7);
}

/// The states of rows by the dimensions of a cube, straight from their definition.
fn hits_plainly(rows: &RecordBatch, cube: Cube, width: Duration) -> BTreeMap<Key, Kept> {
    let dimensions: Vec<_> = cube.dimensions(&HTTP_EVENTS).map(|d| d.name).collect();
    let mut kept = BTreeMap::new();
    for at in 0..rows.num_rows() {
        let time = int(rows, "time_", at);
        let window = TimeNs::new(time).floor_to(width).get();
        let latency = int(rows, "latency", at);
        let mut sketch = Sketch::new();
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        sketch.add(latency as f64);
        let size = int(rows, "resp_body_size", at);
        let one = (1, time, time, latency, latency, latency, size, sketch);
        put(&mut kept, key_of(rows, at, window, &dimensions), &one);
    }
    kept
}

fn hits_kept(world: &World, tier: &TierView) -> BTreeMap<Key, Kept> {
    let dimensions: Vec<_> = tier.cube.dimensions(&HTTP_EVENTS).map(|d| d.name).collect();
    let mut kept = BTreeMap::new();
    for batch in world.files(tier) {
        for at in 0..batch.num_rows() {
            let int = |name: &str| int(&batch, name, at);
            let keys = batch["latency_sketch_keys"].as_list::<i32>().value(at);
            let counts = batch["latency_sketch_counts"].as_list::<i32>().value(at);
            let sketch = Sketch::from_parts(
                keys.as_primitive::<Int32Type>().values(),
                counts.as_primitive::<Int64Type>().values(),
            );
            let (low, high) = (int("latency_min"), int("latency_max"));
            let one = (
                int("rows"),
                int("first_time"),
                int("last_time"),
                int("latency_sum"),
                low,
                high,
                int("resp_body_size_sum"),
                sketch.unwrap(),
            );
            put(&mut kept, key_of(&batch, at, int("window_start"), &dimensions), &one);
        }
    }
    kept
}

/// The latencies of the two slowest requests of each minute, endpoint and status.
fn slowest(rows: &RecordBatch) -> BTreeMap<Key, Vec<i64>> {
    let dimensions: Vec<_> = Cube::Endpoint.dimensions(&HTTP_EVENTS).map(|d| d.name).collect();
    let mut of_group: BTreeMap<Key, Vec<i64>> = BTreeMap::new();
    for at in 0..rows.num_rows() {
        let minute = TimeNs::new(int(rows, "time_", at)).floor_to(Duration::from_mins(1)).get();
        let latencies = of_group.entry(key_of(rows, at, minute, &dimensions)).or_default();
        latencies.push(int(rows, "latency", at));
        latencies.sort_unstable_by(|a, b| b.cmp(a));
        latencies.truncate(2);
    }
    of_group
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 32, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default()
    })]

    #[test]
    fn counters_keep_their_ends_and_their_increase_over_restarts_through_any_seals_and_merges(
        steps in prop::collection::vec((0..3_u32, 0..30_i64, prop::option::weighted(0.9, 0..500_i64), -5..5_i64, 0..8_u8), 1..80),
    ) {
        let world = World::new(&[&METERS], |config| config);
        let (mut now, mut values) = (world.now(), [0_i64; 3]);
        let mut readings = Vec::new();
        for (pid, seconds, grown, level, then) in steps {
            now += seconds * SECOND + 1;
            let value = &mut values[usize::try_from(pid).unwrap()];
            *value = grown.map_or(3, |grown| *value + grown);
            let mut batch = Meters::new(1);
            let upid = Upid::new(1, pid, 7);
            batch.push(&Meter { time_: TimeNs::new(now), upid, bytes: *value, level });
            world.append(&METERS, batch.finish());
            readings.push((now, pid, *value, level));
            if then < 3 {
                world.seal();
            }
            if then == 0 {
                world.tidy();
            }
        }
        world.seal();
        let snapshot = world.store.snapshot(&METERS);
        prop_assert_eq!((snapshot.tiers.len(), snapshot.cubes.len()), (2, 0));
        for tier in &snapshot.tiers {
            let width = i64::try_from(tier.width.as_nanos()).unwrap();
            prop_assert_eq!(meters_kept(&world, tier), meters_plainly(&readings, width));
        }
    }

    #[test]
    fn every_cube_holds_every_row_once_through_any_seals_and_merges(
        hits in prop::collection::vec((hit(), 0..12_u8), 1..30),
    ) {
        let world = World::new(&[&HTTP_EVENTS], |config| config);
        let start = world.now();
        let mut waiting = Vec::new();
        for (hit, then) in &hits {
            waiting.push(hit.clone());
            if *then < 4 {
                world.append(&HTTP_EVENTS, batch_of(&waiting, start));
                waiting.clear();
                world.seal();
            }
            if *then == 0 {
                world.tidy();
            }
        }
        if !waiting.is_empty() {
            world.append(&HTTP_EVENTS, batch_of(&waiting, start));
        }
        world.seal();
        let hits: Vec<_> = hits.into_iter().map(|(hit, _)| hit).collect();
        let rows = batch_of(&hits, start);
        let snapshot = world.store.snapshot(&HTTP_EVENTS);
        prop_assert_eq!((snapshot.tiers.len(), snapshot.cubes.len()), (2, 6));
        for tier in all_views(&snapshot) {
            let exact = hits_plainly(&rows, tier.cube, tier.width);
            prop_assert_eq!(hits_kept(&world, tier), exact, "{:?} {:?}", tier.cube, tier.width);
        }
        // Of what was not merged more may still be there, never less and never what is faster.
        let exemplars = world.files(snapshot.exemplars.as_ref().unwrap());
        let mut all = BTreeMap::new();
        for (key, latencies) in exemplars.iter().flat_map(slowest) {
            let kept: &mut Vec<i64> = all.entry(key).or_default();
            kept.extend(latencies);
            kept.sort_unstable_by(|a, b| b.cmp(a));
            kept.truncate(2);
        }
        prop_assert_eq!(all, slowest(&rows));
    }
}

#[test]
fn a_full_window_folds_the_path_then_the_peer_then_the_place_and_services_stay_exact() {
    let world = World::new(&[&HTTP_EVENTS], |c| Config { groups_per_window_max: 3, ..c });
    let start = world.now();
    let hits: Vec<_> = (0..240)
        .map(|n: i64| Hit {
            second: 1,
            service: u8::try_from(n % 3).unwrap(),
            path: u8::try_from(n % 40).unwrap(),
            pod: u8::try_from(n % 8).unwrap(),
            failed: false,
            latency: n,
        })
        .collect();
    world.append(&HTTP_EVENTS, batch_of(&hits, start));
    world.seal();
    let rows = batch_of(&hits, start);
    let snapshot = world.store.snapshot(&HTTP_EVENTS);
    for tier in all_views(&snapshot) {
        let mut by_service = BTreeMap::new();
        for batch in world.files(tier) {
            for at in 0..batch.num_rows() {
                let key = key_of(&batch, at, int(&batch, "window_start", at), &["service"]);
                let sums: &mut (i64, i64) = by_service.entry(key).or_default();
                *sums = (sums.0 + int(&batch, "rows", at), sums.1 + int(&batch, "latency_sum", at));
            }
        }
        let mut exact = BTreeMap::new();
        for (key, kept) in hits_plainly(&rows, Cube::Service, tier.width) {
            let sums: &mut (i64, i64) = exact.entry((key.0, vec![key.1[2].clone()])).or_default();
            *sums = (sums.0 + kept.0, sums.1 + kept.3);
        }
        assert_eq!(by_service, exact, "{:?}", tier.cube);
    }
    let full = world.files(&snapshot.tiers[0]);
    let folded = |name: &str, at: usize| full[0][name].as_string::<i32>().value(at) == "*";
    for at in 0..full[0].num_rows() {
        let order = ["req_path_template", "req_method", "remote_pod", "remote_service", "pod"];
        let marks: Vec<_> = order.iter().map(|name| folded(name, at)).collect();
        assert!(marks.is_sorted_by(|a, b| a >= b), "what goes first is folded first: {marks:?}");
    }
    // At most three with each number of dimensions folded, and one a service with all of them.
    assert!(full[0].num_rows() <= 3 * 6 + 3, "{}", full[0].num_rows());
    let service = snapshot.cubes.iter().find(|tier| tier.cube == Cube::Service).unwrap();
    assert_eq!(hits_kept(&world, service), hits_plainly(&rows, Cube::Service, service.width));
    let losses = losses(world.dir.path(), &world.store);
    assert_eq!((losses[0].reason.as_str(), losses[0].rows), ("folded", 0));
}

#[test]
fn the_most_frequent_stacks_are_kept_and_the_rest_is_one() {
    let world = World::new(&[&STACK_TRACES], |config| config);
    let start = world.now();
    for round in 0..4_i64 {
        let mut batch = StackTraces::new(0);
        for stack in 0..300_i64 {
            let text = format!("main;f{stack}");
            batch.push(&StackTrace {
                time_: TimeNs::new(start + round * SECOND),
                stack_trace: &text,
                count: 1 + stack,
                service: "shop",
                ..StackTrace::default()
            });
        }
        world.append(&STACK_TRACES, batch.finish());
        world.seal();
    }
    world.tidy();
    let snapshot = world.store.snapshot(&STACK_TRACES);
    for tier in &snapshot.tiers {
        let batches = world.files(tier);
        let [batch] = batches.as_slice() else { panic!("{} segments", batches.len()) };
        assert_eq!(batch.num_rows(), 201);
        let stacks = batch["stack_trace"].as_string::<i32>();
        for at in 0..201 {
            let sum = int(batch, "count_sum", at);
            let own = stacks.value(at).strip_prefix("main;f").map(|n| n.parse::<i64>().unwrap());
            match own {
                Some(stack) => {
                    assert!(stack >= 100, "{stack} is not among the most frequent");
                    assert_eq!(sum, 4 * (1 + stack));
                }
                None => assert_eq!((stacks.value(at), sum), ("*", 4 * (1..=100).sum::<i64>())),
            }
        }
    }
}

#[test]
fn tiers_go_by_age_and_by_bytes_and_say_from_when_on_they_are_complete() {
    let rule = |tier: &str, age: Option<u64>, bytes_max| Retention {
        table: None,
        tier: Some(tier.to_owned()),
        age_max: age.map(Duration::from_secs),
        bytes_max,
    };
    let rules = vec![rule("10s", Some(120), None), rule("10s.service", None, Some(1))];
    let world = World::new(&[&HTTP_EVENTS], |c| Config { retention: rules, ..c });
    let start = TimeNs::new(world.now()).floor_to(Duration::from_mins(1)).get();
    let at = |second| {
        let of = |latency| Hit { second, service: 0, path: 0, pod: 0, failed: false, latency };
        batch_of(&[of(1), of(2)], start)
    };
    for second in [0, 100, 200] {
        world.append(&HTTP_EVENTS, at(second));
        world.seal();
    }
    world.clock.set(TimeNs::new(start + 221 * SECOND));
    world.tidy();
    let snapshot = world.store.snapshot(&HTTP_EVENTS);
    let since = |tier: &TierView| {
        let first = tier.segments.iter().map(|segment| segment.first_window.get()).min();
        (tier.segments.len(), first.map(|first| (first - start) / SECOND), tier.complete_from)
    };
    let never = TimeNs::new(i64::MIN);
    // The window of 100 s ends at 110 s and is then 111 s old: it stays.
    assert_eq!(since(&snapshot.tiers[0]), (2, Some(100), TimeNs::new(start + 10 * SECOND)));
    assert_eq!(since(&snapshot.tiers[1]), (1, Some(0), never), "three segments are one");
    let service = snapshot.cubes.iter().find(|tier| tier.cube == Cube::Service).unwrap();
    assert_eq!(since(service), (0, None, TimeNs::new(start + 210 * SECOND)));
    let endpoint = snapshot.cubes.iter().find(|tier| tier.cube == Cube::Endpoint).unwrap();
    assert_eq!(since(endpoint), since(&snapshot.tiers[0]), "a smaller summary goes with its width");
}

#[test]
fn versions_stay_as_long_as_a_tier_refers_to_them() {
    let version = |pid: u32, time: i64, stop: i64| {
        let mut batch = Processes::new(1);
        let upid = Upid::new(1, pid, 7);
        let (time_, stop_time) = (TimeNs::new(time), TimeNs::new(stop));
        batch.push(&ProcessVersion { time_, upid, stop_time, ..ProcessVersion::default() });
        batch.finish()
    };
    let hour = |tier: Option<&str>| Retention {
        table: None,
        tier: tier.map(str::to_owned),
        age_max: Some(Duration::from_hours(1)),
        bytes_max: None,
    };
    for (rules, expected) in [(vec![hour(None)], 2), (vec![hour(Some("10s"))], 4)] {
        let world = World::new(&[&HTTP_EVENTS, &PROCESSES], |c| Config { retention: rules, ..c });
        let start = world.now();
        world.append(&PROCESSES, version(1, start, 0));
        world.append(&PROCESSES, version(1, start + 5 * SECOND, 0));
        world.append(&PROCESSES, version(2, start, 0));
        world.append(&PROCESSES, version(2, start + 9 * SECOND, start + 9 * SECOND));
        world.append(&PROCESSES, version(3, start + 3700 * SECOND, 0));
        world.seal();
        world.clock.advance(Duration::from_secs(3700));
        world.tidy();
        let raw = world.store.snapshot(&PROCESSES).raw.unwrap();
        let rows: usize = world.files(&raw).iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, expected + usize::from(expected == 4));
    }
}

#[test]
fn what_an_older_version_wrote_reads_as_zero_in_new_columns_and_is_merged_so() {
    let mut world = World::new(&[&GROWN_BEFORE], |config| config);
    let time_ = TimeNs::new(world.now());
    for _ in 0..3 {
        let mut batch = GrownsBefore::new(1);
        batch.push(&GrownBefore { time_, service: "shop", latency: 5 });
        world.append(&GROWN_BEFORE, batch.finish());
        world.seal();
    }
    let World { runtime, dir, clock, store } = world;
    drop(store);
    let config = config(dir.path(), Arc::clone(&clock));
    let store = Config { tables: vec![&GROWN], segments_max: 2, ..config }.build().unwrap();
    world = World { runtime, dir, clock, store };
    let mut batch = Growns::new(1);
    batch.push(&GrownRow { time_, verb: "GET", service: "shop", latency: 7, size: 9 });
    world.append(&GROWN, batch.finish());
    world.seal();
    let before = world.store.snapshot(&GROWN).tiers[0].segments.len();
    world.tidy();
    let snapshot = world.store.snapshot(&GROWN);
    assert_eq!((before, snapshot.tiers[0].segments.len()), (4, 1));
    for tier in &snapshot.tiers {
        let batches = world.files(tier);
        let [batch] = batches.as_slice() else { panic!("{} segments", batches.len()) };
        let verbs = batch["verb"].as_string::<i32>();
        assert_eq!(verbs.iter().map(Option::unwrap).collect::<Vec<_>>(), ["", "GET"]);
        let ints = |name: &str| (int(batch, name, 0), int(batch, name, 1));
        assert_eq!(ints("rows"), (3, 1));
        assert_eq!(ints("latency_sum"), (15, 7));
        assert_eq!((ints("size_sum"), ints("size_max")), ((0, 9), (0, 9)));
    }
    let raw = snapshot.raw.unwrap();
    let sizes: Vec<_> = world
        .files(&raw)
        .iter()
        .flat_map(|batch| batch["size"].as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(sizes.iter().sum::<i64>(), 9);
    assert_eq!(sizes.len(), 4);
    assert!(raw.schema.fields().iter().all(|field| field.data_type() != &DataType::UInt64));
}
