//! The rows of a table in memory: an immutable list of chunks, so that a reader keeps what it has
//! while the next list is published.
//!
//! Full blocks of chunks are shared between lists; publishing a batch copies the pointers of the
//! blocks and of at most [`TAIL_CHUNKS_MAX`] chunks, never rows.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;
use undine_schema::{Seq, SeqRange, Slice};

use crate::hot_dictionary::Keys;
use crate::hot_memory::Account;
use crate::hot_zones::Zones;

/// Chunks of the last, growing block.
const TAIL_CHUNKS_MAX: usize = 64;
/// Rows up to which neighbours are merged into one chunk.
pub(crate) const MERGED_ROWS_MAX: u64 = 64 * 1024;
/// Neighbours that are worth a merge.
const MERGED_CHUNKS_MIN: usize = 8;
/// Rows from which on a chunk's texts are worth numbering.
const NUMBERED_ROWS_MIN: u64 = 4096;
/// Memory from which on a batch that keeps more than twice what it shows is copied.
const PARENT_BYTES_MIN: u64 = 64 * 1024;

/// Consecutive rows of one life with one durability.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) seqs: SeqRange,
    rows: Arc<RecordBatch>,
    /// Memory that the rows hold, and their keys.
    pub(crate) bytes: u64,
    pub(crate) zones: Zones,
    /// Its texts as numbers, once it is merged.
    pub(crate) keys: Option<Arc<Keys>>,
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
    zones: Zones,
}

impl Measured {
    /// A slice of something much larger is copied, so that it keeps no more than it shows.
    pub(crate) fn new(rows: RecordBatch) -> Self {
        let Memory { held, shown } = memory_of(&rows);
        let copied = (held > PARENT_BYTES_MIN && held > 2 * shown).then(|| {
            let all = UInt64Array::from_iter_values(0..rows.num_rows() as u64);
            take_record_batch(&rows, &all).ok()
        });
        let zones = Zones::of(&rows);
        match copied.flatten() {
            Some(rows) => Self { bytes: memory_of(&rows).held, rows, zones },
            None => Self { bytes: held, rows, zones },
        }
    }

    /// The same rows, counted as held for as long as they are.
    pub(crate) fn leased(self, account: &Arc<Account>) -> Self {
        Self { rows: account.lease(self.rows, self.bytes), ..self }
    }

    pub(crate) fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// Gives the rows their place.
    pub(crate) fn place(self, seqs: SeqRange, commit: bool, order: u64) -> Chunk {
        let Self { rows, bytes, zones } = self;
        debug_assert_eq!(seqs.rows(), rows.num_rows() as u64);
        Chunk { seqs, rows: Arc::new(rows), bytes, zones, keys: None, commit, order }
    }
}

impl Chunk {
    pub(crate) fn rows(&self) -> &Arc<RecordBatch> {
        &self.rows
    }

    /// Memory that its keys take.
    pub(crate) fn keys_bytes(&self) -> u64 {
        self.keys.as_ref().map_or(0, |keys| keys.bytes())
    }

    /// The same chunk with its texts numbered.
    pub(crate) fn with_keys(&self, keys: Keys) -> Self {
        let bytes = self.bytes - self.keys_bytes() + keys.bytes();
        let rows = Arc::clone(&self.rows);
        Self { rows, bytes, keys: Some(Arc::new(keys)), ..*self }
    }

    /// The same chunk, counted as held for as long as its rows are.
    pub(crate) fn leased(&self, account: &Arc<Account>) -> Self {
        let rows = account.lease((*self.rows).clone(), self.bytes - self.keys_bytes());
        Self { rows: Arc::new(rows), keys: self.keys.clone(), ..*self }
    }

    /// Its rows after `after` and up to `upto`.
    pub(crate) fn between(&self, after: Seq, upto: Seq) -> Option<Slice> {
        let (seqs, range) = self.places_between(after, upto)?;
        Some(Slice { seqs, rows: self.rows.slice(range.start, range.len()) })
    }

    /// Where its rows after `after` and up to `upto` are, among all rows and in this chunk.
    pub(crate) fn places_between(&self, after: Seq, upto: Seq) -> Option<(SeqRange, Range<usize>)> {
        let first = self.seqs.first.max(Seq::from_raw(after.raw().saturating_add(1)));
        let last = self.seqs.last.min(upto);
        if first > last {
            return None;
        }
        let rows = usize::try_from(last.raw() - first.raw() + 1).ok()?;
        let offset = usize::try_from(first.raw() - self.seqs.first.raw()).ok()?;
        Some((SeqRange { first, last }, offset..offset + rows))
    }
}

/// Memory behind a batch.
struct Memory {
    /// Each allocation as a whole, and once.
    held: u64,
    /// What the batch itself needs of it.
    shown: u64,
}

fn memory_of(rows: &RecordBatch) -> Memory {
    fn gather(data: &ArrayData, allocations: &mut Vec<(usize, usize)>) {
        let nulls = data.nulls().map(arrow::buffer::NullBuffer::buffer);
        for buffer in data.buffers().iter().chain(nulls) {
            allocations.push((buffer.data_ptr().as_ptr() as usize, buffer.capacity()));
        }
        data.child_data().iter().for_each(|child| gather(child, allocations));
    }
    let mut allocations = Vec::with_capacity(rows.num_columns() * 2);
    let mut shown = 0;
    for column in rows.columns() {
        let data = column.to_data();
        gather(&data, &mut allocations);
        shown += data.get_slice_memory_size().unwrap_or(usize::MAX / 2) as u64;
    }
    allocations.sort_unstable();
    allocations.dedup_by_key(|&mut (start, _)| start);
    let buffers: usize = allocations.iter().map(|&(_, bytes)| bytes).sum();
    Memory { held: (buffers + rows.num_columns() * size_of::<ArrayData>()) as u64, shown }
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

    /// Large chunks whose texts are not numbered, and which no merge waits for.
    pub(crate) fn unnumbered(&self) -> Vec<Arc<Chunk>> {
        let large =
            |chunk: &&Arc<Chunk>| chunk.keys.is_none() && chunk.seqs.rows() >= NUMBERED_ROWS_MIN;
        self.iter().filter(large).map(Arc::clone).collect()
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
pub(crate) fn merge(run: &[Arc<Chunk>], account: &Arc<Account>) -> Result<Chunk, ArrowError> {
    let (first, last) = (&run[0], &run[run.len() - 1]);
    let rows = concat_batches(&first.rows.schema(), run.iter().map(|chunk| &*chunk.rows))?;
    let seqs = SeqRange { first: first.seqs.first, last: last.seqs.last };
    Ok(Measured::new(rows).leased(account).place(seqs, first.commit, first.order))
}
