//! `undine storage`: what the data folder holds, whether it is whole, and how others read it.
//!
//! All of it reads the folder itself, so it needs no running Undine and does not disturb one.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};
use undine_schema::{Clock, SemanticType, SystemClock, TimeNs};
use undine_store::inspect::{
    Depth, Dialect, Finding, Folder, Inspection, TierState, Vacuum, Vacuumed, Verification,
};

use crate::cli::{Storage, StorageFolder, ViewsFor};
use crate::{config, value};

/// Does what the command line says; status 1 where a check found errors.
///
/// # Errors
/// Where the folder is no store's, or cannot be read or written.
pub(crate) async fn run(command: Storage) -> Result<ExitCode> {
    match command {
        Storage::Status { all, folder } => status(&folder, all).await,
        Storage::Verify { pages, folder } => {
            verify(&folder, if pages { Depth::Pages } else { Depth::Footers }).await
        }
        Storage::ExportView { engine, folder } => {
            let (folder, as_json) = (open(&folder)?, folder.json);
            let dialect = match engine {
                ViewsFor::Duckdb => Dialect::DuckDb,
                ViewsFor::Clickhouse => Dialect::ClickHouse,
            };
            let held = folder.inspect().await?;
            let sql = held.views(folder.dir(), dialect);
            if as_json {
                print_json(&json!({ "sql": sql }))?;
            } else {
                print(&sql)?;
            }
            complain(&held.findings);
            Ok(ExitCode::SUCCESS)
        }
        Storage::Vacuum { dry_run, keep, folder } => {
            vacuum(&folder, if dry_run { Vacuum::DryRun } else { Vacuum::Delete }, keep.into())
                .await
        }
        Storage::Restore { from, to, json } => restore(&from, &to, json).await,
    }
}

fn open(folder: &StorageFolder) -> Result<Folder> {
    let dir: PathBuf = match &folder.data_dir {
        Some(dir) => dir.clone(),
        None => config::load(folder.config.as_deref(), Vec::new())?.data_dir,
    };
    Ok(Folder::open(&dir)?)
}

async fn status(args: &StorageFolder, all: bool) -> Result<ExitCode> {
    let folder = open(args)?;
    let held = folder.inspect().await?;
    if args.json {
        print_json(&status_json(&folder, &held))?;
    } else {
        print(&status_for_people(&folder, &held, all))?;
    }
    complain(&held.findings);
    Ok(ExitCode::SUCCESS)
}

fn status_for_people(folder: &Folder, held: &Inspection, all: bool) -> String {
    let mut rows = table(&[
        "table",
        "tier",
        "files",
        "rows",
        "stands for",
        "size",
        "from",
        "to",
        "sealed to",
        "complete from",
        "unneeded",
    ]);
    let nodes = held.tiers.iter().any(|tier| held.node.as_ref().is_none_or(|n| *n != tier.node));
    let shown: Vec<_> = held.tiers.iter().filter(|tier| all || !tier.segments.is_empty()).collect();
    for tier in &shown {
        let (first, last) = tier.times().unzip();
        let name =
            if nodes { format!("{} ({})", tier.table, tier.node) } else { tier.table.clone() };
        let unneeded: u64 = tier.unneeded.iter().map(|file| file.bytes).sum();
        rows.add_row([
            name,
            tier.tier.clone(),
            tier.segments.len().to_string(),
            tier.rows().to_string(),
            tier.source_rows().to_string(),
            size(tier.bytes()),
            time(first),
            time(last),
            tier.sealed_to.to_string(),
            time(tier.complete_from),
            if unneeded == 0 { String::new() } else { size(unneeded) },
        ]);
    }
    for column in [2, 3, 4, 5, 10] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let total: u64 = held.tiers.iter().map(TierState::bytes).sum();
    let unneeded: u64 = held.tiers.iter().flat_map(|t| &t.unneeded).map(|file| file.bytes).sum();
    let log: u64 = held.log.iter().map(|segment| segment.bytes).sum();
    let node = held.node.as_deref().unwrap_or("no node (no store.json)");
    let used = match &held.in_use_by {
        Some(pid) => format!(
            "Undine runs on it (pid {pid}): the newest rows are in its memory and its log, and the \
             table storage_tables tells of them."
        ),
        None => "No Undine runs on it.".to_owned(),
    };
    let hidden = held.tiers.len() - shown.len();
    let hidden = match hidden {
        0 => String::new(),
        hidden => format!(" {hidden} tiers without files are not shown (--all)."),
    };
    format!(
        "{rows}\n\n{}: node {node}, life {}. {used}\n{} in tables, {} in the log, {} that no version \
         needs any more.{hidden}\n",
        folder.dir().display(),
        held.lives,
        size(total),
        size(log),
        size(unneeded),
    )
}

