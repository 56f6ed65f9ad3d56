//! The hot tables of a store: who gives out places, publishes rows and makes room.
//!
//! One lock orders all changes ([`HotTables::lock`]); what happens under it is pointer work and a
//! copy of a few bytes, never I/O and never a copy of rows. Readers take no lock: they load the
//! table's one pointer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use undine_schema::{Incarnation, Seq, SeqRange, Slice, TableDef, TimeNs};

use crate::allocated::Allocated;
use crate::hot::{Chunk, HotList, Measured, merge};
use crate::retry_keys::RetryKeys;
use crate::snapshot::{Snapshot, TierView};

/// All hot tables.
#[derive(Debug)]
pub(crate) struct HotTables {
    tables: Vec<HotTable>,
    index: HashMap<&'static str, usize>,
    bytes_max: u64,
    changes: Mutex<Changes>,
}

/// One table as readers see it.
#[derive(Debug)]
pub(crate) struct HotTable {
    pub(crate) def: &'static TableDef,
    view: ArcSwap<View>,
    pub(crate) newest: watch::Sender<Seq>,
}

/// A table at one moment: all of it behind one pointer.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) hot: HotList,
    pub(crate) hot_complete_from: TimeNs,
    pub(crate) cold: Arc<Cold>,
}

/// The versions of a table's tiers.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    pub(crate) raw: Option<TierView>,
    pub(crate) tiers: Vec<TierView>,
    pub(crate) cubes: Vec<TierView>,
    pub(crate) exemplars: Option<TierView>,
}

/// What changes under the lock.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) incarnation: Incarnation,
    pub(crate) allocated: Allocated,
    pub(crate) retry_keys: RetryKeys,
    pub(crate) tables: Vec<TableChanges>,
    /// Bytes of rows in memory over all tables.
    pub(crate) bytes: u64,
    /// Bytes of rows that came since the last seal began.
    pub(crate) unsealed_bytes: u64,
    /// Rows evicted unsealed and not reported yet: table number and places.
    pub(crate) evicted: Vec<(usize, SeqRange)>,
    /// Number of the last append.
    pub(crate) order: u64,
    pub(crate) stopping: bool,
    pub(crate) refused_frames: u64,
    pub(crate) repeated_frames: u64,
}

/// What changes of one table under the lock.
#[derive(Debug, Default)]
pub(crate) struct TableChanges {
    pub(crate) counter: u64,
    /// Every tier holds the rows up to here.
    pub(crate) sealed_to: Seq,
    /// A seal is at work on the rows up to here; evicting them would free nothing.
    pub(crate) sealing_to: Seq,
    pub(crate) appended_rows: u64,
    pub(crate) evicted_rows: u64,
    pub(crate) bytes: u64,
}

/// Whether unsealed rows may go to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Only sealed rows may go.
    BySealed,
    /// Captured rows may go unsealed, oldest first, and are counted.
    ByCaptured,
    /// The budget is exceeded: the store's own few rows are never refused.
    Regardless,
}

