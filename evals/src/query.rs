//! Six questions over one hour of requests, in memory and on Parquet, beside other engines.
//!
//! Ours are asked through the query engine, over the store's own snapshots and segments. The others
//! read the very same Parquet files, or load them into memory first, each in a process of its own
//! (`peers.py`), and each in every way that it knows to write the question; its fastest counts.

pub(crate) mod requests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde::Deserialize;
use undine::appliance::question;
use undine_query::{Engine, ResultTable, SourceUse};
use undine_schema::tables::HTTP_EVENTS;
use undine_schema::{Append, Durability, Frame};
use undine_store::Store;

use requests::{Requests, SPAN_NS, START_NS};

use crate::cpu::cpu_time;
use crate::report::{Report, ratio};

const PEERS: [&str; 4] = ["duckdb", "chdb", "polars", "datafusion"];
/// Threads of a run, ours and theirs.
const THREADS: usize = 2;
const SECOND: i64 = 1_000_000_000;
const WINDOW: i64 = 10 * SECOND;
/// Rows of a batch, as a busy collector would hand over.
const BATCH_ROWS: usize = 64 * 1024;
/// Seals of all rows.
const SEALS: u64 = 24;
/// Bytes of a row in memory, generously.
const ROW_BYTES_MAX: u64 = 600;
/// How long one peer may take for everything.
const PEER_TIME_MAX: Duration = Duration::from_mins(20);

/// How much of the fastest peer's time ours may be, in memory and on Parquet; of Q1 only CPU time.
const TARGETS: [(&str, f64, f64); 6] = [
    ("q1", 0.5, 0.65),
    ("q2", 1.0, 1.0),
    ("q3", 1.0, 1.0),
    ("q4", 1.0, 1.0),
    ("q5", 1.0, 1.0),
    ("q6", 1.0, 1.0),
];

/// One way to ask one question at one place, and what it took.
#[derive(Clone, Debug, Deserialize)]
struct Measured {
    engine: String,
    place: String,
    query: String,
    way: String,
    #[serde(default)]
    wall_ms: f64,
    #[serde(default)]
    cpu_ms: f64,
    #[serde(default)]
    rows: u64,
    /// Sum of each column of numbers in the answer.
    #[serde(default)]
    sums: BTreeMap<String, f64>,
    error: Option<String>,
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rows: u64,
    pub(crate) peers: String,
    /// Times that each question is asked after the first; the median counts.
    pub(crate) runs: usize,
    /// Questions with commas between them.
    pub(crate) queries: String,
}

pub(crate) fn run(options: &Options) -> Result<Report> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let mut report = Report::new("query");
    let dir = tempfile::tempdir()?;
    let wanted: Vec<&str> = options.queries.split(',').collect();
    let mut ours = Vec::new();
    let (row_bytes, found) =
        runtime.block_on(in_memory(options, &wanted, dir.path(), &mut report))?;
    ours.extend(found);
    let budget = options.rows.div_ceil(SEALS) * row_bytes * 3 / 2;
    let (files, found) =
        runtime.block_on(on_parquet(options, &wanted, dir.path(), budget, &mut report))?;
    ours.extend(found);
    let peers = ask_peers(options, &files, dir.path(), &mut report)?;
    compare(&mut report, &ours, &peers, &wanted);
    Ok(report)
}

/// Everything in memory.
async fn in_memory(
    options: &Options,
    wanted: &[&str],
    dir: &Path,
    report: &mut Report,
) -> Result<(u64, Vec<Measured>)> {
    let store = open(&dir.join("hot"), options.rows * ROW_BYTES_MAX)?;
    let start = Instant::now();
    let mut requests = Requests::new(options.rows, BATCH_ROWS);
    while let Some(rows) = requests.batch(BATCH_ROWS) {
        store.append(Frame {
            durability: Durability::Memory,
            ..Frame::captured(&HTTP_EVENTS, rows)
        })?;
    }
    store.merge_hot().await?;
    report.figure("load_memory_s", start.elapsed().as_secs_f64());
    let bytes = store.stats().hot_bytes;
    report.figure("bytes_per_row_memory", ratio(bytes, options.rows));
    let engine = engine(&store)?;
    let mut measured = ask_all(&engine, "memory", options, wanted).await?;
    if wanted.contains(&"q1") {
        measured.push(ask_pxl(&engine, "memory", options, report).await?);
    }
    Ok((bytes.div_ceil(options.rows), measured))
}

