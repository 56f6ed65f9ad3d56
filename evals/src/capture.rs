//! For every protocol that the collector reads: what a real server or its client recorded is what
//! its table holds.
//!
//! Each protocol has a server and a load of its own in a place that is watched from before they
//! start, and a record that one of them keeps for its own purposes. Required are the same count, the
//! same fields, the same order on each connection, the latencies where the record has any, and that
//! nothing is lost.

mod http1;
mod http2;
mod mysql;
mod pgsql;
mod redis;
mod dns;
mod nats;

use anyhow::{Context, Result, bail};

use crate::place::{missing, missing_modules};
use crate::report::Report;
use crate::require_scope;

pub(crate) use http1::wrong_pairs;

/// A protocol, and how it is put to the test.
struct Subject {
    name: &'static str,
    /// What it needs that may not be there; what of it is not.
    lacks: fn() -> Vec<String>,
    /// Sends so many requests, or about as many, and judges what was seen.
    run: fn(u32, &mut Report) -> Result<()>,
}

const SUBJECTS: [Subject; 7] = [
    Subject { name: "http1", lacks: || missing(&http1::PROGRAMS), run: http1::run },
    Subject { name: "http2", lacks: || missing(&http2::PROGRAMS), run: http2::run },
    Subject { name: "mysql", lacks: || missing(&mysql::PROGRAMS), run: mysql::run },
    Subject { name: "pgsql", lacks: pgsql_lacks, run: pgsql::run },
    Subject { name: "redis", lacks: || missing(&redis::PROGRAMS), run: redis::run },
    Subject { name: "dns", lacks: || missing(&dns::PROGRAMS), run: dns::run },
    Subject { name: "nats", lacks: || missing(&nats::PROGRAMS), run: nats::run },
];

/// The name that stands for all protocols whose programs are installed.
pub(crate) const ALL: &str = "all";

fn pgsql_lacks() -> Vec<String> {
    if pgsql::programs().is_some() { Vec::new() } else { vec!["postgres with pgbench".to_owned()] }
}

/// Puts the protocol called `name` to the test, or all whose programs are there.
pub(crate) fn run(name: &str, requests: u32) -> Result<Report> {
    require_scope()?;
    let mut report = Report::new("capture");
    let chosen: Vec<_> =
        SUBJECTS.iter().filter(|subject| name == ALL || subject.name == name).collect();
    if chosen.is_empty() {
        let names: Vec<_> = SUBJECTS.iter().map(|subject| subject.name).collect();
        bail!("there is no protocol '{name}'; choose {ALL} or one of {}", names.join(", "));
    }
    for subject in chosen {
        let lacks = (subject.lacks)();
        if lacks.is_empty() {
            (subject.run)(requests, &mut report).with_context(|| subject.name)?;
        } else if name == ALL {
            report.skip(subject.name, format!("{} not installed", lacks.join(", ")));
        } else {
            bail!("{name} needs {}; install it", lacks.join(", "));
        }
    }
    Ok(report)
}
