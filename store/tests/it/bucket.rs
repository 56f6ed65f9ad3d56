//! A store whose segments go to a bucket that fails, lies or is away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::{Append, Clock, Frame, ManualClock, Seq, TableDef};
use undine_store::{
    Bucket, BucketConfig, BuildError, Config, SealError, Store, Thoroughness, UploadError,
};

use super::faulty::Faulty;
use super::fixture::{NOTES, REQUESTS, Row, SECOND, clock, config, notes, requests};

const URL: &str = "memory://test";
const NOTES_DIR: &str = "notes.Beta/raw/node-1";

/// A bucket, the clock and the folder of a node.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    name: &'static str,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) bucket: BucketConfig,
    pub(crate) runtime: Runtime,
}

impl Node {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self::at(Arc::new(Bucket::over(URL, objects).unwrap()), "node-1")
    }

    fn with(bucket: BucketConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { dir: TempDir::new().unwrap(), name: "node-1", clock: clock(), bucket, runtime }
    }

    /// A node at an address, as large as tests need it.
    pub(crate) fn at(bucket: Arc<Bucket>, name: &'static str) -> Self {
        let bucket = BucketConfig {
            bucket,
            spool_bytes_max: 1 << 30,
            cache_bytes_max: 1 << 20,
            upload_interval: Duration::from_mins(1),
            deleted_files_for: Duration::from_hours(1),
        };
        Self { name, ..Self::with(bucket) }
    }

    pub(crate) fn config(&self) -> Config {
        let bucket = Some(self.bucket.clone());
        let node = self.name.to_owned();
        Config { bucket, node, ..config(self.dir.path(), Arc::clone(&self.clock)) }
    }

    pub(crate) fn start(&self) -> Store {
        self.config().build().unwrap()
    }

    pub(crate) fn append(&self, store: &Store, ids: &[i64]) {
        self.append_notes(store, ids);
        let rows: Vec<_> = ids
            .iter()
            .map(|&id| Row { time: 1_700_000_000_000_000_000, kind: 3, value: id, path_bytes: 0 })
            .collect();
        store.append(Frame::captured(&REQUESTS, requests(&rows))).unwrap();
    }

    pub(crate) fn append_notes(&self, store: &Store, ids: &[i64]) {
        let at = self.clock.now().get();
        store.append(Frame::captured(&NOTES, notes(ids, at))).unwrap();
    }

    pub(crate) fn seal(&self, store: &Store) -> Result<(), SealError> {
        self.runtime.block_on(store.seal()).map(drop)
    }

    pub(crate) fn upload(&self, store: &Store) -> Result<u64, UploadError> {
        self.runtime.block_on(store.upload()).map(|report| report.files)
    }

    /// The ids of all notes, in files and in memory, sorted.
    pub(crate) fn ids(&self, store: &Store) -> Vec<i64> {
        let snapshot = store.snapshot(&NOTES);
        let raw = snapshot.raw.as_ref().unwrap();
        let mut ids = Vec::new();
        for segment in raw.segments.iter() {
            let bytes = self.runtime.block_on(async {
                raw.objects.get(&segment.path).await.unwrap().bytes().await.unwrap()
            });
            ids.extend(column(&decode(bytes), "id"));
        }
        for slice in snapshot.hot() {
            let all = slice.rows["id"].as_primitive::<Int64Type>();
            let above = |at: &usize| slice.seqs.first.raw() + *at as u64 > raw.sealed_to.raw();
            ids.extend((0..all.len()).filter(above).map(|at| all.value(at)));
        }
        ids.sort_unstable();
        ids
    }
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn decode(bytes: bytes::Bytes) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

fn column(batches: &[RecordBatch], name: &str) -> Vec<i64> {
    let values = batches.iter().map(|batch| batch[name].as_primitive::<Int64Type>().values());
    values.flat_map(|values| values.iter().copied()).collect()
}

