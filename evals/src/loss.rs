//! Where something is lost, it is known: operations and bytes exactly, rows within bounds, and only on
//! connections with a recorded gap; and what is left is right.
//!
//! Each case forces a loss at one stage, and none by luck: messages are sent while nobody reads, or
//! until what must happen has happened. The truth is nginx' access log; each request carries an id
//! that its response echoes.

mod gate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use undine_collector::event::{Body, Event};
use undine_collector::recording::{Entry, Replayer};
use undine_schema::Append;

use crate::capture::wrong_pairs;
use crate::nginx::{AccessLog, Logged, Nginx, Sendfile, Serving};
use crate::report::Report;
use crate::require_scope;
use crate::talker::Talker;
use crate::truth::accounted;
use crate::watch::{Seen, Watch, Watched};
use gate::Gate;
use undine_testbed::Place;

/// A ring that a few requests fill.
const SMALL_RING_BYTES: u32 = 64 << 10;
/// A ring that twenty requests on one connection do not fill, however late they are read.
const CALM_RING_BYTES: u32 = 4 << 20;
/// Times that a load is repeated until what it is to bring about has happened.
const ROUNDS_MAX: usize = 200;

pub(crate) fn run(requests: usize) -> Result<Report> {
    require_scope()?;
    let mut report = Report::new("loss");
    ring_full(requests, &mut report).context("ring_full")?;
    reader_paused(requests, &mut report).context("reader_paused")?;
    store_refuses(requests, &mut report).context("store_refuses")?;
    connections_full(requests, &mut report).context("connections_full")?;
    evicted(requests, &mut report).context("evicted")?;
    Ok(report)
}

/// A server and a client in a place of their own.
struct Scene {
    dir: tempfile::TempDir,
    nginx: Nginx,
    talker: Talker,
    place: Place,
}

impl Scene {
    fn set() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let place = Place::new("undine-evals")?;
        let serving = Serving { sendfile: Sendfile::Off, log: AccessLog::On };
        let nginx = Nginx::start(&place, dir.path(), serving)?;
        let talker = Talker::start(&place)?;
        Ok(Self { dir, nginx, talker, place })
    }

    fn recording(&self) -> std::path::PathBuf {
        self.dir.path().join("recording")
    }

    /// Ends both; what the server logged.
    fn end(self) -> Result<Ended> {
        let Self { dir, nginx, talker, place } = self;
        drop(talker);
        Ok(Ended { log: nginx.stop()?, dir, _place: place })
    }
}

/// What is left of a scene.
struct Ended {
    log: Vec<Logged>,
    dir: tempfile::TempDir,
    _place: Place,
}

fn as_it_is(store: Arc<dyn Append>) -> Arc<dyn Append> {
    store
}

/// The kernel's ring is too small for what is sent before anyone reads.
fn ring_full(requests: usize, report: &mut Report) -> Result<()> {
    let mut scene = Scene::set()?;
    let watch = Watch { ring_bytes: SMALL_RING_BYTES, ..Watch::roomy() };
    let (place, talker) = (&scene.place, std::cell::RefCell::new(&mut scene.talker));
    let unread = || talker.borrow_mut().send(0, 8, requests / 16);
    let act = |_: &Watched<'_>| talker.borrow_mut().send(0, 16, requests / 32);
    let (seen, ()) = watch.through(&place.cgroup, as_it_is, unread, act)?;
    let ended = scene.end()?;
    let dropped = seen.stats.kernel.dropped;
    report.check("ring_full: messages lost", dropped, "> 0", dropped > 0);
    within_stats(report, "ring_full", &seen, &ended.log)?;
    judge(report, "ring_full", &seen, &ended.log)
}

