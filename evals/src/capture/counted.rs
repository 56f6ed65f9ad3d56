//! Protocols whose clients count what they exchanged, without an order: each count is that of the
//! rows of its kind.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::truth;
use crate::watch::{Seen, Watch};
use undine_testbed::{Place, python};

type Counts = BTreeMap<String, u64>;

/// The clients of the collector's own tests, which print a count in each line.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../collector/tests/it");

/// MongoDB: how each command of the driver's own events ended is a row of `mongodb_events`.
pub(super) mod mongodb {
    use super::{CLIENTS, Counts, Path, Place, Report, Result, Seen, judge, python};
    use undine_testbed::mongodb;

    pub(crate) const MODULES: [&str; 1] = ["pymongo"];

    pub(crate) fn run(_requests: u32, report: &mut Report) -> Result<()> {
        let act = |place: &Place, dir: &Path| {
            let _server = mongodb::start(place, dir)?;
            place.run(&python(), &[&format!("{CLIENTS}/mongo.py"), &mongodb::PORT.to_string()])
        };
        judge(report, "mongodb", act, rows)
    }

    fn rows(seen: &Seen) -> Result<Counts> {
        let mut rows = Counts::new();
        for [command, status] in seen.rows("mongodb_events", ["req_cmd", "resp_status"])? {
            // Of its greetings the driver does not tell; what wants no reply it takes for a success.
            if command != "hello" && command != "ismaster" {
                let status = if status.is_empty() { "ok" } else { &status };
                *rows.entry(format!("{command} {status}")).or_default() += 1;
            }
        }
        Ok(rows)
    }
}

/// AMQP: each method that the client exchanged is a row of `amqp_events`.
pub(super) mod amqp {
    use super::{CLIENTS, Counts, Path, Place, Report, Result, Seen, judge, python};
    use undine_testbed::brokers;

    pub(crate) const MODULES: [&str; 1] = ["pika"];

    pub(crate) fn run(_requests: u32, report: &mut Report) -> Result<()> {
        let act = |place: &Place, dir: &Path| {
            let _server = brokers::rabbitmq(place, dir)?;
            let port = brokers::RABBITMQ_PORT.to_string();
            place.run(&python(), &[&format!("{CLIENTS}/amqp.py"), &port])
        };
        judge(report, "amqp", act, rows)
    }

    fn rows(seen: &Seen) -> Result<Counts> {
        let ids = ["req_class_id", "req_method_id", "resp_class_id", "resp_method_id"];
        let mut rows = Counts::new();
        for row in seen.rows("amqp_events", ids)? {
            *rows.entry(row.join(" ")).or_default() += 1;
        }
        Ok(rows)
    }
}

/// CQL: each statement that the client sent and how it ended is a row of `cql_events`.
pub(super) mod cql {
    use super::{Counts, Path, Place, Report, Result, Seen, judge, python};

    pub(crate) const PROGRAMS: [&str; 1] = ["cqlsrv"];
    pub(crate) const MODULES: [&str; 1] = ["cassandra"];

    const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/cql.py");
    /// Codes of requests that hold a statement: a query, a preparation, an execution.
    const STATEMENTS: [&str; 3] = ["7", "9", "10"];

    pub(crate) fn run(_requests: u32, report: &mut Report) -> Result<()> {
        let act = |place: &Place, _: &Path| place.run(&python(), &[CLIENT]);
        judge(report, "cql", act, rows)
    }

    fn rows(seen: &Seen) -> Result<Counts> {
        let mut rows = Counts::new();
        for [asked, answered, body] in seen.rows("cql_events", ["req_op", "resp_op", "req_body"])? {
            // What the driver asks for itself it asks of the server's own tables.
            if STATEMENTS.contains(&asked.as_str()) && !body.contains(" system.") {
                *rows.entry(format!("{asked} {answered} {body}")).or_default() += 1;
            }
        }
        Ok(rows)
    }
}

fn judge(
    report: &mut Report,
    subject: &str,
    act: impl FnOnce(&Place, &Path) -> Result<String>,
    rows: impl FnOnce(&Seen) -> Result<Counts>,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = Place::new("undine-evals")?;
    let (seen, said) = Watch::roomy().during(&place.cgroup, || act(&place, dir.path()))?;
    let truth: Counts = said
        .lines()
        .map(|line| {
            let (what, count) = line.rsplit_once(' ').context("no count")?;
            Ok((what.to_owned(), count.parse()?))
        })
        .collect::<Result<_>>()?;
    let rows = rows(&seen)?;
    report.count(format!("{subject}_recorded"), truth.values().sum());
    report.count(format!("{subject}_rows"), rows.values().sum());
    report.count(format!("{subject}_kinds"), truth.len() as u64);
    let kinds = truth.keys().chain(rows.keys()).collect::<std::collections::BTreeSet<_>>();
    let unlike: Vec<_> = kinds
        .into_iter()
        .filter(|kind| truth.get(*kind) != rows.get(*kind))
        .map(|kind| format!("{kind}: {:?} recorded, {:?} rows", truth.get(kind), rows.get(kind)))
        .take(3)
        .collect();
    let name = format!("{subject}: kinds with another count than recorded");
    report.check(name, unlike.join("; "), "", unlike.is_empty());
    truth::nothing_lost(report, subject, &seen)
}
