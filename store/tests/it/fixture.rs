//! Tables, rows and an independent reading of what a store holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use undine_schema::tables::DATA_LOSS;
use undine_schema::{ManualClock, Seq, SystemClock, TableDef, TimeNs, Upid};
use undine_store::sketch::Sketch;
use undine_store::{Config, OnDamage, Snapshot, Store, TierView};

undine_schema::table! {
    /// Requests of a test.
    REQUESTS = "requests": Event, Request, Requests {
        /// When.
        time_: Time [time],
        /// Who.
        service: ServiceName [dimension, context],
        /// Where.
        path: Text,
        /// Which process.
        upid: Process [dimension],
        /// Whether it was encrypted.
        tls: Flag [dimension],
        /// With which result.
        status: Int [dimension],
        /// The path's template.
        template: Text [dimension, context, template_of("path")],
        /// How much.
        size: ByteCount [measure],
        /// How long.
        latency: DurationNs [sketched],
        /// A share.
        ratio: Float [sketched],
    }
}

undine_schema::table! {
    /// Notes of a test, under a name that is hard on folders.
    NOTES = "notes.Beta": Record, Note, Notes {
        /// When.
        time_: Time [time],
        /// Its number.
        id: Int,
        /// By which process.
        upid: Process,
        /// What it says.
        text: Text,
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn config(dir: &Path, clock: Arc<ManualClock>) -> Config {
    Config {
        dir: dir.to_owned(),
        node: "node-1".to_owned(),
        tables: vec![&REQUESTS, &NOTES],
        followed: vec![&REQUESTS, &NOTES],
        hot_bytes_max: 64 << 20,
        hot_budgets: Vec::new(),
        hot_pinned_bytes_max: 64 << 20,
        log_queue_bytes_max: 64 << 20,
        log_sync_interval: Duration::from_millis(200),
        commit_interval: Duration::from_millis(1),
        seal_interval: Duration::from_mins(1),
        tiers: vec![Duration::from_secs(10), Duration::from_mins(1)],
        raw_for: Some(Duration::from_hours(1)),
        retention: Vec::new(),
        groups_per_window_max: 1000,
        segments_max: 3,
        merge_bytes_per_second_max: None,
        deleted_files_for: Duration::from_mins(1),
        bucket: None,
        on_damage: OnDamage::SetAside,
        clock,
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(TimeNs::new(1_700_000_000_000_000_000)))
}

pub(crate) fn real_time(config: Config) -> Config {
    Config { clock: Arc::new(SystemClock), ..config }
}

/// What a test knows of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) time: i64,
    pub(crate) kind: u8,
    pub(crate) value: i64,
    pub(crate) path_bytes: usize,
}

impl Row {
    pub(crate) fn service(&self) -> &'static str {
        ["cart", "shop", ""][usize::from(self.kind) % 3]
    }

    fn template(&self) -> String {
        format!("/item/{}", self.kind % 5)
    }

    fn status(&self) -> i64 {
        [200, 404, 500][usize::from(self.kind) % 3]
    }

    fn ratio(&self) -> f64 {
        f64::from(i32::try_from(self.value % 1000).unwrap()) * 0.25 - 50.0
    }
}

pub(crate) fn requests(rows: &[Row]) -> RecordBatch {
    let mut builder = Requests::new(rows.len());
    for row in rows {
        let path = "x".repeat(row.path_bytes);
        builder.push(&Request {
            time_: TimeNs::new(row.time),
            service: row.service(),
            path: &path,
            upid: Upid::new(1, u32::from(row.kind % 2), 7),
            tls: row.kind % 2 == 0,
            status: row.status(),
            template: &row.template(),
            size: row.value,
            latency: row.value * 1000,
            ratio: row.ratio(),
        });
    }
    builder.finish()
}

pub(crate) fn notes(ids: &[i64], at: i64) -> RecordBatch {
    let mut builder = Notes::new(ids.len());
    for &id in ids {
        let upid = Upid::new(1, 2, 3);
        builder.push(&Note { time_: TimeNs::new(at), id, upid, text: "a note" });
    }
    builder.finish()
}

/// The states of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    rows: i64,
    times: (i64, i64),
    sizes: (i64, i64, i64),
    latencies: (i64, i64, i64),
    ratios: (f64, f64, f64),
    latency: Sketch,
    ratio: Sketch,
}

pub(crate) type Groups = BTreeMap<(i64, String, i64, String, bool), State>;

