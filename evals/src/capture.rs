//! For every protocol that the collector reads: what a real server or its client recorded is what
//! its table holds.
//!
//! Each protocol has a server and a load of its own in a place that is watched from before they
//! start, and a record that one of them keeps for its own purposes. Required are the same count, the
//! same fields, the same order on each connection, the latencies where the record has any, and that
//! nothing is lost. The same is required inside TLS of those protocols whose names say so.

mod http1;
mod http2;
mod https;
mod grpc;
mod mysql;
mod pgsql;
mod redis;
mod dns;
mod nats;
mod kafka;
mod mongodb;
mod amqp;
mod cql;

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::require_scope;
use undine_testbed::{Place, Wire, brokers, mariadb, missing, missing_modules, postgres};

pub(crate) use http1::wrong_pairs;

/// A protocol, and how it is put to the test.
struct Subject {
    name: &'static str,
    /// What it needs that may not be there; what of it is not.
    lacks: fn() -> Vec<String>,
    /// Sends so many requests, or about as many, and judges what was seen.
    run: fn(u32, &mut Report) -> Result<()>,
}

static SUBJECTS: [Subject; 17] = [
    Subject { name: "http1", lacks: || missing(&http1::PROGRAMS), run: http1::run },
    Subject { name: "https", lacks: https_lacks, run: https::run },
    Subject { name: "http2", lacks: http2_lacks, run: |n, to| http2::run(Wire::Plain, n, to) },
    Subject { name: "http2s", lacks: http2s_lacks, run: http2s },
    Subject { name: "grpc", lacks: || missing_modules(&grpc::MODULES), run: grpc::run },
    Subject { name: "mysql", lacks: mysql_lacks, run: |n, to| mysql::run(Wire::Plain, n, to) },
    Subject {
        name: "mysql-tls",
        lacks: || tls_lacks(mysql_lacks, mysql::MODULE),
        run: |n, to| mysql::run(Wire::Tls, n, to),
    },
    Subject { name: "pgsql", lacks: pgsql_lacks, run: |n, to| pgsql::run(Wire::Plain, n, to) },
    Subject {
        name: "pgsql-tls",
        lacks: || tls_lacks(pgsql_lacks, pgsql::MODULE),
        run: |n, to| pgsql::run(Wire::Tls, n, to),
    },
    Subject { name: "redis", lacks: redis_lacks, run: |n, to| redis::run(Wire::Plain, n, to) },
    Subject {
        name: "redis-tls",
        lacks: || tls_lacks(redis_lacks, redis::MODULE),
        run: |n, to| redis::run(Wire::Tls, n, to),
    },
    Subject { name: "dns", lacks: || missing(&dns::PROGRAMS), run: dns::run },
    Subject { name: "nats", lacks: || missing(&nats::PROGRAMS), run: nats::run },
    Subject { name: "kafka", lacks: || missing_modules(&kafka::MODULES), run: kafka::run },
    Subject { name: "mongodb", lacks: mongodb_lacks, run: mongodb::run },
    Subject { name: "amqp", lacks: amqp_lacks, run: amqp::run },
    Subject { name: "cql", lacks: cql_lacks, run: cql::run },
];

/// What makes the certificates of those that can talk inside TLS.
const OPENSSL: [&str; 1] = ["openssl"];

/// A place for a protocol's programs, and a folder for what they write.
fn home() -> Result<(Place, tempfile::TempDir)> {
    Ok((Place::new("undine-evals")?, tempfile::tempdir()?))
}

/// What `encrypted` says in every row.
fn encrypted(wire: Wire) -> &'static str {
    if wire == Wire::Tls { "true" } else { "false" }
}

/// What a protocol is called in the report.
fn subject(protocol: &str, wire: Wire) -> String {
    if wire == Wire::Tls { format!("{protocol}_tls") } else { protocol.to_owned() }
}

fn http2s(requests: u32, report: &mut Report) -> Result<()> {
    http2::run(Wire::Tls, requests, report)?;
    https::run_http2(requests, report)
}

fn https_lacks() -> Vec<String> {
    missing(&[&https::PROGRAMS[..], &OPENSSL].concat())
}

fn http2_lacks() -> Vec<String> {
    missing(&http2::PROGRAMS)
}

fn http2s_lacks() -> Vec<String> {
    [https_lacks(), http2_lacks()].concat()
}

fn mysql_lacks() -> Vec<String> {
    missing(&[&mariadb::PROGRAMS[..], &OPENSSL].concat())
}

fn redis_lacks() -> Vec<String> {
    missing(&[&redis::PROGRAMS[..], &OPENSSL].concat())
}

/// What one inside TLS lacks, whose client is also one of Python's.
fn tls_lacks(plain: fn() -> Vec<String>, module: &str) -> Vec<String> {
    [plain(), missing_modules(&[module])].concat()
}

/// The name that stands for all protocols whose programs are installed.
pub(crate) const ALL: &str = "all";

fn pgsql_lacks() -> Vec<String> {
    let mut lacks = missing(&OPENSSL);
    if postgres::programs(&pgsql::PROGRAMS).is_none() {
        lacks.push("postgres with pgbench".to_owned());
    }
    lacks
}

fn mongodb_lacks() -> Vec<String> {
    let modules = missing_modules(&mongodb::MODULES);
    [missing(&[undine_testbed::mongodb::PROGRAM]), modules].concat()
}

fn cql_lacks() -> Vec<String> {
    [missing(&cql::PROGRAMS), missing_modules(&cql::MODULES)].concat()
}

fn amqp_lacks() -> Vec<String> {
    [missing(&[brokers::RABBITMQ]), missing_modules(&amqp::MODULES)].concat()
}

/// Puts the protocols to the test that `names` lists with commas between them, or all whose programs
/// are there.
pub(crate) fn run(names: &str, requests: u32) -> Result<Report> {
    require_scope()?;
    let mut report = Report::new("capture");
    for subject in chosen(names)? {
        let lacks = (subject.lacks)();
        if lacks.is_empty() {
            (subject.run)(requests, &mut report).with_context(|| subject.name)?;
        } else if names == ALL {
            report.skip(subject.name, format!("{} not installed", lacks.join(", ")));
        } else {
            bail!("{} needs {}; install it", subject.name, lacks.join(", "));
        }
    }
    Ok(report)
}

fn chosen(names: &str) -> Result<Vec<&'static Subject>> {
    if names == ALL {
        return Ok(SUBJECTS.iter().collect());
    }
    let find = |name: &str| {
        SUBJECTS.iter().find(|subject| subject.name == name).with_context(|| {
            let known: Vec<_> = SUBJECTS.iter().map(|subject| subject.name).collect();
            format!("there is no protocol '{name}'; choose {ALL} or of {}", known.join(", "))
        })
    };
    names.split(',').map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_chosen_by_their_names_and_no_other() {
        let names = |list| chosen(list).map(|all| all.iter().map(|one| one.name).collect());
        let all: Vec<&str> = names("redis,dns").unwrap();
        assert_eq!(all, ["redis", "dns"]);
        assert_eq!(names(ALL).unwrap().len(), SUBJECTS.len());
        assert!(names("redis,smtp").unwrap_err().to_string().contains("'smtp'"));
    }
}