/// What another engine reads of a Delta table in a bucket: its files, commit by commit.
fn files_of(objects: &dyn ObjectStore, dir: &str) -> Vec<Key> {
    wait(async {
        let log = Key::from(format!("{dir}/_delta_log"));
        let mut commits: Vec<_> =
            objects.list(Some(&log)).map_ok(|meta| meta.location).try_collect().await.unwrap();
        commits.retain(|key| key.extension() == Some("json"));
        commits.sort_unstable();
        let mut files = BTreeSet::new();
        for (version, commit) in commits.iter().enumerate() {
            assert_eq!(commit.filename().unwrap(), format!("{version:020}.json"));
            let text = objects.get(commit).await.unwrap().bytes().await.unwrap();
            for line in std::str::from_utf8(&text).unwrap().lines() {
                let action: serde_json::Value = serde_json::from_str(line).unwrap();
                if let Some(path) = action["add"]["path"].as_str() {
                    assert!(files.insert(path.to_owned()), "a file is added once");
                } else if let Some(path) = action["remove"]["path"].as_str() {
                    assert!(files.remove(path), "a file that goes was there");
                }
            }
        }
        files.into_iter().map(|file| Key::from(format!("{dir}/{file}"))).collect()
    })
}

/// The ids of all notes in a bucket, as another engine reads them, sorted.
pub(crate) fn ids_in(objects: &dyn ObjectStore) -> Vec<i64> {
    let mut ids = Vec::new();
    for file in files_of(objects, NOTES_DIR) {
        let bytes = async { objects.get(&file).await.unwrap().bytes().await.unwrap() };
        ids.extend(column(&decode(wait(bytes)), "id"));
    }
    ids.sort_unstable();
    ids
}

/// The `.parquet` files below a folder.
fn segments_below(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            if path.is_dir() {
                return segments_below(&path);
            }
            usize::from(path.extension().is_some_and(|end| end == "parquet"))
        })
        .sum()
}

#[test]
fn what_is_sealed_goes_to_the_bucket_and_is_read_from_there() {
    let faulty = Arc::new(Faulty::default());
    let node = Node::new(Arc::clone(&faulty) as _);
    let store = node.start();
    node.append(&store, &[1, 2, 3]);
    node.seal(&store).unwrap();
    let stats = store.stats().bucket.unwrap();
    assert_eq!((stats.spooled_files, stats.uploaded_files), (7, 0), "{stats:?}");
    assert_eq!(segments_below(&node.dir.path().join("tables")), 7);
    assert_eq!(node.upload(&store).unwrap(), 7);
    assert_eq!(node.upload(&store).unwrap(), 0, "nothing is uploaded twice");
    let stats = store.stats().bucket.unwrap();
    assert_eq!((stats.spooled_files, stats.spooled_bytes, stats.uploaded_files), (0, 0, 7));
    assert_eq!((stats.cache.files, stats.cache.misses), (7, 0), "what went up is still here");
    assert_eq!(segments_below(&node.dir.path().join("tables")), 0);
    assert_eq!(node.ids(&store), [1, 2, 3]);
    assert_eq!(ids_in(&*faulty), [1, 2, 3]);
    drop(store);

    std::fs::remove_dir_all(node.dir.path().join("cache")).unwrap();
    let store = node.start();
    assert_eq!(node.ids(&store), [1, 2, 3]);
    assert_eq!(node.ids(&store), [1, 2, 3]);
    let cache = store.stats().bucket.unwrap().cache;
    assert_eq!((cache.files, cache.misses), (1, 1), "{cache:?}");
    assert!(cache.hits > 0 && cache.fetched_bytes == cache.bytes, "{cache:?}");
}

#[test]
fn the_cache_keeps_to_its_bound_and_what_is_too_large_for_it_is_read_from_the_bucket() {
    let faulty = Arc::new(Faulty::default());
    let mut node = Node::new(Arc::clone(&faulty) as _);
    node.bucket.cache_bytes_max = 40_000;
    let store = node.start();
    let mut all = Vec::new();
    for round in 0..20_i64 {
        let ids: Vec<_> = (0..10).map(|id| round * 10 + id).collect();
        node.append(&store, &ids);
        all.extend(ids);
        node.seal(&store).unwrap();
        node.upload(&store).unwrap();
        let cache = store.stats().bucket.unwrap().cache;
        assert!(cache.bytes <= 40_000, "{cache:?}");
    }
    assert_eq!(node.ids(&store), all);
    let cache = store.stats().bucket.unwrap().cache;
    assert!(cache.evictions > 0 && cache.misses > 0 && cache.bytes <= 40_000, "{cache:?}");
    assert_eq!(segments_below(&node.dir.path().join("cache")) as u64, cache.files);
    drop(store);

    node.bucket.cache_bytes_max = 0;
    let store = node.start();
    assert_eq!(node.ids(&store), all);
    let cache = store.stats().bucket.unwrap().cache;
    assert!(cache.bypasses > 0, "{cache:?}");
    assert_eq!((cache.files, segments_below(&node.dir.path().join("cache"))), (0, 0));
}

