//! Cuts at any moment of what a store does from day to day.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk_states::{Disk, Tree};
use super::{LONG_AGO, Work, check, cut_everywhere};

#[test]
fn a_replayed_recording_is_the_folder_that_was_recorded() {
    let mut work = Work::new();
    let store = work.open();
    for _ in 0..4 {
        work.commit(&store);
        work.capture(&store);
        work.seal(&store);
    }
    work.tidy(&store);
    work.clock.advance(Duration::from_secs(3700));
    work.tidy(&store);
    drop(store);
    drop(work.open());
    let mut disk = Disk::default();
    work.recording.ops().iter().for_each(|op| disk.apply(op));
    let (mut replayed, mut real) = (disk.shown(), Tree::read(work.dir.path()));
    // The lock is no data, and the page of given places is written through memory.
    for tree in [&mut replayed, &mut real] {
        tree.files.remove(Path::new("LOCK"));
        tree.files.remove(Path::new("allocated"));
    }
    let differ = |path: &&PathBuf| real.files.get(*path) != replayed.files.get(*path);
    let paths: BTreeSet<_> = real.files.keys().chain(replayed.files.keys()).collect();
    let wrong: Vec<_> = paths.into_iter().filter(differ).collect();
    assert!(wrong.is_empty(), "not every change of the disk is recorded: {wrong:?}");
    assert_eq!(real.dirs, replayed.dirs);
    assert!(real.files.len() > 20);
}

#[test]
fn a_power_loss_at_any_moment_of_a_flush_loses_nothing_that_was_acknowledged() {
    let mut work = Work::new();
    let store = work.open();
    work.commit(&store);
    work.capture(&store);
    work.seal(&store);
    work.commit(&store);
    work.capture(&store);
    work.capture(&store);
    work.seal(&store);
    work.commit(&store);
    drop(store);
    // Another life: the log of the first one is sealed and goes.
    let store = work.open();
    work.commit(&store);
    work.seal(&store);
    drop(store);
    cut_everywhere(&work.recording, 0, check).finish(300);
}

#[test]
fn a_power_loss_at_any_moment_of_a_compaction_and_a_vacuum_loses_nothing() {
    let mut work = Work::new();
    let store = work.open();
    for _ in 0..3 {
        work.commit(&store);
        work.seal(&store);
    }
    let from = work.recording.ops().len();
    let tidied = work.tidy(&store);
    assert!(tidied.merged_segments > 8, "{tidied:?}");
    work.commit(&store);
    work.clock.advance(LONG_AGO);
    let tidied = work.tidy(&store);
    assert!(tidied.deleted_files > 8, "{tidied:?}");
    work.commit(&store);
    work.seal(&store);
    drop(store);
    cut_everywhere(&work.recording, from, check).finish(300);
}
