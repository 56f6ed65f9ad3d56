//! What readers see of live rows: shares of the memory, what they pin, which chunks they get.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::Int64Type;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::tables::DATA_LOSS;
use undine_schema::{Append, AppendError, Feed, Frame, Seq, TableDef, TimeNs};
use undine_store::{Config, Eviction, HotBudget, HotSlice, OfText, Snapshot, Store, Wanted};

use super::fixture::{
    NOTES, REQUESTS, Row, clock, config, files, hot_rows, losses, lost_places, notes, requests,
};

const MIB: usize = 1 << 20;
const START: i64 = 1_700_000_000_000_000_000;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn fat_row(value: i64) -> RecordBatch {
    requests(&[Row { time: START + value, kind: 1, value, path_bytes: 100_000 }])
}

fn rows_of(store: &Store, table: &TableDef) -> (u64, u64) {
    let stats = store.stats();
    let table = stats.table(table.name).unwrap();
    (table.hot_rows, table.evicted_rows)
}

fn many_rows(from: i64, rows: i64, kind: impl Fn(i64) -> u8) -> RecordBatch {
    let row = |value| Row { time: START + value, kind: kind(value), value, path_bytes: 1 };
    requests(&(from..from + rows).map(row).collect::<Vec<_>>())
}

#[test]
fn a_busy_table_makes_room_for_itself_and_a_quiet_one_keeps_its_share() {
    let dir = TempDir::new().unwrap();
    let table = NOTES.name.to_owned();
    let eviction = Some(Eviction::Oldest);
    let quiet = HotBudget { table, share_percent: Some(30), bytes_max: None, eviction };
    let hot_budgets = vec![quiet];
    let store = Config { hot_bytes_max: MIB, hot_budgets, ..config(dir.path(), clock()) };
    let store = store.build().unwrap();
    let ids: Vec<_> = (0..1000).collect();
    store.append(Frame::captured(&NOTES, notes(&ids, START))).unwrap();
    for value in 0..40 {
        store.append(Frame::captured(&REQUESTS, fat_row(value))).unwrap();
    }
    assert_eq!(rows_of(&store, &NOTES), (1000, 0), "older than all others, and within its share");
    let (hot, evicted) = rows_of(&store, &REQUESTS);
    assert!(evicted > 25 && hot + evicted == 40, "{hot} hot, {evicted} evicted");
    runtime().block_on(store.merge_hot()).unwrap();
    assert_eq!(lost_places(dir.path(), &store, &REQUESTS).len() as u64, evicted);
    let stats = store.stats();
    let share = stats.table(NOTES.name).unwrap().hot_share_bytes;
    assert_eq!(share, (MIB * 30 / 100) as u64);

    // Above its share, the table is first to go.
    for round in 0..40 {
        let ids: Vec<_> = (0..1000).map(|id| id + 1000 * round).collect();
        store.append(Frame::captured(&NOTES, notes(&ids, START))).unwrap();
    }
    let (_, notes_evicted) = rows_of(&store, &NOTES);
    let stats = store.stats();
    assert!(notes_evicted > 10_000, "{stats:?}");
    assert!(stats.hot_bytes <= MIB as u64);
    assert!(rows_of(&store, &REQUESTS).0 >= 2, "the other keeps its share too: {stats:?}");
}

#[test]
fn a_table_stays_below_its_own_limit_though_there_is_room() {
    let dir = TempDir::new().unwrap();
    let table = REQUESTS.name.to_owned();
    let bytes_max = Some(500_000);
    let hot_budgets = vec![HotBudget { table, bytes_max, ..HotBudget::default() }];
    let store = Config { hot_budgets, ..config(dir.path(), clock()) }.build().unwrap();
    for value in 0..10 {
        store.append(Frame::captured(&REQUESTS, fat_row(value))).unwrap();
        let stats = store.stats();
        assert!(stats.table("requests").unwrap().hot_bytes <= 500_000, "{stats:?}");
    }
    let (hot, evicted) = rows_of(&store, &REQUESTS);
    assert!((2..=4).contains(&hot), "{hot}");
    assert_eq!(hot + evicted, 10);
}