/// Everything in the store's own segments, and for Q3 also half of its range there and half in
/// memory, which has room for less than that.
async fn on_parquet(
    options: &Options,
    wanted: &[&str],
    dir: &Path,
    hot_bytes_max: u64,
    report: &mut Report,
) -> Result<(Vec<PathBuf>, Vec<Measured>)> {
    let chunk = options.rows.div_ceil(SEALS);
    let store = open(&dir.join("cold"), hot_bytes_max.max(1 << 20))?;
    let batch_rows = BATCH_ROWS.min(usize::try_from(chunk)?);
    let mut requests = Requests::new(options.rows, batch_rows);
    let (mut unsealed, mut sealed_s) = (0, 0.0);
    let engine = engine(&store)?;
    let mut measured = Vec::new();
    let mut appended = 0;
    while let Some(rows) = requests.batch(batch_rows) {
        let count = rows.num_rows() as u64;
        store.append(Frame {
            durability: Durability::Memory,
            ..Frame::captured(&HTTP_EVENTS, rows)
        })?;
        (unsealed, appended) = (unsealed + count, appended + count);
        let is_last = appended == options.rows;
        if is_last && wanted.contains(&"q3") {
            let found = ask(&engine, "hot and cold", "q3", options).await?;
            measured.push(found);
        }
        if unsealed >= chunk || is_last {
            // As a running store does all the time.
            store.merge_hot().await?;
            let start = Instant::now();
            store.seal().await?;
            sealed_s += start.elapsed().as_secs_f64();
            unsealed = 0;
        }
    }
    report.figure("seal_s", sealed_s);
    let raw = store.snapshot(&HTTP_EVENTS).raw.context("the store keeps no raw rows")?;
    let bytes: u64 = raw.segments.iter().map(|segment| segment.bytes).sum();
    report.figure("bytes_per_row_parquet", ratio(bytes, options.rows));
    let rows: u64 = raw.segments.iter().map(|segment| segment.rows).sum();
    report.same("rows in raw segments", rows, options.rows);
    let root = dir.join("cold/tables");
    let files = raw.segments.iter().map(|segment| root.join(segment.path.as_ref()));
    let files: Vec<PathBuf> = files.collect();
    measured.extend(ask_all(&engine, "parquet", options, wanted).await?);
    if wanted.contains(&"q1") {
        let summary = ask_pxl(&engine, "summary", options, report).await?;
        report.figure("q1_summary_wall_ms", summary.wall_ms);
        report.figure("q1_summary_cpu_ms", summary.cpu_ms);
    }
    Ok((files, measured))
}

fn open(dir: &Path, hot_bytes_max: u64) -> Result<Store> {
    let config = undine_store::Config {
        tiers: vec![Duration::from_secs(10)],
        raw_for: Some(Duration::from_hours(24 * 365 * 100)),
        groups_per_window_max: 1_000_000,
        log_queue_bytes_max: usize::MAX / 2,
        ..crate::stage::store_config(dir, usize::try_from(hot_bytes_max)?)
    };
    config.build().context("cannot open the store")
}

fn engine(store: &Store) -> Result<Engine> {
    let config = undine_query::Config { partitions: THREADS, ..crate::stage::engine_config(store) };
    config.build().context("cannot build the engine")
}

