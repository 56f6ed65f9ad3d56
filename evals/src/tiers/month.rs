//! A month in simulated time: the same scripts over minutes, hours and all of it.
//!
//! Rows come in the order of their arrival, some of them hours late; the store's clock is set hour by
//! hour, and what came is sealed, merged and let go as in life. The truth is computed from the rows
//! themselves, which are a function of their number, over the range that the answer says it covers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use undine::appliance::question;
use undine_query::{Engine, Note, Request, ResultTable};
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{Append, Durability, Frame, ManualClock, TimeNs, Upid};
use undine_store::{Retention, Store};

use crate::columns::Columns;
use crate::random::Random;
use crate::report::Report;
use crate::stage;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Midnight, a whole number of days after the epoch.
const START: i64 = 20_000 * DAY;
/// Simulated time between two seals.
const SEALED_EVERY: i64 = 2 * HOUR;
/// One row of so many is late, by less than [`LATE_MAX`].
const LATE_ONE_IN: u64 = 50;
const LATE_MAX: i64 = 2 * HOUR;
const BATCH_ROWS: usize = 8192;
/// Room for some hours of rows, so that nearly everything has to come from disk.
const HOT_BYTES_MAX: usize = 64 << 20;
/// Rows that are sealed before their time, since not many more fit into that.
const UNSEALED_ROWS_MAX: usize = 100_000;
/// How far a quantile may be from the truth.
const QUANTILE_ERROR_MAX: f64 = 0.01;

const SERVICES: [&str; 3] = ["storefront", "orders", "inventory"];
const PATHS: [&str; 4] = ["/orders/*", "/items/*", "/users/*", "/login"];
const STATUSES: [i64; 3] = [200, 404, 500];

/// How long it is and how much comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) days: u32,
    /// Rows a second.
    pub(crate) rate: u32,
}

impl Options {
    /// When the last row is due.
    fn end(self) -> i64 {
        START + i64::from(self.days) * DAY
    }

    /// The rows that arrive from `from` on, and before `until`.
    fn arriving(self, from: i64, until: i64) -> std::ops::Range<u64> {
        let number = |time: i64| {
            let after = (time.clamp(START, self.end()) - START).cast_unsigned();
            after * u64::from(self.rate) / SECOND.cast_unsigned()
        };
        number(from)..number(until)
    }
}

pub(super) async fn scenario(options: Options, dir: &Path, report: &mut Report) -> Result<()> {
    let clock = Arc::new(ManualClock::new(TimeNs::new(START)));
    let store = open(dir, &clock)?;
    let start = Instant::now();
    live(options, &store, &clock).await?;
    report.figure("month_write_s", start.elapsed().as_secs_f64());
    let snapshot = store.snapshot(&HTTP_EVENTS);
    for tier in &snapshot.tiers {
        let seconds = tier.width.as_secs();
        let bytes: u64 = tier.segments.iter().map(|segment| segment.bytes).sum();
        report.count(format!("month_tier_{seconds}s_bytes"), bytes);
        report.count(format!("month_tier_{seconds}s_segments"), tier.segments.len() as u64);
    }
    drop(snapshot);
    let config = undine_query::Config {
        clock: Arc::<ManualClock>::clone(&clock),
        ..stage::engine_config(&store)
    };
    let engine = config.build().context("cannot build the engine")?;
    let end = options.end();
    let long = i64::from(options.days) * DAY;
    let uneven = 7 * MINUTE + 3 * SECOND + 700_000_001;
    for (name, from, until) in [
        ("5 minutes", end - 5 * MINUTE, end),
        ("5 uneven minutes", end - 9 * HOUR - uneven, end - 9 * HOUR - uneven + 5 * MINUTE),
        ("6 hours", end - 6 * HOUR, end),
        ("6 uneven hours", end - 6 * HOUR - uneven, end - uneven),
        ("6 uneven hours, half of it ago", end - long / 2, end - long / 2 + 6 * HOUR + uneven),
        ("all of it", START, end),
        ("all of it, unevenly", START + uneven, end - uneven),
    ] {
        let start = Instant::now();
        let answer = ask(&engine, &groups_script(from, until)).await?;
        report.figure(format!("month_{name}_ms"), start.elapsed().as_secs_f64() * 1e3);
        judge(report, name, &answer, options, (from, until))?;
    }
    refusals(&engine, options, report).await
}

