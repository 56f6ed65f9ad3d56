//! A writer, a sealer, a merger, one who makes room and readers, in many orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::memory::InMemory;
use undine_schema::tables::{CONN_STATS, ConnStat, ConnStats};
use undine_schema::{Incarnation, Seq, TimeNs};

use super::*;
use crate::allocated::Allocated;
use crate::hot_budget::limits_of;
use crate::interleaving::scheduled;

const APPENDS: u64 = 12;
const ROWS: u64 = 2;

fn rows(first: u64) -> RecordBatch {
    let mut builder = ConnStats::new(2);
    for row in first..first + ROWS {
        let time_ = TimeNs::new(i64::try_from(row).unwrap());
        builder.push(&ConnStat { time_, ..ConnStat::default() });
    }
    builder.finish()
}

fn tables() -> HotTables {
    let changes = Changes {
        incarnation: Incarnation::new(1),
        allocated: Allocated::unsaved(1).unwrap(),
        retry_keys: RetryKeys::default(),
        tables: vec![TableChanges::default()],
        bytes: 0,
        numbering_bytes: 0,
        unsealed_bytes: 0,
        evicted: Vec::new(),
        order: 0,
        stopping: false,
        refused_frames: 0,
        repeated_frames: 0,
        pinned_frames: 0,
    };
    let view = View {
        hot: HotList::default(),
        hot_complete_from: TimeNs::new(i64::MIN),
        dictionaries: Dictionaries::default(),
        cold: Arc::default(),
    };
    let limits = limits_of(&[&CONN_STATS], &[], 1 << 20);
    let all = [(&CONN_STATS, view, Seq::ZERO)].into_iter();
    HotTables::new(all, &limits, (1 << 20, 1 << 20), changes)
}

fn append(hot: &HotTables) {
    let mut changes = hot.lock();
    let first = changes.tables[0].counter + 1;
    drop(changes);
    let measured = hot.measure(0, rows(first));
    let coming = [Coming { table: 0, bytes: measured.bytes }];
    let mut gone = Vec::new();
    changes = hot.lock();
    assert!(hot.make_room(&mut changes, &coming, Room::BySealed, &mut gone));
    let seqs = hot.publish(&mut changes, 0, measured, false);
    hot.announce(0, seqs.last);
}

/// Makes all rows that there are part of the cold tier.
fn seal(hot: &HotTables) {
    let upto = *hot.tables[0].newest.borrow();
    hot.lock().tables[0].sealing_to = upto;
    let view = hot.view(0);
    let sealed_to = view.cold.raw.as_ref().map_or(Seq::ZERO, |raw| raw.sealed_to);
    if upto <= sealed_to {
        return;
    }
    let new: u64 = view
        .hot
        .after(sealed_to)
        .filter_map(|chunk| chunk.between(sealed_to, upto))
        .map(|slice| slice.seqs.rows())
        .sum();
    assert_eq!(new, upto.counter() - sealed_to.counter(), "a seal finds every row of its range");
    let raw = TierView {
        cube: undine_schema::Cube::Full,
        width: Duration::ZERO,
        sealed_to: upto,
        complete_from: TimeNs::new(i64::MIN),
        segments: Arc::new([]),
        schema: CONN_STATS.arrow_schema(),
        objects: Arc::new(InMemory::new()),
    };
    hot.publish_cold(0, Cold { raw: Some(raw), ..Cold::default() }, upto);
}

/// Lets all sealed rows go.
fn make_all_room(hot: &HotTables) {
    let mut gone = Vec::new();
    let mut changes = hot.lock();
    while let Some(chunk) = hot.first_sealed(&changes, 0) {
        hot.evict(&mut changes, 0, &chunk);
        gone.push(chunk);
    }
}

/// How many rows a reader sees: those of the cold tier and the hot ones above it, each once.
fn read(hot: &HotTables) -> u64 {
    let announced = hot.tables[0].newest.borrow().counter();
    let snapshot = hot.view(0).snapshot();
    let mut seen = snapshot.raw.as_ref().map_or(Seq::ZERO, |raw| raw.sealed_to);
    if seen == Seq::ZERO {
        seen = Seq::new(Incarnation::new(1), 0);
    }
    let sealed_to = seen;
    for slice in snapshot.hot().iter().filter(|slice| slice.seqs.last > sealed_to) {
        let next = Seq::from_raw(seen.raw() + 1);
        assert!(slice.seqs.first <= next, "{next} is in no tier, or out of order");
        seen = slice.seqs.last;
    }
    assert!(seen.counter() >= announced, "what was announced is seen");
    seen.counter()
}

fn meet(seed: u64) {
    type Work = Box<dyn FnOnce() + Send>;
    let hot = Arc::new(tables());
    let done = Arc::new(AtomicBool::new(false));
    let beside = |work: fn(&HotTables)| -> Work {
        let (hot, done) = (Arc::clone(&hot), Arc::clone(&done));
        Box::new(move || {
            while !done.load(Ordering::Acquire) {
                work(&hot);
                interleaving::point();
            }
        })
    };
    let (hot_too, done_too) = (Arc::clone(&hot), Arc::clone(&done));
    let reader: Work = Box::new(move || {
        let mut last = 0;
        while !done_too.load(Ordering::Acquire) {
            let rows = read(&hot_too);
            assert!(rows >= last, "a later snapshot holds no fewer rows");
            last = rows;
        }
    });
    let (hot_too, done_too) = (Arc::clone(&hot), Arc::clone(&done));
    let writer: Work = Box::new(move || {
        (0..APPENDS).for_each(|_| append(&hot_too));
        done_too.store(true, Ordering::Release);
    });
    let merger = beside(|hot| hot.merge(0));
    scheduled::run(seed, vec![writer, reader, beside(seal), merger, beside(make_all_room)]);

    assert_eq!(read(&hot), APPENDS * ROWS);
    let changes = hot.lock();
    assert!(changes.evicted.is_empty(), "only sealed rows went");
    let view = hot.view(0);
    let chunks: u64 = view.hot.iter().map(|chunk| chunk.bytes).sum();
    assert_eq!(changes.bytes, chunks + changes.tables[0].dictionary_bytes);
    assert_eq!(changes.bytes, changes.tables[0].bytes);
    assert_eq!(hot.pinned_bytes(&changes), 0, "nobody holds what went");
}

#[test]
fn whatever_the_order_each_row_is_in_one_place_and_every_byte_is_counted() {
    (1..=100).for_each(meet);
}