/// The states of rows, straight from their definition.
pub(crate) fn groups_of<'a>(rows: impl Iterator<Item = &'a Row>, width: Duration) -> Groups {
    let mut groups = Groups::new();
    for row in rows {
        let window = TimeNs::new(row.time).floor_to(width).get();
        let key =
            (window, row.service().to_owned(), row.status(), row.template(), row.kind % 2 == 0);
        let mut one = State { rows: 1, times: (row.time, row.time), ..State::default() };
        one.sizes = (row.value, row.value, row.value);
        let latency = row.value * 1000;
        one.latencies = (latency, latency, latency);
        one.ratios = (row.ratio(), row.ratio(), row.ratio());
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        one.latency.add(latency as f64);
        one.ratio.add(row.ratio());
        merge(&mut groups, key, &one);
    }
    groups
}

fn merge(groups: &mut Groups, key: (i64, String, i64, String, bool), other: &State) {
    let Some(state) = groups.get_mut(&key) else {
        groups.insert(key, other.clone());
        return;
    };
    state.rows += other.rows;
    state.times = (state.times.0.min(other.times.0), state.times.1.max(other.times.1));
    for (a, b) in [(&mut state.sizes, &other.sizes), (&mut state.latencies, &other.latencies)] {
        *a = (a.0 + b.0, a.1.min(b.1), a.2.max(b.2));
    }
    let (a, b) = (state.ratios, other.ratios);
    state.ratios = (a.0 + b.0, a.1.min(b.1), a.2.max(b.2));
    state.latency.merge(&other.latency);
    state.ratio.merge(&other.ratio);
}

/// The states of a tier and the hot rows above it, read as another engine would.
pub(crate) fn groups_in(dir: &Path, snapshot: &Snapshot, tier: &TierView) -> Groups {
    let mut groups = groups_of(hot_rows(snapshot, tier.sealed_to).values(), tier.width);
    for batch in files(dir, tier) {
        assert_eq!(batch.schema().fields(), tier.schema.fields(), "the schema is as it says");
        let int = |name: &str| batch[name].as_primitive::<Int64Type>().clone();
        let float = |name: &str| batch[name].as_primitive::<Float64Type>().clone();
        let sketch = |name: &str, at: usize| {
            let part = |part: &str| batch.column_by_name(&format!("{name}_sketch_{part}")).unwrap();
            let (keys, counts) = (part("keys"), part("counts"));
            let (keys, counts) =
                (keys.as_list::<i32>().value(at), counts.as_list::<i32>().value(at));
            let keys = keys.as_primitive::<Int32Type>().values().to_vec();
            Sketch::from_parts(&keys, counts.as_primitive::<Int64Type>().values()).unwrap()
        };
        for at in 0..batch.num_rows() {
            let window = int("window_start").value(at);
            let key = (
                window,
                batch["service"].as_string::<i32>().value(at).to_owned(),
                int("status").value(at),
                batch["template"].as_string::<i32>().value(at).to_owned(),
                batch["tls"].as_boolean().value(at),
            );
            let ints = |m: &str| {
                let state = |state: &str| int(&format!("{m}_{state}")).value(at);
                (state("sum"), state("min"), state("max"))
            };
            let floats = |m: &str| {
                let state = |state: &str| float(&format!("{m}_{state}")).value(at);
                (state("sum"), state("min"), state("max"))
            };
            let state = State {
                rows: int("rows").value(at),
                times: (int("first_time").value(at), int("last_time").value(at)),
                sizes: ints("size"),
                latencies: ints("latency"),
                ratios: floats("ratio"),
                latency: sketch("latency", at),
                ratio: sketch("ratio", at),
            };
            merge(&mut groups, key, &state);
        }
    }
    groups
}

/// The hot rows above a place.
pub(crate) fn hot_rows(snapshot: &Snapshot, above: Seq) -> BTreeMap<Seq, Row> {
    let mut rows = BTreeMap::new();
    for slice in snapshot.hot() {
        assert_eq!(slice.seqs.rows(), slice.rows.num_rows() as u64);
        for (at, row) in rows_of(&slice.rows).into_iter().enumerate() {
            let seq = Seq::from_raw(slice.seqs.first.raw() + at as u64);
            if seq > above {
                assert_eq!(rows.insert(seq, row), None, "a place holds one row");
            }
        }
    }
    rows
}

