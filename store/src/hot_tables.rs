//! The hot tables of a store: who gives out places, publishes rows and makes room.
//!
//! One lock orders all changes ([`HotTables::lock`]); what happens under it is pointer work and a
//! copy of a few bytes, never I/O and never a copy of rows. Readers take no lock: they load the
//! table's one pointer.

#[cfg(test)]
mod interleaved;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use arrow::array::RecordBatch;
use tokio::sync::watch;
use undine_schema::{Incarnation, Seq, SeqRange, TableDef, TimeNs};

use crate::allocated::Allocated;
use crate::hot::{Chunk, HotList, Measured, merge};
use crate::hot_budget::{Eviction, Limit};
use crate::hot_dictionary::{Dictionaries, Numbering};
use crate::hot_memory::Account;
use crate::interleaving;
use crate::loss::Gone;
use crate::retry_keys::RetryKeys;
use crate::seal::Holds;
use crate::snapshot::{Snapshot, TierView};

/// All hot tables.
#[derive(Debug)]
pub(crate) struct HotTables {
    tables: Vec<HotTable>,
    index: HashMap<&'static str, usize>,
    bytes_max: u64,
    pinned_bytes_max: u64,
    /// Bytes of rows over all tables that anybody holds.
    held: Arc<AtomicU64>,
    changes: Mutex<Changes>,
}

/// One table as readers see it.
#[derive(Debug)]
pub(crate) struct HotTable {
    pub(crate) def: &'static TableDef,
    pub(crate) limit: Limit,
    account: Arc<Account>,
    /// Whoever merges holds it.
    numbering: Mutex<Numbering>,
    view: ArcSwap<View>,
    pub(crate) newest: watch::Sender<Seq>,
}

/// A table at one moment: all of it behind one pointer.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) hot: HotList,
    pub(crate) hot_complete_from: TimeNs,
    pub(crate) dictionaries: Dictionaries,
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

impl Cold {
    /// Its tiers, each with what it holds.
    pub(crate) fn tiers(&self) -> impl Iterator<Item = (Holds, &TierView)> {
        let states = self.tiers.iter().chain(&self.cubes);
        let states = states.map(|tier| (Holds::States(tier.cube), tier));
        let rows = self.raw.iter().map(|tier| (Holds::Rows, tier));
        let exemplars = self.exemplars.iter().map(|tier| (Holds::Exemplars, tier));
        states.chain(rows).chain(exemplars)
    }
}

/// What changes under the lock.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) incarnation: Incarnation,
    pub(crate) allocated: Allocated,
    pub(crate) retry_keys: RetryKeys,
    pub(crate) tables: Vec<TableChanges>,
    /// Bytes of rows in memory over all tables, with their keys and dictionaries.
    pub(crate) bytes: u64,
    /// How much of it are keys and dictionaries.
    pub(crate) numbering_bytes: u64,
    /// Bytes of rows that came since the last seal began.
    pub(crate) unsealed_bytes: u64,
    /// Rows evicted unsealed and not reported yet, with their table's number.
    pub(crate) evicted: Vec<(usize, Gone)>,
    /// Number of the last append.
    pub(crate) order: u64,
    pub(crate) stopping: bool,
    pub(crate) refused_frames: u64,
    pub(crate) repeated_frames: u64,
    /// Frames that came while more was pinned than may be.
    pub(crate) pinned_frames: u64,
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
    /// How much of it are keys and dictionaries.
    pub(crate) numbering_bytes: u64,
    /// The table's dictionaries.
    pub(crate) dictionary_bytes: u64,
}

/// Rows that are to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coming {
    pub(crate) table: usize,
    pub(crate) bytes: u64,
}

/// Whether unsealed rows may go to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Only sealed rows may go.
    BySealed,
    /// Captured rows may go unsealed too, and are counted.
    ByCaptured,
    /// The budget is exceeded: the store's own few rows are never refused.
    Regardless,
}

