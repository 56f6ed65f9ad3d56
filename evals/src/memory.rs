//! What a day of rows leaves resident, in simulated time: the store seals and merges as in life, and the
//! process may grow by no more than the store's budget and a little.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use undine::appliance::give_back_memory;
use undine_schema::tables::HTTP_EVENTS;
use undine_schema::{Frame, ManualClock, TimeNs};

use crate::query::requests::{self, Requests};
use crate::report::{Report, ratio};
use crate::stage;

const MINUTE: i64 = 60_000_000_000;
/// Rows in memory, as by default.
const HOT_BYTES_MAX: usize = 512 << 20;
/// Rows that wait for the log, as by default.
const LOG_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Of the budget.
const GROWTH_MAX: f64 = 1.15;

/// So many hours with `rate` rows a second, of the kind that [`crate::query`] asks about.
pub(crate) fn run(hours: u32, rate: u32) -> Result<Report> {
    ensure!(hours > 0 && rate > 0, "an hour and a row a second are the least");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let mut report = Report::new("memory");
    let minute_rows = usize::try_from(rate)? * 60;
    let clock = Arc::new(ManualClock::new(TimeNs::new(requests::START_NS)));
    let before = resident_bytes()?;
    let config = undine_store::Config {
        tiers: stage::tiers(),
        log_queue_bytes_max: LOG_QUEUE_BYTES_MAX,
        clock: Arc::<ManualClock>::clone(&clock),
        ..stage::store_config(dir.path(), HOT_BYTES_MAX)
    };
    let store = config.build().context("cannot open the store")?;
    let start = Instant::now();
    let (mut most, mut hot_most) = (0, 0);
    for hour in 0..hours {
        let from = requests::START_NS + i64::from(hour) * 60 * MINUTE;
        let mut requests = Requests::starting(from, u64::from(rate) * 3600, minute_rows);
        let mut most_of_hour = 0;
        for minute in 1..=60 {
            clock.set(TimeNs::new(from + minute * MINUTE));
            if let Some(rows) = requests.batch(minute_rows) {
                stage::append(&store, &Frame::captured(&HTTP_EVENTS, rows))?;
            }
            runtime.block_on(store.merge_hot())?;
            runtime.block_on(store.seal())?;
            runtime.block_on(store.tidy())?;
            give_back_memory();
            most_of_hour = resident_bytes()?.max(most_of_hour);
            hot_most = store.stats().hot_bytes.max(hot_most);
        }
        report.count(format!("resident_mib_in_hour_{hour:02}"), most_of_hour >> 20);
        most = most_of_hour.max(most);
    }
    let stats = store.stats();
    let about = stats.table(HTTP_EVENTS.name).context("the store does not know the table")?;
    report.count("rows", about.appended_rows);
    report.count("segments", about.segments);
    report.figure("segment_bytes_a_row", ratio(about.segment_bytes, about.appended_rows));
    report.count("hot_mib_at_most", hot_most >> 20);
    // Also while rows were made, sealed and merged, before memory was given back.
    report.count("resident_mib_peak", memory_of("self", "VmHWM:")? >> 20);
    report.figure("seconds", start.elapsed().as_secs_f64());
    let budget = (HOT_BYTES_MAX + LOG_QUEUE_BYTES_MAX) as u64;
    let grown = ratio(most.saturating_sub(before), budget);
    report.check(
        "the process grew by at most, of the budget for rows in memory and on their way to the log",
        format!("{grown:.2}, {} of {} MiB", most.saturating_sub(before) >> 20, budget >> 20),
        format!("<= {GROWTH_MAX}"),
        grown <= GROWTH_MAX,
    );
    Ok(report)
}

/// Memory of this process that is not swapped out.
fn resident_bytes() -> Result<u64> {
    memory_of("self", "VmRSS:")
}

/// What the kernel says of a process's memory under `name`, in bytes.
pub(crate) fn memory_of(process: &str, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next());
    let kib = kib.with_context(|| format!("/proc/{process}/status says nothing of {name}"))?;
    Ok(kib.parse::<u64>()? * 1024)
}