/// Fine summaries stay for days, coarse ones for ever.
fn open(dir: &Path, clock: &Arc<ManualClock>) -> Result<Store> {
    let keep = |tier: &str, days: u64| Retention {
        table: None,
        tier: Some(tier.to_owned()),
        age_max: Some(Duration::from_hours(24 * days)),
        bytes_max: None,
    };
    let config = undine_store::Config {
        tiers: stage::tiers(),
        retention: vec![keep("10s", 3), keep("1m", 10)],
        deleted_files_for: Duration::ZERO,
        clock: Arc::<ManualClock>::clone(clock),
        ..stage::store_config(dir, HOT_BYTES_MAX)
    };
    config.build().context("cannot open the store")
}

/// Everything that comes in its order; what came last stays unsealed.
async fn live(options: Options, store: &Store, clock: &ManualClock) -> Result<()> {
    let mut batch = HttpEvents::new(BATCH_ROWS);
    let (mut at, mut unsealed) = (START, 0);
    while at < options.end() {
        let until = at + SEALED_EVERY;
        // The clock is never behind a row.
        clock.set(TimeNs::new(until));
        for number in options.arriving(at, until) {
            Row::number(number, options.rate).push(&mut batch);
            if batch.len() == BATCH_ROWS {
                unsealed += append(store, &mut batch)?;
                if unsealed > UNSEALED_ROWS_MAX {
                    store.seal().await?;
                    unsealed = 0;
                }
            }
        }
        unsealed += append(store, &mut batch)?;
        at = until;
        if at < options.end() {
            store.seal().await?;
            store.tidy().await?;
            unsealed = 0;
        }
    }
    Ok(())
}

/// How many rows these were.
fn append(store: &Store, batch: &mut HttpEvents) -> Result<usize> {
    let rows = batch.len();
    if rows > 0 {
        let frame = Frame::captured(&HTTP_EVENTS, batch.finish());
        store.append(Frame { durability: Durability::Memory, ..frame })?;
    }
    Ok(rows)
}

fn groups_script(from: i64, until: i64) -> String {
    format!(
        "import px\n\
         df = px.DataFrame('http_events', start_time={from}, end_time={})\n\
         df.service = df.ctx['service']\n\
         df.path = df.ctx['req_path_template']\n\
         df = df.groupby(['service', 'path', 'resp_status']).agg(\n\
         \x20   n=('latency', px.count), sum=('latency', px.sum), min=('latency', px.min),\n\
         \x20   max=('latency', px.max), bytes=('resp_body_size', px.sum),\n\
         \x20   first=('time_', px.min), last=('time_', px.max), q=('latency', px.quantiles))\n\
         df.p50 = px.pluck_float64(df.q, 'p50')\n\
         df.p99 = px.pluck_float64(df.q, 'p99')\n\
         px.display(df.drop('q'))",
        until - 1
    )
}

async fn ask(engine: &Engine, script: &str) -> Result<ResultTable> {
    engine.run(question(script)).await?.tables.pop().context("the script displayed nothing")
}

/// Compares an answer with the rows of the range that it says it covers.
fn judge(
    report: &mut Report,
    name: &str,
    answer: &ResultTable,
    options: Options,
    asked: (i64, i64),
) -> Result<()> {
    let covered = answer.notes.iter().find_map(|note| match note {
        Note::Widened { from, until, .. } => Some((from.get(), until.get())),
        _ => None,
    });
    let (from, until) = covered.unwrap_or(asked);
    let tiers: Vec<_> =
        answer.sources.iter().filter(|s| s.rows > 0).map(|s| s.tier.to_string()).collect();
    // A hundredth of the range, or a window of ten seconds, at each end; an hour where only hours are left.
    let wider = (asked.0 - from).max(until - asked.1);
    let is_coarse = |tier: &String| tier.starts_with("1h") || tier.starts_with("1d");
    let wider_max = if tiers.iter().all(is_coarse) {
        HOUR
    } else {
        ((asked.1 - asked.0) / 100).max(10 * SECOND)
    };
    report.check(
        format!("{name}: read from {}, wider at an end by seconds", tiers.join(", ")),
        wider / SECOND,
        format!("0 to {}", wider_max / SECOND),
        from <= asked.0 && until >= asked.1 && wider < wider_max,
    );
    let truth = truth(options, from, until);
    let mut found = BTreeMap::new();
    for batch in &answer.batches {
        read(batch, &mut found)?;
    }
    let exact = |group: &Group| group.exact;
    let right = truth.iter().filter(|(key, group)| found.get(*key).map(exact) == Some(group.exact));
    let (right, rows) = (right.count(), truth.values().map(|group| group.exact.count).sum::<i64>());
    report.check(
        format!("{name}: groups with count, sums, least, most, first and last exact"),
        format!("{right} of {} and {rows} rows", found.len()),
        truth.len(),
        right == truth.len() && found.len() == truth.len() && rows > 0,
    );
    let worst = truth
        .iter()
        .filter_map(|(key, group)| Some((group, found.get(key)?)))
        .map(|(group, found)| group.error_of(found))
        .fold(0.0, f64::max);
    report.check(
        format!("{name}: the worst quantile is wrong by"),
        format!("{worst:.4}"),
        format!("<= {QUANTILE_ERROR_MAX}"),
        worst <= QUANTILE_ERROR_MAX,
    );
    Ok(())
}

