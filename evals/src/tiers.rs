//! One script, one answer: before, during and after sealing, after eviction and after a restart.
//!
//! The truth is computed from the rows as they are made, without the store and without the query
//! engine. [`month`] does the same for a month in simulated time.

mod month;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use undine::appliance::question;
use undine_query::Engine;
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{Append, Clock, Frame, SystemClock, TimeNs, Upid};
use undine_store::Store;

use crate::columns::Columns;
use crate::report::Report;
use crate::stage::{self, RunningStore};
pub(crate) use month::Options as Month;

const SCRIPT: &str = "\
import px
df = px.DataFrame('http_events', start_time='-2h')
df.service = df.ctx['service']
df.path = df.ctx['req_path_template']
df = df.groupby(['service', 'path', 'resp_status']).agg(
    requests=('latency', px.count),
    latency_sum=('latency', px.sum),
    latency_min=('latency', px.min),
    latency_max=('latency', px.max),
    bytes=('resp_body_size', px.sum),
    last=('time_', px.max),
)
px.display(df)
";

/// Rows that are appended at a time.
const BATCH_ROWS: u32 = 500;
/// How far back the rows reach.
const SPAN: Duration = Duration::from_mins(30);

type Key = (String, String, i64);

/// What the script computes of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    requests: i64,
    latency_sum: i64,
    latency_min: i64,
    latency_max: i64,
    bytes: i64,
    last: i64,
}

type Answer = BTreeMap<Key, Group>;

/// Asks about `rows` of half an hour, and then about a month.
pub(crate) fn run(rows: u32, month: month::Options) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    runtime.block_on(async {
        let mut report = scenario(rows, &dir.path().join("half-hour")).await?;
        month::scenario(month, &dir.path().join("month"), &mut report).await?;
        Ok(report)
    })
}

async fn scenario(rows: u32, dir: &Path) -> Result<Report> {
    let mut report = Report::new("tiers");
    let now = SystemClock.now();
    let mut truth = Answer::new();
    let running = RunningStore::open(dir, 512 << 20)?;
    let store = running.store.clone();
    let engine = stage::engine(&store)?;
    let half = rows / 2;

    let start = Instant::now();
    append(&store, 0..half, rows, now, &mut truth)?;
    report.figure("append_rows_per_s", f64::from(half) / start.elapsed().as_secs_f64());
    same(&mut report, "before sealing", &ask(&engine).await?, &truth);
    seal_while_asking(&store, &engine, &truth, &mut report).await?;
    same(&mut report, "after sealing", &ask(&engine).await?, &truth);
    append(&store, half..rows, rows, now, &mut truth)?;
    same(&mut report, "half sealed, half live", &ask(&engine).await?, &truth);
    store.seal().await?;
    drop((engine, store));
    running.close().await;

    // With room for a fraction only, old rows must come from Parquet.
    let running = RunningStore::open(dir, 1 << 20)?;
    let store = running.store.clone();
    let engine = stage::engine(&store)?;
    same(&mut report, "after a restart", &ask(&engine).await?, &truth);
    let extra = rows..rows + BATCH_ROWS;
    append(&store, extra.clone(), rows, now, &mut truth)?;
    same(&mut report, "after a restart, with new live rows", &ask(&engine).await?, &truth);
    store.seal().await?;
    same(&mut report, "after a restart and another seal", &ask(&engine).await?, &truth);
    let start = Instant::now();
    ask(&engine).await?;
    report.figure("query_ms", start.elapsed().as_secs_f64() * 1e3);
    report.count("rows", u64::from(extra.end));
    report.count("groups", truth.len() as u64);
    drop((engine, store));
    running.close().await;
    Ok(report)
}

/// Seals everything, and asks over and over while that goes on.
async fn seal_while_asking(
    store: &Store,
    engine: &Engine,
    truth: &Answer,
    report: &mut Report,
) -> Result<()> {
    let start = Instant::now();
    let sealing = store.seal();
    tokio::pin!(sealing);
    let (mut answers, mut wrong) = (0_u64, 0_u64);
    let sealed = loop {
        tokio::select! {
            biased;
            sealed = &mut sealing => break sealed?,
            answer = ask(engine) => {
                answers += 1;
                wrong += u64::from(answer? != *truth);
            }
        }
    };
    report.figure("seal_s", start.elapsed().as_secs_f64());
    report.count("answers_while_sealing", answers);
    report.count("sealed_rows", sealed.rows);
    report.same("answers that differed while sealing", wrong, 0);
    Ok(())
}

