//! A store under load is killed at random moments, over and over.
//!
//! What was acknowledged is there, what is there was sent, nothing is there twice or in part, and
//! each captured row is there or in `data_loss`, with none lost that was older than the interval.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use undine_schema::tables::{ANOMALIES, DATA_LOSS, HTTP_EVENTS};
use undine_schema::{Clock, Seq, SystemClock, TableDef, TimeNs};
use undine_store::{Config, OnDamage, Store, TierView};

use crate::report::Report;
use crate::stage;

pub(crate) use self::load::{Args as LoadArgs, run as run_load};
use self::load::{Level, Notes, Sent};

/// Captured rows may be lost for so long.
const INTERVAL: Duration = Duration::from_millis(200);
/// A process that is held up for longer says nothing about the interval.
const STALL_MAX: Duration = Duration::from_millis(100);
/// Kills of one folder before the next begins.
const ROUNDS_PER_FOLDER: u32 = 10;

/// The store that is killed and read.
fn config(dir: &Path) -> Config {
    Config {
        tables: vec![&HTTP_EVENTS, &ANOMALIES],
        log_queue_bytes_max: 64 << 20,
        log_sync_interval: INTERVAL,
        commit_interval: Duration::from_millis(2),
        raw_for: Some(Duration::from_hours(24)),
        segments_max: 4,
        merge_bytes_per_second_max: None,
        deleted_files_for: Duration::from_millis(200),
        on_damage: OnDamage::Refuse,
        ..stage::store_config(dir, 256 << 20)
    }
}

/// What all rounds found.
#[derive(Debug, Default)]
struct Found {
    kills_while_starting: u64,
    frames_sent: u64,
    frames_acknowledged: u64,
    rows: u64,
    lost_rows: u64,
    /// Rounds in which the process was not held up.
    free_rounds: u64,
    /// In those, the age of the oldest row that a kill took.
    lost_span_max: Duration,
    stall_max: Duration,
    acknowledged_lost: u64,
    never_sent: u64,
    twice: u64,
    in_part: u64,
    unreported: u64,
    reported_and_there: u64,
    tiers_differ: u64,
    changed_by_a_seal: u64,
}

/// Kills a loaded store `rounds` times.
pub(crate) fn run(rounds: u32) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut found = Found::default();
    let mut folder = tempfile::tempdir()?;
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for round in 0..rounds {
        if round % ROUNDS_PER_FOLDER == 0 {
            folder = tempfile::tempdir()?;
        }
        let dir = folder.path().join("store");
        let started_at = SystemClock.now();
        let killed_at = kill_once(&dir, &mut dice, &mut found)?;
        let store = config(&dir).build().with_context(|| format!("after kill {round}"))?;
        let held = Held::read(&dir, &store)?;
        let notes = Notes::read(&dir)?;
        let stall = notes.stall(started_at, killed_at);
        found.stall_max = found.stall_max.max(stall);
        found.free_rounds += u64::from(stall <= STALL_MAX);
        found.compare(&notes, &held, (stall <= STALL_MAX).then_some(killed_at));
        if round % 3 == 0 {
            runtime.block_on(store.seal())?;
            let sealed = Held::read(&dir, &store)?;
            found.changed_by_a_seal += u64::from(sealed.requests != held.requests);
        }
        if (round + 1) % ROUNDS_PER_FOLDER == 0 || round + 1 == rounds {
            found.frames_sent += Notes::read(&dir)?.sent.len() as u64;
            found.rows += held.requests.len() as u64;
        }
    }
    Ok(found.report(rounds))
}

/// Starts the load and kills it, at times before it is up; gives the time of the kill.
fn kill_once(dir: &Path, dice: &mut Dice, found: &mut Found) -> Result<TimeNs> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["crash-load", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the load")?;
    let early = dice.below(6) == 0;
    if early {
        found.kills_while_starting += 1;
        std::thread::sleep(Duration::from_micros(dice.below(40_000)));
    } else {
        let out = child.stdout.take().context("the load has no output")?;
        let ready = BufReader::new(out).lines().next().transpose()?;
        ensure!(ready.as_deref() == Some("ready"), "the load did not start: {ready:?}");
        // The moment of the kill is what the round is about.
        std::thread::sleep(Duration::from_micros(10_000 + dice.below(700_000)));
    }
    ensure!(child.try_wait()?.is_none(), "the load ended by itself");
    let killed_at = SystemClock.now();
    child.kill()?;
    child.wait()?;
    Ok(killed_at)
}

