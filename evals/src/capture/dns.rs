//! DNS: the queries and answers that dnsmasq logs are the rows of `dns_events` at both ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::dnsmasq::{Dnsmasq, READY};
use undine_testbed::{Place, Wire};

pub(super) const PROGRAMS: [&str; 3] = ["dnsmasq", "dig", "dnsperf"];

/// What `dnsperf` says of all queries.
struct Measured {
    queries: u64,
    mean: Duration,
}

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = Place::new("undine-evals")?;
    let act = || load(&place, dir.path(), asked.requests);
    let (seen, (truth, measured)) = asked.watch("dns", Wire::Plain).during(&place.cgroup, act)?;
    let columns = [
        "trace_role",
        "local_port",
        "remote_port",
        "query_type",
        "query_name",
        "rcode",
        "resp_body",
        "latency",
    ];
    let (mut clients, mut servers) = (Conversations::default(), Conversations::default());
    let mut load_latency = Duration::ZERO;
    for row in seen.rows("dns_events", columns)? {
        let [role, local, remote, kind, name, rcode, body, latency] = row;
        if name == READY {
            continue;
        }
        let latency = Duration::from_nanos(latency.parse()?);
        let what = format!("{kind} {name} {}", answers(&rcode, &body)?);
        if role == "1" {
            // Of the client's end, since this is what it measures.
            load_latency += if name.starts_with("load") { latency } else { Duration::ZERO };
            clients.push(&local, what, None);
        } else {
            servers.push(&remote, what, None);
        }
    }
    let resolution = Resolution(Duration::ZERO);
    truth::compare(report, "dns", &truth, &servers, resolution);
    truth::compare(report, "dns_client_end", &truth, &clients, resolution);
    let mean = load_latency.div_f64(u32::try_from(measured.queries)?.into());
    truth::compare_latencies(
        report,
        "dns_mean",
        &[(Latency::Client(measured.mean), mean)],
        resolution,
    );
    truth::nothing_lost(report, "dns", &seen)
}

fn load(place: &Place, dir: &Path, requests: u32) -> Result<(Conversations, Measured)> {
    let server = Dnsmasq::start(place, dir)?;
    for (name, kind) in [
        ("shop.test", "A"),
        ("shop.test", "AAAA"),
        ("www.test", "A"),
        ("one.dyn.test", "A"),
        ("gone.test", "A"),
    ] {
        for transport in ["+notcp", "+tcp"] {
            let args = ["@127.0.0.1", "+tries=1", "+time=5", transport, name, kind];
            place.run("dig", &args)?;
        }
    }
    let lines: String = (0..requests)
        .map(|number| match number % 4 {
            0 | 2 => format!("load{number}.dyn.test A\n"),
            1 => format!("load{number}.gone.test A\n"),
            _ => format!("load{number}.gone.test AAAA\n"),
        })
        .collect();
    let queries = dir.join("queries");
    fs::write(&queries, lines)?;
    let queries = queries.to_str().context("a path that is no text")?;
    let args = ["-s", "127.0.0.1", "-n", "1", "-c", "4", "-q", "20", "-d", queries];
    let told = place.run("dnsperf", &args)?;
    let told_of = |name: &str| -> Result<f64> {
        let line = told.lines().find_map(|line| line.trim_start().strip_prefix(name));
        let value = line.and_then(|rest| rest.split_whitespace().next());
        Ok(value.with_context(|| format!("dnsperf says {told}"))?.parse()?)
    };
    let lost = told_of("Queries lost:")?;
    ensure!(lost == 0.0, "dnsperf lost {lost} queries");
    let mean = Duration::from_secs_f64(told_of("Average Latency (s):")?);
    let truth = logged(&server.stop()?)?;
    Ok((truth, Measured { queries: requests.into(), mean }))
}

/// Queries of each client's port with their answers, from lines as
/// `… dnsmasq[PID]: SERIAL ADDRESS/PORT query[TYPE] NAME from ADDRESS` and
/// `… dnsmasq[PID]: SERIAL ADDRESS/PORT config NAME is ANSWER`.
fn logged(log: &str) -> Result<Conversations> {
    let mut queries: Vec<(String, String)> = Vec::new();
    let mut answers: Vec<BTreeSet<String>> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for line in log.lines() {
        let Some((_, entry)) = line.split_once("]: ") else { continue };
        let mut words = entry.split(' ');
        let (Some(serial), Some(client)) = (words.next(), words.next()) else { continue };
        let Some((_, port)) = client.split_once('/') else { continue };
        let rest: Vec<_> = words.collect();
        if let Some(kind) = rest.first().and_then(|word| word.strip_prefix("query[")) {
            let name = rest.get(1).context("a query without a name")?;
            at.insert(serial, queries.len());
            queries.push((port.to_owned(), format!("{} {name}", kind.trim_end_matches(']'))));
            answers.push(BTreeSet::new());
        } else if let Some(query) = at.get(serial)
            && let Some(is) = rest.iter().position(|word| *word == "is")
        {
            let answer = rest.get(is + 1).context("an answer that is nothing")?;
            if *answer != "<CNAME>" {
                answers[*query].insert((*answer).to_owned());
            }
        }
    }
    let mut truth = Conversations::default();
    for ((port, query), answers) in queries.into_iter().zip(answers) {
        if !query.ends_with(READY) {
            let answers: Vec<_> = answers.into_iter().collect();
            truth.push(&port, format!("{query} {}", answers.join(" ")), None);
        }
    }
    Ok(truth)
}

/// The addresses of a row's answer, or what dnsmasq calls its absence.
fn answers(rcode: &str, body: &str) -> Result<String> {
    let body: Value = serde_json::from_str(body)?;
    let listed = body["answers"].as_array().into_iter().flatten();
    let addresses: BTreeSet<_> =
        listed.filter_map(|answer| answer["addr"].as_str().map(str::to_owned)).collect();
    Ok(match rcode {
        "3" => "NXDOMAIN".to_owned(),
        "0" => addresses.into_iter().collect::<Vec<_>>().join(" "),
        other => format!("rcode {other}"),
    })
}
