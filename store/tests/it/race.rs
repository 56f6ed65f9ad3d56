//! Readers beside a writer, a sealer and one who tidies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::TempDir;
use undine_schema::{Append, Frame};

use super::fixture::{REQUESTS, Row, clock, config, files, hot_rows, requests};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

#[test]
fn every_reader_sees_a_prefix_of_the_rows_while_they_are_sealed() {
    let (dir, clock) = (TempDir::new().unwrap(), clock());
    let store = config(dir.path(), clock).build().unwrap();
    let done = AtomicBool::new(false);
    let (seals, merged) = thread::scope(|scope| {
        let sealer = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut seals = 0;
            while !done.load(Ordering::Acquire) {
                seals += runtime.block_on(store.seal()).unwrap().commits;
                runtime.block_on(store.merge_hot()).unwrap();
            }
            seals
        });
        let tidier = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut merged = 0;
            while !done.load(Ordering::Acquire) {
                merged += runtime.block_on(store.tidy()).unwrap().merged_segments;
            }
            merged
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let snapshot = store.snapshot(&REQUESTS);
                    for tier in snapshot.tiers.iter().chain(&snapshot.raw) {
                        let hot = hot_rows(&snapshot, tier.sealed_to);
                        let mut rows = i64::try_from(hot.len()).unwrap();
                        let mut sum: i64 = hot.values().map(|row| row.value).sum();
                        for batch in files(dir.path(), tier) {
                            let total = |name: &str| -> Option<i64> {
                                let column = batch.column_by_name(name)?;
                                Some(column.as_primitive::<Int64Type>().values().iter().sum())
                            };
                            rows += total("rows")
                                .unwrap_or_else(|| i64::try_from(batch.num_rows()).unwrap());
                            sum += total("size_sum").or_else(|| total("size")).unwrap();
                        }
                        assert_eq!(sum, rows * (rows + 1) / 2, "rows 1 to {rows}, each once");
                        assert!(rows >= last, "a later snapshot holds no fewer rows");
                        last = rows;
                    }
                }
            });
        }
        let mut id = 0;
        for batch in 0..1500_i64 {
            let rows: Vec<_> = (0..=batch % 5)
                .map(|_| {
                    id += 1;
                    Row {
                        time: 1_700_000_000_000_000_000 + id * 7_000_000,
                        kind: 3,
                        value: id,
                        path_bytes: 0,
                    }
                })
                .collect();
            store.append(Frame::captured(&REQUESTS, requests(&rows))).unwrap();
            thread::yield_now();
            if batch % 100 == 0 {
                thread::park_timeout(std::time::Duration::from_millis(20));
            }
        }
        done.store(true, Ordering::Release);
        (sealer.join().unwrap(), tidier.join().unwrap())
    });
    assert!(seals > 6, "the seals ran beside the readers: {seals}");
    assert!(merged > 6, "segments were merged beside the seals: {merged}");
}