/// What a store holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    requests: Vec<i64>,
    anomalies: Vec<i64>,
    lost: BTreeSet<u64>,
    /// Rows and sum of ids by tier of `http_events`.
    tiers: Vec<(i64, i64)>,
}

impl Held {
    fn read(dir: &Path, store: &Store) -> Result<Self> {
        let requests = integers(dir, store, &HTTP_EVENTS, "resp_body_size")?;
        let anomalies = integers(dir, store, &ANOMALIES, "requests")?;
        let snapshot = store.snapshot(&HTTP_EVENTS);
        let mut tiers = Vec::new();
        for tier in &snapshot.tiers {
            let mut total = (0, 0);
            for slice in snapshot.hot() {
                let ids = slice.rows["resp_body_size"].as_primitive::<Int64Type>();
                for (at, id) in ids.values().iter().enumerate() {
                    if slice.seqs.first.raw() + at as u64 > tier.sealed_to.raw() {
                        total = (total.0 + 1, total.1 + id);
                    }
                }
            }
            for batch in batches(dir, tier)? {
                let sum = |name: &str| {
                    batch[name].as_primitive::<Int64Type>().values().iter().sum::<i64>()
                };
                total = (total.0 + sum("rows"), total.1 + sum("resp_body_size_sum"));
            }
            tiers.push(total);
        }
        Ok(Self { requests, anomalies, lost: lost_places(dir, store)?, tiers })
    }
}

impl Found {
    fn compare(&mut self, notes: &Notes, held: &Held, killed_at: Option<TimeNs>) {
        let there: BTreeSet<_> = held.requests.iter().copied().collect();
        self.twice += (held.requests.len() - there.len()) as u64;
        let unique: BTreeSet<_> = held.anomalies.iter().copied().collect();
        self.twice += (held.anomalies.len() - unique.len()) as u64;
        let sent: BTreeMap<_, _> = notes.sent.iter().map(|sent| (sent.number, *sent)).collect();
        let known = |id: &i64| sent.get(&Sent::of(*id)).is_some_and(|sent| sent.ids().contains(id));
        self.never_sent += there.iter().chain(&unique).filter(|id| !known(id)).count() as u64;

        for frame in sent.values() {
            let rows = frame.ids().filter(|id| there.contains(id)).count();
            let whole = rows == frame.ids().count();
            let anomaly = unique.contains(&frame.ids().start);
            let split = frame.level == Level::Committed && anomaly != whole;
            self.in_part += u64::from((rows > 0 && !whole) || split);
        }
        let acknowledged: BTreeSet<_> = notes.acknowledged.iter().copied().collect();
        let lost = acknowledged.iter().filter(|number| {
            !sent.get(number).is_some_and(|sent| sent.ids().all(|id| there.contains(&id)))
        });
        self.acknowledged_lost += lost.count() as u64;
        self.frames_acknowledged = self.frames_acknowledged.max(acknowledged.len() as u64);

        let rows = i64::try_from(there.len()).unwrap_or(i64::MAX);
        let truth = (rows, there.iter().sum::<i64>());
        self.tiers_differ += held.tiers.iter().filter(|tier| **tier != truth).count() as u64;
        self.lost_rows = self.lost_rows.max(held.lost.len() as u64);
        for &(number, first) in &notes.accepted {
            let Some(frame) = sent.get(&number) else { continue };
            let there = frame.ids().all(|id| there.contains(&id));
            let places = first..first + frame.ids().count() as u64;
            let reported = places.clone().filter(|place| held.lost.contains(place)).count() as u64;
            self.reported_and_there += u64::from(there && reported > 0);
            if !there {
                self.unreported += u64::from(reported != places.end - places.start);
                // Rows of earlier kills are in here again, and no longer tell of this one.
                if let Some(killed_at) = killed_at.filter(|_| is_of_last_life(first, notes)) {
                    let at = notes.accepted_at.get(&number).copied().unwrap_or(killed_at);
                    self.lost_span_max = self.lost_span_max.max(killed_at.since(at));
                }
            }
        }
    }

