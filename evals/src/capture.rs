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
mod mux;
mod golden;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::require_scope;
use crate::watch::Watch;
use undine_testbed::{Place, Wire, brokers, mariadb, missing, missing_modules, postgres};

pub(crate) use http1::wrong_pairs;

/// A protocol, and how it is put to the test.
struct Subject {
    name: &'static str,
    /// What it needs that may not be there; what of it is not.
    lacks: fn() -> Vec<String>,
    /// Lets programs talk, and judges what was seen.
    run: fn(&Asked, &mut Report) -> Result<()>,
}

/// What programs are to do while they are watched.
#[derive(Debug)]
struct Asked {
    /// How many requests they send, or about as many.
    requests: u32,
    /// Where what the kernel sends is recorded, if it is.
    recordings: Option<PathBuf>,
}

impl Asked {
    /// How programs are watched that talk over `wire`; `name` is what their recording is called.
    fn watch(&self, name: &str, wire: Wire) -> Watch {
        let path = |folder: &PathBuf| folder.join(format!("{name}.undine"));
        Watch { recording: self.recordings.as_ref().map(path), ..Watch::over(wire) }
    }
}

static SUBJECTS: [Subject; 18] = [
    Subject { name: "http1", lacks: || missing(&http1::PROGRAMS), run: http1::run },
    Subject { name: "https", lacks: https_lacks, run: https::run },
    Subject {
        name: "http2",
        lacks: http2_lacks,
        run: |asked, to| http2::run(Wire::Plain, asked, to),
    },
    Subject { name: "http2s", lacks: http2s_lacks, run: http2s },
    Subject { name: "grpc", lacks: || missing_modules(&grpc::MODULES), run: grpc::run },
    Subject {
        name: "mysql",
        lacks: mysql_lacks,
        run: |asked, to| mysql::run(Wire::Plain, asked, to),
    },
    Subject {
        name: "mysql-tls",
        lacks: || tls_lacks(mysql_lacks, mysql::MODULE),
        run: |asked, to| mysql::run(Wire::Tls, asked, to),
    },
    Subject {
        name: "pgsql",
        lacks: pgsql_lacks,
        run: |asked, to| pgsql::run(Wire::Plain, asked, to),
    },
    Subject {
        name: "pgsql-tls",
        lacks: || tls_lacks(pgsql_lacks, pgsql::MODULE),
        run: |asked, to| pgsql::run(Wire::Tls, asked, to),
    },
    Subject {
        name: "redis",
        lacks: redis_lacks,
        run: |asked, to| redis::run(Wire::Plain, asked, to),
    },
    Subject {
        name: "redis-tls",
        lacks: || tls_lacks(redis_lacks, redis::MODULE),
        run: |asked, to| redis::run(Wire::Tls, asked, to),
    },
    Subject { name: "dns", lacks: || missing(&dns::PROGRAMS), run: dns::run },
    Subject { name: "nats", lacks: || missing(&nats::PROGRAMS), run: nats::run },
    Subject { name: "kafka", lacks: || missing_modules(&kafka::MODULES), run: kafka::run },
    Subject { name: "mongodb", lacks: mongodb_lacks, run: mongodb::run },
    Subject { name: "amqp", lacks: amqp_lacks, run: amqp::run },
    Subject { name: "cql", lacks: cql_lacks, run: cql::run },
    Subject { name: "mux", lacks: || missing(&mux::PROGRAMS), run: mux::run },
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

fn http2s(asked: &Asked, report: &mut Report) -> Result<()> {
    http2::run(Wire::Tls, asked, report)?;
    https::run_http2(asked, report)
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
/// are there. With `record` little of it is kept in that folder.
pub(crate) fn run(names: &str, requests: u32, record: Option<&Path>) -> Result<Report> {
    require_scope()?;
    let mut report = Report::new("capture");
    let recordings = record.map(|_| tempfile::tempdir()).transpose()?;
    let recordings = recordings.as_ref().map(tempfile::TempDir::path);
    let asked = Asked { requests, recordings: recordings.map(Path::to_owned) };
    for subject in chosen(names)? {
        let lacks = (subject.lacks)();
        if lacks.is_empty() {
            (subject.run)(&asked, &mut report).with_context(|| subject.name)?;
        } else if names == ALL {
            report.skip(subject.name, format!("{} not installed", lacks.join(", ")));
        } else {
            bail!("{} needs {}; install it", subject.name, lacks.join(", "));
        }
    }
    if let (Some(from), Some(to)) = (recordings, record) {
        keep_all(from, to, &mut report)?;
    }
    Ok(report)
}

/// Keeps little of each recording in `from` as a golden capture in `to`.
fn keep_all(from: &Path, to: &Path, report: &mut Report) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let files = std::fs::read_dir(from)?.map(|file| Ok(file?.path()));
    let mut files: Vec<_> = files.collect::<Result<_>>()?;
    files.sort();
    for file in &files {
        let name = golden::name(file)?;
        golden::keep(file, to, name, report).context(name.to_owned())?;
    }
    Ok(())
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