/// The collector's thread stands still while half of the connections go on.
fn reader_paused(requests: usize, report: &mut Report) -> Result<()> {
    let mut scene = Scene::set()?;
    let recording = scene.recording();
    let watch = Watch { ring_bytes: CALM_RING_BYTES, recording: Some(recording), ..Watch::roomy() };
    let gate = std::cell::RefCell::new(None);
    let make_gate = |store| {
        let made = Arc::new(Gate::before(store));
        *gate.borrow_mut() = Some(Arc::clone(&made));
        made as Arc<dyn Append>
    };
    let talker = &mut scene.talker;
    let act = |watched: &Watched<'_>| {
        let gate = gate.borrow().clone().context("there is no gate")?;
        for connection in 0..16 {
            talker.send(connection, 1, 20)?;
            watched.drain()?;
        }
        gate.close();
        talker.send(0, 1, 1)?;
        gate.wait_until_someone_waits();
        let control = watched.handle.control().context("no kernel programs")?.clone();
        let mut rounds = 0;
        // The small messages of the last connections may still have found room.
        while control.counters()?.dropped < requests as u64 {
            ensure!(rounds < ROUNDS_MAX, "the ring is not full after {rounds} rounds");
            rounds += 1;
            talker.send(0, 8, (requests / 16).max(10))?;
        }
        gate.open();
        watched.drain()?;
        for connection in 0..16 {
            talker.send(connection, 1, 20)?;
            watched.drain()?;
        }
        Ok(())
    };
    let (seen, ()) = watch.through(&scene.place.cgroup, make_gate, || Ok(()), act)?;
    let ended = scene.end()?;
    within_stats(report, "reader_paused", &seen, &ended.log)?;
    judge(report, "reader_paused", &seen, &ended.log)?;
    // Only on connections with a recorded gap is a row missing, and of the others none is.
    let ports = ports(&ended.dir.path().join("recording"))?;
    let gaps = seen.rows("data_loss", ["conn", "rows_max", "source_table"])?;
    let mut with_gap = BTreeSet::new();
    let mut nowhere = 0;
    for [conn, rows_max, table] in gaps {
        if table != "http_events" || rows_max == "0" {
            continue;
        }
        match u64::from_str_radix(&conn, 16).ok().and_then(|conn| ports.get(&conn)) {
            Some(port) => drop(with_gap.insert(port.to_string())),
            None => nowhere += 1,
        }
    }
    let short = short_connections(&seen, &ended.log)?;
    report.count("reader_paused_connections_with_missing_rows", short.len() as u64);
    report.count("reader_paused_connections_with_a_gap", with_gap.len() as u64);
    report.same("reader_paused: gaps on no connection", nowhere, 0);
    let unexplained = short.difference(&with_gap).count();
    report.same("reader_paused: connections with missing rows and no gap", unexplained, 0);
    let some = (1..=8).contains(&short.len());
    report.check("reader_paused: connections with missing rows", short.len(), "1 to 8", some);
    Ok(())
}

/// The store takes nothing for a while.
fn store_refuses(requests: usize, report: &mut Report) -> Result<()> {
    let mut scene = Scene::set()?;
    // A batch for every look at the ring, so that more wait than may.
    let watch = Watch { flush_interval: Duration::from_millis(1), ..Watch::roomy() };
    let gate = std::cell::RefCell::new(None);
    let make_gate = |store| {
        let made = Arc::new(Gate::before(store));
        *gate.borrow_mut() = Some(Arc::clone(&made));
        made as Arc<dyn Append>
    };
    let talker = &mut scene.talker;
    let act = |watched: &Watched<'_>| {
        let gate = gate.borrow().clone().context("there is no gate")?;
        talker.send(0, 8, 20)?;
        watched.drain()?;
        gate.refuse();
        let mut rounds = 0;
        while watched.handle.stats().refused_rows == 0 {
            ensure!(rounds < ROUNDS_MAX, "nothing was refused for good after {rounds} rounds");
            rounds += 1;
            talker.send(0, 8, (requests / 16).max(10))?;
        }
        gate.open();
        watched.drain()?;
        talker.send(0, 8, 20)?;
        Ok(())
    };
    let (seen, ()) = watch.through(&scene.place.cgroup, make_gate, || Ok(()), act)?;
    let ended = scene.end()?;
    let is_store = |[stage, table]: &[String; 2]| stage == "store" && table == "http_events";
    let columns = ["stage", "source_table"];
    let least = seen.sum("data_loss", "rows_min", columns, is_store)?;
    let most = seen.sum("data_loss", "rows_max", columns, is_store)?;
    let rows = seen.rows("http_events", ["req_path"])?.len() as u64;
    let missing = ended.log.len() as u64 - rows;
    report.check("store_refuses: rows missing", missing, "> 0", missing > 0);
    report.same("store_refuses: rows missing = at least, in data_loss", missing, least);
    report.same("store_refuses: rows missing = at most, in data_loss", missing, most);
    report.same("store_refuses: messages lost", seen.stats.kernel.dropped, 0);
    // Rows of other tables were refused too.
    let (bounds, refused) = (seen.stats.missing_rows, seen.stats.refused_rows);
    report.same("store_refuses: rows refused = at least, in Stats", refused, bounds.min);
    report.same("store_refuses: rows refused = at most, in Stats", refused, bounds.max);
    judge(report, "store_refuses", &seen, &ended.log)
}

