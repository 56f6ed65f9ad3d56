//! What is there of each table and tier: of a folder with its log and process, of a bucket by node.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};
use undine_schema::TimeNs;
use undine_store::inspect::{Fleet, Folder, Inspection, TierState};

use super::{Place, complain, finding_json, open, print, print_json, size, table, time};
use crate::cli::StorageFolder;

pub(super) async fn show(args: &StorageFolder, all: bool) -> Result<ExitCode> {
    let place = open(args)?;
    let held = place.inspect().await?;
    if args.json {
        print_json(&status_json(&place, &held))?;
    } else {
        let (rows, hidden) = tiers_for_people(&held, all);
        let about = match &place {
            Place::Folder(folder) => about_folder(folder, &held),
            Place::Bucket(fleet) => about_bucket(fleet, &held),
        };
        let hidden = match hidden {
            0 => String::new(),
            hidden => format!(" {hidden} tiers without files are not shown (--all)."),
        };
        print(&format!("{rows}\n\n{about}{hidden}\n"))?;
    }
    complain(&held.findings);
    Ok(ExitCode::SUCCESS)
}

/// A line for each tier, and how many have none.
fn tiers_for_people(held: &Inspection, all: bool) -> (Table, usize) {
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
    (rows, held.tiers.len() - shown.len())
}

fn about_folder(folder: &Folder, held: &Inspection) -> String {
    let log: u64 = held.log.iter().map(|segment| segment.bytes).sum();
    let node = held.node.as_deref().unwrap_or("no node (no store.json)");
    let used = match &held.in_use_by {
        Some(pid) => format!(
            "Undine runs on it (pid {pid}): the newest rows are in its memory and its log, and the \
             table storage_tables tells of them."
        ),
        None => "No Undine runs on it.".to_owned(),
    };
    let files = held.tiers.iter().flat_map(|tier| &tier.segments);
    let elsewhere: Vec<_> = files.filter(|file| file.found_bytes.is_none()).collect();
    let bucket = match &held.bucket {
        Some(url) => format!(
            " {} files of {} are in bucket {url} (`--bucket {url}` looks there).",
            elsewhere.len(),
            size(elsewhere.iter().map(|file| file.bytes).sum()),
        ),
        None => String::new(),
    };
    format!(
        "{}: node {node}, life {}. {used}\n{} in tables, {} in the log, {} that no version needs any \
         more.{bucket}",
        folder.dir().display(),
        held.lives,
        size(bytes(&held.tiers)),
        size(log),
        size(unneeded_bytes(&held.tiers)),
    )
}

fn about_bucket(fleet: &Fleet, held: &Inspection) -> String {
    let mut rows = table(&["node", "life", "tiers", "files", "size", "to"]);
    for (node, tiers) in by_node(held) {
        rows.add_row([
            node.to_owned(),
            life(&tiers).to_string(),
            tiers.len().to_string(),
            files(&tiers).to_string(),
            size(tiers.iter().map(|tier| tier.bytes()).sum()),
            time(newest(&tiers)),
        ]);
    }
    for column in 1..5 {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!(
        "{rows}\n\n{}: {} in tables, {} that no version needs any more. Each node's newest rows are on \
         the node until it uploads them.",
        fleet.url(),
        size(bytes(&held.tiers)),
        size(unneeded_bytes(&held.tiers)),
    )
}

fn by_node(held: &Inspection) -> BTreeMap<&str, Vec<&TierState>> {
    let mut nodes = BTreeMap::<_, Vec<_>>::new();
    for tier in &held.tiers {
        nodes.entry(tier.node.as_str()).or_default().push(tier);
    }
    nodes
}

fn life(tiers: &[&TierState]) -> u64 {
    tiers.iter().map(|tier| tier.life).max().unwrap_or(0)
}

fn files(tiers: &[&TierState]) -> usize {
    tiers.iter().map(|tier| tier.segments.len()).sum()
}

fn newest(tiers: &[&TierState]) -> Option<TimeNs> {
    tiers.iter().filter_map(|tier| tier.times()).map(|(_, last)| last).max()
}

fn bytes(tiers: &[TierState]) -> u64 {
    tiers.iter().map(TierState::bytes).sum()
}

fn unneeded_bytes(tiers: &[TierState]) -> u64 {
    tiers.iter().flat_map(|tier| &tier.unneeded).map(|file| file.bytes).sum()
}

fn status_json(place: &Place, held: &Inspection) -> Value {
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
    let findings: Vec<_> = held.findings.iter().map(finding_json).collect();
    match place {
        Place::Folder(folder) => json!({
            "dir": folder.dir().display().to_string(),
            "node": held.node,
            "lives": held.lives,
            "in_use_by": held.in_use_by,
            "bucket": held.bucket,
            "log_files": held.log.len(),
            "log_bytes": held.log.iter().map(|segment| segment.bytes).sum::<u64>(),
            "tiers": tiers,
            "findings": findings,
        }),
        Place::Bucket(fleet) => {
            let nodes = by_node(held).into_iter().map(|(node, tiers)| {
                json!({
                    "node": node,
                    "life": life(&tiers),
                    "tiers": tiers.len(),
                    "files": files(&tiers),
                    "bytes": tiers.iter().map(|tier| tier.bytes()).sum::<u64>(),
                    "last_time_ns": nanoseconds(newest(&tiers)),
                })
            });
            let nodes: Vec<_> = nodes.collect();
            json!({ "bucket": fleet.url(), "nodes": nodes, "tiers": tiers, "findings": findings })
        }
    }
}