#[test]
fn findings_are_refused_rather_than_evicted_before_they_are_sealed() {
    let dir = TempDir::new().unwrap();
    let store = Config { hot_bytes_max: MIB, ..config(dir.path(), clock()) }.build().unwrap();
    let ids: Vec<_> = (0..2000).collect();
    let mut accepted = 0;
    let refused = loop {
        match store.append(Frame::captured(&NOTES, notes(&ids, START))) {
            Ok(_) => accepted += 2000,
            Err(error) => break error,
        }
        assert!(accepted < 100_000, "the budget holds");
    };
    assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
    assert_eq!(rows_of(&store, &NOTES), (accepted, 0));
    runtime().block_on(store.seal()).unwrap();
    store.append(Frame::captured(&NOTES, notes(&ids, START))).unwrap();
    assert_eq!(losses(dir.path(), &store).len(), 0);
    assert!(rows_of(&store, &NOTES).0 < accepted + 2000, "sealed rows made room");
}

#[test]
fn what_a_reader_holds_of_rows_that_have_gone_is_pinned_until_it_lets_go() {
    let (dir, runtime) = (TempDir::new().unwrap(), runtime());
    let store =
        Config { hot_bytes_max: MIB, hot_pinned_bytes_max: 300_000, ..config(dir.path(), clock()) };
    let store = store.build().unwrap();
    for value in 0..8 {
        store.append(Frame::captured(&REQUESTS, fat_row(value))).unwrap();
    }
    runtime.block_on(store.seal()).unwrap();
    assert_eq!(store.stats().pinned_bytes, 0);
    let snapshot = store.snapshot(&REQUESTS);
    // A slice is enough to hold the whole chunk's memory.
    let held: Vec<_> = snapshot.hot().iter().map(|slice| slice.rows.slice(0, 1)).collect();
    drop(snapshot);
    for value in 8..60 {
        store.append(Frame::captured(&REQUESTS, fat_row(value))).unwrap();
        // The queue of the log holds rows as readers do.
        runtime.block_on(store.seal()).unwrap();
    }
    let stats = store.stats();
    assert!((700_000..1_000_000).contains(&stats.pinned_bytes), "{stats:?}");
    assert_eq!(stats.table("requests").unwrap().pinned_bytes, stats.pinned_bytes);
    assert!(stats.pinned_frames > 0, "the limit was reached and is counted");
    let held_bytes = stats.hot_bytes + stats.pinned_bytes;
    assert!(held_bytes <= MIB as u64 + 300_000 + 110_000, "sealed rows made room: {stats:?}");
    assert_eq!(stats.table("requests").unwrap().evicted_rows, 0, "a reader costs no unsealed row");
    for (value, rows) in held.iter().enumerate() {
        let sizes = rows["size"].as_primitive::<Int64Type>();
        assert_eq!(sizes.value(0), i64::try_from(value).unwrap(), "what is held stays readable");
    }
    drop(held);
    assert_eq!(store.stats().pinned_bytes, 0);
}

#[test]
fn a_slice_of_a_large_batch_keeps_no_more_than_it_shows() {
    let dir = TempDir::new().unwrap();
    let store = config(dir.path(), clock()).build().unwrap();
    let parent = many_rows(0, 20_000, |_| 1);
    store.append(Frame::captured(&REQUESTS, parent.slice(7, 3))).unwrap();
    let bytes = store.stats().table("requests").unwrap().hot_bytes;
    assert!(bytes < 5_000, "{bytes}");
    let rows = hot_rows(&store.snapshot(&REQUESTS), Seq::ZERO);
    assert_eq!(rows.values().map(|row| row.value).collect::<Vec<_>>(), [7, 8, 9]);
}

#[test]
fn a_reader_gets_the_chunks_that_reach_into_its_range_and_no_others() {
    let dir = TempDir::new().unwrap();
    let store = config(dir.path(), clock()).build().unwrap();
    for chunk in 0..10 {
        store.append(Frame::captured(&REQUESTS, many_rows(chunk * 5000, 5000, |_| 1))).unwrap();
    }
    let snapshot = store.snapshot(&REQUESTS);
    let all = snapshot.hot_rows(&Wanted::above(Seq::ZERO)).map(|s| s.seqs.rows()).sum::<u64>();
    assert_eq!(all, 50_000);
    let times = TimeNs::new(START + 12_000)..TimeNs::new(START + 20_000);
    let in_time = Wanted { times, ..Wanted::above(Seq::ZERO) };
    let first = |slice: HotSlice| slice.rows()["size"].as_primitive::<Int64Type>().value(0);
    assert_eq!(snapshot.hot_rows(&in_time).map(first).collect::<Vec<_>>(), [10_000, 15_000]);
}

