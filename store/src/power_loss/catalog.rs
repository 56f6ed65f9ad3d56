//! Cuts at any moment of a catalog's own cycle: its checkpoint, and the deletion of what that stands for.

use std::path::Path;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use undine_schema::Seq;

use super::disk_states::Tree;
use super::{ACKED, Known, LATE, LONG_AGO, cut_everywhere, id_of, memory_dir};
use crate::delta::{CHECKPOINT_INTERVAL, Change, DeltaError, DeltaLog, FileStats};
use crate::disk::recorded::Recording;

fn open(dir: &Path, life: u16) -> Result<DeltaLog, DeltaError> {
    let schema = Schema::new(vec![Field::new("time_", DataType::Int64, false)]);
    let mut log = DeltaLog::open(dir.join("tier"), "undine/t/raw/n".to_owned(), &schema)?;
    log.begin(life, Seq::ZERO, None, LATE)?;
    Ok(log)
}

/// Commits a file that is called by its number, in the place of the one before.
fn commit(log: &mut DeltaLog, number: u64) -> Result<(), DeltaError> {
    let file = FileStats {
        name: number.to_string(),
        bytes: 9,
        rows: 1,
        source_rows: 1,
        first_time: LATE,
        last_time: LATE,
        first_window: LATE,
        last_window: LATE,
        places: None,
    };
    let change = Change {
        operation: "WRITE",
        sealed_to: Some(Seq::from_raw(number)),
        complete_from: None,
        add: vec![file],
        remove: log.files().iter().map(|file| file.name.clone()).collect(),
    };
    log.commit(&change, LATE)
}

/// Opens the catalog of a state of the disk: it knows the last commit that was acknowledged or a later one,
/// and goes on from there.
fn check(tree: &Tree, known: &Known) -> Result<(), String> {
    let dir = memory_dir();
    tree.write(dir.path());
    let problem = |error: DeltaError| format!("{error}: {error:?}");
    let mut log = open(dir.path(), 2).map_err(problem)?;
    let last = |log: &DeltaLog| {
        let names: Vec<_> = log.files().iter().map(|file| file.name.as_str()).collect();
        match names.as_slice() {
            [name] => name.parse::<i64>().map_err(|error| error.to_string()),
            _ => Err(format!("it names {names:?}")),
        }
    };
    let found = last(&log)?;
    let sealed_to = log.sealed_to();
    if sealed_to != Seq::from_raw(found.cast_unsigned()) {
        return Err(format!("it names {found} and is sealed to {sealed_to}"));
    }
    if known.acked.last() > Some(&found) || known.sent.last() < Some(&found) {
        return Err(format!("it ends with {found}"));
    }
    let next = found.cast_unsigned() + 1;
    commit(&mut log, next).map_err(problem)?;
    let late = LATE.saturating_add(LONG_AGO);
    log.collect_garbage(late, LONG_AGO).map_err(|error| error.to_string())?;
    let reopened = last(&open(dir.path(), 3).map_err(problem)?)?;
    if reopened == id_of(next) { Ok(()) } else { Err(format!("then it ends with {reopened}")) }
}

#[test]
fn a_power_loss_at_any_moment_of_a_checkpoint_and_its_vacuum_loses_no_commit() {
    let dir = memory_dir();
    let recording = Recording::start(dir.path());
    let mut log = open(dir.path(), 1).unwrap();
    let mut number = 0;
    let mut commits = |log: &mut DeltaLog, count: u64| {
        for _ in 0..count {
            number += 1;
            recording.mark(number);
            commit(log, number).unwrap();
            recording.mark(ACKED + number);
        }
    };
    // A first checkpoint, whose commits go; then the second, for which the first goes too.
    commits(&mut log, CHECKPOINT_INTERVAL + 1);
    let day = Duration::from_hours(24);
    log.collect_garbage(LATE.saturating_add(day), LONG_AGO).unwrap();
    commits(&mut log, CHECKPOINT_INTERVAL - 2);
    let from = recording.ops().len();
    commits(&mut log, 2);
    log.collect_garbage(LATE.saturating_add(day * 2), LONG_AGO).unwrap();
    commits(&mut log, 2);
    let cuts = cut_everywhere(&recording, from, check);
    cuts.finish(300);
}
