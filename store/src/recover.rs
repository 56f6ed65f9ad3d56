//! What a folder's log says about its tables: rows that come back, and rows that do not.
//!
//! Places are dense, so whatever was given out, is not sealed and is in no frame has been lost: to
//! the crash, where it stood at the end of a life or where the log is torn, and to a damaged log
//! anywhere else. A marker in the log settles it once it is reported.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arrow::array::RecordBatch;
use object_store::ObjectStore;
use undine_schema::tables::DATA_LOSS;
use undine_schema::{
    AppendError, Durability, Incarnation, RetryKey, Seq, SeqRange, TableDef, TimeNs,
};

use crate::durable;
use crate::hot::{Chunk, HotList, Measured};
use crate::hot_dictionary::Dictionaries;
use crate::hot_tables::{Changes, TableChanges, View};
use crate::lives::Lives;
use crate::log::{
    Content, Entry, EntryPart, Header, Hole, Item, Log, PartHeader, RETRY_KEYS_FOR, decode_rows,
    key_of,
};
use crate::loss::{Gone, Loss, Reason, rows_of};
use crate::retry_keys::RetryKeys;
use crate::seal::{Sealer, TableTiers};

/// What the log holds.
pub(crate) struct Found {
    pub(crate) tables: Vec<FoundTable>,
    retry_keys: Vec<(TimeNs, RetryKey)>,
    pub(crate) order: u64,
}

/// What the log holds of one table.
pub(crate) struct FoundTable {
    pub(crate) def: &'static TableDef,
    pub(crate) sealed_to: Seq,
    /// The newest place that the log or a tier knows.
    pub(crate) last: Seq,
    /// The newest time of a row that a tier holds.
    last_sealed: Option<TimeNs>,
    chunks: BTreeMap<Seq, Chunk>,
    /// Places whose rows are gone for a reason that is on record.
    settled: Vec<SeqRange>,
    evicted: Vec<SeqRange>,
    /// The newest place that a frame gave rows to.
    logged: Seq,
    holes: Vec<HoleAt>,
}

/// Where in a table's places a hole of the log lies.
#[derive(Debug)]
struct HoleAt {
    hole: Hole,
    /// The last place in a frame before it.
    after: Seq,
    /// The first place in a frame behind it.
    before: Option<Seq>,
}

/// Rows of a table that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) table: &'static TableDef,
    pub(crate) reason: Reason,
    pub(crate) gone: Vec<Gone>,
}

