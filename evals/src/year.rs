//! What a year of requests takes on disk with the default settings: a day in simulated time is sealed every
//! minute, merged and summarised as in life, and each tier is counted as often as its days are kept.
//!
//! Every endpoint of every service is as likely as any other, so nearly all of them are in most windows; of
//! services that are called unevenly, summaries are smaller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use undine::appliance::store_by_default;
use undine_query::Tier;
use undine_schema::tables::{HTTP_EVENTS, HttpEvents};
use undine_schema::{Append, Clock, Durability, Frame, ManualClock, TimeNs};
use undine_store::{Config, Retention, Store, TierView};

use crate::longrange::push_request;
use crate::random::Random;
use crate::report::Report;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 24 * 60 * MINUTE;
/// Midnight, a whole number of days after the epoch.
const START: i64 = 20_000 * DAY;
const SERVICES: u64 = 20;
const ENDPOINTS: u64 = 200;
/// As tidying does in life, which is what makes few files of many.
const TIDIED_EVERY_MINUTES: i64 = 30;
const BATCH_ROWS: usize = 64 * 1024;
/// The logarithm of the median latency in nanoseconds, which is about a millisecond.
const MEDIAN_LN: f64 = 14.0;

/// A day of `rate` requests a second.
pub(crate) fn run(rate: u32) -> Result<Report> {
    let dir = tempfile::tempdir()?;
    let clock = Arc::new(ManualClock::new(TimeNs::new(START)));
    let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let config = store_by_default(dir.path(), &shared)?;
    let retention = config.retention.clone();
    // Nothing of the day is let go while it is counted, and nothing that was merged stays.
    let config = Config { retention: Vec::new(), deleted_files_for: Duration::ZERO, ..config };
    let store = config.build().context("cannot open the store")?;
    let mut report = Report::new("year");
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(&store, &clock, rate))?;
    report.figure("write_s", start.elapsed().as_secs_f64());
    let stats = store.stats();
    let evicted = stats.table(HTTP_EVENTS.name).map_or(0, |table| table.evicted_rows);
    report.same("rows that went unsealed", evicted, 0);
    tell(&store, &retention, &mut report);
    Ok(report)
}

async fn live(store: &Store, clock: &ManualClock, rate: u32) -> Result<()> {
    let paths: Vec<String> = (0..ENDPOINTS).map(|n| format!("/api/op-{n:03}")).collect();
    let services: Vec<String> = (0..SERVICES).map(|n| format!("default/svc-{n:02}")).collect();
    let mut random = Random(7);
    for minute in 0..DAY / MINUTE {
        let from = START + minute * MINUTE;
        let rows = i64::from(rate) * 60;
        let mut builder = HttpEvents::new(BATCH_ROWS);
        for number in 0..rows {
            let (service, path) = (any(&services, &mut random), any(&paths, &mut random));
            let time = from + number * MINUTE / rows;
            push_request(&mut builder, time, service, path, MEDIAN_LN, &mut random);
        }
        // The clock is never behind a row.
        clock.set(TimeNs::new(from + MINUTE));
        let frame = Frame::captured(&HTTP_EVENTS, builder.finish());
        store.append(Frame { durability: Durability::Memory, ..frame })?;
        store.seal().await?;
        if minute % TIDIED_EVERY_MINUTES == TIDIED_EVERY_MINUTES - 1 {
            store.tidy().await?;
        }
    }
    Ok(())
}

fn any<'a>(of: &'a [String], random: &mut Random) -> &'a str {
    let at = random.below(of.len() as u64);
    &of[usize::try_from(at).unwrap_or(0)]
}

/// Bytes of a day by tier, and those of a year.
fn tell(store: &Store, retention: &[Retention], report: &mut Report) {
    let snapshot = store.snapshot(&HTTP_EVENTS);
    let tiers = snapshot.tiers.iter().chain(&snapshot.cubes);
    let tiers = tiers.map(|tier| (name(tier), tier));
    let exemplars = snapshot.exemplars.iter().map(|tier| ("exemplars".to_owned(), tier));
    let mut year = 0;
    for (name, tier) in tiers.chain(exemplars) {
        let bytes: u64 = tier.segments.iter().map(|segment| segment.bytes).sum();
        let width = name.split('_').next().unwrap_or_default();
        let rule = retention.iter().find(|rule| rule.tier.as_deref() == Some(width));
        let days = rule.and_then(|rule| rule.age_max).map_or(365, |age| age.as_secs() / 86_400);
        let kept = bytes * days.min(365);
        report.count(format!("{name}_day_mib"), bytes >> 20);
        report.count(format!("{name}_kept_days"), days.min(365));
        report.count(format!("{name}_kept_mib"), kept >> 20);
        year += kept;
    }
    report.count("year_mib", year >> 20);
}

/// As `1m` or `1m_service`.
fn name(tier: &TierView) -> String {
    let width_ns = i64::try_from(tier.width.as_nanos()).unwrap_or(i64::MAX);
    Tier::Summary { width_ns, cube: tier.cube }.to_string()
}