/// There are more connections than the kernel's map has room for.
fn connections_full(requests: usize, report: &mut Report) -> Result<()> {
    let mut scene = Scene::set()?;
    let watch = Watch { connections_max: 16, ..Watch::roomy() };
    let talker = &mut scene.talker;
    let act = |watched: &Watched<'_>| {
        // The first have room for both ends, the others for none.
        talker.send(0, 8, 20)?;
        talker.send(0, 32, (requests / 32).max(10))?;
        let control = watched.handle.control().context("no kernel programs")?;
        Ok(control.counters()?.conn_map_full)
    };
    let (seen, refused) = watch.through(&scene.place.cgroup, as_it_is, || Ok(()), act)?;
    let ended = scene.end()?;
    report.check("connections_full: refused", refused, "> 0", refused > 0);
    within_stats(report, "connections_full", &seen, &ended.log)?;
    judge(report, "connections_full", &seen, &ended.log)?;
    let short = short_connections(&seen, &ended.log)?;
    report.same("connections_full: connections with missing rows", short.len(), 24);
    let is_map = |[reason]: &[String; 1]| reason == "conn_map_full";
    let told = seen.sum("data_loss", "operations", ["reason"], is_map)?;
    let lost = seen.stats.kernel.dropped_operations;
    report.same("connections_full: operations told as conn_map_full", told, lost);
    Ok(())
}

/// The collector's own table is full of connections whose end it has not heard of.
fn evicted(requests: usize, report: &mut Report) -> Result<()> {
    let mut scene = Scene::set()?;
    let watch = Watch { ring_bytes: SMALL_RING_BYTES, connections_max: 16, ..Watch::roomy() };
    let (place, talker) = (&scene.place, std::cell::RefCell::new(&mut scene.talker));
    let unread = || {
        let mut talker = talker.borrow_mut();
        // They are announced; then the ring is full, so that nobody hears of their end.
        talker.send(0, 8, requests / 16)?;
        talker.close(0, 8)
    };
    let act = |watched: &Watched<'_>| {
        let mut talker = talker.borrow_mut();
        for round in 1..ROUNDS_MAX {
            talker.send(8 * round, 8, 5)?;
            if watched.handle.stats().pipeline.connections_evicted > 0 {
                return Ok(());
            }
            talker.close(8 * round, 8)?;
        }
        bail!("nothing was evicted in {ROUNDS_MAX} rounds")
    };
    let (seen, ()) = watch.through(&place.cgroup, as_it_is, unread, act)?;
    let ended = scene.end()?;
    report.count("evicted_connections", seen.stats.pipeline.connections_evicted);
    within_stats(report, "evicted", &seen, &ended.log)?;
    judge(report, "evicted", &seen, &ended.log)
}

/// Requires that the collector's own count bounds the rows of `http_events` that are missing.
fn within_stats(report: &mut Report, case: &str, seen: &Seen, log: &[Logged]) -> Result<()> {
    let rows = seen.rows("http_events", ["req_path"])?.len() as u64;
    let missing = log.len() as u64 - rows.min(log.len() as u64);
    let bounds = seen.stats.missing_rows;
    report.check(
        format!("{case}: missing rows are within the bounds of Stats"),
        missing,
        format!("{} to {}", bounds.min, bounds.max),
        (bounds.min..=bounds.max).contains(&missing),
    );
    Ok(())
}