/// What cannot be answered is refused, and the reason says what can be.
async fn refusals(engine: &Engine, options: Options, report: &mut Report) -> Result<()> {
    let head = format!("import px\ndf = px.DataFrame('http_events', start_time={START})\n");
    let count = ".agg(n=('latency', px.count))\npx.display(df)";
    for (name, body, reason) in [
        (
            "bins of a second",
            format!("df.t = px.bin(df.time_, px.seconds(1))\ndf = df.groupby('t'){count}"),
            "do not fit the summaries",
        ),
        (
            "a column that no summary has",
            format!("df = df.groupby('remote_addr'){count}"),
            "reaches further back",
        ),
    ] {
        let script = format!("{head}{body}");
        let refused = engine.run(Request { strict: true, ..question(&script) }).await;
        let said = refused.err().map_or_else(String::new, |error| error.to_string());
        let ok = said.contains(reason);
        let first = said.lines().next().unwrap_or("answered");
        report.check(format!("{name} over {} days", options.days), first, reason, ok);
    }
    Ok(())
}

type Key = (String, String, i64);

/// What the script computes exactly of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exact {
    count: i64,
    sum: i64,
    min: i64,
    max: i64,
    bytes: i64,
    first: i64,
    last: i64,
}

/// A group as it is: its values; or as it was answered: its quantiles.
#[derive(Clone, Debug)]
struct Group {
    exact: Exact,
    values: Values,
    quantiles: [f64; 2],
}

impl Group {
    /// How far the answered quantiles are from the values of this group.
    fn error_of(&self, answered: &Self) -> f64 {
        let error = |(share, answered): (f64, f64)| {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "places in a list of values"
            )]
            let at = |round: fn(f64) -> f64| {
                self.values.of_rank(round(share * (self.exact.count - 1) as f64) as u64)
            };
            // Between two values, either is right.
            let (least, most) = (f64::from(at(f64::floor).0), f64::from(at(f64::ceil).1));
            ((least - answered) / least).max((answered - most) / most).max(0.0)
        };
        let [p50, p99] = answered.quantiles;
        error((0.5, p50)).max(error((0.99, p99)))
    }
}

/// Counts of values whose first 13 bits are the same, so that billions of them need little room.
#[derive(Clone, Debug, Default)]
struct Values {
    counts: Vec<u64>,
}

impl Values {
    /// Values of as many bits that are told apart.
    const APART: usize = 1 << 12;

    fn add(&mut self, value: u32) {
        let shift = (u32::BITS - value.leading_zeros()).saturating_sub(13);
        let at = shift as usize * Self::APART + (value >> shift) as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
    }

    /// The least and the greatest value that are counted with the one of this rank.
    fn of_rank(&self, rank: u64) -> (u32, u32) {
        let mut upto = 0;
        let at = self.counts.iter().position(|count| {
            upto += count;
            upto > rank
        });
        let at = at.unwrap_or_default();
        let shift = (at / Self::APART).saturating_sub(1);
        let value = u32::try_from(at - shift * Self::APART).unwrap_or(u32::MAX);
        (value << shift, (value << shift) + (1 << shift) - 1)
    }
}

