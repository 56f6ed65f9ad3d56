//! Reading a table in order, by cursor.
//!
//! ```text
//!   cursor ─┐
//!   ········▼─────────────────┬──────────────────► newest
//!    raw segments, by `seq`   │ rows in memory
//! ```
//!
//! Where memory has a hole, the rows are looked for in the raw segments of the same moment; what is
//! in neither is missed. No lock is held, and no row in memory, while files are read.

mod sealed;

use async_trait::async_trait;
use object_store::path::Path;
use tokio::sync::watch;
use undine_schema::{Feed, FeedError, Progress, Seq, Slice, TableDef};

use self::sealed::{Hole, Trouble};
use crate::store::Store;

#[async_trait]
impl Feed for Store {
    /// Stops before rows that are gone, so that what is missed is counted at its place.
    async fn read(
        &self,
        table: &'static TableDef,
        cursor: Seq,
        rows_max: usize,
    ) -> Result<Progress, FeedError> {
        let number = self.number_of(table)?;
        let rows_max = rows_max.max(1);
        let mut lost: Vec<Path> = Vec::new();
        loop {
            let hole = match self.in_memory(number, cursor, rows_max) {
                Ok(progress) => return Ok(progress),
                Err(hole) => hole,
            };
            match hole.rows(table, rows_max, &lost).await {
                Ok(slices) => return Ok(self.out_of(table, &hole, slices)),
                // A merge may have put another in its place: that is in the next version.
                Err(Trouble::Lost { path, source }) => {
                    tracing::warn!(table = table.name, %path, error = %source,
                        "a segment cannot be read; its rows are looked for elsewhere, and are missed otherwise");
                    lost.push(path);
                }
                Err(Trouble::Away { path, source }) => {
                    let path = path.to_string();
                    return Err(FeedError::Unreadable { table: table.name, path, source });
                }
            }
        }
    }

    fn newest(&self, table: &'static TableDef) -> Result<watch::Receiver<Seq>, FeedError> {
        let number = self.number_of(table)?;
        Ok(self.inner.hot.all()[number].newest.subscribe())
    }
}

impl Store {
    fn number_of(&self, table: &TableDef) -> Result<usize, FeedError> {
        let unknown = || FeedError::UnknownTable(table.name);
        self.inner.hot.number_of(table.name).ok_or_else(unknown)
    }

    /// The rows in memory, or the hole before the first of them that files may fill.
    fn in_memory(&self, number: usize, cursor: Seq, rows_max: usize) -> Result<Progress, Hole> {
        let table = &self.inner.hot.all()[number];
        // Before the view: every row up to here is in the view, or is gone.
        let newest = *table.newest.borrow();
        let view = self.inner.hot.view(number);
        let missed = |after, before| self.inner.lives.rows_between(table.def.name, after, before);
        let mut progress = Progress { cursor, ..Progress::default() };
        let next = view.hot.after(cursor).next().map(|chunk| chunk.seqs.first);
        let before = next.unwrap_or(after(newest));
        if let Some(raw) = view.cold.raw.as_ref().filter(|raw| raw.sealed_to > cursor)
            && before > cursor
            && missed(cursor, before) > 0
        {
            return Err(Hole { after: cursor, before, tier: raw.clone() });
        }
        let mut room = rows_max as u64;
        for chunk in view.hot.after(cursor) {
            let first = chunk.seqs.first;
            if progress.cursor < first {
                let between = missed(progress.cursor, first);
                if between > 0 && !progress.slices.is_empty() {
                    return Ok(progress);
                }
                progress.missed_rows += between;
            }
            let start = after(progress.cursor).max(first);
            let last = Seq::from_raw(start.raw().saturating_add(room - 1)).min(chunk.seqs.last);
            let Some(slice) = chunk.between(progress.cursor, last) else { continue };
            room -= slice.seqs.rows();
            progress.cursor = slice.seqs.last;
            progress.slices.push(slice);
            if room == 0 {
                return Ok(progress);
            }
        }
        if progress.slices.is_empty() && newest > cursor {
            progress.missed_rows += missed(cursor, after(newest));
            progress.cursor = newest;
        }
        Ok(progress)
    }

    /// What files hold of a hole, up to what is gone; without any row the whole hole is gone.
    fn out_of(&self, table: &TableDef, hole: &Hole, slices: Vec<Slice>) -> Progress {
        let missed = |after, before| self.inner.lives.rows_between(table.name, after, before);
        let mut progress = Progress { cursor: hole.after, ..Progress::default() };
        for slice in slices {
            let between = missed(progress.cursor, slice.seqs.first);
            if between > 0 && !progress.slices.is_empty() {
                return progress;
            }
            progress.missed_rows += between;
            progress.cursor = slice.seqs.last;
            progress.slices.push(slice);
        }
        if progress.slices.is_empty() {
            progress.missed_rows = missed(hole.after, hole.before);
            progress.cursor = Seq::from_raw(hole.before.raw() - 1);
        }
        progress
    }
}

/// The next number, whether or not a row has it for a place.
const fn after(seq: Seq) -> Seq {
    Seq::from_raw(seq.raw().saturating_add(1))
}