fn same(report: &mut Report, when: &str, answer: &Answer, truth: &Answer) {
    let wrong = truth.iter().filter(|(key, group)| answer.get(*key) != Some(*group)).count()
        + answer.keys().filter(|key| !truth.contains_key(*key)).count();
    report.check(
        format!("groups that are wrong {when}"),
        format!("{wrong} of {}", truth.len()),
        0,
        wrong == 0,
    );
}

/// Makes the rows with the numbers `numbers` of `total`, spread over [`SPAN`] before `now`, and
/// notes what they add up to.
fn append(
    store: &Store,
    numbers: std::ops::Range<u32>,
    total: u32,
    now: TimeNs,
    truth: &mut Answer,
) -> Result<()> {
    let mut batch = HttpEvents::new(BATCH_ROWS as usize);
    for number in numbers.clone() {
        let row = row(number, total, now);
        let path = format!("/{}/{number}", row.path);
        let template = format!("/{}/*", row.path);
        batch.push(&HttpEvent {
            time_: row.time,
            upid: Upid::new(1, 100, 7),
            remote_addr: "127.0.0.1",
            local_addr: "127.0.0.1",
            trace_role: 2,
            req_method: "GET",
            req_path: &path,
            req_path_template: &template,
            resp_status: row.status,
            resp_body_size: row.bytes,
            latency: row.latency,
            service: row.service,
            node: "evals",
            ..HttpEvent::default()
        });
        add(truth, (row.service.to_owned(), template, row.status), &row);
        if batch.len() == BATCH_ROWS as usize || number + 1 == numbers.end {
            store.append(Frame::captured(&HTTP_EVENTS, batch.finish()))?;
        }
    }
    Ok(())
}

struct Row {
    time: TimeNs,
    service: &'static str,
    path: &'static str,
    status: i64,
    latency: i64,
    bytes: i64,
}

fn row(number: u32, total: u32, now: TimeNs) -> Row {
    let spread = SPAN.mul_f64(f64::from(number % total) / f64::from(total));
    let noise = i64::from(number.wrapping_mul(2_654_435_761) >> 12);
    Row {
        time: now.saturating_sub(SPAN).saturating_add(spread),
        service: ["storefront", "orders", "inventory"][number as usize % 3],
        path: ["orders", "items", "users", "carts"][number as usize % 4],
        status: [200, 200, 200, 404, 500][number as usize % 5],
        latency: 100_000 + noise,
        bytes: noise % 5000,
    }
}

fn add(truth: &mut Answer, key: Key, row: &Row) {
    let none = Group {
        requests: 0,
        latency_sum: 0,
        latency_min: i64::MAX,
        latency_max: 0,
        bytes: 0,
        last: 0,
    };
    let group = truth.entry(key).or_insert(none);
    group.requests += 1;
    group.latency_sum += row.latency;
    group.latency_min = group.latency_min.min(row.latency);
    group.latency_max = group.latency_max.max(row.latency);
    group.bytes += row.bytes;
    group.last = group.last.max(row.time.get());
}

async fn ask(engine: &Engine) -> Result<Answer> {
    let answer = engine.run(question(SCRIPT)).await?;
    let table = answer.tables.first().context("the script displayed nothing")?;
    let mut groups = Answer::new();
    for batch in &table.batches {
        read(batch, &mut groups)?;
    }
    Ok(groups)
}

fn read(batch: &RecordBatch, groups: &mut Answer) -> Result<()> {
    let columns = Columns(batch);
    for row in 0..batch.num_rows() {
        let key = (
            columns.text("service", row)?,
            columns.text("path", row)?,
            columns.number("resp_status", row)?,
        );
        let group = Group {
            requests: columns.number("requests", row)?,
            latency_sum: columns.number("latency_sum", row)?,
            latency_min: columns.number("latency_min", row)?,
            latency_max: columns.number("latency_max", row)?,
            bytes: columns.number("bytes", row)?,
            last: columns.number("last", row)?,
        };
        ensure!(groups.insert(key, group).is_none(), "a group is there twice");
    }
    Ok(())
}