impl Found {
    pub(crate) fn new(tables: &[&'static TableDef], tiers: &[TableTiers]) -> Self {
        let tables = tables.iter().zip(tiers).map(|(&def, tiers)| FoundTable {
            def,
            sealed_to: tiers.sealed_to(),
            last: tiers.tiers.iter().map(|tier| tier.log.sealed_to()).max().unwrap_or(Seq::ZERO),
            last_sealed: tiers
                .tiers
                .iter()
                .flat_map(|tier| tier.log.files())
                .map(|file| file.last_time)
                .max(),
            chunks: BTreeMap::new(),
            settled: Vec::new(),
            evicted: Vec::new(),
            logged: Seq::ZERO,
            holes: Vec::new(),
        });
        Self { tables: tables.collect(), retry_keys: Vec::new(), order: 0 }
    }

    /// Takes in what the log holds next.
    pub(crate) fn add(&mut self, item: Item<'_>) -> Result<(), String> {
        match item {
            Item::Frame(header, body) => self.add_frame(header, body),
            Item::Hole(hole) => {
                for table in &mut self.tables {
                    let (after, before) = (table.logged, None);
                    table.holes.push(HoleAt { hole, after, before });
                }
                Ok(())
            }
        }
    }

    fn add_frame(&mut self, header: &Header, body: &[u8]) -> Result<(), String> {
        let key = header.retry_key.as_deref().and_then(key_of);
        self.retry_keys.extend(key.map(|key| (TimeNs::new(header.at), key)));
        for part in &header.parts {
            self.add_part(part, header.commit, body_of(header, part, body))?;
        }
        Ok(())
    }

    fn add_part(&mut self, part: &PartHeader, commit: bool, body: &[u8]) -> Result<(), String> {
        let (name, seqs) = (part.table.as_str(), part.seqs());
        let Some(table) = self.tables.iter_mut().find(|found| found.def.name == name) else {
            tracing::warn!(
                table = name,
                rows = seqs.rows(),
                "the log holds rows of an unknown table"
            );
            return Ok(());
        };
        table.last = table.last.max(seqs.last);
        if matches!(part.content, Content::Rows(_) | Content::Memory) {
            table.logged = table.logged.max(seqs.last);
            let open = table.holes.iter_mut().filter(|hole| hole.before.is_none());
            open.for_each(|hole| hole.before = Some(seqs.first));
        }
        if seqs.last <= table.sealed_to {
            return Ok(());
        }
        match part.content {
            Content::Rows(_) => {
                let rows = decode_rows(table.def, body).map_err(|error| error.to_string())?;
                if rows.num_rows() as u64 != seqs.rows() {
                    return Err(format!(
                        "{} rows stand at {} places",
                        rows.num_rows(),
                        seqs.rows()
                    ));
                }
                self.order += 1;
                let chunk = Measured::new(rows).place(seqs, commit, self.order);
                table.chunks.insert(seqs.first, chunk);
            }
            Content::Memory | Content::Lost => table.settled.push(seqs),
            Content::Evicted => {
                if !table.evicted.last_mut().is_some_and(|last| last.extend(seqs)) {
                    table.evicted.push(seqs);
                }
            }
        }
        Ok(())
    }

    /// All rows that are gone, by table and reason.
    pub(crate) fn missing(&self, lives: &Lives, now: TimeNs) -> Vec<Missing> {
        let mut all: Vec<Missing> = Vec::new();
        for table in &self.tables {
            for (reason, seqs) in table.missing(lives) {
                let gone = Gone { seqs, times: table.times_about(seqs, now) };
                let same = |m: &&mut Missing| m.table == table.def && m.reason == reason;
                match all.iter_mut().find(same) {
                    Some(missing) => missing.gone.push(gone),
                    None => all.push(Missing { table: table.def, reason, gone: vec![gone] }),
                }
            }
        }
        all
    }

    pub(crate) fn newest_life(&self) -> u16 {
        self.tables.iter().map(|table| table.last.incarnation().get()).max().unwrap_or(0)
    }

    /// The tables as readers first see them; what they hold is noted in `changes`.
    pub(crate) fn into_views(
        self,
        sealer: &Sealer,
        lives: &Lives,
        changes: &mut Changes,
    ) -> Vec<(&'static TableDef, View, Seq)> {
        let tables = self.tables.into_iter().zip(&sealer.tables);
        let views = tables.map(|(table, tiers)| {
            let (def, sealed_to) = (table.def, table.sealed_to);
            let newest = table.last.max(lives.newest(def.name));
            let (view, bytes) = table.view(tiers, &sealer.objects);
            changes.bytes += bytes;
            changes.unsealed_bytes += bytes;
            changes.tables.push(TableChanges { sealed_to, bytes, ..TableChanges::default() });
            (def, view, newest)
        });
        views.collect()
    }

    pub(crate) fn retry_keys(&self, now: TimeNs) -> RetryKeys {
        let mut keys = RetryKeys::default();
        let young = self.retry_keys.iter().filter(|(at, _)| now.since(*at) < RETRY_KEYS_FOR);
        young.for_each(|&(at, key)| keys.insert(key, 0, at));
        keys
    }
}

impl FoundTable {
    pub(crate) fn note_in(&self, lives: &mut Lives) {
        let chunks = self.chunks.values().map(|chunk| chunk.seqs.last);
        let settled = self.settled.iter().chain(&self.evicted).map(|seqs| seqs.last);
        for last in chunks.chain(settled).chain([self.last]) {
            if last != Seq::ZERO {
                lives.note(self.def.name, last);
            }
        }
    }

    /// Places above the tiers that were given out, and about which the log says nothing.
    fn missing(&self, lives: &Lives) -> Vec<(Reason, SeqRange)> {
        let known = self.chunks.values().map(|chunk| chunk.seqs);
        let known = known.chain(self.settled.iter().chain(&self.evicted).copied());
        let known = SeqRange::join(known.collect());
        let mut missing = Vec::new();
        for (&life, counters) in lives.ended.range(self.sealed_to.incarnation().get()..) {
            let Some(&end) = counters.get(self.def.name) else { continue };
            let life = Incarnation::new(life);
            let mut next = Seq::new(life, 1);
            if self.sealed_to.incarnation() == life {
                next = Seq::new(life, self.sealed_to.counter() + 1);
            }
            let end = Seq::new(life, end);
            for seqs in known.iter().filter(|seqs| seqs.first.incarnation() == life) {
                if seqs.last < next || seqs.first > end {
                    continue;
                }
                if next < seqs.first {
                    let last = Seq::from_raw(seqs.first.raw() - 1);
                    let gap = SeqRange { first: next, last };
                    missing.push((self.hole_at(next).unwrap_or(Reason::LogDamaged), gap));
                }
                next = Seq::from_raw(seqs.last.raw() + 1);
            }
            if next <= end {
                let tail = SeqRange { first: next, last: end };
                missing.push((self.hole_at(next).unwrap_or(Reason::Crash), tail));
            }
        }
        missing
    }

    /// The times between those of the rows before these places and behind them.
    fn times_about(&self, seqs: SeqRange, now: TimeNs) -> (TimeNs, TimeNs) {
        let before = self.chunks.range(..seqs.first).map(|(_, chunk)| chunk.zones.last_time).max();
        let after = self.chunks.range(seqs.last..).map(|(_, chunk)| chunk.zones.first_time).min();
        let from = before.max(self.last_sealed).unwrap_or(TimeNs::ZERO);
        (from, after.unwrap_or(now).max(from))
    }