#[test]
fn numbers_of_texts_agree_over_all_chunks_of_a_snapshot() {
    let (dir, runtime) = (TempDir::new().unwrap(), runtime());
    let store = config(dir.path(), clock()).build().unwrap();
    for chunk in 0..6_i64 {
        let kinds = |value: i64| u8::try_from(value * (chunk + 1) % 5).unwrap();
        store.append(Frame::captured(&REQUESTS, many_rows(chunk * 5000, 5000, kinds))).unwrap();
        runtime.block_on(store.merge_hot()).unwrap();
    }
    let snapshot = store.snapshot(&REQUESTS);
    let mut values = None;
    let mut counted = BTreeMap::new();
    let above = snapshot.hot()[0].seqs.first;
    for slice in snapshot.hot_rows(&Wanted::above(above)) {
        let (numbers, texts) = slice.numbers("template").unwrap();
        let values = values.get_or_insert_with(|| std::sync::Arc::clone(&texts));
        assert!(std::sync::Arc::ptr_eq(values, &texts), "one dictionary for all");
        assert_eq!(numbers.len(), slice.chunk().num_rows());
        let (rows, texts) = (slice.rows(), texts.as_string::<i32>());
        let numbers = numbers.values()[slice.range.clone()].iter();
        for (number, plain) in numbers.zip(rows["template"].as_string::<i32>()) {
            assert_eq!(texts.value(usize::try_from(*number).unwrap()), plain.unwrap());
            *counted.entry(*number).or_insert(0) += 1;
        }
        assert!(slice.numbers("size").is_none(), "a number is no text");
        assert_eq!(slice.numbers("service").unwrap().0.len(), slice.chunk().num_rows());
    }
    assert_eq!(counted.values().sum::<i32>(), 29_999);
    assert_eq!(counted.len(), 5);
    let stats = store.stats();
    let plain = 30_000 * 4;
    assert!(stats.hot_bytes > plain, "numbers are counted too: {stats:?}");
}

#[test]
fn what_stands_side_by_side_for_a_service_is_what_its_rows_hold() {
    let (dir, runtime) = (TempDir::new().unwrap(), runtime());
    let store = config(dir.path(), clock()).build().unwrap();
    for chunk in 0..4_i64 {
        // In the last chunk there is one service only.
        let kinds = |value: i64| {
            let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()) >> 40;
            if chunk == 3 { 1 } else { u8::try_from(mixed.rem_euclid(7 + chunk)).unwrap() }
        };
        let rows = many_rows(chunk << (10 * chunk), 5000, kinds);
        store.append(Frame::captured(&REQUESTS, rows)).unwrap();
        runtime.block_on(store.merge_hot()).unwrap();
    }
    let snapshot = store.snapshot(&REQUESTS);
    // The first chunk is cut.
    let above = Seq::from_raw(snapshot.hot()[0].seqs.first.raw() + 99);
    let mut all = 0;
    for slice in snapshot.hot_rows(&Wanted::above(above)) {
        let chunk = slice.chunk();
        for service in ["shop", "cart", "", "nobody"] {
            let holds =
                |row: &u32| chunk["service"].as_string::<i32>().value(*row as usize) == service;
            let inside = |row: &u32| slice.range.contains(&(*row as usize));
            let every: Vec<_> = (0_u32..5000).filter(holds).collect();
            let wanted: Vec<_> = every.iter().copied().filter(inside).collect();
            all += wanted.len();
            let stretch = match slice.of_text("service", service).unwrap() {
                OfText::None => {
                    assert!(every.is_empty(), "{service}");
                    continue;
                }
                OfText::All => {
                    assert_eq!(every.len(), 5000);
                    continue;
                }
                OfText::Some(stretch) => stretch,
            };
            assert_eq!(slice.places(&stretch).collect::<Vec<_>>(), every);
            let stretch = slice.within(&stretch, &slice.range);
            assert_eq!(slice.places(&stretch).collect::<Vec<_>>(), wanted);
            assert_eq!(stretch.rows(), wanted.len());
            let expected = take_record_batch(chunk, &UInt32Array::from(wanted)).unwrap();
            for column in ["time_", "status", "size", "latency"] {
                let integers = slice.integers_of(&stretch, column).unwrap();
                assert_eq!(integers, *expected[column].as_primitive::<Int64Type>(), "{column}");
            }
            for column in ["service", "template"] {
                let (numbers, texts) = slice.numbers_of(&stretch, column).unwrap();
                let texts = take(&texts, &numbers, None).unwrap();
                assert_eq!(
                    texts.as_string::<i32>(),
                    expected[column].as_string::<i32>(),
                    "{column}"
                );
            }
            for column in ["path", "ratio", "upid", "nothing"] {
                assert!(slice.integers_of(&stretch, column).is_none(), "{column}");
            }
        }
        assert!(
            slice.of_text("template", "none such").is_some_and(|of| matches!(of, OfText::None))
        );
        assert!(slice.of_text("ratio", "0").is_none(), "it is no text");
    }
    assert_eq!(all, 20_000 - 100);
}

