//! How many rows a second one core takes: to memory with the log, to Parquet, and all the way.
//!
//! ```text
//! prebuilt batches ─► append ─► memory ─► log, synced        "to memory with the log"
//!                                   └───► raw segments       "flush"
//!                                   └───► raw segments and summaries; with the append "all the way"
//! ```
//!
//! A figure is rows by the CPU time of this whole process, so that threads hide nothing. Every stage
//! runs for requests of eight columns, the same that peers get in the same run, and the first and
//! last also for whole `http_events`.

mod peers;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{Frame, TableDef, TimeNs, Upid};
use undine_store::{Config, Store};

use crate::cpu::cpu_time;
use crate::random::Random;
use crate::report::Report;
use crate::stage;

/// Rows that are appended at a time.
const BATCH_ROWS: u32 = 4096;
/// Rows that a second of the simulated time holds.
pub(crate) const ROWS_PER_SECOND: i64 = 100_000;
pub(crate) const START_NS: i64 = 1_790_000_000_000_000_000;

const TO_MEMORY_MIN: f64 = 1e6;
const FLUSH_MIN: f64 = 5e6;
const FLUSHED_ROW_BYTES_MAX: f64 = 12.0;
const ALL_THE_WAY_MIN: f64 = 400e3;

undine_schema::table! {
    /// Requests of eight columns, summarised as events are.
    INGEST_EVENTS = "ingest_events": Event, IngestEvent, IngestEvents {
        /// When.
        time_: Time [time],
        /// Of which service.
        service: ServiceName [dimension],
        /// Of which process.
        upid: Process,
        /// From where.
        remote_addr: IpAddress,
        /// What was asked for.
        req_path: Text [dimension],
        /// With which result.
        resp_status: HttpStatus [dimension],
        /// How long it took.
        latency: DurationNs [sketched],
        /// How much came back.
        resp_body_size: ByteCount [measure],
    }
}

undine_schema::table! {
    /// The same requests, of which only the rows are kept.
    INGEST_ROWS = "ingest_rows": Record, IngestRow, IngestRows {
        /// When.
        time_: Time [time],
        /// Of which service.
        service: ServiceName [dimension],
        /// Of which process.
        upid: Process,
        /// From where.
        remote_addr: IpAddress,
        /// What was asked for.
        req_path: Text [dimension],
        /// With which result.
        resp_status: HttpStatus [dimension],
        /// How long it took.
        latency: DurationNs [sketched],
        /// How much came back.
        resp_body_size: ByteCount [measure],
    }
}

/// What one stage took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu: Duration,
    wall: Duration,
}

/// The stages of one table, in their order.
#[derive(Clone, Copy, Debug)]
struct Stages {
    append: Cost,
    seal: Cost,
    /// Bytes of all files.
    file_bytes: u64,
    log_bytes: u64,
    hot_bytes: u64,
    refused_frames: u64,
}

pub(crate) fn run(rows: u32, rounds: u32, with_peers: bool) -> Result<Report> {
    ensure!(
        rows >= BATCH_ROWS && rounds > 0,
        "at least {BATCH_ROWS} rows and one round are needed"
    );
    let rows = rows / BATCH_ROWS * BATCH_ROWS;
    let mut report = Report::new("ingest");
    report.count("rows", u64::from(rows));
    let mut best: [Option<Stages>; 3] = [None; 3];
    for _ in 0..rounds {
        for (best, table) in best.iter_mut().zip([&INGEST_EVENTS, &INGEST_ROWS, &HTTP_EVENTS]) {
            let stages =
                stages_of(table, rows).with_context(|| format!("ingest {}", table.name))?;
            let better = best.is_none_or(|best| stages.total().cpu < best.total().cpu);
            *best = if better { Some(stages) } else { *best };
        }
    }
    let [Some(events), Some(plain), Some(whole)] = best else { return Ok(report) };
    note(&mut report, "eight_columns", rows, &events);
    note(&mut report, "eight_columns_rows_only", rows, &plain);
    note(&mut report, "http_events", rows, &whole);

    let at_least = |report: &mut Report, name: &str, value: f64, target: f64| {
        report.check(name, format!("{value:.0}"), format!("at least {target:.0}"), value >= target);
    };
    let rows_by = |cost: Cost| f64::from(rows) / cost.cpu.as_secs_f64();
    at_least(
        &mut report,
        "rows/s/core to memory with the log",
        rows_by(events.append),
        TO_MEMORY_MIN,
    );
    at_least(&mut report, "rows/s/core of a flush to Parquet", rows_by(plain.seal), FLUSH_MIN);
    at_least(&mut report, "rows/s/core all the way", rows_by(events.total()), ALL_THE_WAY_MIN);
    #[expect(clippy::cast_precision_loss, reason = "bytes of files stay far below 2^53")]
    let row_bytes = plain.file_bytes as f64 / f64::from(rows);
    let small = row_bytes <= FLUSHED_ROW_BYTES_MAX;
    let target = format!("at most {FLUSHED_ROW_BYTES_MAX}");
    report.check("bytes of a flushed row", format!("{row_bytes:.1}"), target, small);
    if with_peers {
        peers::run(&mut report, rows, rows_by(plain.total()), &|dir| flushed(dir, rows))?;
    }
    Ok(report)
}

