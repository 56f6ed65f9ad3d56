//! N requests in the server's own log are N rows, field by field; and where the ring is too small,
//! what was lost is known.
//!
//! The server is a real nginx, the client sends a known sequence of requests. Both run in a cgroup
//! of their own from before they start, and only that cgroup is watched.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine::appliance::{bare_collector, cgroup_source, question};
use undine_collector::{Cgroup, Stats};
use undine_query::Engine;
use undine_schema::tables::HTTP_EVENTS;
use undine_schema::{Append, Feed, Seq};
use undine_store::Store;

use crate::nginx::{Logged, Nginx};
use crate::report::Report;
use crate::require_scope;
use crate::stage::{self, RunningStore};

/// How the client connects, and what the kernel's ring holds.
struct Case {
    name: &'static str,
    connections: u32,
    per_connection: u32,
    ring_bytes: u32,
    sendfile: bool,
}

/// The bodies of 70 kB make some 450 MB/s; this holds a third of a second of that, so that a reader that
/// has to wait for a CPU loses nothing.
const RING_BYTES: u32 = 128 << 20;

const CASES: [Case; 3] = [
    Case {
        name: "keep_alive",
        connections: 16,
        per_connection: u32::MAX,
        ring_bytes: RING_BYTES,
        sendfile: false,
    },
    Case {
        name: "short_lived",
        connections: 64,
        per_connection: 1,
        ring_bytes: RING_BYTES,
        sendfile: true,
    },
    Case {
        name: "starved_ring",
        connections: 16,
        per_connection: 50,
        ring_bytes: 64 << 10,
        sendfile: false,
    },
];

/// The latest that a row may become visible.
const VISIBLE_AFTER_MAX: Duration = Duration::from_secs(1);

pub(crate) fn run(requests: u32) -> Result<Report> {
    require_scope()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::new("capture");
    for case in &CASES {
        let found = runtime.block_on(observe(case, requests)).with_context(|| case.name)?;
        judge(case, &found, &mut report);
    }
    Ok(report)
}

/// What one case gave.
struct Found {
    log: BTreeMap<u32, Logged>,
    rows: Vec<Seen>,
    stats: Stats,
    first_row_after: Duration,
    seconds: f64,
}

/// One row, reduced to what the server's log knows too, and the id that its response carried.
struct Seen {
    id: Option<u32>,
    logged: Logged,
    /// The id that the response echoed, if its headers were captured.
    echoed: Option<u32>,
    role: i64,
}

async fn observe(case: &Case, requests: u32) -> Result<Found> {
    let dir = tempfile::tempdir()?;
    let cgroup = Cgroup::create("undine-evals")?;
    let running = RunningStore::open(&dir.path().join("data"), 1 << 30)?;
    let engine = stage::engine(&running.store)?;
    let append: Arc<dyn Append> = Arc::new(running.store.clone());
    let source = cgroup_source(cgroup.path(), case.ring_bytes);
    let collector = bare_collector(source).build(append)?;
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let mut capture = JoinSet::from_iter([collector.run(shutdown.clone())]);

    let nginx = Nginx::start(&cgroup, dir.path(), case.sendfile)?;
    let start = Instant::now();
    send(&cgroup, &nginx, 0, 1, case).await?;
    wait_for_first_row(&engine).await?;
    let first_row_after = start.elapsed();
    let start = Instant::now();
    send(&cgroup, &nginx, 1, requests - 1, case).await?;
    let seconds = start.elapsed().as_secs_f64();
    let log = nginx.stop()?;
    let stats = handle.drain().await?;
    let rows = rows(&running.store)?;
    shutdown.cancel();
    while let Some(ended) = capture.join_next().await {
        ended??;
    }
    drop(engine);
    running.close().await;
    Ok(Found { log, rows, stats, first_row_after, seconds })
}

/// Sends requests from a process of its own inside the cgroup.
async fn send(
    cgroup: &Cgroup,
    nginx: &Nginx,
    first: u32,
    requests: u32,
    case: &Case,
) -> Result<()> {
    let mut command = cgroup.command(&std::env::current_exe()?);
    command.arg("client").arg("--server").arg(nginx.address.to_string());
    for (name, value) in [
        ("--first", first),
        ("--requests", requests),
        ("--connections", case.connections),
        ("--per-connection", case.per_connection),
    ] {
        command.arg(name).arg(value.to_string());
    }
    command.stdin(Stdio::null());
    let status =
        tokio::process::Command::from(command).status().await.context("cannot start the client")?;
    ensure!(status.success(), "the client ended with {status}");
    Ok(())
}

async fn wait_for_first_row(engine: &Engine) -> Result<()> {
    let script = "import px\ndf = px.DataFrame('http_events', start_time='-1m')\npx.display(df.agg(n=('latency', px.count)))\n";
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let answer = engine.run(question(script)).await?;
        let batches =
            answer.tables.first().map(|table| table.batches.as_slice()).unwrap_or_default();
        if batches.iter().any(|batch| batch.column(0).as_primitive::<Int64Type>().value(0) > 0) {
            return Ok(());
        }
    }
    bail!("no row was visible ten seconds after the first request")
}