/// The question in SQL.
fn text(query: &str) -> String {
    let from = START_NS + 3300 * SECOND;
    let until = START_NS + SPAN_NS;
    let last = START_NS + 3590 * SECOND;
    let failed = "sum(CASE WHEN resp_status >= 500 THEN 1 ELSE 0 END) AS e";
    let head = format!("SELECT service, bin(time_, {WINDOW}) AS w, count(*) AS n");
    let by = format!("GROUP BY service, bin(time_, {WINDOW})");
    match query {
        "q1" => format!("{head}, quantiles(latency) AS q FROM http_events {by}"),
        "q2" => {
            format!("{head}, avg(latency) AS m, max(latency) AS mx, {failed} FROM http_events {by}")
        }
        "q3" => format!(
            "{head}, quantiles(latency) AS q FROM http_events \
             WHERE time_ >= {from} AND time_ < {until} {by}"
        ),
        "q4" => "SELECT service, approx_distinct(remote_addr) AS d, count(*) AS n \
                 FROM http_events GROUP BY service"
            .to_owned(),
        "q5" => format!(
            "SELECT req_path, count(*) AS n, avg(latency) AS m, {failed} FROM http_events \
             WHERE service = 'default/svc-07' GROUP BY req_path ORDER BY e DESC, req_path LIMIT 10"
        ),
        _ => format!(
            "SELECT time_, req_path, latency FROM http_events WHERE time_ >= {last} \
             AND resp_status = 503 AND service = 'default/svc-07' ORDER BY time_ DESC LIMIT 100"
        ),
    }
}

async fn ask_all(
    engine: &Engine,
    place: &str,
    options: &Options,
    wanted: &[&str],
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for (query, ..) in TARGETS.iter().filter(|(query, ..)| wanted.contains(query)) {
        measured.push(ask(engine, place, query, options).await?);
    }
    Ok(measured)
}

async fn ask(engine: &Engine, place: &str, query: &str, options: &Options) -> Result<Measured> {
    let sql = text(query);
    let measured =
        measure(place, query, options, async || engine.sql(&sql).await.context("the SQL failed"));
    Ok(measured.await?.0)
}

/// Q1 as a script, which takes the summary where rows are not in memory.
async fn ask_pxl(
    engine: &Engine,
    place: &str,
    options: &Options,
    report: &mut Report,
) -> Result<Measured> {
    let script = format!(
        "import px\n\
         df = px.DataFrame('http_events', start_time={START_NS}, end_time={})\n\
         df.service = df.ctx['service']\n\
         df.w = px.bin(df.time_, {WINDOW})\n\
         df = df.groupby(['service', 'w']).agg(n=('latency', px.count), q=('latency', px.quantiles))\n\
         px.display(df)",
        START_NS + SPAN_NS + WINDOW - 1
    );
    let answer = measure(place, "q1", options, async || {
        let mut answer = engine.run(question(&script)).await?;
        answer.tables.pop().context("the script displayed nothing")
    });
    let (mut measured, sources) = answer.await?;
    "PxL".clone_into(&mut measured.way);
    let tiers: Vec<_> = sources.iter().map(|source| source.tier.to_string()).collect();
    let summarised = tiers.iter().any(|tier| tier == "10s_service");
    report.check(
        format!("the script over {place} reads"),
        tiers.join(", "),
        if place == "summary" { "10s_service" } else { "hot" },
        summarised == (place == "summary"),
    );
    Ok(measured)
}

/// Asks once to warm up, then `runs` times; medians.
async fn measure(
    place: &str,
    query: &str,
    options: &Options,
    ask: impl AsyncFn() -> Result<ResultTable>,
) -> Result<(Measured, Vec<SourceUse>)> {
    let answer = ask().await?;
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let (cpu, start) = (cpu_time()?, Instant::now());
        ask().await?;
        walls.push(start.elapsed().as_secs_f64() * 1e3);
        cpus.push(cpu_time()?.saturating_sub(cpu).as_secs_f64() * 1e3);
    }
    let measured = Measured {
        engine: "undine".to_owned(),
        place: place.to_owned(),
        query: query.to_owned(),
        way: "SQL".to_owned(),
        wall_ms: median(&mut walls),
        cpu_ms: median(&mut cpus),
        rows: answer.rows() as u64,
        sums: sums(&answer)?,
        error: None,
    };
    Ok((measured, answer.sources))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Asks each peer that is installed, one process for each place.
