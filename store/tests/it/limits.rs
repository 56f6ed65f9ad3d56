//! What the store refuses, and what it says then.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use undine_schema::tables::HTTP_EVENTS;
use undine_schema::{Append, AppendError, Feed, Frame, Part, Seq};
use undine_store::{BuildError, Config};

use super::fixture::{
    NOTES, REQUESTS, Row, clock, config, files, losses, lost_places, notes, requests,
};

fn fat_row(value: i64) -> Row {
    Row { time: 1_000_000_000 * value, kind: 1, value, path_bytes: 100_000 }
}

#[test]
fn captured_rows_above_the_budget_are_evicted_and_counted_to_the_row() {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Config { hot_bytes_max: 1 << 20, ..config(dir.path(), clock()) }.build().unwrap();
    for value in 1..=30 {
        store.append(Frame::captured(&REQUESTS, requests(&[fat_row(value)]))).unwrap();
    }
    runtime.block_on(store.merge_hot()).unwrap();
    let stats = store.stats();
    assert!(stats.hot_bytes <= 1 << 20, "{stats:?}");
    let table = stats.table("requests").unwrap();
    assert!(table.evicted_rows > 15);
    assert_eq!(table.hot_rows + table.evicted_rows, 30);
    let lost = lost_places(dir.path(), &store, &REQUESTS);
    assert_eq!(lost.len() as u64, table.evicted_rows);
    let progress = runtime.block_on(store.read(&REQUESTS, Seq::ZERO, 100)).unwrap();
    assert_eq!(progress.missed_rows, table.evicted_rows);
}

#[test]
fn sealed_rows_make_room_without_a_loss() {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Config { hot_bytes_max: 1 << 20, ..config(dir.path(), clock()) }.build().unwrap();
    for value in 1..=30 {
        store.append(Frame::captured(&REQUESTS, requests(&[fat_row(value)]))).unwrap();
        if value % 5 == 0 {
            runtime.block_on(store.seal()).unwrap();
        }
    }
    assert_eq!(losses(dir.path(), &store).len(), 0);
    let stats = store.stats();
    assert_eq!(stats.table("requests").unwrap().sealed_rows, 30);
    assert!(stats.table("requests").unwrap().hot_rows < 12);
}

#[test]
fn acknowledged_rows_fill_the_store_rather_than_go() {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Config { hot_bytes_max: 1 << 20, ..config(dir.path(), clock()) }.build().unwrap();
    let mut accepted = 0;
    let retry_after = loop {
        let frame = Frame::committed(&REQUESTS, requests(&[fat_row(accepted + 1)]));
        match store.append(frame) {
            Ok(pending) => runtime.block_on(pending.durable()).map(|_| accepted += 1).unwrap(),
            Err(AppendError::Full { retry_after }) => break retry_after,
            Err(error) => panic!("{error}"),
        }
        assert!(accepted < 20, "the budget holds");
    };
    assert!(retry_after > Duration::ZERO);
    assert_eq!(store.stats().refused_frames, 1);
    runtime.block_on(store.seal()).unwrap();
    let frame = Frame::committed(&REQUESTS, requests(&[fat_row(0)]));
    runtime.block_on(store.append(frame).unwrap().durable()).unwrap();
    let stats = store.stats();
    let table = stats.table("requests").unwrap();
    assert_eq!((table.evicted_rows, table.appended_rows), (0, accepted.unsigned_abs() + 1));
}

#[test]
fn too_many_paths_are_folded_and_totals_stay_exact() {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let small = Config { groups_per_window_max: 2, ..config(dir.path(), clock()) };
    let store = small.build().unwrap();
    let rows: Vec<_> =
        (0..30_u8).map(|kind| Row { time: 5, kind, value: 1, path_bytes: 0 }).collect();
    store.append(Frame::captured(&REQUESTS, requests(&rows))).unwrap();
    let report = runtime.block_on(store.seal()).unwrap();
    assert!(report.folded_rows > 20, "{report:?}");
    let snapshot = store.snapshot(&REQUESTS);
    for tier in &snapshot.tiers {
        assert_eq!(tier.segments.iter().map(|segment| segment.source_rows).sum::<u64>(), 30);
        let batches = files(dir.path(), tier);
        let templates = batches[0]["template"].as_string::<i32>();
        assert!(templates.iter().any(|template| template == Some("*")));
        // 3 services with their statuses, 2 processes with their flags: 6 folded groups at most.
        assert!(batches[0].num_rows() <= 2 + 6, "{}", batches[0].num_rows());
    }
    let losses = losses(dir.path(), &store);
    assert_eq!((losses[0].reason.as_str(), losses[0].rows), ("folded", 0));
    assert!(losses[0].detail.starts_with(&format!("{} rows", report.folded_rows)));
}