#[test]
fn while_the_bucket_is_away_rows_are_sealed_into_the_spool_and_beyond_it_stay_in_memory() {
    let faulty = Arc::new(Faulty::default());
    let mut node = Node::new(Arc::clone(&faulty) as _);
    let store = node.start();
    node.append(&store, &[0]);
    node.seal(&store).unwrap();
    node.upload(&store).unwrap();
    faulty.faults.away.store(true, Ordering::SeqCst);
    node.append(&store, &[1]);
    node.seal(&store).unwrap();
    let error = node.upload(&store).unwrap_err();
    assert!(matches!(error, UploadError::Catalog { .. } | UploadError::File { .. }), "{error}");
    let stats = store.stats().bucket.unwrap();
    assert_eq!((stats.spooled_files, stats.failed_uploads), (7, 1), "{stats:?}");
    assert!(stats.failure.unwrap().contains("nothing answers"));
    drop(store);

    // A restart needs no bucket.
    node.bucket.spool_bytes_max = stats.spooled_bytes + 1;
    let store = node.start();
    assert_eq!(node.ids(&store), [0, 1]);
    assert_eq!(store.stats().bucket.unwrap().spooled_bytes, stats.spooled_bytes);
    node.append(&store, &[2]);
    let error = node.seal(&store).unwrap_err();
    assert!(matches!(error, SealError::SpoolFull { .. }), "{error}");
    node.append(&store, &[3]);
    assert!(node.seal(&store).is_err());
    let stats = store.stats().bucket.unwrap();
    assert!(stats.refused_seals >= 2, "{stats:?}");
    assert_eq!(node.ids(&store), [0, 1, 2, 3], "what is not sealed is in memory");
    assert_eq!(ids_in(&faulty.inner), [0]);

    faulty.faults.away.store(false, Ordering::SeqCst);
    node.upload(&store).unwrap();
    assert_eq!(ids_in(&faulty.inner)[..2], [0, 1]);
    node.seal(&store).unwrap();
    node.upload(&store).unwrap();
    assert_eq!(ids_in(&faulty.inner), [0, 1, 2, 3]);
    assert_eq!(store.stats().bucket.unwrap().failure, None);
}

#[test]
fn a_store_whose_creates_do_not_exclude_each_other_is_refused_by_name() {
    let faulty = Arc::new(Faulty::default());
    faulty.faults.creates_overwrite.store(true, Ordering::SeqCst);
    let node = Node::new(Arc::clone(&faulty) as _);
    let error = node.config().build().unwrap_err();
    assert!(matches!(error, BuildError::Bucket(_)));
    let message = error.to_string();
    assert!(message.contains(URL), "{message}");
    assert!(message.contains("16 of 16 writers made the same file at once"), "{message}");
    assert!(message.contains("use a store with conditional writes"), "{message}");
    faulty.faults.creates_overwrite.store(false, Ordering::SeqCst);
    faulty.faults.unlisted.store(1, Ordering::SeqCst);
    let message = node.config().build().unwrap_err().to_string();
    assert!(message.contains("names 19 of the files"), "{message}");
    faulty.faults.unlisted.store(0, Ordering::SeqCst);
    faulty.faults.away.store(true, Ordering::SeqCst);
    let message = node.config().build().unwrap_err().to_string();
    assert!(message.contains("cannot be reached"), "{message}");
    faulty.faults.away.store(false, Ordering::SeqCst);
    let bucket = &node.bucket.bucket;
    bucket.probe(Thoroughness::Full).unwrap();
    drop(node.start());
    let all: Vec<_> = wait(faulty.list(None).try_collect::<Vec<_>>()).unwrap();
    let left = all.iter().filter(|meta| meta.location.as_ref().contains("probe")).count();
    assert_eq!(left, 0, "a probe leaves nothing: {all:?}");
}

