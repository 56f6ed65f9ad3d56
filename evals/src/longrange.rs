//! A year of summaries: what a question over all of it takes, and what it takes on disk.
//!
//! Every day each endpoint of each service has requests in some of its hours; the store's clock is
//! set day by day, and each day is sealed and tidied as in life. The questions are asked of a store
//! and an engine that were just opened, so that no footer and no page is in their caches.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use undine::appliance::question;
use undine_query::{Engine, ResultTable};
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{Append, Durability, Frame, ManualClock, TimeNs, Upid};
use undine_store::Store;

use crate::random::Random;
use crate::report::{Report, ratio};
use crate::stage;

const HOUR: i64 = 3_600_000_000_000;
const DAY: i64 = 24 * HOUR;
/// Midnight, a whole number of days after the epoch.
const START: i64 = 20_000 * DAY;
/// Times that each question is asked, each of a store and an engine that were just opened.
const RUNS: u32 = 3;
/// Rows of a batch.
const BATCH_ROWS: usize = 16 * 1024;
const HOT_BYTES_MAX: usize = 1 << 30;
/// Rows that are sealed together, which fit into that.
const SEALED_ROWS: u64 = 500_000;
/// Days from which on the coarsest summary has to answer.
const LONG_DAYS: u32 = 100;

/// What the year is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) days: u32,
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    /// Hours of each day that have requests.
    pub(crate) hours: u32,
    /// Requests of an endpoint in such an hour.
    pub(crate) requests: u32,
}

pub(crate) fn run(options: Options) -> Result<Report> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let mut report = Report::new("longrange");
    let clock = Arc::new(ManualClock::new(TimeNs::new(START)));
    runtime.block_on(async {
        write(options, dir.path(), &clock, &mut report).await?;
        ask(options, dir.path(), &clock, &mut report).await
    })?;
    Ok(report)
}

/// A store that keeps raw rows for as long as everything else, so that their bytes can be compared.
fn open(dir: &Path, clock: &Arc<ManualClock>) -> Result<Store> {
    let config = undine_store::Config {
        tiers: vec![Duration::from_hours(1), Duration::from_hours(24)],
        raw_for: Some(Duration::from_hours(24 * 365 * 100)),
        groups_per_window_max: 1_000_000,
        segments_max: 16,
        merge_bytes_per_second_max: None,
        deleted_files_for: Duration::ZERO,
        clock: Arc::<ManualClock>::clone(clock),
        ..stage::store_config(dir, HOT_BYTES_MAX)
    };
    config.build().context("cannot open the store")
}

async fn write(
    options: Options,
    dir: &Path,
    clock: &Arc<ManualClock>,
    report: &mut Report,
) -> Result<()> {
    let store = open(dir, clock)?;
    let start = Instant::now();
    let mut random = Random(7);
    let (mut rows, mut unsealed) = (0, 0);
    for day in 0..options.days {
        let midnight = START + i64::from(day) * DAY;
        for hour in 0..options.hours {
            let hour = midnight + i64::from(hour * 24 / options.hours) * HOUR;
            for batch in requests(options, hour, &mut random) {
                rows += batch.num_rows() as u64;
                unsealed += batch.num_rows() as u64;
                let frame = Frame::captured(&HTTP_EVENTS, batch);
                store.append(Frame { durability: Durability::Memory, ..frame })?;
                if unsealed >= SEALED_ROWS {
                    store.seal().await?;
                    unsealed = 0;
                }
            }
        }
        clock.set(TimeNs::new(midnight + DAY));
        store.seal().await?;
        store.tidy().await?;
    }
    report.figure("write_s", start.elapsed().as_secs_f64());
    report.count("rows", rows);
    let stats = store.stats();
    let evicted = stats.table(HTTP_EVENTS.name).map_or(0, |table| table.evicted_rows);
    report.same("rows that went unsealed", evicted, 0);
    let snapshot = store.snapshot(&HTTP_EVENTS);
    let raw = snapshot.raw.context("the store keeps no raw rows")?;
    let bytes = |tier: &undine_store::TierView| -> u64 {
        tier.segments.iter().map(|segment| segment.bytes).sum()
    };
    let raw_bytes = bytes(&raw);
    report.count("raw_bytes", raw_bytes);
    for tier in &snapshot.tiers {
        let name = format!("{}h", tier.width.as_secs() / 3600);
        let states: u64 = tier.segments.iter().map(|segment| segment.rows).sum();
        report.count(format!("tier_{name}_bytes"), bytes(tier));
        report.count(format!("tier_{name}_states"), states);
        report.count(format!("tier_{name}_segments"), tier.segments.len() as u64);
        report.figure(format!("tier_{name}_of_raw"), ratio(raw_bytes, bytes(tier)));
    }
    Ok(())
}

