//! The rows of a table in memory: an immutable list of chunks, so that a reader keeps what it has
//! while the next list is published.
//!
//! Full blocks of chunks are shared between lists; publishing a batch copies the pointers of the
//! blocks and of at most [`TAIL_CHUNKS_MAX`] chunks, never rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use undine_schema::{Seq, SeqRange, Slice, TimeNs};

/// Chunks of the last, growing block.
const TAIL_CHUNKS_MAX: usize = 64;
/// Rows up to which neighbours are merged into one chunk.
pub(crate) const MERGED_ROWS_MAX: u64 = 64 * 1024;
/// Neighbours that are worth a merge.
const MERGED_CHUNKS_MIN: usize = 8;

/// Consecutive rows of one life with one durability.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) seqs: SeqRange,
    pub(crate) rows: RecordBatch,
    /// Memory that the rows hold.
    pub(crate) bytes: u64,
    pub(crate) last_time: TimeNs,
    /// Whether the rows must be sealed before they are evicted.
    pub(crate) commit: bool,
    /// Counts appends over all tables: the smaller, the older.
    pub(crate) order: u64,
}

/// Rows that have been measured and have no place yet.
#[derive(Debug)]
pub(crate) struct Measured {
    rows: RecordBatch,
    pub(crate) bytes: u64,
    last_time: TimeNs,
}

impl Measured {
    pub(crate) fn new(rows: RecordBatch) -> Self {
        let times = rows.column(0).as_primitive::<Int64Type>().values();
        let last_time = TimeNs::new(times.iter().copied().max().unwrap_or(i64::MIN));
        let bytes = bytes_of(&rows);
        Self { rows, bytes, last_time }
    }

    pub(crate) fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// Gives the rows their place.
    pub(crate) fn place(self, seqs: SeqRange, commit: bool, order: u64) -> Chunk {
        let Self { rows, bytes, last_time } = self;
        debug_assert_eq!(seqs.rows(), rows.num_rows() as u64);
        Chunk { seqs, rows, bytes, last_time, commit, order }
    }
}

impl Chunk {
    /// Its rows after `after` and up to `upto`.
    pub(crate) fn between(&self, after: Seq, upto: Seq) -> Option<Slice> {
        let first = self.seqs.first.max(Seq::from_raw(after.raw().saturating_add(1)));
        let last = self.seqs.last.min(upto);
        if first > last {
            return None;
        }
        let rows = usize::try_from(last.raw() - first.raw() + 1).ok()?;
        let offset = usize::try_from(first.raw() - self.seqs.first.raw()).ok()?;
        Some(Slice { seqs: SeqRange { first, last }, rows: self.rows.slice(offset, rows) })
    }
}

/// Memory behind a batch, each allocation counted once.
pub(crate) fn bytes_of(rows: &RecordBatch) -> u64 {
    fn gather(data: &ArrayData, allocations: &mut Vec<(usize, usize)>) {
        let nulls = data.nulls().map(arrow::buffer::NullBuffer::buffer);
        for buffer in data.buffers().iter().chain(nulls) {
            allocations.push((buffer.data_ptr().as_ptr() as usize, buffer.capacity()));
        }
        data.child_data().iter().for_each(|child| gather(child, allocations));
    }
    let mut allocations = Vec::with_capacity(rows.num_columns() * 2);
    rows.columns().iter().for_each(|column| gather(&column.to_data(), &mut allocations));
    allocations.sort_unstable();
    allocations.dedup_by_key(|&mut (start, _)| start);
    let buffers: usize = allocations.iter().map(|&(_, bytes)| bytes).sum();
    (buffers + rows.num_columns() * size_of::<ArrayData>()) as u64
}

/// Chunks in ascending order of seq.
#[derive(Clone, Debug, Default)]
pub(crate) struct HotList {
    blocks: Vec<Arc<Vec<Arc<Chunk>>>>,
    tail: Vec<Arc<Chunk>>,
}

impl FromIterator<Arc<Chunk>> for HotList {
    fn from_iter<I: IntoIterator<Item = Arc<Chunk>>>(chunks: I) -> Self {
        let mut list = Self::default();
        chunks.into_iter().for_each(|chunk| list.push(chunk));
        list
    }
}