#[test]
fn a_folder_belongs_to_one_bucket() {
    let node = Node::new(Arc::new(Faulty::default()));
    let store = node.start();
    node.append(&store, &[1]);
    node.seal(&store).unwrap();
    node.upload(&store).unwrap();
    drop(store);
    let without = Config { bucket: None, ..node.config() }.build().unwrap_err();
    assert!(matches!(&without, BuildError::BucketMissing { url, .. } if url == URL), "{without}");
    let other = Bucket::over("memory://other", Arc::new(Faulty::default())).unwrap();
    let other = BucketConfig { bucket: Arc::new(other), ..node.bucket.clone() };
    let other = Config { bucket: Some(other), ..node.config() }.build().unwrap_err().to_string();
    assert!(other.contains(URL) && other.contains("memory://other"), "{other}");
    assert_eq!(node.ids(&node.start()), [1]);
}

#[test]
fn a_store_that_gets_a_bucket_later_uploads_what_it_has() {
    let faulty = Arc::new(Faulty::default());
    let node = Node::new(Arc::clone(&faulty) as _);
    let local = Config { bucket: None, ..node.config() };
    let store = local.build().unwrap();
    node.append(&store, &[1]);
    node.seal(&store).unwrap();
    drop(store);
    let store = node.start();
    node.append(&store, &[2]);
    node.seal(&store).unwrap();
    node.upload(&store).unwrap();
    assert_eq!((node.ids(&store), ids_in(&*faulty)), (vec![1, 2], vec![1, 2]));
}

#[test]
fn a_new_disk_takes_over_what_the_bucket_holds_and_the_old_life_is_fenced() {
    let faulty = Arc::new(Faulty::default());
    let old = Node::new(Arc::clone(&faulty) as _);
    let old_store = old.start();
    old.append(&old_store, &[1]);
    old.seal(&old_store).unwrap();
    old.upload(&old_store).unwrap();
    let new = Node::new(Arc::clone(&faulty) as _);
    let new_store = new.start();
    assert!(new_store.incarnation() > old_store.incarnation());
    assert_eq!(new.ids(&new_store), [1], "the new disk knows what the bucket holds");

    old.append(&old_store, &[2]);
    old.seal(&old_store).unwrap();
    let error = old.upload(&old_store).unwrap_err();
    assert!(matches!(error, UploadError::Catalog { .. }), "{error}");
    let stopped = old_store.stats().stopped;
    assert!(stopped[NOTES.name].contains("was written by life 2"), "{stopped:?}");
    old.append(&old_store, &[3]);
    let error = old.seal(&old_store).unwrap_err();
    assert!(matches!(error, SealError::Stopped { .. }), "{error}");
    assert_eq!(old.ids(&old_store), [1, 2, 3], "it still shows and keeps what it has");

    new.append(&new_store, &[4]);
    new.seal(&new_store).unwrap();
    new.upload(&new_store).unwrap();
    assert_eq!((new.ids(&new_store), ids_in(&*faulty)), (vec![1, 4], vec![1, 4]));
}

/// A commit as another program makes it.
const FOREIGN: &str = "{\"commitInfo\":{\"operation\":\"DELETE\",\"engineInfo\":\"delta-rs:1.1\"}}\n\
                       {\"remove\":{\"path\":\"x.parquet\",\"dataChange\":true}}\n";

#[test]
fn a_commit_of_another_program_in_the_bucket_stops_that_table_alone() {
    let faulty = Arc::new(Faulty::default());
    let node = Node::new(Arc::clone(&faulty) as _);
    let store = node.start();
    node.append(&store, &[1]);
    node.seal(&store).unwrap();
    node.upload(&store).unwrap();
    let commit = Key::from(format!("{NOTES_DIR}/_delta_log/{:020}.json", 2));
    let put = faulty.put(&commit, FOREIGN.into());
    wait(put).unwrap();
    let sealed = |table: &TableDef| store.stats().table(table.name).unwrap().sealed_to;
    node.append(&store, &[2]);
    node.seal(&store).unwrap();
    node.upload(&store).unwrap_err();
    let stopped = store.stats().stopped;
    assert_eq!(stopped.keys().collect::<Vec<_>>(), [&NOTES.name], "{stopped:?}");
    assert!(stopped[NOTES.name].contains("delta-rs:1.1 (DELETE)"), "{stopped:?}");
    let before: BTreeMap<&str, Seq> =
        [&NOTES, &REQUESTS].map(|table| (table.name, sealed(table))).into();
    node.append(&store, &[3]);
    node.seal(&store).unwrap_err();
    assert_eq!(sealed(&NOTES), before[NOTES.name], "its rows stay in memory and in the log");
    assert!(sealed(&REQUESTS) > before[REQUESTS.name], "the others go on");
    node.upload(&store).unwrap_err();
    let uploaded: u64 = files_of(&*faulty, "requests/raw/node-1").len() as u64;
    assert_eq!(uploaded, 3);
    assert_eq!(node.ids(&store), [1, 2, 3]);
    drop(store);
    let store = node.start();
    assert_eq!(node.ids(&store), [1, 2, 3], "also after a restart");
}

