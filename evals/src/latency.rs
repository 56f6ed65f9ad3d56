//! What questions take while rows come as fast as a busy node sends them, are sealed, summarised and
//! merged, beside what they take on the same store at rest.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use undine::appliance::question;
use undine_query::Engine;
use undine_schema::tables::HTTP_EVENTS;
use undine_schema::{Append, AppendError, Frame};
use undine_store::Store;

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

pub(crate) fn run(seconds: u32) -> Result<Report> {
    ensure!(seconds > 0, "rows have to come for at least a second");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let mut report = Report::new("latency");
    let config = undine_store::Config {
        tiers: [10, 60, 3600, 86_400].map(Duration::from_secs).to_vec(),
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
        store.append(Frame::captured(&HTTP_EVENTS, batch))?;
        if unsealed >= SEALED_AT_ONCE {
            runtime.block_on(store.seal())?;
            unsealed = 0;
        }
    }
    let script = script();
    let quiet_for = Duration::from_secs(u64::from(seconds) / 2 + 1);
    let (quiet, answer) =
        runtime.block_on(ask(&engine, &script, |start| start.elapsed() < quiet_for))?;
    let running = {
        let _entered = runtime.enter();
        stage::RunningStore::run(store.clone())
    };
    let (ended, late) = (AtomicBool::new(false), AtomicU64::new(0));
    let busy = std::thread::scope(|scope| {
        let (store, ended, late) = (&store, &ended, &late);
        scope.spawn(move || {
            let start = Instant::now();
            for (number, batch) in batches.enumerate() {
                let rows = u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
                let before = u32::try_from(number).unwrap_or(u32::MAX).saturating_mul(rows);
                let due = Duration::from_secs(1) * before / rate;
                let waits = due.saturating_sub(start.elapsed());
                late.fetch_add(u64::from(waits.is_zero()), Ordering::Relaxed);
                std::thread::sleep(waits);
                append(store, &batch);
            }
            ended.store(true, Ordering::Relaxed);
        });
        runtime.block_on(ask(&engine, &script, |_| !ended.load(Ordering::Relaxed)))
    });
    let (busy, answer_when_busy) = busy?;
    let stats = store.stats();
    let about = stats.table(HTTP_EVENTS.name).context("the store does not know the table")?;
    report.count("segments", about.segments);
    report.count("evicted_rows", about.evicted_rows);
    report.count("batches_that_were_late", late.into_inner());
    drop(engine);
    drop(store);
    runtime.block_on(running.close());
    report.same("answers at rest and under load are the same", answer_when_busy, answer);
    for (name, times) in [("quiet", &quiet), ("busy", &busy)] {
        report.count(format!("{name}_questions"), times.len() as u64);
        report.figure(format!("{name}_p50_ms"), at(times, 50));
        report.figure(format!("{name}_p99_ms"), at(times, 99));
    }
    let times = at(&busy, 99) / at(&quiet, 99);
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

/// Asks again and again; the times in milliseconds, ascending, and how many rows the last answer has.
async fn ask(
    engine: &Engine,
    script: &str,
    goes_on: impl Fn(Instant) -> bool + Send,
) -> Result<(Vec<f64>, u64)> {
    let begun = Instant::now();
    let (mut times, mut rows) = (Vec::new(), 0);
    while times.is_empty() || goes_on(begun) {
        let start = Instant::now();
        let answer = engine.run(question(script)).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        rows = answer.tables.first().context("the script displayed nothing")?.rows() as u64;
    }
    times.sort_by(f64::total_cmp);
    Ok((times, rows))
}

fn at(times: &[f64], percent: usize) -> f64 {
    times.get((times.len() - 1) * percent / 100).copied().unwrap_or(f64::NAN)
}

fn append(store: &Store, batch: &RecordBatch) {
    loop {
        match store.append(Frame::captured(&HTTP_EVENTS, batch.clone())) {
            Err(AppendError::Full { .. }) => std::thread::sleep(Duration::from_millis(1)),
            // What else is refused shows in the answers.
            Ok(_) | Err(_) => return,
        }
    }
}
