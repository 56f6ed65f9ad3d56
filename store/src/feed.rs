//! Reading a table in order, by cursor.

use tokio::sync::watch;
use undine_schema::{Feed, FeedError, Progress, Seq, TableDef};

use crate::store::Store;

impl Feed for Store {
    /// Stops before a hole that an eviction left, so that what is missed is counted at its place.
    fn read(
        &self,
        table: &'static TableDef,
        cursor: Seq,
        rows_max: usize,
    ) -> Result<Progress, FeedError> {
        let number = self.number_of(table)?;
        // Before the view: every row up to here is in the view, or has been evicted.
        let newest = *self.inner.hot.all()[number].newest.borrow();
        let view = self.inner.hot.view(number);
        let missed = |after, before| self.inner.lives.rows_between(table.name, after, before);
        let mut progress = Progress { cursor, ..Progress::default() };
        let mut room = rows_max.max(1) as u64;
        for chunk in view.hot.after(cursor) {
            let first = chunk.seqs.first;
            if progress.cursor < first {
                let between = missed(progress.cursor, first);
                if between > 0 && !progress.slices.is_empty() {
                    return Ok(progress);
                }
                progress.missed_rows += between;
            }
            let start = progress.cursor.raw().saturating_add(1).max(first.raw());
            let last = chunk.seqs.last.min(Seq::from_raw(start.saturating_add(room - 1)));
            let Some(slice) = chunk.between(progress.cursor, last) else { continue };
            room -= slice.seqs.rows();
            progress.cursor = slice.seqs.last;
            progress.slices.push(slice);
            if room == 0 {
                return Ok(progress);
            }
        }
        if progress.slices.is_empty() && newest > cursor {
            let after_newest = Seq::from_raw(newest.raw() + 1);
            progress.missed_rows += missed(cursor, after_newest);
            progress.cursor = newest;
        }
        Ok(progress)
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
}