/// Puts figures in the report under the table's name.
fn note(report: &mut Report, name: &str, rows: u32, stages: &Stages) {
    let rows = f64::from(rows);
    for (stage, cost) in
        [("append", stages.append), ("seal", stages.seal), ("all_the_way", stages.total())]
    {
        report.figure(format!("{name}_{stage}_rows_per_core_s"), rows / cost.cpu.as_secs_f64());
        report.figure(format!("{name}_{stage}_rows_per_s"), rows / cost.wall.as_secs_f64());
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes stay far below 2^53")]
    for (what, bytes) in
        [("file", stages.file_bytes), ("log", stages.log_bytes), ("memory", stages.hot_bytes)]
    {
        report.figure(format!("{name}_{what}_bytes_a_row"), bytes as f64 / rows);
    }
    report.count(format!("{name}_waits_for_the_log"), stages.refused_frames);
}

impl Stages {
    fn total(&self) -> Cost {
        let (append, seal) = (self.append, self.seal);
        Cost { cpu: append.cpu + seal.cpu, wall: append.wall + seal.wall }
    }
}

/// Appends rows to a store of their own and seals them.
fn stages_of(table: &'static TableDef, rows: u32) -> Result<Stages> {
    let dir = tempfile::tempdir()?;
    let batches = batches(table, rows);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = open(dir.path())?;
    let append = measure(|| {
        append_all(&store, table, batches)?;
        Ok(runtime.block_on(store.sync())?)
    })?;
    let (log_bytes, hot_bytes) = (store.stats().log_bytes, store.stats().hot_bytes);
    let seal = measure(|| {
        let sealed = runtime.block_on(store.seal())?;
        ensure!(sealed.rows >= u64::from(rows), "{} of {rows} rows were sealed", sealed.rows);
        Ok(())
    })?;
    let stats = store.stats();
    let about = stats.table(table.name).context("the store does not know the table")?;
    ensure!(about.evicted_rows == 0, "{} rows were evicted unsealed", about.evicted_rows);
    let (file_bytes, refused_frames) = (about.segment_bytes, stats.refused_frames);
    Ok(Stages { append, seal, file_bytes, log_bytes, hot_bytes, refused_frames })
}

/// Writes the rows that peers are to take into a folder, and names the files.
fn flushed(dir: &Path, rows: u32) -> Result<Vec<std::path::PathBuf>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = open(dir)?;
    append_all(&store, &INGEST_ROWS, batches(&INGEST_ROWS, rows))?;
    runtime.block_on(store.seal())?;
    let raw = store.snapshot(&INGEST_ROWS).raw.context("rows are kept")?;
    let file = |segment: &undine_store::Segment| dir.join("tables").join(segment.path.as_ref());
    Ok(raw.segments.iter().map(file).collect())
}