/// What every case requires: exact operations and bytes, rows within the bounds, and no row that is
/// wrong or there twice.
fn judge(report: &mut Report, case: &str, seen: &Seen, log: &[Logged]) -> Result<()> {
    let rows = seen.rows("http_events", ["req_path", "trace_role"])?;
    let missing = log.len() as u64 - (rows.len() as u64).min(log.len() as u64);
    report.count(format!("{case}_requests"), log.len() as u64);
    report.count(format!("{case}_rows"), rows.len() as u64);
    report.count(format!("{case}_missing_rows"), missing);
    report.count(format!("{case}_operations_lost"), seen.stats.kernel.dropped_operations);
    accounted(report, case, seen);
    let all = |_: &[String; 1]| true;
    let operations = seen.sum("data_loss", "operations", ["reason"], all)?;
    let bytes = seen.sum("data_loss", "bytes", ["reason"], all)?;
    let kernel = &seen.stats.kernel;
    let (operations_name, bytes_name) =
        (format!("{case}: operations in data_loss"), format!("{case}: bytes in data_loss"));
    // What was cut because the ring was filling is told there too.
    let shed: u64 = kernel.shed_operations.iter().sum();
    report.count(format!("{case}_operations_cut"), shed);
    report.same(operations_name, operations, kernel.dropped_operations + shed);
    report.same(bytes_name, bytes, kernel.dropped_bytes + kernel.shed_bytes);
    let of_http = |[table]: &[String; 1]| table == "http_events";
    let least = seen.sum("data_loss", "rows_min", ["source_table"], of_http)?;
    let most = seen.sum("data_loss", "rows_max", ["source_table"], of_http)?;
    report.check(
        format!("{case}: missing rows are within the bounds of data_loss"),
        missing,
        format!("{least} to {most}"),
        (least..=most).contains(&missing),
    );
    report.same(format!("{case}: responses paired with another request"), wrong_pairs(seen)?, 0);
    let unlike = unlike_rows(seen, log)?;
    report.check(
        format!("{case}: rows unlike nginx' log"),
        unlike.join(", "),
        "",
        unlike.is_empty(),
    );
    Ok(())
}

/// Rows that are not requests of the log, or are there twice, or have another status or size without
/// saying that they may; at most three of them.
fn unlike_rows(seen: &Seen, log: &[Logged]) -> Result<Vec<String>> {
    let logged: BTreeMap<u32, &Logged> = log.iter().map(|logged| (logged.id, logged)).collect();
    let columns =
        ["req_method", "req_path", "resp_status", "req_body_size", "resp_body_size", "quality"];
    let mut unlike = Vec::new();
    let mut met = BTreeSet::new();
    for row in seen.rows("http_events", columns)? {
        let [method, path, status, sent, size, quality] = &row;
        let id: Option<u32> = path.rsplit_once("id=").and_then(|(_, id)| id.parse().ok());
        let is_new = id.is_some_and(|id| met.insert(id));
        let what = crate::nginx::shown(method, path, status, sent, size);
        // Bytes of a body may be lost without the row, which then says so.
        let is_whole = quality == "0";
        let is_like = id.and_then(|id| logged.get(&id)).is_some_and(|logged| {
            logged.what == what
                || (!is_whole && logged.what.starts_with(&format!("{method} {path}")))
        });
        if !(is_new && is_like) {
            unlike.push(format!("{what} of quality {quality}, first time {is_new}"));
        }
    }
    unlike.truncate(3);
    Ok(unlike)
}

/// The ports of clients whose connections have fewer rows than requests were logged.
fn short_connections(seen: &Seen, log: &[Logged]) -> Result<BTreeSet<String>> {
    let ids = |path: &str| path.rsplit_once("id=").and_then(|(_, id)| id.parse::<u32>().ok());
    let rows: BTreeSet<u32> =
        seen.rows("http_events", ["req_path"])?.iter().filter_map(|[path]| ids(path)).collect();
    let missing = log.iter().filter(|logged| !rows.contains(&logged.id));
    Ok(missing.map(|logged| logged.port.clone()).collect())
}

/// The port of the client's end of each connection that the kernel announced, by its number.
fn ports(recording: &Path) -> Result<BTreeMap<u64, u16>> {
    let mut recording = Replayer::open(recording)?;
    let mut ports = BTreeMap::new();
    while let Some(entry) = recording.next_entry()? {
        if let Entry::Message(message) = entry
            && let Event { header, body: Body::Open(info) } = Event::decode(message)?
        {
            let is_servers = info.remote_port != crate::nginx::PORT;
            let port = if is_servers { info.remote_port } else { info.local_port };
            ports.insert(header.conn, port);
        }
    }
    Ok(ports)
}