#[test]
fn a_commit_of_another_program_on_the_disk_stops_that_table_alone() {
    let node = Node::new(Arc::new(Faulty::default()));
    let local = || Config { bucket: None, ..node.config() };
    let ids =
        |store: &Store| super::fixture::integers(node.dir.path(), &store.snapshot(&NOTES), "id");
    let store = local().build().unwrap();
    node.append(&store, &[1]);
    node.seal(&store).unwrap();
    let log = node.dir.path().join("tables").join(NOTES_DIR).join("_delta_log");
    std::fs::write(log.join(format!("{:020}.json", 2)), FOREIGN).unwrap();
    let check = |store: &Store, id, sealed: u64| {
        node.append(store, &[id]);
        let error = node.seal(store).unwrap_err();
        assert!(error.to_string().contains(NOTES.name), "{error}");
        let stats = store.stats();
        assert!(stats.stopped[NOTES.name].contains("delta-rs:1.1"), "{stats:?}");
        assert_eq!(stats.table(REQUESTS.name).unwrap().sealed_to.counter(), sealed);
        assert_eq!(ids(store), (1..=id).collect::<Vec<_>>());
    };
    check(&store, 2, 2);
    drop(store);
    check(&local().build().unwrap(), 3, 1);
}

#[test]
fn files_that_no_version_names_leave_the_bucket_after_their_time() {
    let faulty = Arc::new(Faulty::default());
    let node = Node::new(Arc::clone(&faulty) as _);
    let store = node.start();
    let mut all = Vec::new();
    for id in 0..5 {
        node.append(&store, &[id]);
        all.push(id);
        node.seal(&store).unwrap();
        node.upload(&store).unwrap();
    }
    node.runtime.block_on(store.tidy()).unwrap();
    node.upload(&store).unwrap();
    let parquets = || {
        let dir = Key::from(NOTES_DIR);
        let all = wait(faulty.list(Some(&dir)).try_collect::<Vec<_>>());
        all.unwrap().iter().filter(|meta| meta.location.extension() == Some("parquet")).count()
    };
    assert_eq!(files_of(&*faulty, NOTES_DIR).len(), 1);
    assert_eq!(parquets(), 6, "an older version may still be read");
    node.clock.advance(SECOND * 3601);
    let report = node.runtime.block_on(store.upload()).unwrap();
    assert!(report.deleted_files >= 5, "{report:?}");
    assert_eq!(parquets(), 1);
    assert_eq!((node.ids(&store), ids_in(&*faulty)), (all.clone(), all));
}

#[test]
fn every_reader_sees_each_row_once_while_files_go_up_and_leave_the_cache() {
    let faulty = Arc::new(Faulty::default());
    let mut node = Node::new(faulty);
    node.bucket.cache_bytes_max = 30_000;
    let store = node.start();
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut reads) = (0, 0);
            let reader = Node::with(node.bucket.clone());
            while !done.load(Ordering::Acquire) {
                let ids = reader.ids(&store);
                let expected: Vec<_> = (0..i64::try_from(ids.len()).unwrap()).collect();
                assert_eq!(ids, expected, "a prefix, each row once");
                assert!(ids.len() >= last);
                (last, reads) = (ids.len(), reads + 1);
            }
            reads
        });
        for id in 0..40 {
            node.append(&store, &[id]);
            node.seal(&store).unwrap();
            node.upload(&store).unwrap();
            node.runtime.block_on(store.tidy()).unwrap();
            node.clock.advance(SECOND);
        }
        done.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 1);
    });
    assert_eq!(node.ids(&store).len(), 40);
}

