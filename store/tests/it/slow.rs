//! A store beside a bucket that takes its time: nothing but what goes through the bucket waits for it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use undine_schema::tables::{HTTP_EVENTS, PROCESSES, ProcessVersion, Processes};
use undine_schema::{Append, Clock, Durability, Frame, Part, TimeNs, Upid};
use undine_store::{Config, Retention, Store};

use super::bucket::{Node, ids_in};
use super::faulty::{Faults, Faulty};
use super::fixture::{NOTES, SECOND, notes};

/// Longer than anything takes that does not wait for the bucket.
const DEADLINE: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Does `work` on another thread and `meanwhile` as soon as one of its requests waits at the gate, which is
/// opened only then.
fn beside<T: Send>(
    faults: &Faults,
    work: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(),
) -> T {
    faults.gate.shut();
    thread::scope(|scope| {
        // Before the scope waits for the thread, also where `meanwhile` panics.
        let _opened = Opened(faults);
        let work = scope.spawn(work);
        let held = async { timeout(DEADLINE, faults.gate.holds_a_request()).await };
        runtime().block_on(held).expect("the work asks the bucket for something");
        meanwhile();
        assert!(!work.is_finished());
        faults.gate.open();
        work.join().unwrap()
    })
}

struct Opened<'a>(&'a Faults);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.gate.open();
    }
}

fn seal(store: &Store) {
    let sealed = async { timeout(DEADLINE, store.seal()).await };
    runtime().block_on(sealed).expect("a seal does not wait for the bucket").unwrap();
}

#[test]
fn while_an_upload_waits_rows_are_committed_sealed_merged_and_read() {
    let faulty = Arc::new(Faulty::default());
    let node = Node::new(Arc::clone(&faulty) as _);
    let store = node.start();
    node.append(&store, &[0]);
    node.seal(&store).unwrap();
    let upload = || runtime().block_on(store.upload()).unwrap();
    let uploaded = beside(&faulty.faults, upload, || {
        for id in 1..20 {
            let part = Part { table: &NOTES, rows: notes(&[id], 7) };
            let (durability, retry_key) = (Durability::Commit, None);
            let pending = store.append(Frame { parts: vec![part], durability, retry_key }).unwrap();
            let durable = async { timeout(DEADLINE, pending.durable()).await };
            runtime().block_on(durable).expect("a commit does not wait for the bucket").unwrap();
            seal(&store);
            assert_eq!(node.ids(&store), (0..=id).collect::<Vec<_>>());
        }
        let tidied = async { timeout(DEADLINE, store.tidy()).await };
        let tidied = runtime().block_on(tidied).expect("nor do merges of what is on the disk");
        assert!(tidied.unwrap().merged_segments > 3);
        let stats = store.stats().bucket.unwrap();
        assert_eq!(stats.uploaded_files, 0, "{stats:?}");
        assert!(stats.spooled_files > 0 && stats.failure.is_none(), "{stats:?}");
    });
    assert!(uploaded.files > 0, "{uploaded:?}");
    node.upload(&store).unwrap();
    assert_eq!((node.ids(&store), ids_in(&*faulty)), ((0..20).collect(), (0..20).collect()));
    assert_eq!(store.stats().bucket.unwrap().spooled_files, 0);
}

#[test]
fn a_store_ends_while_its_bucket_does_not_answer_and_the_next_one_goes_on() {
    let faulty = Arc::new(Faulty::default());
    let mut node = Node::new(Arc::clone(&faulty) as _);
    node.bucket.upload_interval = Duration::from_millis(1);
    let store = node.start();
    node.append(&store, &[1, 2]);
    seal(&store);
    let stop = CancellationToken::new();
    let running = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    faulty.faults.gate.shut();
    running.block_on(async {
        let mut run = tokio::task::JoinSet::new();
        run.spawn(store.clone().run(stop.clone()));
        faulty.faults.gate.holds_a_request().await;
        stop.cancel();
        timeout(DEADLINE, run.join_all()).await.expect("nobody waits for the bucket at the end");
    });
    faulty.faults.gate.open();
    // Ends with the upload's thread, which has let go of the store then.
    drop(running);
    drop(store);
    let store = node.start();
    node.upload(&store).unwrap();
    assert_eq!((node.ids(&store), ids_in(&*faulty)), (vec![1, 2], vec![1, 2]));
}

fn version(pid: u32, time_: TimeNs) -> RecordBatch {
    let mut rows = Processes::new(1);
    let upid = Upid::new(1, pid, 7);
    rows.push(&ProcessVersion { time_, upid, pid: pid.into(), ..ProcessVersion::default() });
    rows.finish()
}

#[test]
fn a_seal_goes_on_while_versions_that_expire_are_read() {
    let faulty = Arc::new(Faulty::default());
    let mut node = Node::new(Arc::clone(&faulty) as _);
    node.bucket.cache_bytes_max = 0;
    let hour = Duration::from_hours(1);
    let rule = Retention { table: None, tier: None, age_max: Some(hour), bytes_max: None };
    let tables = vec![&HTTP_EVENTS, &PROCESSES];
    let store = Config { tables, retention: vec![rule], ..node.config() }.build().unwrap();
    let append = |pid| {
        let rows = version(pid, node.clock.now());
        store.append(Frame::captured(&PROCESSES, rows)).unwrap();
        seal(&store);
    };
    append(1);
    node.clock.advance(SECOND);
    append(1);
    node.upload(&store).unwrap();
    node.clock.advance(hour + SECOND);
    let rows = || {
        let raw = store.snapshot(&PROCESSES).raw.unwrap();
        raw.segments.iter().map(|segment| segment.rows).sum::<u64>()
    };
    let tidy = || runtime().block_on(store.tidy()).unwrap();
    let tidied = beside(&faulty.faults, tidy, || {
        append(2);
        assert_eq!(rows(), 3, "nothing has gone yet");
    });
    assert_eq!((tidied.expired_rows, tidied.merged_segments), (1, 0));
    assert_eq!(rows(), 2, "the version of the first process that is in force, and the second one");
}