    fn report(self, rounds: u32) -> Report {
        let mut report = Report::new("crash");
        report.count("rounds", u64::from(rounds));
        report.count("kills_while_starting", self.kills_while_starting);
        report.count("frames_sent", self.frames_sent);
        report.count("rows_at_the_end", self.rows);
        report.count("rows_lost_in_one_folder_max", self.lost_rows);
        report.figure("stall_of_the_machine_max_ms", self.stall_max.as_secs_f64() * 1e3);
        report.same("acknowledged frames that are lost", self.acknowledged_lost, 0);
        report.same("rows that were never sent", self.never_sent, 0);
        report.same("rows that are there twice", self.twice, 0);
        report.same("frames that are there in part", self.in_part, 0);
        report.same("captured frames neither there nor reported", self.unreported, 0);
        report.same("captured frames there and reported lost", self.reported_and_there, 0);
        report.same("tiers that hold other rows", self.tiers_differ, 0);
        report.same("stores that a seal changed", self.changed_by_a_seal, 0);
        report.count("rounds_without_a_stall", self.free_rounds);
        let (span, what) = (self.lost_span_max, "age of the oldest captured row that was lost");
        if self.free_rounds == 0 {
            report.skip(what, "the machine held the process up in every round");
        } else {
            let target = format!("at most {} ms", INTERVAL.as_millis());
            report.check(what, format!("{} ms", span.as_millis()), target, span <= INTERVAL);
        }
        let acknowledged = self.frames_acknowledged;
        report.check("frames acknowledged in one folder", acknowledged, "some", acknowledged > 0);
        report
    }
}

fn is_of_last_life(place: u64, notes: &Notes) -> bool {
    let life = |place: u64| Seq::from_raw(place).incarnation();
    notes.accepted.last().is_some_and(|&(_, last)| life(last) == life(place))
}

/// The integers of a column over raw files and the hot rows above them.
fn integers(dir: &Path, store: &Store, table: &TableDef, column: &str) -> Result<Vec<i64>> {
    let snapshot = store.snapshot(table);
    let raw = snapshot.raw.as_ref().context("raw rows are kept")?;
    let mut values = Vec::new();
    for batch in batches(dir, raw)? {
        values.extend(batch[column].as_primitive::<Int64Type>().values());
    }
    for slice in snapshot.hot() {
        let all = slice.rows[column].as_primitive::<Int64Type>();
        for (at, value) in all.values().iter().enumerate() {
            if slice.seqs.first.raw() + at as u64 > raw.sealed_to.raw() {
                values.push(*value);
            }
        }
    }
    values.sort_unstable();
    Ok(values)
}

fn batches(dir: &Path, tier: &TierView) -> Result<Vec<RecordBatch>> {
    let mut all = Vec::new();
    for segment in tier.segments.iter() {
        let path = dir.join("tables").join(segment.path.as_ref());
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
            all.push(batch?);
        }
    }
    Ok(all)
}

/// The places of `http_events` that `data_loss` says a crash took.
fn lost_places(dir: &Path, store: &Store) -> Result<BTreeSet<u64>> {
    let snapshot = store.snapshot(&DATA_LOSS);
    let raw = snapshot.raw.as_ref().context("losses are kept")?;
    let mut all = batches(dir, raw)?;
    let above = snapshot.hot().into_iter().filter(|slice| slice.seqs.first > raw.sealed_to);
    all.extend(above.map(|slice| slice.rows));
    let mut places = BTreeSet::new();
    for batch in &all {
        let text = |name: &str, at| batch[name].as_string::<i32>().value(at).to_owned();
        for at in 0..batch.num_rows() {
            if text("source_table", at) != HTTP_EVENTS.name {
                continue;
            }
            let (reason, detail) = (text("reason", at), text("detail", at));
            ensure!(reason == "crash", "a kill was taken for something else: {reason}, {detail}");
            let ranges = detail.strip_prefix("rows ").context(detail.clone())?;
            for range in ranges.split(", ") {
                let (first, last) = range.split_once(" to ").context(detail.clone())?;
                places.extend(place(first)?..=place(last)?);
            }
        }
    }
    Ok(places)
}

fn place(text: &str) -> Result<u64> {
    let (life, counter) = text.split_once('.').context(text.to_owned())?;
    let life = undine_schema::Incarnation::new(life.parse()?);
    Ok(Seq::new(life, counter.parse()?).raw())
}

/// Xorshift: the same kills in every run, as far as the machine lets them be the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
