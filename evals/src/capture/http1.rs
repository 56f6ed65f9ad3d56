//! HTTP/1: the requests in nginx' access log are the rows of `http_events`.
//!
//! The client sends a known sequence of requests with an id in each, which nginx echoes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use undine::appliance::question;

use super::Asked;
use crate::nginx::{ADDRESS, AccessLog, Nginx, Sendfile, Serving, shown};
use crate::report::Report;
use crate::stage;
use crate::truth::{self, Conversations, Latency, Resolution};
use crate::watch::{Seen, Watched};
use undine_testbed::{Place, Wire, succeed};

pub(super) const PROGRAMS: [&str; 1] = ["nginx"];

/// How the client connects.
struct Case {
    name: &'static str,
    connections: u32,
    per_connection: u32,
    sendfile: Sendfile,
}

const CASES: [Case; 2] = [
    Case {
        name: "http1_keep_alive",
        connections: 16,
        per_connection: u32::MAX,
        sendfile: Sendfile::Off,
    },
    Case { name: "http1_short_lived", connections: 64, per_connection: 1, sendfile: Sendfile::On },
];

/// The latest that a row may become visible.
const VISIBLE_AFTER_MAX: Duration = Duration::from_secs(1);
/// How long is waited for it.
const VISIBLE_WAIT_MAX: Duration = Duration::from_secs(10);
/// nginx knows the time in milliseconds, as of when it last asked the kernel for events.
const RESOLUTION: Resolution = Resolution(Duration::from_millis(1));

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    CASES.iter().try_for_each(|case| observe(case, asked, report).context(case.name))
}

fn observe(case: &Case, asked: &Asked, report: &mut Report) -> Result<()> {
    let requests = asked.requests;
    let dir = tempfile::tempdir()?;
    let place = Place::new("undine-evals")?;
    let act = |watched: &Watched<'_>| {
        let serving = Serving { sendfile: case.sendfile, log: AccessLog::On };
        let nginx = Nginx::start(&place, dir.path(), serving)?;
        let start = Instant::now();
        let mut took = send(&place, 0, 1, case)?;
        watched.wait_for_first_row()?;
        let first_row_after = start.elapsed();
        let start = Instant::now();
        took.extend(send(&place, 1, requests - 1, case)?);
        let seconds = start.elapsed().as_secs_f64();
        Ok((nginx.stop()?, took, first_row_after, seconds))
    };
    let (seen, (log, took, first_row_after, seconds)) = asked
        .watch(case.name, Wire::Plain)
        .through(&place.cgroup, |store| store, || Ok(()), act)?;
    let name = case.name;
    report.figure(format!("{name}_requests_per_s"), f64::from(requests) / seconds);
    report.figure(format!("{name}_first_row_after_ms"), first_row_after.as_secs_f64() * 1e3);
    report.check(
        format!("{name}: the first row is visible within"),
        format!("{first_row_after:.1?}"),
        format!("{VISIBLE_AFTER_MAX:?}"),
        first_row_after < VISIBLE_AFTER_MAX,
    );
    let mut truth = Conversations::default();
    for logged in log {
        let client = *took.get(&logged.id).context("a request that the client does not know")?;
        truth.push(
            &logged.port,
            logged.what,
            Some(Latency::Both { server: logged.latency, client }),
        );
    }
    truth::compare(report, name, &truth, &rows(&seen)?, RESOLUTION);
    let wrong_pairs = wrong_pairs(&seen)?;
    report.same(format!("{name}: responses paired with another request"), wrong_pairs, 0);
    truth::nothing_lost(report, name, &seen)
}

/// Sends requests from a process of its own; how long each took, by its id.
fn send(place: &Place, first: u32, requests: u32, case: &Case) -> Result<HashMap<u32, Duration>> {
    let mut command = place.command(std::env::current_exe()?);
    command.arg("client").arg("--server").arg(ADDRESS);
    for (name, value) in [
        ("--first", first),
        ("--requests", requests),
        ("--connections", case.connections),
        ("--per-connection", case.per_connection),
    ] {
        command.arg(name).arg(value.to_string());
    }
    succeed(&mut command)?
        .lines()
        .map(|line| {
            let (id, took) = line.split_once(' ').context("the client says something else")?;
            Ok((id.parse()?, Duration::from_nanos(took.parse()?)))
        })
        .collect()
}

/// What was seen of each connection.
pub(super) fn rows(seen: &Seen) -> Result<Conversations> {
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "req_method",
        "req_path",
        "resp_status",
        "req_body_size",
        "resp_body_size",
        "latency",
    ];
    for [port, role, method, path, status, sent, size, latency] in
        seen.rows("http_events", columns)?
    {
        ensure!(role == "2", "a row of role {role}");
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        rows.push(&port, shown(&method, &path, &status, &sent, &size), latency);
    }
    Ok(rows)
}

/// How many rows have a response whose id is not the request's.
pub(crate) fn wrong_pairs(seen: &Seen) -> Result<usize> {
    let rows = seen.rows("http_events", ["req_path", "resp_headers"])?;
    let is_wrong = |[path, headers]: &&[String; 2]| {
        let headers: serde_json::Value = serde_json::from_str(headers).unwrap_or_default();
        let asked = path.rsplit_once("id=").map(|(_, id)| id);
        headers.as_object().into_iter().flatten().any(|(name, value)| {
            name.eq_ignore_ascii_case("x-request-id") && value.as_str() != asked
        })
    };
    Ok(rows.iter().filter(is_wrong).count())
}

impl Watched<'_> {
    /// Waits until a script finds a row of `http_events`.
    fn wait_for_first_row(&self) -> Result<()> {
        let script = "import px\n\
            df = px.DataFrame('http_events', start_time='-1m')\n\
            px.display(df.agg(n=('latency', px.count)))\n";
        let engine = stage::engine(self.store)?;
        let deadline = Instant::now() + VISIBLE_WAIT_MAX;
        while Instant::now() < deadline {
            let answer = self.runtime.block_on(engine.run(question(script)))?;
            let batches =
                answer.tables.first().map(|table| table.batches.as_slice()).unwrap_or_default();
            if batches.iter().any(|batch| batch.column(0).as_primitive::<Int64Type>().value(0) > 0)
            {
                return Ok(());
            }
        }
        bail!("no row was visible {VISIBLE_WAIT_MAX:?} after the first request")
    }
}