/// The rows of a batch of requests.
pub(crate) fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let int = |name: &str| batch[name].as_primitive::<Int64Type>().clone();
    let paths = batch["path"].as_string::<i32>();
    let templates = batch["template"].as_string::<i32>();
    (0..batch.num_rows())
        .map(|at| {
            let fifth: u8 = templates.value(at)["/item/".len()..].parse().unwrap();
            let third = [200, 404, 500].iter().position(|&s| s == int("status").value(at)).unwrap();
            let even = batch["tls"].as_boolean().value(at);
            let kind = (0..30).find(|kind| {
                kind % 5 == fifth && usize::from(kind % 3) == third && (kind % 2 == 0) == even
            });
            Row {
                time: int("time_").value(at),
                kind: kind.unwrap(),
                value: int("size").value(at),
                path_bytes: paths.value(at).len(),
            }
        })
        .collect()
}

/// The batches of a tier's files.
pub(crate) fn files(dir: &Path, tier: &TierView) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for segment in tier.segments.iter() {
        let path = dir.join("tables").join(segment.path.as_ref());
        let file = fs::File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), segment.bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let read: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(read.iter().map(|b| b.num_rows() as u64).sum::<u64>(), segment.rows);
        batches.extend(read);
    }
    batches
}

/// The integers of a column over raw files and the hot rows above them.
pub(crate) fn integers(dir: &Path, snapshot: &Snapshot, column: &str) -> Vec<i64> {
    let raw = snapshot.raw.as_ref();
    let above = raw.map_or(Seq::ZERO, |raw| raw.sealed_to);
    let mut values = Vec::new();
    for batch in raw.iter().flat_map(|raw| files(dir, raw)) {
        values.extend(batch[column].as_primitive::<Int64Type>().values());
    }
    for slice in snapshot.hot() {
        let all = slice.rows[column].as_primitive::<Int64Type>();
        for at in 0..all.len() {
            if slice.seqs.first.raw() + at as u64 > above.raw() {
                values.push(all.value(at));
            }
        }
    }
    values.sort_unstable();
    values
}

/// One row of `data_loss`.
#[derive(Clone, Debug)]
pub(crate) struct LossRow {
    pub(crate) table: String,
    pub(crate) reason: String,
    pub(crate) rows: i64,
    pub(crate) detail: String,
}

/// All rows of `data_loss`.
pub(crate) fn losses(dir: &Path, store: &Store) -> Vec<LossRow> {
    let snapshot = store.snapshot(&DATA_LOSS);
    let raw = snapshot.raw.as_ref().unwrap();
    let mut batches = files(dir, raw);
    for slice in snapshot.hot() {
        if slice.seqs.first > raw.sealed_to {
            batches.push(slice.rows.clone());
        } else {
            assert!(slice.seqs.last <= raw.sealed_to, "a chunk of data_loss is sealed in part");
        }
    }
    let mut losses = Vec::new();
    for batch in batches {
        let text = |name: &str, at| batch[name].as_string::<i32>().value(at).to_owned();
        for at in 0..batch.num_rows() {
            assert_eq!(text("stage", at), "store");
            losses.push(LossRow {
                table: text("source_table", at),
                reason: text("reason", at),
                rows: batch["rows_max"].as_primitive::<Int64Type>().value(at),
                detail: text("detail", at),
            });
        }
    }
    losses
}

/// The places that `data_loss` says are missing of a table.
pub(crate) fn lost_places(dir: &Path, store: &Store, table: &TableDef) -> BTreeSet<Seq> {
    let mut places = BTreeSet::new();
    for loss in losses(dir, store) {
        if loss.table != table.name || loss.reason == "folded" {
            continue;
        }
        let before = places.len();
        for range in loss.detail.strip_prefix("rows ").unwrap().split(", ") {
            let (first, last) = range.split_once(" to ").unwrap();
            places.extend((place(first).raw()..=place(last).raw()).map(Seq::from_raw));
        }
        let spelt = i64::try_from(places.len() - before).unwrap();
        assert_eq!(loss.rows, spelt, "the count is exact: {loss:?}");
    }
    places
}

fn place(text: &str) -> Seq {
    let (life, counter) = text.split_once('.').unwrap();
    Seq::from_raw(life.parse::<u64>().unwrap() << 48 | counter.parse::<u64>().unwrap())
}

/// A copy of a folder, as `kill -9` would leave it.
pub(crate) fn copy(from: &Path, to: &Path) {
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
