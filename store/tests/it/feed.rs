//! A follower that comes late gets what was sealed before.

use std::fs;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::{Append, Clock, Feed, Frame, Seq};
use undine_store::{Config, Store};

use super::fixture::{NOTES, SECOND, clock, config, notes};

/// What a follower gets from the first row on, read in pieces: ids of rows, and how many it missed
/// before each piece.
fn follow(runtime: &Runtime, store: &Store, rows_max: usize) -> (Vec<i64>, Vec<u64>) {
    let (mut cursor, mut ids, mut missed) = (Seq::ZERO, Vec::new(), Vec::new());
    loop {
        let progress = runtime.block_on(store.read(&NOTES, cursor, rows_max)).unwrap();
        if progress.cursor == cursor {
            return (ids, missed);
        }
        cursor = progress.cursor;
        missed.push(progress.missed_rows);
        for slice in progress.slices {
            ids.extend(slice.rows["id"].as_primitive::<Int64Type>().values());
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn rows_that_were_sealed_merged_and_left_over_restarts_are_read_in_order() {
    let (dir, clock, runtime) = (TempDir::new().unwrap(), clock(), runtime());
    let open = || config(dir.path(), Arc::clone(&clock)).build().unwrap();
    let mut store = open();
    for round in 0..40_i64 {
        // Each round's rows are older than those before, so no segment has them as they came.
        let ids: Vec<_> = (round * 5..round * 5 + 5).collect();
        let at = clock.now().get() - round * 1_000_000_000;
        store.append(Frame::committed(&NOTES, notes(&ids, at))).unwrap();
        runtime.block_on(store.seal()).unwrap();
        if round % 7 == 3 {
            runtime.block_on(store.tidy()).unwrap();
            clock.advance(SECOND * 100);
        }
        if round % 10 == 9 {
            drop(store);
            store = open();
        }
    }
    store.append(Frame::captured(&NOTES, notes(&[200, 201], clock.now().get()))).unwrap();
    let segments = store.snapshot(&NOTES).raw.unwrap().segments.len();
    assert!((2..20).contains(&segments), "{segments}");
    for rows_max in [1, 7, 64, 1000] {
        let (ids, missed) = follow(&runtime, &store, rows_max);
        assert_eq!(ids, (0..202).collect::<Vec<_>>(), "{rows_max} at a time");
        assert_eq!(missed.iter().sum::<u64>(), 0);
    }
}

#[test]
fn rows_of_a_segment_that_is_gone_or_damaged_are_missed_at_their_place() {
    for damage in [None, Some("no Parquet")] {
        let (dir, clock, runtime) = (TempDir::new().unwrap(), clock(), runtime());
        let config = || Config { segments_max: 100, ..config(dir.path(), Arc::clone(&clock)) };
        let store = config().build().unwrap();
        for id in 0..3 {
            let rows = notes(&[2 * id, 2 * id + 1], clock.now().get());
            store.append(Frame::committed(&NOTES, rows)).unwrap();
            runtime.block_on(store.seal()).unwrap();
        }
        drop(store);
        let store = config().build().unwrap();
        let raw = store.snapshot(&NOTES).raw.unwrap();
        let path = dir.path().join("tables").join(raw.segments[1].path.as_ref());
        match damage {
            None => fs::remove_file(path).unwrap(),
            Some(text) => fs::write(path, text).unwrap(),
        }
        let (ids, missed) = follow(&runtime, &store, 2);
        assert_eq!(ids, [0, 1, 4, 5]);
        assert_eq!(missed, [0, 2], "{damage:?}");
    }
}

#[test]
fn a_table_that_is_not_followed_is_read_from_memory_only() {
    let (dir, clock, runtime) = (TempDir::new().unwrap(), clock(), runtime());
    let config = || Config { followed: Vec::new(), ..config(dir.path(), Arc::clone(&clock)) };
    let store = config().build().unwrap();
    store.append(Frame::committed(&NOTES, notes(&[0, 1, 2], clock.now().get()))).unwrap();
    runtime.block_on(store.seal()).unwrap();
    assert_eq!(follow(&runtime, &store, 2), (vec![0, 1, 2], vec![0, 0]));
    drop(store);
    let store = config().build().unwrap();
    store.append(Frame::captured(&NOTES, notes(&[3], clock.now().get()))).unwrap();
    let raw = store.snapshot(&NOTES).raw.unwrap();
    assert!(raw.segments.iter().all(|segment| segment.places.is_none()), "places take room");
    assert_eq!(follow(&runtime, &store, 2), (vec![3], vec![3, 0]));
}