/// What happens to a store and its bucket.
#[derive(Clone, Debug)]
enum Step {
    Append,
    Seal,
    Tidy,
    Upload,
    Restart,
    NewDisk,
    Away(bool),
    Refuse(u64),
    Unanswered(u64),
    Unlisted(u64),
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Append),
        4 => Just(Step::Seal),
        2 => Just(Step::Tidy),
        4 => Just(Step::Upload),
        1 => Just(Step::Restart),
        1 => Just(Step::NewDisk),
        1 => any::<bool>().prop_map(Step::Away),
        1 => (0_u64..5).prop_map(Step::Refuse),
        1 => (0_u64..4).prop_map(Step::Unanswered),
        1 => (0_u64..4).prop_map(Step::Unlisted),
        1 => Just(Step::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_with_a_failing_bucket_keeps_each_row_once(steps in proptest::collection::vec(step(), 1..40)) {
        let faulty = Arc::new(Faulty::default());
        let faults = Arc::clone(&faulty.faults);
        let mut node = Node::new(Arc::clone(&faulty) as _);
        node.bucket.cache_bytes_max = 50_000;
        let mut store = node.start();
        let mut all = Vec::new();
        let calm = |faults: &super::faulty::Faults| {
            faults.away.store(false, Ordering::SeqCst);
            for fault in [&faults.refused_every, &faults.unanswered_every, &faults.unlisted] {
                fault.store(0, Ordering::SeqCst);
            }
        };
        for step in steps {
            match step {
                Step::Append => {
                    let next = i64::try_from(all.len()).unwrap();
                    node.append(&store, &[next, next + 1]);
                    all.extend([next, next + 1]);
                }
                Step::Seal => node.seal(&store).unwrap(),
                // A merge may need a file that only the bucket has.
                Step::Tidy => drop(node.runtime.block_on(store.tidy())),
                Step::Upload => drop(node.upload(&store)),
                Step::Restart => {
                    node.runtime.block_on(store.sync()).unwrap();
                    drop(store);
                    // A store that was seen before is asked briefly; lists may still lag.
                    faults.unlisted.store(0, Ordering::SeqCst);
                    store = match node.config().build() {
                        Ok(store) => store,
                        Err(error) => {
                            prop_assert!(faults.unanswered_every.load(Ordering::SeqCst) > 0, "{}", error);
                            calm(&faults);
                            node.start()
                        }
                    };
                }
                Step::NewDisk => {
                    calm(&faults);
                    node.seal(&store).unwrap();
                    node.upload(&store).unwrap();
                    drop(store);
                    node.dir = TempDir::new().unwrap();
                    store = node.start();
                }
                Step::Away(away) => faults.away.store(away, Ordering::SeqCst),
                Step::Refuse(every) => faults.refused_every.store(every, Ordering::SeqCst),
                Step::Unanswered(every) => faults.unanswered_every.store(every, Ordering::SeqCst),
                Step::Unlisted(newest) => faults.unlisted.store(newest, Ordering::SeqCst),
                Step::Later => node.clock.advance(SECOND * 4000),
            }
            if !faults.away.load(Ordering::SeqCst) {
                prop_assert_eq!(node.ids(&store), all.clone());
            }
            prop_assert_eq!(store.stats().stopped, BTreeMap::new());
        }
        calm(&faults);
        node.seal(&store).unwrap();
        node.upload(&store).unwrap();
        prop_assert_eq!(node.ids(&store), all.clone());
        prop_assert_eq!(ids_in(&*faulty), all);
        prop_assert_eq!(store.stats().bucket.unwrap().spooled_files, 0);
    }
}

#[test]
fn a_running_store_uploads_by_itself() {
    let faulty = Arc::new(Faulty::default());
    let mut node = Node::new(Arc::clone(&faulty) as _);
    node.bucket.upload_interval = Duration::from_millis(5);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = node.start();
    node.append(&store, &[1, 2]);
    let stop = tokio_util::sync::CancellationToken::new();
    runtime.block_on(async {
        store.seal().await.unwrap();
        let mut running = tokio::task::JoinSet::new();
        running.spawn(store.clone().run(stop.clone()));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        // The store says no more than its figures, so they are looked at until they change.
        while store.stats().bucket.unwrap().uploaded_files < 4 {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", store.stats().bucket);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        running.join_all().await;
    });
    assert_eq!(ids_in(&*faulty), [1, 2]);
}