impl HotList {
    /// Adds the newest rows.
    pub(crate) fn push(&mut self, chunk: Arc<Chunk>) {
        debug_assert!(self.iter().next_back().is_none_or(|last| last.seqs.last < chunk.seqs.first));
        if self.tail.len() == TAIL_CHUNKS_MAX {
            self.blocks.push(Arc::new(std::mem::take(&mut self.tail)));
        }
        self.tail.push(chunk);
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Chunk>> {
        self.blocks.iter().flat_map(|block| block.iter()).chain(&self.tail)
    }

    pub(crate) fn first(&self) -> Option<&Arc<Chunk>> {
        self.iter().next()
    }

    /// The chunks that hold rows after `after`.
    pub(crate) fn after(&self, after: Seq) -> impl Iterator<Item = &Arc<Chunk>> {
        let whole = |block: &&Arc<Vec<Arc<Chunk>>>| {
            block.last().is_some_and(|chunk| chunk.seqs.last <= after)
        };
        let skipped = self.blocks.iter().take_while(whole).count();
        self.blocks[skipped..]
            .iter()
            .flat_map(|block| block.iter())
            .chain(&self.tail)
            .skip_while(move |chunk| chunk.seqs.last <= after)
    }

    /// Takes out the chunk that starts at `first`.
    pub(crate) fn remove(&mut self, first: Seq) {
        let holds = |chunk: &Arc<Chunk>| chunk.seqs.first == first;
        if let Some(at) = self.tail.iter().position(holds) {
            self.tail.remove(at);
            return;
        }
        let Some(block) = self.blocks.iter().position(|block| block.iter().any(holds)) else {
            return;
        };
        let rest: Vec<_> =
            self.blocks[block].iter().filter(|&c| !holds(c)).map(Arc::clone).collect();
        if rest.is_empty() {
            self.blocks.remove(block);
        } else {
            self.blocks[block] = Arc::new(rest);
        }
    }

    /// Runs of small neighbours that should be one chunk of at most `bytes_max`.
    pub(crate) fn mergeable(&self, bytes_max: u64) -> Vec<Vec<Arc<Chunk>>> {
        let mut runs = Vec::new();
        let mut run: Vec<Arc<Chunk>> = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        for chunk in self.iter() {
            let follows = run.last().is_some_and(|last| {
                last.seqs.last.raw() + 1 == chunk.seqs.first.raw() && last.commit == chunk.commit
            });
            let fits =
                rows + chunk.seqs.rows() <= MERGED_ROWS_MAX && bytes + chunk.bytes <= bytes_max;
            if !(follows && fits) {
                runs.push(std::mem::take(&mut run));
                (rows, bytes) = (0, 0);
            }
            rows += chunk.seqs.rows();
            bytes += chunk.bytes;
            run.push(Arc::clone(chunk));
        }
        runs.push(run);
        runs.retain(|run| {
            let rows: u64 = run.iter().map(|chunk| chunk.seqs.rows()).sum();
            let largest = run.iter().map(|chunk| chunk.seqs.rows()).max().unwrap_or(0);
            run.len() >= MERGED_CHUNKS_MIN && (largest <= rows / 2 || run.len() >= TAIL_CHUNKS_MAX)
        });
        runs
    }

    /// Puts `merged` in the place of `run`, unless a chunk of the run has gone since.
    pub(crate) fn replace(&mut self, run: &[Arc<Chunk>], merged: &Arc<Chunk>) -> bool {
        let chunks: Vec<_> = self.iter().map(Arc::clone).collect();
        let same = |window: &[Arc<Chunk>]| window.iter().zip(run).all(|(a, b)| Arc::ptr_eq(a, b));
        let Some(at) = chunks.windows(run.len()).position(same) else {
            return false;
        };
        let rest = chunks[at + run.len()..].iter();
        *self = chunks[..at].iter().chain([merged]).chain(rest).map(Arc::clone).collect();
        true
    }
}

/// One chunk with the rows of neighbours.
pub(crate) fn merge(run: &[Arc<Chunk>]) -> Result<Chunk, ArrowError> {
    let (first, last) = (&run[0], &run[run.len() - 1]);
    let rows = concat_batches(&first.rows.schema(), run.iter().map(|chunk| &chunk.rows))?;
    let seqs = SeqRange { first: first.seqs.first, last: last.seqs.last };
    Ok(Measured::new(rows).place(seqs, first.commit, first.order))
}