fn append_all(store: &Store, table: &'static TableDef, batches: Vec<RecordBatch>) -> Result<()> {
    for batch in batches {
        stage::append(store, &Frame::captured(table, batch))?;
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Store> {
    let config = Config {
        tables: vec![&INGEST_EVENTS, &INGEST_ROWS, &HTTP_EVENTS],
        hot_pinned_bytes_max: 1 << 30,
        raw_for: Some(Duration::from_hours(6)),
        groups_per_window_max: 100_000,
        ..stage::store_config(dir, 8 << 30)
    };
    config.build().context("cannot open the store")
}

fn measure(stage: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (before, start) = (cpu_time()?, Instant::now());
    stage()?;
    Ok(Cost { cpu: cpu_time()?.saturating_sub(before), wall: start.elapsed() })
}

/// The rows in batches, the same in every run.
pub(crate) fn batches(table: &TableDef, rows: u32) -> Vec<RecordBatch> {
    let names = Names::new();
    let (mut events, mut plain, mut whole) = (
        IngestEvents::new(BATCH_ROWS as usize),
        IngestRows::new(BATCH_ROWS as usize),
        HttpEvents::new(BATCH_ROWS as usize),
    );
    let mut batches = Vec::new();
    for number in 0..rows {
        let row = Request::number(number, &names);
        match table.name {
            "ingest_events" => events.push(&IngestEvent {
                time_: row.time,
                service: row.service,
                upid: row.upid,
                remote_addr: row.addr,
                req_path: row.path,
                resp_status: row.status,
                latency: row.latency,
                resp_body_size: row.bytes,
            }),
            "ingest_rows" => plain.push(&IngestRow {
                time_: row.time,
                service: row.service,
                upid: row.upid,
                remote_addr: row.addr,
                req_path: row.path,
                resp_status: row.status,
                latency: row.latency,
                resp_body_size: row.bytes,
            }),
            _ => whole.push(&row.whole()),
        }
        if (number + 1) % BATCH_ROWS == 0 {
            batches.push(match table.name {
                "ingest_events" => events.finish(),
                "ingest_rows" => plain.finish(),
                _ => whole.finish(),
            });
        }
    }
    batches
}

/// The texts that requests hold.
struct Names {
    services: Vec<String>,
    addrs: Vec<String>,
    paths: Vec<String>,
}

impl Names {
    fn new() -> Self {
        let of = |number: u32, name: &dyn Fn(u32) -> String| (0..number).map(name).collect();
        let area = |n: u32| ["users", "orders", "cart", "items", "search"][n as usize % 5];
        Self {
            services: of(20, &|n| format!("default/svc-{n:02}")),
            addrs: of(4096, &|n| format!("10.{}.{}.{}", n >> 8, n & 255, n * 7 % 250 + 1)),
            paths: of(200, &|n| format!("/api/v1/{}/op-{n:03}", area(n))),
        }
    }
}

struct Request<'a> {
    time: TimeNs,
    service: &'a str,
    upid: Upid,
    addr: &'a str,
    path: &'a str,
    status: i64,
    latency: i64,
    bytes: i64,
}

impl<'a> Request<'a> {
    /// A request: 20 services, 60 processes, 4096 peers, 200 paths of which few are frequent, 1.5 %
    /// errors, a latency with a long tail, up to 50 ms out of order.
    fn number(number: u32, names: &'a Names) -> Self {
        let mut noise = Random(u64::from(number));
        let mut below = |count: u32| u32::try_from(noise.below(count.into())).unwrap_or(u32::MAX);
        let process = below(60);
        // The product of two even draws leans to small numbers, as the ranks of paths do.
        let path = below(200) * below(200) / 200;
        let status = match below(1000) {
            0..860 => 200,
            860..890 => 201,
            890..910 => 204,
            910..940 => 304,
            940..960 => 400,
            960..985 => 404,
            985..995 => 500,
            _ => 503,
        };
        let due = i64::from(number) * (1_000_000_000 / ROWS_PER_SECOND);
        let time = START_NS + due + i64::from(below(50_000_000));
        let upid = Upid::new(1 + process % 4, 1000 + process * 37, u64::from(17_000_000 + process));
        let tail = if below(250) == 0 { 20 } else { 1 };
        let spread = i64::from(below(1000)) * i64::from(below(1000));
        Self {
            time: TimeNs::new(time),
            service: &names.services[process as usize % 20],
            upid,
            addr: &names.addrs[below(4096) as usize],
            path: &names.paths[path as usize],
            status,
            latency: (300_000 + spread * (5 + i64::from(process % 20)) + i64::from(below(999)))
                * tail,
            bytes: 20 + i64::from(below(4000)) * i64::from(below(100)) / 60,
        }
    }

    fn whole(&self) -> HttpEvent<'a> {
        HttpEvent {
            time_: self.time,
            upid: self.upid,
            remote_addr: self.addr,
            remote_port: 32_768 + self.bytes % 28_000,
            local_addr: "10.0.0.1",
            local_port: 8080,
            trace_role: 2,
            major_version: 1,
            minor_version: 1,
            content_type: 1,
            req_headers: r#"{"Host":"shop.example","Accept":"*/*","User-Agent":"curl/8.5.0"}"#,
            req_method: "GET",
            req_path: self.path,
            resp_headers: r#"{"Content-Type":"application/json","Server":"nginx"}"#,
            resp_status: self.status,
            resp_message: "OK",
            resp_body_size: self.bytes,
            latency: self.latency,
            req_path_template: self.path,
            service: self.service,
            node: "evals",
            ..HttpEvent::default()
        }
    }
}