impl HotTables {
    pub(crate) fn new(
        tables: impl Iterator<Item = (&'static TableDef, View, Seq)>,
        bytes_max: usize,
        changes: Changes,
    ) -> Self {
        let tables: Vec<_> = tables
            .map(|(def, view, newest)| HotTable {
                def,
                view: ArcSwap::from_pointee(view),
                newest: watch::Sender::new(newest),
            })
            .collect();
        let index = tables.iter().enumerate().map(|(at, table)| (table.def.name, at)).collect();
        Self { tables, index, bytes_max: bytes_max as u64, changes: Mutex::new(changes) }
    }

    pub(crate) fn all(&self) -> &[HotTable] {
        &self.tables
    }

    pub(crate) fn number_of(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether unsealed rows take so much room that a seal should come before its time.
    pub(crate) fn is_pressed(&self, changes: &Changes) -> bool {
        changes.unsealed_bytes > self.bytes_max / 2
    }

    /// Gives measured rows their places and shows them to readers.
    pub(crate) fn publish(
        &self,
        changes: &mut Changes,
        table: usize,
        rows: Measured,
        commit: bool,
    ) -> SeqRange {
        let places = &mut changes.tables[table];
        let first = Seq::new(changes.incarnation, places.counter + 1);
        let seqs = SeqRange::new(first, rows.rows().num_rows());
        places.counter += seqs.rows();
        places.appended_rows += seqs.rows();
        changes.allocated.set(table, seqs.last);
        let chunk = rows.place(seqs, commit, changes.order);
        changes.bytes += chunk.bytes;
        changes.unsealed_bytes += chunk.bytes;
        places.bytes += chunk.bytes;
        let chunk = Arc::new(chunk);
        self.change_view(table, |view| view.hot.push(chunk));
        seqs
    }

    /// Tells followers about the newest row of a table.
    pub(crate) fn announce(&self, table: usize, newest: Seq) {
        self.tables[table].newest.send_replace(newest);
    }

    /// Makes room for `bytes`, or says that there is none. Whatever is returned in `gone` should be
    /// dropped outside the lock.
    pub(crate) fn make_room(
        &self,
        changes: &mut Changes,
        bytes: u64,
        room: Room,
        gone: &mut Vec<Arc<Chunk>>,
    ) -> bool {
        if bytes > self.bytes_max {
            return room == Room::Regardless;
        }
        while changes.bytes + bytes > self.bytes_max {
            let victim = self.oldest_sealed(changes).or_else(|| match room {
                Room::ByCaptured => self.oldest_captured(changes),
                Room::BySealed | Room::Regardless => None,
            });
            let Some((table, chunk)) = victim else {
                return room == Room::Regardless;
            };
            self.evict(changes, table, &chunk);
            gone.push(chunk);
        }
        true
    }

    /// Shows new versions of a table's tiers and ends the seal that made them.
    pub(crate) fn publish_cold(&self, table: usize, cold: Cold, sealed_to: Seq) {
        let mut changes = self.lock();
        changes.tables[table].sealed_to = sealed_to;
        changes.tables[table].sealing_to = Seq::ZERO;
        self.change_view(table, |view| view.cold = Arc::new(cold));
    }

    /// Merges small chunks of a table into larger ones; the copying is done outside the lock.
    pub(crate) fn merge(&self, table: usize) {
        let bytes_max = (self.bytes_max / 64).min(8 * 1024 * 1024);
        for run in self.view(table).hot.mergeable(bytes_max) {
            let merged = match merge(&run) {
                Ok(merged) => Arc::new(merged),
                Err(error) => {
                    tracing::error!(table = self.tables[table].def.name, %error, "cannot merge rows");
                    return;
                }
            };
            let before: u64 = run.iter().map(|chunk| chunk.bytes).sum();
            let mut changes = self.lock();
            let mut replaced = false;
            self.change_view(table, |view| replaced = view.hot.replace(&run, &merged));
            if replaced {
                changes.bytes = changes.bytes - before + merged.bytes;
                let places = &mut changes.tables[table];
                places.bytes = places.bytes - before + merged.bytes;
            }
            drop(changes);
        }
    }

    /// What a table is now.
    pub(crate) fn view(&self, table: usize) -> Arc<View> {
        self.tables[table].view.load_full()
    }

    /// Must be called under the lock.
    fn change_view(&self, table: usize, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.tables[table].view.load());
        change(&mut view);
        self.tables[table].view.store(Arc::new(view));
    }

    fn oldest_sealed(&self, changes: &Changes) -> Option<(usize, Arc<Chunk>)> {
        let first = |(number, table): (usize, &HotTable)| {
            let view = table.view.load();
            let chunk = view.hot.first()?;
            let sealed = chunk.seqs.last <= changes.tables[number].sealed_to;
            sealed.then(|| (number, Arc::clone(chunk)))
        };
        let tables = self.tables.iter().enumerate();
        tables.filter_map(first).min_by_key(|(_, chunk)| chunk.order)
    }

    fn oldest_captured(&self, changes: &Changes) -> Option<(usize, Arc<Chunk>)> {
        let first = |(number, table): (usize, &HotTable)| {
            let view = table.view.load();
            let sealing_to = changes.tables[number].sealing_to;
            let free = |chunk: &&Arc<Chunk>| !chunk.commit && chunk.seqs.first > sealing_to;
            view.hot.iter().find(free).map(|chunk| (number, Arc::clone(chunk)))
        };
        let tables = self.tables.iter().enumerate();
        tables.filter_map(first).min_by_key(|(_, chunk)| chunk.order)
    }

    fn evict(&self, changes: &mut Changes, table: usize, chunk: &Chunk) {
        let places = &mut changes.tables[table];
        changes.bytes -= chunk.bytes;
        places.bytes -= chunk.bytes;
        if chunk.seqs.last > places.sealed_to {
            let unsealed_first = chunk.seqs.first.max(Seq::from_raw(places.sealed_to.raw() + 1));
            let lost = SeqRange { first: unsealed_first, last: chunk.seqs.last };
            places.evicted_rows += lost.rows();
            changes.evicted.push((table, lost));
        }
        let after = TimeNs::new(chunk.last_time.get().saturating_add(1));
        self.change_view(table, |view| {
            view.hot.remove(chunk.seqs.first);
            view.hot_complete_from = view.hot_complete_from.max(after);
        });
    }
}

impl View {
    /// The table for a query.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let slice = |chunk: &Arc<Chunk>| Slice { seqs: chunk.seqs, rows: chunk.rows.clone() };
        Snapshot {
            hot: self.hot.iter().map(slice).collect(),
            hot_complete_from: self.hot_complete_from,
            raw: self.cold.raw.clone(),
            tiers: self.cold.tiers.clone(),
            cubes: self.cold.cubes.clone(),
            exemplars: self.cold.exemplars.clone(),
        }
    }
}
