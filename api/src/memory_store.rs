//! A store for tests: everything in memory, with refusals and failures on demand.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use tokio::sync::watch;
use undine_schema::{
    Append, AppendError, Feed, FeedError, Frame, Incarnation, Pending, Progress, Seq, SeqRange,
    Slice, TableDef, tables,
};

/// Keeps every row of every table.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    tables: BTreeMap<&'static str, Table>,
    faults: Mutex<Faults>,
}

#[derive(Debug)]
struct Table {
    kept: Mutex<Kept>,
    newest: watch::Sender<Seq>,
}

#[derive(Debug, Default)]
struct Kept {
    slices: Vec<Slice>,
    evicted_to: Seq,
}

#[derive(Debug, Default)]
struct Faults {
    refusals: VecDeque<AppendError>,
    commit_failures: VecDeque<AppendError>,
    retry_keys: HashSet<[u8; 32]>,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        let table = |def: &&'static TableDef| {
            (def.name, Table { kept: Mutex::default(), newest: watch::Sender::new(Seq::ZERO) })
        };
        Arc::new(Self { tables: tables::ALL.iter().map(table).collect(), faults: Mutex::default() })
    }

    /// Refuses the next frame with `error`.
    pub(crate) fn refuse_next(&self, error: AppendError) {
        self.faults.lock().unwrap().refusals.push_back(error);
    }

    /// Takes the next frame, and lets its commit fail with `error`.
    pub(crate) fn fail_next_commit(&self, error: AppendError) {
        self.faults.lock().unwrap().commit_failures.push_back(error);
    }

    /// Appends rows as another component would.
    pub(crate) fn put(&self, table: &'static TableDef, rows: RecordBatch) {
        self.append(Frame::captured(table, rows)).unwrap();
    }

    /// All rows of a table.
    pub(crate) fn rows(&self, table: &'static TableDef) -> RecordBatch {
        let kept = self.tables[table.name].kept.lock().unwrap();
        let batches: Vec<_> = kept.slices.iter().map(|slice| slice.rows.clone()).collect();
        concat_batches(&table.arrow_schema(), &batches).unwrap()
    }

    /// One text column of a table.
    pub(crate) fn texts(&self, table: &'static TableDef, column: &str) -> Vec<String> {
        let rows = self.rows(table);
        let cells = rows.column_by_name(column).unwrap().as_string::<i32>();
        cells.iter().map(|cell| cell.unwrap().to_owned()).collect()
    }

    /// One integer column of a table.
    pub(crate) fn ints(&self, table: &'static TableDef, column: &str) -> Vec<i64> {
        let rows = self.rows(table);
        rows.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
    }

    /// Waits until a table holds `rows` rows.
    pub(crate) async fn holds(&self, table: &'static TableDef, rows: usize) {
        let mut newest = self.newest(table).unwrap();
        while self.rows(table).num_rows() < rows {
            newest.changed().await.unwrap();
        }
    }

    /// Evicts every row that a table holds.
    pub(crate) fn evict(&self, table: &'static TableDef) {
        let table = &self.tables[table.name];
        let mut kept = table.kept.lock().unwrap();
        kept.slices.clear();
        kept.evicted_to = *table.newest.borrow();
    }
}

impl Append for MemoryStore {
    fn append(&self, frame: Frame) -> Result<Pending, AppendError> {
        let mut faults = self.faults.lock().unwrap();
        if let Some(error) = faults.refusals.pop_front() {
            return Err(error);
        }
        let is_known = frame.retry_key.is_some_and(|key| !faults.retry_keys.insert(key.0));
        if is_known {
            return Ok(Pending::new(Vec::new(), async { Ok(()) }));
        }
        let commit = faults.commit_failures.pop_front().map_or(Ok(()), Err);
        drop(faults);
        let mut seqs = Vec::new();
        for part in frame.parts {
            assert_eq!(part.rows.schema(), part.table.arrow_schema());
            let table = &self.tables[part.table.name];
            let mut kept = table.kept.lock().unwrap();
            let last = table.newest.borrow().counter();
            let first = Seq::new(Incarnation::new(1), last + 1);
            let range = SeqRange::new(first, part.rows.num_rows());
            kept.slices.push(Slice { seqs: range, rows: part.rows });
            table.newest.send_replace(range.last);
            seqs.push(range);
        }
        Ok(Pending::new(seqs, async { commit }))
    }
}

#[async_trait::async_trait]
impl Feed for MemoryStore {
    async fn read(
        &self,
        table: &'static TableDef,
        cursor: Seq,
        rows_max: usize,
    ) -> Result<Progress, FeedError> {
        let table = self.tables.get(table.name).ok_or(FeedError::UnknownTable(table.name))?;
        let kept = table.kept.lock().unwrap();
        let missed_rows = kept.evicted_to.counter().saturating_sub(cursor.counter());
        let mut progress =
            Progress { slices: Vec::new(), missed_rows, cursor: cursor.max(kept.evicted_to) };
        let mut left = rows_max;
        for slice in &kept.slices {
            if left == 0 || slice.seqs.last <= progress.cursor {
                continue;
            }
            let start = progress.cursor.counter().max(slice.seqs.first.counter() - 1);
            let offset = usize::try_from(start + 1 - slice.seqs.first.counter()).unwrap();
            let rows = (slice.rows.num_rows() - offset).min(left);
            let first = Seq::new(Incarnation::new(1), start + 1);
            let seqs = SeqRange::new(first, rows);
            progress.slices.push(Slice { seqs, rows: slice.rows.slice(offset, rows) });
            progress.cursor = seqs.last;
            left -= rows;
        }
        Ok(progress)
    }

    fn newest(&self, table: &'static TableDef) -> Result<watch::Receiver<Seq>, FeedError> {
        let table = self.tables.get(table.name).ok_or(FeedError::UnknownTable(table.name))?;
        Ok(table.newest.subscribe())
    }
}