impl HotTables {
    pub(crate) fn new(
        tables: impl Iterator<Item = (&'static TableDef, View, Seq)>,
        limits: &[Limit],
        (bytes_max, pinned_bytes_max): (usize, usize),
        changes: Changes,
    ) -> Self {
        let held = Arc::default();
        let tables: Vec<_> = tables
            .zip(limits)
            .map(|((def, view, newest), &limit)| {
                let account = Account::new(&held);
                let leased = view.hot.iter().map(|chunk| Arc::new(chunk.leased(&account)));
                let view = View { hot: leased.collect(), ..view };
                HotTable {
                    def,
                    limit,
                    account,
                    numbering: Mutex::new(Numbering::new(def)),
                    view: ArcSwap::from_pointee(view),
                    newest: watch::Sender::new(newest),
                }
            })
            .collect();
        let index = tables.iter().enumerate().map(|(at, table)| (table.def.name, at)).collect();
        Self {
            tables,
            index,
            bytes_max: bytes_max as u64,
            pinned_bytes_max: pinned_bytes_max as u64,
            held,
            changes: Mutex::new(changes),
        }
    }

    pub(crate) fn all(&self) -> &[HotTable] {
        &self.tables
    }

    pub(crate) fn number_of(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Changes> {
        interleaving::lock(&self.changes)
    }

    /// Measures rows that are to come to a table; they count as held from now on.
    pub(crate) fn measure(&self, table: usize, rows: RecordBatch) -> Measured {
        Measured::new(rows).leased(&self.tables[table].account)
    }

    /// Bytes of rows that somebody holds and the ring does not, over all tables.
    pub(crate) fn pinned_bytes(&self, changes: &Changes) -> u64 {
        let ring = changes.bytes - changes.numbering_bytes;
        self.held.load(Ordering::Relaxed).saturating_sub(ring)
    }

    /// As [`pinned_bytes`](Self::pinned_bytes), of one table.
    pub(crate) fn pinned_bytes_of(&self, changes: &Changes, table: usize) -> u64 {
        let places = &changes.tables[table];
        let ring = places.bytes - places.numbering_bytes;
        self.tables[table].account.held().saturating_sub(ring)
    }

    /// Whether more is pinned than may be.
    pub(crate) fn is_pinned(&self, changes: &Changes) -> bool {
        self.pinned_bytes(changes) > self.pinned_bytes_max
    }

    /// Warns where readers pin more than they may.
    pub(crate) fn say_what_is_pinned(&self) {
        let changes = self.lock();
        let pinned = self.pinned_bytes(&changes);
        drop(changes);
        if pinned > self.pinned_bytes_max {
            let limit = self.pinned_bytes_max;
            tracing::warn!(
                bytes = pinned,
                limit,
                "questions at work hold more rows that have left memory than they may; sealed rows \
                 make room for them"
            );
        }
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

    /// Makes room for what is to come, or says that there is none. Whatever is returned in `gone`
    /// should be dropped outside the lock.
    ///
    /// Sealed rows go first: of the table furthest above its share, else the oldest. Unsealed ones
    /// go only where the table's policy and `room` allow it, and in the same order. What readers
    /// pin above its limit is taken from the ring as far as sealed rows reach; a reader never costs
    /// an unsealed row.
    pub(crate) fn make_room(
        &self,
        changes: &mut Changes,
        coming: &[Coming],
        room: Room,
        gone: &mut Vec<Arc<Chunk>>,
    ) -> bool {
        let bytes: u64 = coming.iter().map(|coming| coming.bytes).sum();
        let own = |coming: &Coming| coming.bytes <= self.tables[coming.table].limit.bytes_max;
        if bytes > self.bytes_max || !coming.iter().all(own) {
            return room == Room::Regardless;
        }
        for one in coming {
            let full = |changes: &Changes| {
                changes.tables[one.table].bytes + one.bytes > self.tables[one.table].limit.bytes_max
            };
            while full(changes) {
                let Some(chunk) = self.victim_of(changes, one.table, room) else {
                    return room == Room::Regardless;
                };
                self.evict(changes, one.table, &chunk);
                gone.push(chunk);
            }
        }
        while changes.bytes + bytes > self.bytes_max {
            let victim = self.victim(changes, coming, Self::first_sealed).or_else(|| match room {
                Room::ByCaptured => self.victim(changes, coming, Self::first_captured),
                Room::BySealed | Room::Regardless => None,
            });
            let Some((table, chunk)) = victim else {
                return room == Room::Regardless;
            };
            self.evict(changes, table, &chunk);
            gone.push(chunk);
        }
        if self.is_pinned(changes) {
            changes.pinned_frames += 1;
            self.make_up_for_pinned(changes, coming, gone);
        }
        true
    }

    fn make_up_for_pinned(
        &self,
        changes: &mut Changes,
        coming: &[Coming],
        gone: &mut Vec<Arc<Chunk>>,
    ) {
        let held_max = self.bytes_max + self.pinned_bytes_max;
        // What goes is freed only when `gone` is, so it is counted here; where a reader holds it
        // too, the next frame finds it pinned.
        let mut freed = 0;
        let excess =
            |freed: u64| self.held.load(Ordering::Relaxed).saturating_sub(held_max + freed);
        while excess(freed) > 0 {
            let Some((table, chunk)) = self.victim(changes, coming, Self::first_sealed) else {
                return;
            };
            freed += chunk.bytes;
            self.evict(changes, table, &chunk);
            gone.push(chunk);
        }
    }

    /// Shows new versions of a table's tiers and ends the seal that made them.
    pub(crate) fn publish_cold(&self, table: usize, cold: Cold, sealed_to: Seq) {
        let mut changes = self.lock();
        changes.tables[table].sealed_to = sealed_to;
        changes.tables[table].sealing_to = Seq::ZERO;
        self.change_view(table, |view| view.cold = Arc::new(cold));
    }

    /// Merges small chunks of a table into larger ones and numbers their texts; the copying is done
    /// outside the lock.
    pub(crate) fn merge(&self, table: usize) {
        let HotTable { def, account, numbering, .. } = &self.tables[table];
        let mut numbering = interleaving::lock(numbering);
        let bytes_max = (self.bytes_max / 64).min(8 * 1024 * 1024);
        for run in self.view(table).hot.mergeable(bytes_max) {
            match merge(&run, account) {
                Ok(merged) => {
                    let keys = numbering.keys_of(merged.rows());
                    self.replace(table, &run, merged.with_keys(keys), &mut numbering);
                }
                Err(error) => {
                    tracing::error!(table = def.name, %error, "cannot merge rows");
                    return;
                }
            }
        }
        for chunk in self.view(table).hot.unnumbered() {
            let keys = numbering.keys_of(chunk.rows());
            let numbered = chunk.with_keys(keys);
            self.replace(table, &[chunk], numbered, &mut numbering);
        }
    }

    /// Shows one chunk in the place of some, with the dictionaries that it needs.
    fn replace(&self, table: usize, run: &[Arc<Chunk>], merged: Chunk, numbering: &mut Numbering) {
        let merged = Arc::new(merged);
        let dictionaries = numbering.dictionaries();
        let dictionary_bytes = numbering.bytes();
        let before: u64 = run.iter().map(|chunk| chunk.bytes).sum();
        let keys_before: u64 = run.iter().map(|chunk| chunk.keys_bytes()).sum();
        let mut changes = self.lock();
        let mut replaced = false;
        self.change_view(table, |view| {
            replaced = view.hot.replace(run, &merged);
            view.dictionaries = dictionaries;
        });
        let (bytes, keys_bytes) =
            if replaced { (merged.bytes, merged.keys_bytes()) } else { (before, keys_before) };
        let changes = &mut *changes;
        let places = &mut changes.tables[table];
        let dictionaries_before = std::mem::replace(&mut places.dictionary_bytes, dictionary_bytes);
        for all in [&mut changes.bytes, &mut places.bytes] {
            *all = *all + bytes + dictionary_bytes - before - dictionaries_before;
        }
        for all in [&mut changes.numbering_bytes, &mut places.numbering_bytes] {
            *all = *all + keys_bytes + dictionary_bytes - keys_before - dictionaries_before;
        }
    }

    /// What a table is now.
    pub(crate) fn view(&self, table: usize) -> Arc<View> {
        interleaving::point();
        self.tables[table].view.load_full()
    }

    /// Must be called under the lock.
    fn change_view(&self, table: usize, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.tables[table].view.load());
        change(&mut view);
        interleaving::point();
        self.tables[table].view.store(Arc::new(view));
        interleaving::point();
    }

    /// The chunk that goes next: of the table furthest above its share, else the oldest.
    fn victim(
        &self,
        changes: &Changes,
        coming: &[Coming],
        candidate: fn(&Self, &Changes, usize) -> Option<Arc<Chunk>>,
    ) -> Option<(usize, Arc<Chunk>)> {
        let above_share = |table: usize| {
            let coming = coming.iter().filter(|coming| coming.table == table);
            let bytes = changes.tables[table].bytes + coming.map(|one| one.bytes).sum::<u64>();
            bytes.saturating_sub(self.tables[table].limit.share_bytes)
        };
        let candidates = (0..self.tables.len())
            .filter_map(|table| Some((table, candidate(self, changes, table)?)));
        candidates.max_by_key(|(table, chunk)| (above_share(*table), Reverse(chunk.order)))
    }

    /// What goes next to keep a table below its own limit.
    fn victim_of(&self, changes: &Changes, table: usize, room: Room) -> Option<Arc<Chunk>> {
        self.first_sealed(changes, table).or_else(|| match room {
            Room::ByCaptured => self.first_captured(changes, table),
            Room::BySealed | Room::Regardless => None,
        })
    }

    /// A table's oldest chunk, if it is sealed.
    fn first_sealed(&self, changes: &Changes, table: usize) -> Option<Arc<Chunk>> {
        let view = self.tables[table].view.load();
        let chunk = view.hot.first()?;
        (chunk.seqs.last <= changes.tables[table].sealed_to).then(|| Arc::clone(chunk))
    }

    /// A table's oldest chunk that may go unsealed and that no seal is at work on.
    fn first_captured(&self, changes: &Changes, table: usize) -> Option<Arc<Chunk>> {
        if self.tables[table].limit.eviction == Eviction::SealedOnly {
            return None;
        }
        let view = self.tables[table].view.load();
        let sealing_to = changes.tables[table].sealing_to;
        let free = |chunk: &&Arc<Chunk>| !chunk.commit && chunk.seqs.first > sealing_to;
        view.hot.iter().find(free).map(Arc::clone)
    }

    fn evict(&self, changes: &mut Changes, table: usize, chunk: &Chunk) {
        let places = &mut changes.tables[table];
        let keys_bytes = chunk.keys_bytes();
        changes.bytes -= chunk.bytes;
        changes.numbering_bytes -= keys_bytes;
        places.bytes -= chunk.bytes;
        places.numbering_bytes -= keys_bytes;
        if chunk.seqs.last > places.sealed_to {
            let unsealed_first = chunk.seqs.first.max(Seq::from_raw(places.sealed_to.raw() + 1));
            let lost = SeqRange { first: unsealed_first, last: chunk.seqs.last };
            places.evicted_rows += lost.rows();
            let times = (chunk.zones.first_time, chunk.zones.last_time);
            changes.evicted.push((table, Gone { seqs: lost, times }));
        }
        let after = TimeNs::new(chunk.zones.last_time.get().saturating_add(1));
        self.change_view(table, |view| {
            view.hot.remove(chunk.seqs.first);
            view.hot_complete_from = view.hot_complete_from.max(after);
        });
    }
}

impl View {
    /// The table for a query.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            hot: self.hot.clone(),
            dictionaries: self.dictionaries.clone(),
            hot_complete_from: self.hot_complete_from,
            raw: self.cold.raw.clone(),
            tiers: self.cold.tiers.clone(),
            cubes: self.cold.cubes.clone(),
            exemplars: self.cold.exemplars.clone(),
        }
    }
}
