//! What questions take while rows come as fast as a busy node sends them, are sealed, summarised and
//! merged, beside what they take on the same store at rest, before and afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use arrow::array::RecordBatch;
use undine::appliance::question;
use undine_query::Engine;
use undine_schema::Frame;
use undine_schema::tables::HTTP_EVENTS;
use undine_store::Store;

use crate::columns::Columns;
use crate::ingest::{self, ROWS_PER_SECOND, START_NS};
use crate::report::Report;
use crate::stage;

/// Rows that are there before.
const ROWS_BEFORE: u32 = 4_000_000;
/// Rows of one seal of these.
const SEALED_AT_ONCE: usize = 200_000;
/// Time between seals while rows come, so that there are many in a short run.
const SEAL_INTERVAL: Duration = Duration::from_secs(2);
/// Less than what is there before, so that part of it comes from disk.
const HOT_BYTES_MAX: usize = 256 << 20;
/// How many times the quiet figure the busy one may be.
const TIMES_MAX: f64 = 1.3;

/// Rows by service and path.
type Answer = BTreeMap<(String, String), i64>;

pub(crate) fn run(seconds: u32) -> Result<Report> {
    ensure!(seconds > 0, "rows have to come for at least a second");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let mut report = Report::new("latency");
    let config = undine_store::Config {
        tiers: stage::tiers(),
        seal_interval: SEAL_INTERVAL,
        segments_max: 8,
        ..stage::store_config(dir.path(), HOT_BYTES_MAX)
    };
    let store = config.build().context("cannot open the store")?;
    let engine = stage::engine_config(&store).build().context("cannot build the engine")?;
    let rate = u32::try_from(ROWS_PER_SECOND)?;
    let mut batches = ingest::batches(&HTTP_EVENTS, ROWS_BEFORE + seconds * rate).into_iter();
    let mut unsealed = 0;
    let mut appended = 0;
    while appended < ROWS_BEFORE as usize {
        let batch = batches.next().context("too few rows were made")?;
        (unsealed, appended) = (unsealed + batch.num_rows(), appended + batch.num_rows());
        stage::append(&store, &Frame::captured(&HTTP_EVENTS, batch))?;
        if unsealed >= SEALED_AT_ONCE {
            runtime.block_on(store.seal())?;
            unsealed = 0;
        }
    }
    runtime.block_on(store.seal())?;
    let script = script();
    let quiet_for = Duration::from_secs(u64::from(seconds) / 3 + 1);
    let is_quiet = |start: Instant| start.elapsed() < quiet_for;
    let (mut quiet, answer) = runtime.block_on(ask(&engine, &script, is_quiet))?;
    let running = {
        let _entered = runtime.enter();
        stage::RunningStore::run(store.clone())
    };
    let ended = AtomicBool::new(false);
    let (busy, sent) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let sent = send(&store, batches, rate);
            ended.store(true, Ordering::Relaxed);
            sent
        });
        let busy = runtime.block_on(ask(&engine, &script, |_| !ended.load(Ordering::Relaxed)));
        (busy, load.join())
    });
    let sent = sent.map_err(|_panic| anyhow!("the load panicked"))??;
    let (mut busy, answer_when_busy) = busy?;
    runtime.block_on(running.close());
    report.figure("quiet_before_p50_ms", at(&mut quiet, 50));
    let (mut quiet_after, answer_after) = runtime.block_on(ask(&engine, &script, is_quiet))?;
    report.figure("quiet_after_p50_ms", at(&mut quiet_after, 50));
    quiet.append(&mut quiet_after);
    let stats = store.stats();
    let about = stats.table(HTTP_EVENTS.name).context("the store does not know the table")?;
    report.count("segments", about.segments);
    report.check(
        "rows that were evicted before they were sealed",
        about.evicted_rows,
        0,
        about.evicted_rows == 0,
    );
    report.count("batches_that_were_late", sent.late);
    report.figure("longest_append_ms", sent.longest.as_secs_f64() * 1e3);
    let right = answer == answer_when_busy && answer == answer_after;
    let (rows, groups) = (answer_when_busy.values().sum::<i64>(), answer.len());
    report.check(
        "each group has as many rows under load and afterwards as before",
        format!("{rows} rows"),
        format!("{} rows in {groups} groups", answer.values().sum::<i64>()),
        right && rows > 0,
    );
    for (name, times) in [("quiet", &mut quiet), ("busy", &mut busy)] {
        report.count(format!("{name}_questions"), times.len() as u64);
        report.figure(format!("{name}_p50_ms"), at(times, 50));
        report.figure(format!("{name}_p99_ms"), at(times, 99));
    }
    let times = at(&mut busy, 99) / at(&mut quiet, 99);
    report.check(
        format!("p99 with {ROWS_PER_SECOND} rows a second, of that at rest"),
        format!("{times:.2}"),
        format!("<= {TIMES_MAX}"),
        times <= TIMES_MAX,
    );
    Ok(report)
}

/// p99 by service and endpoint over what was there before, but for the last window.
fn script() -> String {
    let span = i64::from(ROWS_BEFORE) / ROWS_PER_SECOND * 1_000_000_000;
    format!(
        "import px\n\
         df = px.DataFrame('http_events', start_time={START_NS}, end_time={})\n\
         df.service = df.ctx['service']\n\
         df.path = df.ctx['req_path_template']\n\
         df = df.groupby(['service', 'path']).agg(n=('latency', px.count), q=('latency', px.quantiles))\n\
         df.p99 = px.pluck_float64(df.q, 'p99')\n\
         px.display(df[['service', 'path', 'n', 'p99']])",
        START_NS + span - 10_000_000_000 - 1
    )
}

/// How appending went.
#[derive(Default)]
struct Sent {
    /// Batches that came later than they should have.
    late: u64,
    longest: Duration,
}

/// Appends `rate` rows a second.
fn send(store: &Store, batches: impl Iterator<Item = RecordBatch>, rate: u32) -> Result<Sent> {
    let start = Instant::now();
    let (mut due, mut sent) = (Duration::ZERO, Sent::default());
    for batch in batches {
        let waits = due.saturating_sub(start.elapsed());
        sent.late += u64::from(waits.is_zero());
        due += Duration::from_secs(1) * u32::try_from(batch.num_rows())? / rate;
        // The load's pace; nothing is awaited.
        std::thread::sleep(waits);
        let begun = Instant::now();
        stage::append(store, &Frame::captured(&HTTP_EVENTS, batch))?;
        sent.longest = sent.longest.max(begun.elapsed());
    }
    Ok(sent)
}

/// Asks again and again; the times in milliseconds, and the last answer.
async fn ask(
    engine: &Engine,
    script: &str,
    goes_on: impl Fn(Instant) -> bool + Send,
) -> Result<(Vec<f64>, Answer)> {
    let begun = Instant::now();
    let (mut times, mut last) = (Vec::new(), None);
    while last.is_none() || goes_on(begun) {
        let start = Instant::now();
        let answer = engine.run(question(script)).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        last = answer.tables.into_iter().next();
    }
    let mut groups = Answer::new();
    for batch in last.iter().flat_map(|table| &table.batches) {
        let columns = Columns(batch);
        for row in 0..batch.num_rows() {
            let key = (columns.text("service", row)?, columns.text("path", row)?);
            groups.insert(key, columns.number("n", row)?);
        }
    }
    Ok((times, groups))
}

fn at(times: &mut [f64], percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get((times.len() - 1) * percent / 100).copied().unwrap_or(f64::NAN)
}