/// The rows of an hour.
fn requests(options: Options, hour: i64, random: &mut Random) -> Vec<arrow::array::RecordBatch> {
    let mut builder = HttpEvents::new(BATCH_ROWS);
    let mut batches = Vec::new();
    let paths: Vec<String> = (0..options.endpoints).map(|n| format!("/api/op-{n:03}")).collect();
    let services: Vec<String> =
        (0..options.services).map(|n| format!("default/svc-{n:02}")).collect();
    for (number, service) in services.iter().enumerate() {
        for path in &paths {
            for _ in 0..options.requests {
                let time = hour + random.below(HOUR as u64).cast_signed();
                let median_ln = 14.0 + f64::from(u32::try_from(number).unwrap_or(0)) / 10.0;
                push_request(&mut builder, time, service, path, median_ln, random);
                if builder.len() == BATCH_ROWS {
                    batches.push(builder.finish());
                }
            }
        }
    }
    if !builder.is_empty() {
        batches.push(builder.finish());
    }
    batches
}

/// A request whose latency is of a log-normal distribution around `median_ln`; one of a hundred fails.
pub(crate) fn push_request(
    builder: &mut HttpEvents,
    time: i64,
    service: &str,
    path: &str,
    median_ln: f64,
    random: &mut Random,
) {
    #[expect(clippy::cast_possible_truncation, reason = "far below 2^63")]
    let latency = (median_ln + 0.9 * random.normal()).exp() as i64;
    builder.push(&HttpEvent {
        time_: TimeNs::new(time),
        upid: Upid::new(1, 100, 7),
        remote_addr: "10.0.0.2",
        local_addr: "10.0.0.1",
        trace_role: 2,
        req_method: "GET",
        req_path: path,
        req_path_template: path,
        resp_status: if random.below(100) == 0 { 500 } else { 200 },
        resp_body_size: random.below(10_000).cast_signed(),
        latency,
        service,
        node: "evals",
        ..HttpEvent::default()
    });
}

async fn ask(
    options: Options,
    dir: &Path,
    clock: &Arc<ManualClock>,
    report: &mut Report,
) -> Result<()> {
    let end = START + i64::from(options.days) * DAY;
    let script = |filter: &str, key: &str| {
        format!(
            "import px\n\
             df = px.DataFrame('http_events', start_time={START}, end_time={})\n\
             df.service = df.ctx['service']\n\
             df.endpoint = df.ctx['req_path_template']\n\
             {filter}\
             df.day = px.bin(df.time_, {DAY})\n\
             df = df.groupby(['{key}', 'day']).agg(n=('latency', px.count), q=('latency', px.quantiles))\n\
             df.p99 = px.pluck_float64(df.q, 'p99')\n\
             px.display(df[['{key}', 'day', 'n', 'p99']])",
            end - 1
        )
    };
    let last = options.services.saturating_sub(1);
    let one = format!("df = df[df.service == 'default/svc-{last:02}']\n");
    for (name, script, tier, groups, limit) in [
        ("p99 per service and day", script("", "service"), "1d_service", options.services, 300.0),
        (
            "p99 per endpoint of one service and day",
            script(&one, "endpoint"),
            "1d_endpoint",
            options.endpoints,
            1000.0,
        ),
    ] {
        let mut walls = Vec::new();
        let mut found = None;
        for _ in 0..RUNS {
            let store = open(dir, clock)?;
            let engine = engine(&store, clock)?;
            let start = Instant::now();
            let mut answer = engine.run(question(&script)).await?;
            walls.push(start.elapsed().as_secs_f64() * 1e3);
            found = answer.tables.pop();
        }
        let table = found.context("the script displayed nothing")?;
        walls.sort_by(f64::total_cmp);
        let median = walls[walls.len() / 2];
        report.check(
            format!("{name}, milliseconds with cold caches"),
            format!("{median:.1}"),
            format!("<= {limit}"),
            median <= limit,
        );
        check_answer(report, name, &table, options, tier, groups);
    }
    Ok(())
}

fn check_answer(
    report: &mut Report,
    name: &str,
    table: &ResultTable,
    options: Options,
    tier: &str,
    groups: u32,
) {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    let tiers: Vec<_> = table
        .sources
        .iter()
        .filter(|source| source.rows > 0)
        .map(|source| source.tier.to_string())
        .collect();
    if options.days >= LONG_DAYS {
        report.same(format!("{name}: read"), tiers.join(", "), tier.to_owned());
    }
    report.same(
        format!("{name}: groups"),
        table.rows() as u64,
        u64::from(options.days) * u64::from(groups),
    );
    let counts = table.batches.iter().filter_map(|batch| batch.column_by_name("n"));
    let rows: i64 =
        counts.flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec()).sum();
    let per_endpoint = u64::from(options.days * options.hours * options.requests);
    let endpoints = if groups == options.services {
        u64::from(options.services) * u64::from(options.endpoints)
    } else {
        u64::from(options.endpoints)
    };
    report.same(
        format!("{name}: requests counted"),
        rows.cast_unsigned(),
        per_endpoint * endpoints,
    );
}

fn engine(store: &Store, clock: &Arc<ManualClock>) -> Result<Engine> {
    let config = undine_query::Config {
        clock: Arc::<ManualClock>::clone(clock),
        ..stage::engine_config(store)
    };
    config.build().context("cannot build the engine")
}