    /// What the log has in the place of the frame that gave rows to `place`; damage before a tear.
    fn hole_at(&self, place: Seq) -> Option<Reason> {
        let spans =
            |hole: &&HoleAt| hole.after < place && hole.before.is_none_or(|before| place < before);
        let reasons = self.holes.iter().filter(spans).map(|hole| match hole.hole {
            Hole::Torn => Reason::Crash,
            Hole::Damaged => Reason::LogDamaged,
        });
        reasons.max_by_key(|reason| *reason == Reason::LogDamaged)
    }

    pub(crate) fn rows(&self) -> u64 {
        let kept = self.chunks.values().filter(|chunk| !self.is_evicted(chunk));
        kept.map(|chunk| chunk.seqs.rows()).sum()
    }

    fn is_evicted(&self, chunk: &Chunk) -> bool {
        let covers =
            |seqs: &SeqRange| seqs.first <= chunk.seqs.first && chunk.seqs.last <= seqs.last;
        self.evicted.iter().any(covers)
    }

    /// The table as readers first see it, and the bytes of its rows.
    fn view(self, tiers: &TableTiers, objects: &Arc<dyn ObjectStore>) -> (View, u64) {
        let gone = self.chunks.values().filter(|chunk| self.is_evicted(chunk));
        let sealed = tiers.tiers.iter().flat_map(|tier| tier.log.files());
        let times =
            gone.map(|chunk| chunk.zones.last_time).chain(sealed.map(|file| file.last_time));
        let after = times.max().map(|last| TimeNs::new(last.get().saturating_add(1)));
        let expired = tiers.tiers.iter().map(|tier| tier.log.complete_from()).max();
        let evicted = self.evicted;
        let covered = |chunk: &Chunk| {
            evicted.iter().any(|s| s.first <= chunk.seqs.first && chunk.seqs.last <= s.last)
        };
        let kept = self.chunks.into_values().filter(|chunk| !covered(chunk)).map(Arc::new);
        let hot: HotList = kept.collect();
        let bytes = hot.iter().map(|chunk| chunk.bytes).sum();
        let least = TimeNs::new(i64::MIN);
        let hot_complete_from = after.max(expired).unwrap_or(least).max(least);
        let cold = Arc::new(tiers.cold(objects));
        (View { hot, hot_complete_from, dictionaries: Dictionaries::default(), cold }, bytes)
    }
}

impl Sealer {
    /// Puts the names of all catalogs on the disk, once in a life and before anything is deleted.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if !self.settled {
            let tiers = self.tables.iter().flat_map(|table| &table.tiers);
            durable::settle(tiers.map(|tier| tier.log.dir().join("_delta_log")))?;
            self.settled = true;
        }
        Ok(())
    }
}

/// Logs what is missing, in one frame with the markers that keep it from being reported again.
pub(crate) fn report(
    log: &Log,
    losses: &[Missing],
    incarnation: Incarnation,
    now: TimeNs,
) -> Option<RecordBatch> {
    if losses.is_empty() {
        return None;
    }
    let loss = |lost: &Missing| Loss::of_places(lost.table.name, lost.reason, &lost.gone);
    let rows: Vec<_> = losses.iter().flat_map(loss).collect();
    for loss in &rows {
        tracing::warn!(table = loss.table, rows = loss.rows, detail = loss.detail, "rows are lost");
    }
    let rows = rows_of(&rows, now);
    let markers = losses.iter().flat_map(|lost| {
        let seqs = lost.gone.iter().map(|gone| gone.seqs);
        seqs.map(|seqs| EntryPart { table: lost.table, seqs, content: Content::Lost })
    });
    let seqs = SeqRange::new(Seq::new(incarnation, 1), rows.num_rows());
    let content = Content::Rows(rows.clone());
    let parts = markers.chain([EntryPart { table: &DATA_LOSS, seqs, content }]).collect();
    let (durability, retry_key) = (Durability::Commit, None);
    log.push(Entry { at: now, durability, retry_key, parts, bytes: 0 });
    Some(rows)
}

pub(crate) fn wait_synced(log: &Log) -> io::Result<()> {
    log.wait_synced().map_err(|error| match error {
        AppendError::Log(cause) => io::Error::new(cause.kind(), cause),
        other => io::Error::other(other),
    })
}

/// The bytes of a part within its frame's body.
fn body_of<'a>(header: &Header, part: &PartHeader, body: &'a [u8]) -> &'a [u8] {
    let mut at = 0;
    for other in &header.parts {
        let Content::Rows(bytes) = other.content else { continue };
        let end = at + usize::try_from(bytes).unwrap_or(usize::MAX - at);
        if std::ptr::eq(other, part) {
            return body.get(at..end).unwrap_or_default();
        }
        at = end;
    }
    &[]
}