fn status_json(folder: &Folder, held: &Inspection) -> Value {
    let nanoseconds = |time: Option<TimeNs>| time.map(TimeNs::get);
    let tiers: Vec<_> = held
        .tiers
        .iter()
        .map(|tier| {
            let (first, last) = tier.times().unzip();
            json!({
                "table": tier.table,
                "tier": tier.tier,
                "node": tier.node,
                "path": tier.prefix.as_ref(),
                "version": tier.version,
                "life": tier.life,
                "files": tier.segments.len(),
                "rows": tier.rows(),
                "source_rows": tier.source_rows(),
                "bytes": tier.bytes(),
                "first_time_ns": nanoseconds(first),
                "last_time_ns": nanoseconds(last),
                "sealed_to": tier.sealed_to.to_string(),
                "complete_from_ns": nanoseconds(tier.complete_from),
                "unneeded_files": tier.unneeded.len(),
                "unneeded_bytes": tier.unneeded.iter().map(|file| file.bytes).sum::<u64>(),
            })
        })
        .collect();
    json!({
        "dir": folder.dir().display().to_string(),
        "node": held.node,
        "lives": held.lives,
        "in_use_by": held.in_use_by,
        "log_files": held.log.len(),
        "log_bytes": held.log.iter().map(|segment| segment.bytes).sum::<u64>(),
        "tiers": tiers,
        "findings": held.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

async fn verify(args: &StorageFolder, depth: Depth) -> Result<ExitCode> {
    let verified = open(args)?.verify(depth).await?;
    let errors = verified.errors().count();
    if args.json {
        print_json(&verification_json(&verified))?;
    } else {
        if !verified.findings.is_empty() {
            print(&format!("{}\n\n", findings_for_people(&verified.findings)))?;
        }
        print(&format!("{}\n", verdict(&verified, depth)))?;
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(verified: &Verification, depth: Depth) -> String {
    let (errors, all) = (verified.errors().count(), verified.findings.len());
    let looked = match depth {
        Depth::Footers => "sizes, footers and row counts (--pages decodes every page too)",
        Depth::Pages => "every page",
    };
    let outcome = match (errors, all - errors) {
        (0, 0) => "The folder is whole".to_owned(),
        (0, warnings) => format!("The folder is whole, with {warnings} warnings"),
        (errors, _) => format!("{errors} errors"),
    };
    format!(
        "{outcome}: {} files of {} checked, {looked}; {} frames of the log.",
        verified.files,
        size(verified.bytes),
        verified.frames
    )
}

fn verification_json(verified: &Verification) -> Value {
    json!({
        "errors": verified.errors().count(),
        "files": verified.files,
        "bytes": verified.bytes,
        "frames": verified.frames,
        "in_use_by": verified.inspection.in_use_by,
        "findings": verified.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

async fn vacuum(
    args: &StorageFolder,
    vacuum: Vacuum,
    keep: std::time::Duration,
) -> Result<ExitCode> {
    let folder = open(args)?;
    let done =
        folder.vacuum(keep, SystemClock.now(), vacuum).await.context("nothing is deleted")?;
    let (files, bytes) = (done.files.len(), deleted_bytes(&done));
    if args.json {
        let files: Vec<_> = done
            .files
            .iter()
            .map(|(tier, file)| {
                json!({
                    "path": format!("{tier}/{}", file.name),
                    "bytes": file.bytes,
                    "why": file.why.name(),
                    "since_ns": file.since.get(),
                })
            })
            .collect();
        let deleted = vacuum == Vacuum::Delete;
        print_json(
            &json!({ "deleted": deleted, "files": files, "bytes": bytes, "kept": done.kept }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if !done.files.is_empty() {
        let mut rows = table(&["file", "size", "why", "since"]);
        for (tier, file) in &done.files {
            let path = format!("{tier}/{}", file.name);
            let why = file.why.name().to_owned();
            rows.add_row([path, size(file.bytes), why, time(Some(file.since))]);
        }
        print(&format!("{rows}\n\n"))?;
    }
    let verb = if vacuum == Vacuum::Delete { "deleted" } else { "would be deleted" };
    let keep = humantime::format_duration(keep);
    print(&format!(
        "{files} files of {} {verb}; {} that became unneeded less than {keep} ago stay.\n",
        size(bytes),
        done.kept,
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn deleted_bytes(done: &Vacuumed) -> u64 {
    done.files.iter().map(|(_, file)| file.bytes).sum()
}

async fn restore(from: &std::path::Path, to: &std::path::Path, json: bool) -> Result<ExitCode> {
    let restored = Folder::open(from)?.restore(to).await?;
    if json {
        let mut said = verification_json(&restored.verification);
        said["copied_files"] = restored.files.into();
        said["copied_bytes"] = restored.bytes.into();
        print_json(&said)?;
    } else {
        print(&format!(
            "{} files of {} copied to {} and checked. {}\n",
            restored.files,
            size(restored.bytes),
            to.display(),
            verdict(&restored.verification, Depth::Pages),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn findings_for_people(findings: &[Finding]) -> Table {
    let mut rows = table(&["", "where", "what", "what to do"]);
    for finding in findings {
        rows.add_row([finding.severity.name(), &finding.place, &finding.what, &finding.remedy]);
    }
    rows
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.name(),
        "place": finding.place,
        "what": finding.what,
        "remedy": finding.remedy,
    })
}

/// Findings of a command that is not about them go to standard error.
#[expect(clippy::print_stderr, reason = "findings are not data")]
fn complain(findings: &[Finding]) {
    for finding in findings {
        let Finding { severity, place, what, remedy } = finding;
        eprintln!("undine: {}: {place}: {what}; {remedy}", severity.name());
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table
}

fn size(bytes: u64) -> String {
    value::cell(&bytes.into(), SemanticType::Bytes.name())
}

fn time(time: Option<TimeNs>) -> String {
    time.map(|time| value::cell(&time.get().into(), SemanticType::TimeNs.name()))
        .unwrap_or_default()
}

fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Writes to standard output; a reader that went away, as `head` does, is not a failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
