//! Cuts after a process was killed and another one went on, or while one recovers from an earlier cut.

use std::cell::Cell;
use std::path::Path;

use undine_schema::Clock;

use super::disk_states::Disk;
use super::{Cuts, Known, LONG_AGO, Work, check};
use crate::disk::recorded::Op;
use crate::inspect::{Folder, Vacuum};

/// Cuts the power after a kill at any moment of a flush and of a compaction, and after what another process
/// then did to the folder.
fn cut_after_kills(then: impl Fn(&Work), states_min: usize) {
    let mut work = Work::new();
    let store = work.open();
    work.commit(&store);
    work.seal(&store);
    let from = work.recording.ops().len();
    work.commit(&store);
    work.seal(&store);
    work.commit(&store);
    work.seal(&store);
    assert!(work.tidy(&store).merged_segments > 8);
    drop(store);
    let first = work.recording.ops();
    let mut disk = Disk::default();
    let mut cuts = Cuts::default();
    for (at, op) in first.iter().enumerate() {
        disk.apply(op);
        // Names that only the kernel knows are what a kill leaves for the next process to trip over.
        if at < from || !disk.has_unsynced_names() {
            continue;
        }
        let second = Work { frames: work.frames, ..Work::new() };
        disk.shown().write(second.dir.path());
        then(&second);
        let mut ended = disk.clone();
        second.recording.ops().iter().for_each(|op| ended.apply(op));
        let killed = format!("killed after {} ({op:?}), continued, cut", at + 1);
        cuts.try_all(&killed, ended.states_without(), &Known::at(&first[..=at]), check);
    }
    cuts.finish(states_min);
}

fn removes_files(work: &Work) -> bool {
    work.recording.ops().iter().any(|op| matches!(op, Op::Remove(_)))
}

#[test]
fn a_power_loss_after_a_kill_and_a_restart_loses_nothing_either() {
    let restart = |work: &Work| {
        let store = work.open();
        work.seal(&store);
        work.clock.advance(LONG_AGO);
        work.tidy(&store);
        drop(store);
        assert!(removes_files(work), "the sealed log goes");
    };
    cut_after_kills(restart, 20);
}

#[test]
fn a_power_loss_after_a_kill_and_a_vacuum_from_outside_loses_nothing_either() {
    let vacuums = Cell::new(0);
    let vacuum = |work: &Work| {
        let now = work.clock.now().saturating_add(LONG_AGO);
        let folder = Folder::open(work.dir.path()).unwrap();
        let vacuum = folder.vacuum(LONG_AGO, now, Vacuum::Delete);
        work.runtime.block_on(vacuum).unwrap();
        vacuums.set(vacuums.get() + usize::from(removes_files(work)));
    };
    cut_after_kills(vacuum, 20);
    assert!(vacuums.get() > 8, "{} vacuums deleted files", vacuums.get());
}

#[test]
fn a_power_loss_while_a_start_recovers_from_another_loses_nothing() {
    let mut work = Work::new();
    let store = work.open();
    work.commit(&store);
    work.capture(&store);
    work.commit(&store);
    drop(store);
    let first = work.recording.ops();
    // The log's last frame was acknowledged; one more was written and torn.
    let mut disk = Disk::default();
    for op in &first {
        disk.apply(op);
    }
    let known = Known::at(&first);
    let log = Path::new("log/0000000000000001.log").to_owned();
    disk.apply(&Op::Write(log.clone(), b"UWL1torn".to_vec()));
    disk.apply(&Op::Sync(log));
    let second = Work::new();
    disk.shown().write(second.dir.path());
    let store = second.open();
    second.seal(&store);
    drop(store);
    let mut cuts = Cuts::default();
    for (at, op) in second.recording.ops().iter().enumerate() {
        disk.apply(op);
        let what = format!("after {} ({op:?}) of the second start", at + 1);
        cuts.try_all(&what, disk.states(), &known, check);
    }
    cuts.finish(60);
}
