//! `undine storage`: what a data folder or a bucket holds, whether it is whole, and how others read it.
//!
//! All of it reads the files themselves, so it needs no running Undine and does not disturb one.

mod status;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::Table;
use serde_json::{Value, json};
use undine_schema::{Clock, SemanticType, SystemClock, TimeNs};
use undine_store::inspect::{
    Depth, Dialect, Finding, Fleet, Folder, Inspection, Vacuum, Vacuumed, Verification,
};

use crate::cli::{Storage, StorageFolder, ViewsFor};
use crate::{config, value};

/// What a command looks at.
enum Place {
    Folder(Folder),
    Bucket(Fleet),
}

impl Place {
    async fn inspect(&self) -> Result<Inspection> {
        Ok(match self {
            Self::Folder(folder) => folder.inspect().await?,
            Self::Bucket(fleet) => fleet.inspect().await?,
        })
    }
}

/// Does what the command line says; status 1 where a check found errors.
///
/// # Errors
/// Where the folder is no store's, the bucket is none of stores, or they cannot be read or written.
pub(crate) async fn run(command: Storage) -> Result<ExitCode> {
    match command {
        Storage::Status { all, folder } => status::show(&folder, all).await,
        Storage::Verify { pages, folder } => {
            verify(&folder, if pages { Depth::Pages } else { Depth::Footers }).await
        }
        Storage::ExportView { engine, folder } => export_view(&folder, engine).await,
        Storage::Vacuum { dry_run, keep, folder } => {
            vacuum(&folder, if dry_run { Vacuum::DryRun } else { Vacuum::Delete }, keep.into())
                .await
        }
        Storage::Restore { from, to, node, json } => restore(&from, &to, node, json).await,
    }
}

fn open(args: &StorageFolder) -> Result<Place> {
    Ok(match &args.bucket {
        Some(url) => Place::Bucket(Fleet::open(url, args.node.clone())?),
        None => Place::Folder(open_folder(args)?),
    })
}

fn open_folder(args: &StorageFolder) -> Result<Folder> {
    let dir: PathBuf = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => config::load(args.config.as_deref(), Vec::new())?.data_dir,
    };
    Ok(Folder::open(&dir)?)
}

async fn export_view(args: &StorageFolder, engine: ViewsFor) -> Result<ExitCode> {
    let place = open(args)?;
    let dialect = match engine {
        ViewsFor::Duckdb => Dialect::DuckDb,
        ViewsFor::Clickhouse => Dialect::ClickHouse,
    };
    let held = place.inspect().await?;
    let sql = match &place {
        Place::Folder(folder) => folder.views(&held, dialect)?,
        Place::Bucket(fleet) => fleet.views(&held, dialect)?,
    };
    if args.json {
        print_json(&json!({ "sql": sql }))?;
    } else {
        print(&sql)?;
    }
    complain(&held.findings);
    Ok(ExitCode::SUCCESS)
}

async fn verify(args: &StorageFolder, depth: Depth) -> Result<ExitCode> {
    let verified = match open(args)? {
        Place::Folder(folder) => folder.verify(depth).await?,
        Place::Bucket(fleet) => fleet.verify(depth).await?,
    };
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
        (0, 0) => "All is whole".to_owned(),
        (0, warnings) => format!("All is whole, with {warnings} warnings"),
        (errors, _) => format!("{errors} errors"),
    };
    let elsewhere = match &verified.inspection.bucket {
        Some(url) if verified.files_in_bucket > 0 => {
            format!(
                " {} files are in bucket {url} alone; check them there.",
                verified.files_in_bucket
            )
        }
        _ => String::new(),
    };
    let log = match verified.frames {
        0 => String::new(),
        frames => format!("; {frames} frames of the log"),
    };
    format!(
        "{outcome}: {} files of {} checked, {looked}{log}.{elsewhere}",
        verified.files,
        size(verified.bytes),
    )
}

fn verification_json(verified: &Verification) -> Value {
    json!({
        "errors": verified.errors().count(),
        "files": verified.files,
        "bytes": verified.bytes,
        "files_in_bucket": verified.files_in_bucket,
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
    if let Some(url) = &args.bucket {
        bail!(
            "nothing is deleted from bucket {url}: each log there has one writer, the running node, which \
             deletes what no version has needed for 7 days when it uploads; of a node that will never \
             run again, delete the folders TABLE/TIER/NODE with the bucket's own tools"
        );
    }
    let folder = open_folder(args)?;
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

async fn restore(from: &Path, to: &Path, node: Option<String>, json: bool) -> Result<ExitCode> {
    let restored = if let Some(url) = from.to_str().filter(|from| from.contains("://")) {
        Fleet::open(url, node)?.restore(to).await?
    } else {
        ensure!(node.is_none(), "--node is of a bucket, and {} is a folder", from.display());
        Folder::open(from)?.restore(to).await?
    };
    if json {
        let mut said = verification_json(&restored.verification);
        said["copied_files"] = restored.files.into();
        said["copied_bytes"] = restored.bytes.into();
        print_json(&said)?;
    } else {
        print(&format!(
            "{} files of {} copied to {} and checked. {}{}\n",
            restored.files,
            size(restored.bytes),
            to.display(),
            verdict(&restored.verification, Depth::Pages),
            start_as(&restored.verification),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a copy does not say to whoever starts on it: which node it is.
fn start_as(verified: &Verification) -> String {
    let held = &verified.inspection;
    match held.tiers.first() {
        Some(tier) if held.node.is_none() => format!(" Start Undine on it as node {}.", tier.node),
        _ => String::new(),
    }
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn refusal(words: &[&str]) -> String {
        let words = ["undine", "storage"].iter().chain(words);
        let Command::Storage(command) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command");
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        format!("{:#}", runtime.block_on(run(command)).unwrap_err())
    }

    #[test]
    fn what_a_bucket_is_not_for_is_refused_with_what_is() {
        let error = refusal(&["vacuum", "--bucket", "s3://telemetry/undine"]);
        assert!(error.contains("nothing is deleted from bucket s3://telemetry/undine"), "{error}");
        assert!(error.contains("the running node"), "{error}");
        let error = refusal(&["restore", "/from", "/to", "--node", "web-1"]);
        assert!(error.contains("/from is a folder"), "{error}");
        let error = refusal(&["status", "--bucket", "http://telemetry"]);
        assert!(error.contains("http://telemetry") && error.contains("s3://BUCKET"), "{error}");
        let both = ["undine", "storage", "status", "--bucket", "s3://a/b", "--data-dir", "/c"];
        assert!(Cli::try_parse_from(both).is_err(), "one place at a time");
    }
}
