//! What survives the end of a process.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use undine_schema::{Append, Clock, Durability, Frame, Part, RetryKey, SystemClock};
use undine_store::{BuildError, Config, OnDamage};

use super::fixture::{
    NOTES, REQUESTS, Row, SECOND, clock, config, integers, losses, lost_places, notes, real_time,
    requests,
};

const CHILD: &str = "it::crash::a_child_that_appends_until_it_is_killed";

fn config_of(dir: &Path) -> Config {
    real_time(config(dir, clock()))
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_nothing_is_there_twice() {
    let dir = TempDir::new().unwrap();
    let mut acked = BTreeSet::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{}", dir.path().display()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acked_now = 0;
        while acked_now < 60 + round * 37 {
            let line = lines.next().expect("the child goes on").unwrap();
            if let Some(id) = line.strip_prefix("acked ") {
                acked.insert(id.parse::<i64>().unwrap());
                acked_now += 1;
            }
        }
        child.kill().unwrap();
        let rest = lines.map_while(Result::ok);
        acked.extend(rest.filter_map(|line| line.strip_prefix("acked ")?.parse::<i64>().ok()));
        child.wait().unwrap();

        let store = config_of(dir.path()).build().unwrap();
        let ids = integers(dir.path(), &store.snapshot(&NOTES), "id");
        let found: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(found.len(), ids.len(), "no row is there twice");
        let missing: Vec<_> = acked.difference(&found).collect();
        assert!(missing.is_empty(), "round {round}: acknowledged and lost: {missing:?}");

        let captured = integers(dir.path(), &store.snapshot(&REQUESTS), "size");
        let distinct: BTreeSet<_> = captured.iter().copied().collect();
        assert_eq!(distinct.len(), captured.len(), "no captured row is there twice");
        let lost = lost_places(dir.path(), &store, &REQUESTS);
        let newest = store.stats().table(REQUESTS.name).unwrap().newest;
        drop(store);
        // The child numbers its captured rows life * 1e9 + counter.
        let life = i64::from(newest.incarnation().get());
        let last_life = |id: &&i64| **id / 1_000_000_000 == life;
        let in_life = captured.iter().filter(last_life).count() as u64;
        let lost_in_life = lost.iter().filter(|s| s.incarnation() == newest.incarnation()).count();
        assert_eq!(
            in_life + lost_in_life as u64,
            newest.counter(),
            "every captured row is there or reported lost"
        );
    }
    assert!(acked.len() > 300);
}

#[test]
#[ignore = "is run by its parent, in a process of its own"]
fn a_child_that_appends_until_it_is_killed() {
    let mut dir = String::new();
    std::io::stdin().read_line(&mut dir).unwrap();
    if dir.trim().is_empty() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Config {
        seal_interval: Duration::from_millis(300),
        log_sync_interval: Duration::from_millis(50),
        commit_interval: Duration::from_millis(2),
        ..config_of(Path::new(dir.trim()))
    }
    .build()
    .unwrap();
    let life = i64::from(store.incarnation().get());
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(store.clone().run(tokio_util::sync::CancellationToken::new()));
        let mut captured = 0;
        for id in 0_i64.. {
            let ids = [life * 1_000_000 + id];
            let frame = Frame::committed(&NOTES, notes(&ids, 1_700_000_000_000_000_000 + id));
            store.append(frame).unwrap().durable().await.unwrap();
            println!("acked {}", ids[0]);
            for _ in 0..20 {
                captured += 1;
                let value = life * 1_000_000_000 + captured;
                let row = Row { time: SystemClock.now().get(), kind: 1, value, path_bytes: 30 };
                store.append(Frame::captured(&REQUESTS, requests(&[row]))).unwrap();
            }
        }
    });
}

#[test]
fn a_retry_is_acknowledged_once_more_and_stored_once_also_after_a_restart() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let frame = || Frame {
        parts: vec![Part { table: &NOTES, rows: notes(&[1], 0) }],
        durability: Durability::Commit,
        retry_key: Some(RetryKey([9; 32])),
    };
    let append = |store: &undine_store::Store| {
        runtime.block_on(store.append(frame()).unwrap().durable()).unwrap()
    };
    let store = config(dir.path(), Arc::clone(&clock)).build().unwrap();
    assert_eq!(append(&store).len(), 1);
    assert_eq!(append(&store), []);
    runtime.block_on(store.seal()).unwrap();
    drop(store);
    let store = config(dir.path(), Arc::clone(&clock)).build().unwrap();
    assert_eq!(append(&store), [], "the key is in the log, though its rows are sealed");
    clock.advance(SECOND * 601);
    assert_eq!(append(&store).len(), 1, "after ten minutes it is a new request");
    assert_eq!(integers(dir.path(), &store.snapshot(&NOTES), "id"), [1, 1]);
}

