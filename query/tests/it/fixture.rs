//! A store with known rows, an engine over it, and answers as text.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use undine_query::{Answer, Config, Engine, Error, Request, ResultTable};
use undine_schema::tables::{
    ALL, CONN_STATS, ConnStat, ConnStats, HTTP_EVENTS, HttpEvent, HttpEvents, PROCESSES,
    ProcessVersion, Processes,
};
use undine_schema::trace::Tracer;
use undine_schema::{Append, Frame, ManualClock, TimeNs, Upid};
use undine_store::Store;

/// The start of a minute; every row is at or after it.
pub(crate) const START: i64 = 1_700_000_040_000_000_000;
pub(crate) const SECOND: i64 = 1_000_000_000;

pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
}

/// A store that keeps `hot_bytes_max` of rows in memory, and single rows on disk for `raw_for`.
pub(crate) fn fixture(hot_bytes_max: usize, raw_for: Option<Duration>) -> Fixture {
    fixture_of(|config| undine_store::Config { hot_bytes_max, raw_for, ..config })
}

/// A store with some settings changed, ten minutes after [`START`].
pub(crate) fn fixture_of(
    change: impl FnOnce(undine_store::Config) -> undine_store::Config,
) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(TimeNs::new(START + 600 * SECOND)));
    let store = change(config(dir.path(), &clock)).build().unwrap();
    let engine = engine(&store, &clock, None, 1);
    Fixture { store, engine, clock, _dir: dir }
}

/// An empty store, and an engine that has functions traced by `tracer`.
pub(crate) fn fixture_with_tracer(tracer: Option<Arc<dyn Tracer>>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(TimeNs::new(START + 600 * SECOND)));
    let store = config(dir.path(), &clock).build().unwrap();
    let engine = engine(&store, &clock, tracer, 1);
    Fixture { store, engine, clock, _dir: dir }
}

pub(crate) fn config(dir: &Path, clock: &Arc<ManualClock>) -> undine_store::Config {
    undine_store::Config {
        dir: dir.to_owned(),
        node: "node-1".to_owned(),
        tables: ALL.to_vec(),
        followed: Vec::new(),
        hot_bytes_max: 4 << 20,
        hot_budgets: Vec::new(),
        hot_pinned_bytes_max: 64 << 20,
        log_queue_bytes_max: 64 << 20,
        log_sync_interval: Duration::from_millis(50),
        commit_interval: Duration::from_millis(1),
        seal_interval: Duration::from_mins(1),
        tiers: vec![Duration::from_secs(10), Duration::from_mins(1)],
        raw_for: None,
        retention: Vec::new(),
        groups_per_window_max: 1000,
        segments_max: 100,
        merge_bytes_per_second_max: None,
        deleted_files_for: Duration::from_hours(1),
        bucket: None,
        on_damage: undine_store::OnDamage::SetAside,
        clock: Arc::<ManualClock>::clone(clock),
    }
}

pub(crate) fn engine(
    store: &Store,
    clock: &Arc<ManualClock>,
    tracer: Option<Arc<dyn Tracer>>,
    partitions: usize,
) -> Engine {
    Config {
        store: store.clone(),
        clock: Arc::<ManualClock>::clone(clock),
        node: "node-1".to_owned(),
        cluster: "lab".to_owned(),
        profiler_period: Some(Duration::from_millis(20)),
        memory_bytes_max: 256 << 20,
        timeout: Duration::from_mins(1),
        runs_max: 4,
        rows_max: 10_000,
        script_bytes_max: 128 << 10,
        depth_max: 100,
        nodes_max: 4000,
        partitions,
        tracer,
    }
    .build()
    .unwrap()
}

/// Request number `i`: every 50 ms one, of three services, with every kind of result.
pub(crate) fn requests(numbers: std::ops::Range<i64>) -> Frame {
    requests_with_bodies(numbers, || "x".repeat(300))
}

/// As [`requests`], with bodies that take their room on disk too.
pub(crate) fn requests_with_noise(numbers: std::ops::Range<i64>) -> Frame {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut word = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        format!("{random:016x}")
    };
    requests_with_bodies(numbers, || (0..20).map(|_| word()).collect())
}