#[test]
fn rows_with_another_schema_or_of_an_unknown_table_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let store = config(dir.path(), clock()).build().unwrap();
    let wrong = Frame::captured(&REQUESTS, notes(&[1], 1));
    let error = store.append(wrong).unwrap_err().to_string();
    assert!(error.contains("requests") && error.contains("service: Utf8"), "{error}");
    let rows = undine_schema::tables::HttpEvents::new(0).finish();
    let unknown = Part { table: &HTTP_EVENTS, rows };
    let error = store
        .append(Frame { parts: vec![unknown], ..Frame::captured(&NOTES, notes(&[1], 1)) })
        .unwrap_err();
    assert!(error.to_string().contains("http_events"), "{error}");
    assert!(store.newest(&HTTP_EVENTS).is_err());
}

#[test]
fn a_folder_in_use_of_another_node_or_of_a_newer_version_is_refused_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    let store = config(dir.path(), clock()).build().unwrap();
    let error = config(dir.path(), clock()).build().unwrap_err();
    let pid = std::process::id().to_string();
    assert!(matches!(&error, BuildError::Locked { pid: found, .. } if *found == pid), "{error}");
    drop(store);

    let other = Config { node: "node-2".to_owned(), ..config(dir.path(), clock()) };
    let error = other.build().unwrap_err();
    assert!(error.to_string().contains("name the node node-1"), "{error}");

    let path = dir.path().join("store.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = config(dir.path(), clock()).build().unwrap_err();
    assert!(matches!(error, BuildError::NewerFormat { found: 2, .. }), "{error}");

    std::fs::write(&path, "{").unwrap();
    let error = config(dir.path(), clock()).build().unwrap_err();
    assert!(matches!(error, BuildError::Corrupt { .. }), "{error}");

    let file = dir.path().join("a_file");
    std::fs::write(&file, "").unwrap();
    let error = config(&file, clock()).build().unwrap_err();
    assert!(error.to_string().contains("a_file"), "{error}");
}

#[test]
fn settings_out_of_bounds_are_refused_by_their_key() {
    let dir = TempDir::new().unwrap();
    let good = || config(dir.path(), clock());
    let bad = [
        ("hot_bytes_max", Config { hot_bytes_max: 1, ..good() }),
        ("node", Config { node: String::new(), ..good() }),
        ("seal_interval", Config { seal_interval: Duration::ZERO, ..good() }),
        ("tiers", Config { tiers: vec![], ..good() }),
        (
            "tiers",
            Config { tiers: vec![Duration::from_secs(10), Duration::from_secs(15)], ..good() },
        ),
        ("groups_per_window_max", Config { groups_per_window_max: 0, ..good() }),
        ("segments_max", Config { segments_max: 1, ..good() }),
    ];
    for (key, config) in bad {
        let error = config.build().unwrap_err();
        assert!(matches!(error, BuildError::Setting { key: found, .. } if found == key), "{error}");
    }
}

#[test]
fn a_tier_that_is_added_later_says_from_when_on_it_is_complete() {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let row = |second: i64| Row { time: second * 1_000_000_000, kind: 1, value: 1, path_bytes: 0 };
    let clock = clock();
    let store = Config { raw_for: None, ..config(dir.path(), Arc::clone(&clock) as _) };
    let store = Config { clock: Arc::clone(&clock) as _, ..store }.build().unwrap();
    store.append(Frame::captured(&REQUESTS, requests(&[row(5)]))).unwrap();
    runtime.block_on(store.seal()).unwrap();
    drop(store);
    let hour = vec![Duration::from_secs(10), Duration::from_mins(1), Duration::from_hours(1)];
    let store = Config { tiers: hour, ..config(dir.path(), clock) }.build().unwrap();
    store.append(Frame::captured(&REQUESTS, requests(&[row(9)]))).unwrap();
    runtime.block_on(store.seal()).unwrap();
    let snapshot = store.snapshot(&REQUESTS);
    let complete: Vec<_> = snapshot.tiers.iter().map(|t| t.complete_from.get()).collect();
    assert_eq!(complete, [i64::MIN, i64::MIN, 5_000_000_001]);
    let raw = snapshot.raw.unwrap();
    assert_eq!(raw.complete_from.get(), 5_000_000_001);
    assert_eq!(raw.segments.iter().map(|segment| segment.rows).sum::<u64>(), 1);
}