#[test]
fn a_damaged_segment_is_kept_aside_and_its_rows_are_reported_once() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = config(dir.path(), Arc::clone(&clock)).build().unwrap();
    for id in 1..=5 {
        let frame = Frame::committed(&NOTES, notes(&[id * 10, id * 10 + 1], 0));
        runtime.block_on(store.append(frame).unwrap().durable()).unwrap();
    }
    drop(store);
    let segment = dir.path().join("log/0000000000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let frames: Vec<_> =
        (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(b"UWL1")).collect();
    assert_eq!(frames.len(), 5);
    bytes[frames[2] + 100] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    for _ in 0..2 {
        let store = config(dir.path(), Arc::clone(&clock)).build().unwrap();
        let ids = integers(dir.path(), &store.snapshot(&NOTES), "id");
        assert_eq!(ids, [10, 11, 20, 21, 40, 41, 50, 51]);
        let losses = losses(dir.path(), &store);
        assert_eq!(losses.len(), 1, "{losses:?}");
        assert_eq!((losses[0].reason.as_str(), losses[0].rows), ("log_damaged", 2));
        assert_eq!(losses[0].detail, "rows 1.5 to 1.6");
    }
    assert!(dir.path().join("log/0000000000000001.log.quarantined").exists());
}

#[test]
fn the_log_is_deleted_when_its_rows_are_sealed_everywhere() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = config(dir.path(), Arc::clone(&clock)).build().unwrap();
    let row = Row { time: 1, kind: 1, value: 1, path_bytes: 10 };
    store.append(Frame::captured(&REQUESTS, requests(&[row]))).unwrap();
    drop(store);
    let store = config(dir.path(), clock).build().unwrap();
    let segment = dir.path().join("log/0000000000000001.log");
    assert!(segment.exists());
    let report = runtime.block_on(store.seal()).unwrap();
    assert_eq!(report.rows, 1);
    assert!(!segment.exists());
    assert_eq!(store.stats().table("requests").unwrap().sealed_rows, 1);
}

#[test]
fn a_strict_store_refuses_a_damaged_log_and_leaves_it_as_it_is() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let strict =
        || Config { on_damage: OnDamage::Refuse, ..config(dir.path(), Arc::clone(&clock)) };
    let store = strict().build().unwrap();
    for id in 1..=3 {
        let frame = Frame::committed(&NOTES, notes(&[id], 0));
        runtime.block_on(store.append(frame).unwrap().durable()).unwrap();
    }
    drop(store);
    let segment = dir.path().join("log/0000000000000001.log");
    let whole = std::fs::read(&segment).unwrap();
    let frames: Vec<_> =
        (0..whole.len() - 4).filter(|&at| whole[at..].starts_with(b"UWL1")).collect();

    // A torn end is what any crash may leave.
    std::fs::write(&segment, &whole[..whole.len() - 7]).unwrap();
    let store = strict().build().unwrap();
    let losses_found = losses(dir.path(), &store);
    assert_eq!((losses_found[0].reason.as_str(), losses_found[0].rows), ("crash", 1));
    drop(store);

    let mut damaged = whole.clone();
    damaged[frames[1] + 50] ^= 1;
    std::fs::write(&segment, &damaged).unwrap();
    let error = strict().build().unwrap_err();
    assert!(matches!(&error, BuildError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("0000000000000001.log"), "{error}");
    assert_eq!(std::fs::read(&segment).unwrap(), damaged);
    assert!(!dir.path().join("log/0000000000000001.log.quarantined").exists());

    // Whole frames that are gone without a trace are damage too.
    let without: Vec<u8> = [&whole[..frames[1]], &whole[frames[2]..]].concat();
    std::fs::write(&segment, &without).unwrap();
    let error = strict().build().unwrap_err().to_string();
    assert!(error.contains("1 rows of notes.Beta") && error.contains("rows 1.2 to 1.2"), "{error}");
    let lenient = config(dir.path(), Arc::clone(&clock)).build().unwrap();
    let reasons: Vec<_> = losses(dir.path(), &lenient).into_iter().map(|l| l.reason).collect();
    assert!(reasons.contains(&"log_damaged".to_owned()), "{reasons:?}");
}

#[test]
fn a_crash_and_a_damage_are_told_apart_to_the_row() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = config(dir.path(), Arc::clone(&clock)).build().unwrap();
    for id in 1..=4 {
        let frame = Frame::committed(&NOTES, notes(&[id], 0));
        runtime.block_on(store.append(frame).unwrap().durable()).unwrap();
    }
    drop(store);
    let segment = dir.path().join("log/0000000000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let frames: Vec<_> =
        (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(b"UWL1")).collect();
    bytes[frames[1] + 60] ^= 1;
    // The last frame never reached the disk.
    bytes.truncate(frames[3] + 9);
    std::fs::write(&segment, &bytes).unwrap();
    let store = config(dir.path(), clock).build().unwrap();
    assert_eq!(integers(dir.path(), &store.snapshot(&NOTES), "id"), [1, 3]);
    let found: BTreeSet<_> =
        losses(dir.path(), &store).into_iter().map(|loss| (loss.reason, loss.detail)).collect();
    let expected = [("crash", "rows 1.4 to 1.4"), ("log_damaged", "rows 1.2 to 1.2")];
    assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
}