/// The groups of the rows whose time is in the range.
fn truth(options: Options, from: i64, until: i64) -> BTreeMap<Key, Group> {
    let mut groups: Vec<Option<Group>> = vec![None; SERVICES.len() * PATHS.len() * STATUSES.len()];
    for number in options.arriving(from, until.saturating_add(LATE_MAX)) {
        let row = Row::number(number, options.rate);
        if !(from..until).contains(&row.time) {
            continue;
        }
        let at = (row.service * PATHS.len() + row.path) * STATUSES.len() + row.status;
        let group = groups[at].get_or_insert_with(|| Group {
            exact: Exact {
                count: 0,
                sum: 0,
                min: i64::MAX,
                max: 0,
                bytes: 0,
                first: i64::MAX,
                last: 0,
            },
            values: Values::default(),
            quantiles: [0.0; 2],
        });
        let (exact, latency) = (&mut group.exact, i64::from(row.latency));
        *exact = Exact {
            count: exact.count + 1,
            sum: exact.sum + latency,
            min: exact.min.min(latency),
            max: exact.max.max(latency),
            bytes: exact.bytes + row.bytes,
            first: exact.first.min(row.time),
            last: exact.last.max(row.time),
        };
        group.values.add(row.latency);
    }
    let mut truth = BTreeMap::new();
    for (at, group) in groups.into_iter().enumerate() {
        let Some(group) = group else { continue };
        let (at, status) = (at / STATUSES.len(), STATUSES[at % STATUSES.len()]);
        let (service, path) = (SERVICES[at / PATHS.len()], PATHS[at % PATHS.len()]);
        truth.insert((service.to_owned(), path.to_owned(), status), group);
    }
    truth
}

fn read(batch: &RecordBatch, groups: &mut BTreeMap<Key, Group>) -> Result<()> {
    let columns = Columns(batch);
    for row in 0..batch.num_rows() {
        let key = (
            columns.text("service", row)?,
            columns.text("path", row)?,
            columns.number("resp_status", row)?,
        );
        let exact = Exact {
            count: columns.number("n", row)?,
            sum: columns.number("sum", row)?,
            min: columns.number("min", row)?,
            max: columns.number("max", row)?,
            bytes: columns.number("bytes", row)?,
            first: columns.number("first", row)?,
            last: columns.number("last", row)?,
        };
        let quantiles = [columns.float("p50", row)?, columns.float("p99", row)?];
        let group = Group { exact, values: Values::default(), quantiles };
        ensure!(groups.insert(key, group).is_none(), "a group is there twice");
    }
    Ok(())
}

/// A request, by its number.
#[derive(Clone, Copy, Debug)]
struct Row {
    time: i64,
    service: usize,
    path: usize,
    status: usize,
    latency: u32,
    bytes: i64,
}

impl Row {
    fn number(number: u64, rate: u32) -> Self {
        let mut random = Random(number);
        let noise = random.next();
        let due = START + (number * SECOND.cast_unsigned() / u64::from(rate)).cast_signed();
        let is_late = noise.is_multiple_of(LATE_ONE_IN);
        let late = if is_late { random.below(LATE_MAX.cast_unsigned()).cast_signed() } else { 0 };
        let below = |shift: u32, limit: u64| (noise >> shift) % limit;
        let place = |shift: u32, limit: usize| {
            usize::try_from(below(shift, limit as u64)).unwrap_or(usize::MAX)
        };
        let service = place(8, SERVICES.len());
        // From 1 to some 30 ms, one in 256 much more.
        let slow = if below(16, 256) == 0 { 40 } else { 1 };
        let latency = (1_000_000 + below(24, 5000) * below(37, 5000)) * slow;
        Self {
            time: (due - late).max(START),
            service,
            path: place(11, PATHS.len()),
            status: [0, 0, 0, 0, 0, 0, 1, 2][place(14, 8)],
            latency: u32::try_from(latency).unwrap_or(u32::MAX),
            bytes: below(44, 9000).cast_signed(),
        }
    }

    fn push(&self, batch: &mut HttpEvents) {
        let path = PATHS[self.path];
        batch.push(&HttpEvent {
            time_: TimeNs::new(self.time),
            upid: Upid::new(1, 100 + u32::try_from(self.service).unwrap_or(0), 7),
            remote_addr: "10.0.0.2",
            local_addr: "10.0.0.1",
            trace_role: 2,
            req_method: "GET",
            req_path: path,
            req_path_template: path,
            resp_status: STATUSES[self.status],
            resp_body_size: self.bytes,
            latency: self.latency.into(),
            service: SERVICES[self.service],
            node: "evals",
            ..HttpEvent::default()
        });
    }
}