fn ask_peers(
    options: &Options,
    files: &[PathBuf],
    dir: &Path,
    report: &mut Report,
) -> Result<Vec<Measured>> {
    let list = dir.join("files");
    let lines: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    fs::write(&list, lines.join("\n"))?;
    let program = dir.join("peers.py");
    fs::write(&program, include_str!("query/peers.py"))?;
    let python = undine_testbed::python();
    let mut all = Vec::new();
    for peer in options.peers.split(',').filter(|peer| !peer.is_empty()) {
        ensure!(PEERS.contains(&peer), "no peer is called {peer}; there are {PEERS:?}");
        let import =
            Command::new(&python).args(["-c", &format!("import {peer}, pyarrow")]).output();
        if !import.is_ok_and(|output| output.status.success()) {
            report.skip(peer, format!("{python} has no packages {peer} and pyarrow"));
            continue;
        }
        for place in ["memory", "parquet"] {
            let output = Command::new("timeout")
                .arg(PEER_TIME_MAX.as_secs().to_string())
                .arg(&python)
                .arg(&program)
                .args([peer, place])
                .arg(&list)
                .args([START_NS.to_string(), options.runs.to_string(), THREADS.to_string()])
                .arg(dir)
                .output()
                .with_context(|| format!("cannot run {python}"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                bail!("{peer} {place} failed: {}", String::from_utf8_lossy(&output.stderr));
            }
            for line in text.lines() {
                all.push(serde_json::from_str(line).with_context(|| format!("{peer}: {line}"))?);
            }
        }
    }
    Ok(all)
}

fn compare(report: &mut Report, ours: &[Measured], peers: &[Measured], wanted: &[&str]) {
    for measured in ours.iter().chain(peers) {
        let Measured { engine, place, query, way, .. } = measured;
        let name = format!("{query} {place}: {engine} ({way})");
        if let Some(error) = &measured.error {
            report.skip(name, error);
        } else {
            report.figure(format!("{name} wall_ms"), rounded(measured.wall_ms));
            report.figure(format!("{name} cpu_ms"), rounded(measured.cpu_ms));
        }
    }
    for (query, in_memory, on_parquet) in TARGETS {
        if !wanted.contains(&query) {
            continue;
        }
        same_everywhere(report, ours, query);
        for (place, peers_place, target) in [
            ("memory", "memory", in_memory),
            ("parquet", "parquet", on_parquet),
            ("hot and cold", "parquet", on_parquet),
        ] {
            let is_ours = |m: &&Measured| m.query == query && m.place == place && m.way == "SQL";
            let Some(own) = ours.iter().find(is_ours) else { continue };
            same_answers(report, own, peers, peers_place);
            let of_peers = |value: fn(&Measured) -> f64| {
                let same = peers.iter().filter(|m| m.query == query && m.place == peers_place);
                let right = same.filter(|m| m.error.is_none());
                right.min_by(|a, b| value(a).total_cmp(&value(b)))
            };
            let mut ratio = |what: &str, value: fn(&Measured) -> f64| {
                let Some(best) = of_peers(value) else { return };
                let share = value(own) / value(best);
                report.check(
                    format!("{query} {place}: {what} of the fastest peer"),
                    format!(
                        "{share:.2} ({:.1} of {:.1} ms, {} {})",
                        value(own),
                        value(best),
                        best.engine,
                        best.way
                    ),
                    format!("<= {target}"),
                    share <= target,
                );
            };
            ratio("CPU time", |m| m.cpu_ms);
            if query != "q1" {
                ratio("time", |m| m.wall_ms);
            }
        }
    }
}

/// The sum of each column of numbers, and of the quantiles that peers are asked for.
fn sums(answer: &ResultTable) -> Result<BTreeMap<String, f64>> {
    let mut sums = BTreeMap::new();
    for (field, batch) in answer
        .batches
        .iter()
        .flat_map(|batch| answer.schema.fields().iter().map(move |f| (f, batch)))
    {
        let name = field.name().as_str();
        let values = batch.column_by_name(name).context("a batch lacks a column")?;
        match values.data_type() {
            DataType::Utf8 if name == "q" => {
                for text in values.as_string::<i32>().iter().flatten() {
                    let quantiles: BTreeMap<String, f64> = serde_json::from_str(text)?;
                    for which in ["p50", "p99"] {
                        let value = quantiles.get(which).context("a quantile is missing")?;
                        *sums.entry(which.to_owned()).or_default() += value;
                    }
                }
            }
            kind if kind.is_numeric() => {
                let values = cast(values, &DataType::Float64)?;
                let values = values.as_primitive::<Float64Type>();
                *sums.entry(name.to_owned()).or_default() += values.iter().flatten().sum::<f64>();
            }
            _ => {}
        }
    }
    Ok(sums)
}

/// How far a sum of ours may be from another's, as a share of it.
fn difference_max(column: &str, other: &Measured) -> f64 {
    match column {
        _ if other.engine == "undine" => 1e-9,
        // Ours are of sketches; those of others are ranks or means of neighbours, or of sketches too.
        // Of the few rows of a group these lie between two of them.
        "p50" | "p99" if other.way.contains("exact") => 0.02,
        "p50" | "p99" => 0.05,
        // All estimate how many are different, some from few registers.
        "d" => 0.1,
        _ => 1e-9,
    }
}

/// Whether our answer has the rows of another, and sums that are as near as they should be. Times and
/// windows have other types and names elsewhere.
fn are_alike(own: &Measured, other: &Measured) -> bool {
    let alike = |(name, value): (&String, &f64)| {
        let found = other.sums.get(name).copied().unwrap_or(f64::NAN);
        (value - found).abs() <= difference_max(name, other) * found.abs()
    };
    let mut compared = own.sums.iter().filter(|(name, _)| !["w", "time_"].contains(&name.as_str()));
    own.rows == other.rows && compared.all(alike)
}

/// Requires that ours are the same wherever the rows are.
fn same_everywhere(report: &mut Report, ours: &[Measured], query: &str) {
    let answers: Vec<_> = ours.iter().filter(|measured| measured.query == query).collect();
    let same = answers.windows(2).all(|pair| are_alike(pair[0], pair[1]));
    let shown: Vec<_> = answers.iter().map(|own| (&own.place, own.rows, &own.sums)).collect();
    report.check(
        format!("{query}: answers wherever the rows are"),
        format!("{shown:?}"),
        "the same",
        same && !answers.is_empty(),
    );
}

/// Requires that peers give the same rows, counts and extremes, and quantiles and distinct counts that
/// are as near as sketches are.
fn same_answers(report: &mut Report, own: &Measured, peers: &[Measured], place: &str) {
    let same = peers.iter().filter(|m| m.query == own.query && m.place == place);
    let answered: Vec<_> = same.filter(|peer| peer.error.is_none()).collect();
    let others: Vec<_> = answered
        .iter()
        .filter(|peer| !are_alike(own, peer))
        .map(|peer| format!("{} {}: {} {:?}", peer.engine, peer.way, peer.rows, peer.sums))
        .collect();
    report.check(
        format!("{} {}: answers unlike ours", own.query, own.place),
        format!("{others:?}"),
        format!("none, of {} like {} {:?}", answered.len(), own.rows, own.sums),
        others.is_empty(),
    );
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