fn requests_with_bodies(numbers: std::ops::Range<i64>, mut body: impl FnMut() -> String) -> Frame {
    let mut rows = HttpEvents::new(0);
    for i in numbers {
        let body = body();
        let service = ["cart", "shop", "front"][usize::try_from(i % 3).unwrap()];
        let path = format!("/item/{}?page={i}", i % 7);
        rows.push(&HttpEvent {
            time_: TimeNs::new(START + i * 50_000_000),
            upid: Upid::new(1, 100 + u32::try_from(i % 3).unwrap(), 7),
            remote_addr: if i % 5 == 0 { "-" } else { "10.0.0.9" },
            remote_port: 40_000 + i % 10,
            local_addr: "10.0.0.1",
            local_port: 8080,
            trace_role: if i % 4 == 0 { 1 } else { 2 },
            major_version: 1,
            minor_version: 1,
            req_headers: r#"{"Host":"shop"}"#,
            req_method: if i % 2 == 0 { "GET" } else { "POST" },
            req_path: &path,
            req_body: &body,
            req_body_size: i % 100,
            resp_headers: "{}",
            resp_status: [200, 200, 200, 404, 500][usize::try_from(i * 7 % 5).unwrap()],
            resp_message: "OK",
            resp_body: "{}",
            resp_body_size: 1000 + i % 13,
            latency: 1_000_000 + (i * 7919 % 1009) * 10_000,
            service,
            node: "node-1",
            remote_service: "client",
            req_path_template: "/item/*",
            ..HttpEvent::default()
        });
    }
    Frame::captured(&HTTP_EVENTS, rows.finish())
}

/// Three processes and their traffic.
pub(crate) fn identities() -> [Frame; 2] {
    let mut processes = Processes::new(0);
    let mut traffic = ConnStats::new(0);
    for (at, service) in ["cart", "shop", "front"].into_iter().enumerate() {
        let upid = Upid::new(1, 100 + u32::try_from(at).unwrap(), 7);
        let cmdline = format!("/usr/bin/{service} --serve");
        processes.push(&ProcessVersion {
            time_: TimeNs::new(START),
            upid,
            pid: 100 + i64::try_from(at).unwrap(),
            comm: service,
            cmdline: &cmdline,
            service,
            node: "node-1",
            ..ProcessVersion::default()
        });
        for step in 0..10_i64 {
            traffic.push(&ConnStat {
                time_: TimeNs::new(START + step * 10 * SECOND),
                upid,
                remote_addr: "10.0.0.9",
                remote_port: 0,
                trace_role: 2,
                addr_family: 2,
                protocol: 1,
                conn_open: step,
                bytes_sent: step * 1000,
                bytes_recv: step * 10,
                service,
                node: "node-1",
                ..ConnStat::default()
            });
        }
    }
    [
        Frame::captured(&PROCESSES, processes.finish()),
        Frame::captured(&CONN_STATS, traffic.finish()),
    ]
}

impl Fixture {
    pub(crate) fn append(&self, frame: Frame) {
        drop(self.store.append(frame).unwrap());
    }

    /// An engine over the same store that uses as many cores.
    pub(crate) fn engine_of_cores(&self, cores: usize) -> Engine {
        engine(&self.store, &self.clock, None, cores)
    }

    pub(crate) async fn run(&self, script: &str) -> Result<Answer, Error> {
        run(&self.engine, script).await
    }

    /// The answer as text, each table with its rows sorted.
    pub(crate) async fn sorted(&self, script: &str) -> String {
        let answer = self.run(script).await;
        let answer = answer.unwrap_or_else(|error| panic!("{script}\n{error}: {error:?}"));
        answer.tables.iter().map(|table| text(table, Order::Sorted)).collect()
    }
}

/// Runs a script.
pub(crate) async fn run(engine: &Engine, script: &str) -> Result<Answer, Error> {
    engine.run(Request { script: script.to_owned(), ..Request::default() }).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Sorted,
    AsGiven,
}

/// A table as text: its name and columns, then a row a line.
pub(crate) fn text(table: &ResultTable, order: Order) -> String {
    let names: Vec<_> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut out = format!("{}: {}\n", table.name, names.join(" | "));
    let options = FormatOptions::default();
    let mut lines = Vec::new();
    for batch in &table.batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<_> = columns.iter().map(|c| c.value(row).to_string()).collect();
            lines.push(cells.join(" | "));
        }
    }
    if order == Order::Sorted {
        lines.sort();
    }
    for line in lines {
        writeln!(out, "{line}").unwrap();
    }
    out
}