fn rows(store: &Store) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    let mut cursor = Seq::ZERO;
    loop {
        let progress = store.read(&HTTP_EVENTS, cursor, 10_000)?;
        ensure!(
            progress.missed_rows == 0,
            "{} rows were evicted before they were read",
            progress.missed_rows
        );
        if progress.slices.is_empty() {
            return Ok(seen);
        }
        cursor = progress.cursor;
        for slice in &progress.slices {
            read(&slice.rows, &mut seen)?;
        }
    }
}

fn read(batch: &RecordBatch, seen: &mut Vec<Seen>) -> Result<()> {
    let column =
        |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
    let text = |name: &str, row: usize| {
        Ok::<_, anyhow::Error>(column(name)?.as_string::<i32>().value(row).to_owned())
    };
    let number = |name: &str, row: usize| {
        Ok::<_, anyhow::Error>(column(name)?.as_primitive::<Int64Type>().value(row))
    };
    for row in 0..batch.num_rows() {
        let path = text("req_path", row)?;
        let headers: serde_json::Value =
            serde_json::from_str(&text("resp_headers", row)?).unwrap_or_default();
        let echoed = headers.as_object().into_iter().flatten().find_map(|(name, value)| {
            name.eq_ignore_ascii_case("x-request-id").then(|| value.as_str()?.parse().ok())?
        });
        seen.push(Seen {
            id: path.rsplit_once("id=").and_then(|(_, id)| id.parse().ok()),
            logged: Logged {
                method: text("req_method", row)?,
                path,
                status: number("resp_status", row)?,
                req_body_size: number("req_body_size", row)?,
                resp_body_size: number("resp_body_size", row)?,
            },
            echoed,
            role: number("trace_role", row)?,
        });
    }
    Ok(())
}

fn judge(case: &Case, found: &Found, report: &mut Report) {
    let name = |what: &str| format!("{}: {what}", case.name);
    let figure = |what: &str| format!("{}_{what}", case.name);
    let kernel = found.stats.kernel;
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let rate = found.log.len() as f64 / found.seconds;
    report.figure(figure("requests_per_s"), rate);
    report.figure(figure("first_row_after_ms"), found.first_row_after.as_secs_f64() * 1e3);
    report.count(figure("rows"), found.rows.len() as u64);
    report.count(figure("operations"), kernel.operations);
    report.count(figure("operations_lost"), kernel.dropped_operations);
    let visible = found.first_row_after;
    report.check(
        name("the first row is visible within"),
        format!("{visible:.1?}"),
        format!("{VISIBLE_AFTER_MAX:?}"),
        visible < VISIBLE_AFTER_MAX,
    );
    report.same(
        name("messages consumed = attempts - dropped"),
        found.stats.consumed,
        kernel.attempts - kernel.dropped,
    );
    report.same(
        name("operations seen + lost = in scope"),
        found.stats.pipeline.operations + kernel.dropped_operations,
        kernel.operations,
    );
    report.same(
        name("bytes seen + lost = moved"),
        found.stats.pipeline.bytes + kernel.dropped_bytes,
        kernel.operation_bytes,
    );
    let unequal = unequal_rows(found);
    report.check(
        name("rows that are not in the server's log"),
        unequal.join(", "),
        "none",
        unequal.is_empty(),
    );
    let wrong_pairs =
        found.rows.iter().filter(|row| row.echoed.is_some() && row.echoed != row.id).count();
    report.same(name("responses paired with another request"), wrong_pairs, 0);

    let missing = found.log.len() as u64 - (found.rows.len() as u64).min(found.log.len() as u64);
    let bounds = found.stats.missing_rows;
    let is_starved = case.ring_bytes < 1 << 20;
    if is_starved {
        report.check(name("the ring was too small"), kernel.dropped, "> 0", kernel.dropped > 0);
        report.check(
            name("missing rows are within data_loss's bounds"),
            missing,
            format!("{} to {}", bounds.min, bounds.max),
            (bounds.min..=bounds.max).contains(&missing),
        );
        report.count(figure("missing_rows"), missing);
    } else {
        // Where the server's end was lost, the client's may be kept in its place.
        let clients = found.rows.iter().filter(|row| row.role != 2).count();
        report.same(name("rows of the client's end"), clients, 0);
        report.same(name("messages lost"), kernel.dropped, 0);
        report.same(name("rows = requests in the server's log"), found.rows.len(), found.log.len());
        report.same(name("rows that data_loss says may be missing"), bounds.max, 0);
    }
}

/// Rows that differ from the server's log in method, path, status or sizes, or are there twice; at
/// most three of them in words.
fn unequal_rows(found: &Found) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    found
        .rows
        .iter()
        .filter_map(|row| {
            let logged = row.id.and_then(|id| found.log.get(&id));
            let is_new = row.id.is_some_and(|id| seen.insert(id));
            if logged == Some(&row.logged) && is_new {
                return None;
            }
            Some(format!("{:?}, logged as {logged:?}, first time {is_new}", row.logged))
        })
        .take(3)
        .collect()
}