#[test]
fn raw_rows_of_a_summarised_table_expire_and_their_files_go_later() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = config(dir.path(), Arc::clone(&clock)).build().unwrap();
    let time = undine_schema::Clock::now(&*clock).get();
    let row = Row { time, kind: 1, value: 1, path_bytes: 0 };
    store.append(Frame::captured(&REQUESTS, requests(&[row]))).unwrap();
    store.append(Frame::captured(&NOTES, notes(&[1], time))).unwrap();
    runtime.block_on(store.seal()).unwrap();
    let before = store.snapshot(&REQUESTS);
    clock.advance(Duration::from_secs(3601));
    let report = runtime.block_on(store.tidy()).unwrap();
    assert_eq!((report.expired_rows, report.deleted_files), (1, 0));
    let raw = store.snapshot(&REQUESTS).raw.unwrap();
    assert_eq!((raw.segments.len(), raw.complete_from.get()), (0, time + 1));
    assert_eq!(files(dir.path(), before.raw.as_ref().unwrap()).len(), 1, "a reader goes on");
    clock.advance(Duration::from_secs(61));
    assert_eq!(runtime.block_on(store.tidy()).unwrap().deleted_files, 1);
    assert_eq!(store.snapshot(&NOTES).raw.unwrap().segments.len(), 1, "records stay");
}

#[test]
fn a_stopped_store_has_synced_what_it_took_and_takes_no_more() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let slow = Config {
        log_sync_interval: Duration::from_hours(1),
        commit_interval: Duration::from_hours(1),
        ..config(dir.path(), Arc::clone(&clock))
    };
    let store = slow.build().unwrap();
    let row = Row { time: 1, kind: 1, value: 1, path_bytes: 0 };
    let frame = || Frame::captured(&REQUESTS, requests(std::slice::from_ref(&row)));
    store.append(frame()).unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let fast = Config { commit_interval: Duration::from_millis(1), ..config(dir.path(), clock) };
    runtime.block_on(store.clone().run(shutdown));
    assert!(matches!(store.append(frame()), Err(AppendError::Stopping)));
    let copied = TempDir::new().unwrap();
    super::fixture::copy(dir.path(), copied.path());
    let copy = Config { dir: copied.path().to_owned(), ..fast }.build().unwrap();
    assert_eq!(copy.stats().table("requests").unwrap().recovered_rows, 1);
    assert_eq!(losses(copied.path(), &copy).len(), 0);
}

#[test]
fn a_running_store_seals_before_its_time_when_rows_press() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = Config {
        hot_bytes_max: 1 << 20,
        seal_interval: Duration::from_hours(1),
        ..config(dir.path(), clock)
    };
    let store = config.build().unwrap();
    let shutdown = CancellationToken::new();
    let running = runtime.spawn(store.clone().run(shutdown.clone()));
    for value in 1..=6 {
        store.append(Frame::captured(&REQUESTS, requests(&[fat_row(value)]))).unwrap();
    }
    let sealed = async {
        while store.snapshot(&REQUESTS).tiers[0].segments.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shutdown.cancel();
        running.await.unwrap();
    };
    let in_time = async { tokio::time::timeout(Duration::from_secs(20), sealed).await };
    runtime.block_on(in_time).unwrap();
}

/// `unshare -m sh -c 'mount -t tmpfs -o size=6m none /mnt && echo /mnt/s | TEST …'`.
#[test]
#[ignore = "needs a small disk of its own, whose folder it reads from its input"]
fn a_full_disk_refuses_rows_and_loses_none() {
    let mut dir = String::new();
    std::io::stdin().read_line(&mut dir).unwrap();
    let dir = std::path::Path::new(dir.trim());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let small = || Config { log_queue_bytes_max: 1 << 20, ..config(dir, clock()) };
    let store = small().build().unwrap();
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![1; 4 << 20]).unwrap();
    let (mut pending, mut value) = (Vec::new(), 0);
    loop {
        let rows: Vec<_> = (0..500)
            .map(|_| {
                value += 1;
                value * 7919 % 1_000_003
            })
            .map(|value| Row { time: value * 1_000_000_007, kind: 1, value, path_bytes: 3 })
            .collect();
        match store.append(Frame::committed(&REQUESTS, requests(&rows))) {
            Ok(accepted) => pending.push(accepted),
            Err(AppendError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let accepted = pending.len() as u64 * 500;
    println!("{accepted} rows were accepted until the disk and the queue were full");
    std::fs::remove_file(filler).unwrap();
    for accepted in pending {
        runtime.block_on(accepted.durable()).unwrap();
    }
    drop(store);
    let store = small().build().unwrap();
    assert_eq!(store.stats().table("requests").unwrap().recovered_rows, accepted);
}
