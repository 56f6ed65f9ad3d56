//! What other stores take of the same rows in the same run.
//!
//! Each reads the eight columns from our Parquet into its own memory first, which is not measured,
//! and then takes them into its durable table in batches, each committed for itself. `VictoriaMetrics`
//! has no rows: of each it gets a sample of both measures in a series by service, path and status, with
//! times in milliseconds and without process and peer, and it flushes once, at the end.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use undine_testbed::{find, missing_modules, python};

use crate::report::Report;

/// Runs one peer: argument 1 names it, 2 is a folder for it, 3 the rows of a batch, then the files.
const SCRIPT: &str = include_str!("peers.py");
/// Rows that a peer commits at a time. Ours are appended by 4096 and synced every 200 ms, which is
/// some hundred thousand rows.
const BATCH_ROWS: u32 = 100_000;

/// A peer by what it comes as.
struct Peer {
    name: &'static str,
    /// A Python module.
    module: &'static str,
    /// A program beside it.
    program: Option<&'static str>,
}

const PEERS: [Peer; 3] = [
    Peer { name: "duckdb", module: "duckdb", program: None },
    Peer { name: "clickhouse_merge_tree", module: "chdb", program: None },
    Peer { name: "victoria_metrics", module: "pyarrow", program: Some("victoria-metrics") },
];

#[derive(Debug, Deserialize)]
struct Outcome {
    rows: u64,
    cpu_s: f64,
    bytes: u64,
}

/// Adds a figure of each peer that is installed, and the ratio of ours, `ours_per_core_s` rows, to
/// the best of them.
pub(super) fn run(
    report: &mut Report,
    rows: u32,
    ours_per_core_s: f64,
    flush: &dyn Fn(&Path) -> Result<Vec<PathBuf>>,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut files = None;
    for peer in &PEERS {
        let mut lacks = missing_modules(&[peer.module]);
        lacks.extend(peer.program.filter(|program| find(program).is_none()).map(str::to_owned));
        if !lacks.is_empty() {
            report.skip(peer.name, format!("{} is missing", lacks.join(", ")));
            continue;
        }
        let files = match &mut files {
            Some(files) => files,
            none => none.insert(flush(dir.path())?),
        };
        let outcome = run_one(peer, files).with_context(|| format!("run {}", peer.name))?;
        ensure!(outcome.rows == u64::from(rows), "{} took {} rows", peer.name, outcome.rows);
        let per_core_s = f64::from(rows) / outcome.cpu_s;
        report.figure(format!("{}_rows_per_core_s", peer.name), per_core_s);
        report.figure(format!("ratio_to_{}", peer.name), ours_per_core_s / per_core_s);
        #[expect(clippy::cast_precision_loss, reason = "bytes of files stay far below 2^53")]
        let row_bytes = outcome.bytes as f64 / f64::from(rows);
        report.figure(format!("{}_file_bytes_a_row", peer.name), row_bytes);
    }
    Ok(())
}

fn run_one(peer: &Peer, files: &[PathBuf]) -> Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(python());
    command.args(["-c", SCRIPT, peer.name]).arg(dir.path().join("peer"));
    let output = command.arg(BATCH_ROWS.to_string()).args(files).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("the peer said nothing")?;
    Ok(serde_json::from_str(line)?)
}