/// The sum and the number of all rows of a table as one snapshot holds them.
fn totals(dir: &std::path::Path, snapshot: &Snapshot) -> (i64, i64) {
    let raw = snapshot.raw.as_ref().unwrap();
    let mut values: Vec<i64> =
        hot_rows(snapshot, raw.sealed_to).values().map(|r| r.value).collect();
    for batch in files(dir, raw) {
        values.extend(batch["size"].as_primitive::<Int64Type>().values());
    }
    (values.len().try_into().unwrap(), values.iter().sum())
}

/// In `InfluxDB` 3 a query asks the buffer for its chunks and then the catalog for its files; what is
/// persisted between the two is there twice. Here both are behind one pointer.
#[test]
fn rows_that_are_sealed_between_two_looks_are_in_one_place_in_each_snapshot() {
    let (dir, runtime) = (TempDir::new().unwrap(), runtime());
    let store = config(dir.path(), clock()).build().unwrap();
    let mut snapshots = Vec::new();
    for round in 0..4 {
        store.append(Frame::captured(&REQUESTS, many_rows(round * 10, 10, |_| 1))).unwrap();
        snapshots.push((10 * (round + 1), store.snapshot(&REQUESTS)));
        runtime.block_on(store.seal()).unwrap();
        snapshots.push((10 * (round + 1), store.snapshot(&REQUESTS)));
        runtime.block_on(store.merge_hot()).unwrap();
        runtime.block_on(store.tidy()).unwrap();
    }
    for (rows, snapshot) in &snapshots {
        assert_eq!(totals(dir.path(), snapshot), (*rows, rows * (rows - 1) / 2));
    }
}

/// There, too, the end of one chunk's persist job forgets the chunks of the others; here a seal of
/// one part of the rows forgets nothing, whatever is evicted meanwhile.
#[test]
fn a_follower_and_a_reader_lose_no_row_while_seals_and_evictions_overlap() {
    let dir = TempDir::new().unwrap();
    let store = Config { hot_bytes_max: MIB, ..config(dir.path(), clock()) }.build().unwrap();
    let done = AtomicBool::new(false);
    let total = 1200_i64;
    thread::scope(|scope| {
        let sealer = scope.spawn(|| {
            let runtime = runtime();
            while !done.load(Ordering::Acquire) {
                runtime.block_on(store.seal()).unwrap();
                runtime.block_on(store.merge_hot()).unwrap();
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let snapshot = store.snapshot(&REQUESTS);
                let (rows, sum) = totals(dir.path(), &snapshot);
                assert_eq!(sum, rows * (rows - 1) / 2, "rows 0 to {rows}, each once");
            }
        });
        let follower = scope.spawn(|| {
            let runtime = runtime();
            let (mut cursor, mut next, mut missed) = (Seq::ZERO, 0, 0);
            while next + missed < total {
                let progress = runtime.block_on(store.read(&REQUESTS, cursor, 50)).unwrap();
                missed += i64::try_from(progress.missed_rows).unwrap();
                for slice in &progress.slices {
                    for &value in slice.rows["size"].as_primitive::<Int64Type>().values() {
                        assert_eq!(value, next + missed, "in order, each seen or counted");
                        next += 1;
                    }
                }
                cursor = progress.cursor;
            }
            next + missed
        });
        for value in 0..total {
            // What is sealed can go and what is not cannot, so that a writer may have to wait.
            let row = Row { time: START + value, kind: 1, value, path_bytes: 3000 };
            let frame = || Frame::committed(&REQUESTS, requests(std::slice::from_ref(&row)));
            while let Err(error) = store.append(frame()) {
                assert!(matches!(error, AppendError::Full { .. }), "{error}");
                assert!(!sealer.is_finished(), "nobody seals any more");
                thread::yield_now();
            }
        }
        assert_eq!(follower.join().unwrap(), total);
        done.store(true, Ordering::Release);
    });
    assert_eq!(totals(dir.path(), &store.snapshot(&REQUESTS)).0, total);
    assert!(rows_of(&store, &DATA_LOSS).0 == 0, "nothing was lost");
}
