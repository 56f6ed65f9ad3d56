//! What one query sees of a table: the segments of one moment and the hot rows above them.
//!
//! ```text
//!            sealed_to of 1m    sealed_to of 10s                 newest row
//! tier 1m   ──────────┤
//! tier 10s  ──────────┼──────────────┤
//! hot              ·──┼──────────────┼──────────────────────────────┤
//! ```
//!
//! A tier holds exactly the rows up to its `sealed_to`, so the answer over all rows is the states
//! of one tier and the hot rows above that tier's `sealed_to`. No clock decides.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use object_store::ObjectStore;
use object_store::path::Path;
use undine_schema::{Cube, Seq, Slice, TimeNs};

use crate::hot::{Chunk, HotList};
use crate::hot_dictionary::Dictionaries;

/// A table at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) hot: HotList,
    pub(crate) dictionaries: Dictionaries,
    /// Every row that is kept anywhere and whose time is at or after this is in memory.
    pub hot_complete_from: TimeNs,
    /// The rows on disk, where the table's policy keeps them.
    pub raw: Option<TierView>,
    /// The summaries by all dimensions, finest first; none for tables whose rows are kept.
    pub tiers: Vec<TierView>,
    /// The same rows by fewer dimensions, of each width the cubes that the table has.
    pub cubes: Vec<TierView>,
    /// A few whole rows of each group, where the table has such.
    pub exemplars: Option<TierView>,
}

impl Snapshot {
    /// A table that is in memory only, of which everything is there.
    pub(crate) fn in_memory(hot: HotList) -> Self {
        Self {
            hot,
            dictionaries: Dictionaries::default(),
            hot_complete_from: TimeNs::new(i64::MIN),
            raw: None,
            tiers: Vec::new(),
            cubes: Vec::new(),
            exemplars: None,
        }
    }

    /// All rows in memory, ascending by seq. Rows that a tier holds too may still be among them. See
    /// [`hot_rows`](Self::hot_rows) for those that a reader wants.
    pub fn hot(&self) -> Vec<Slice> {
        let slice = |chunk: &Arc<Chunk>| Slice { seqs: chunk.seqs, rows: (**chunk.rows()).clone() };
        self.hot.iter().map(slice).collect()
    }
}

/// One tier of a table at one moment: a version of its Delta log.
#[derive(Clone, Debug)]
pub struct TierView {
    /// Width of its windows; zero for raw rows.
    pub width: Duration,
    /// Which dimensions a summary has.
    pub cube: Cube,
    /// The tier holds exactly the rows at or below this place.
    pub sealed_to: Seq,
    /// Rows whose time lies before this may be missing here though they are at or below
    /// `sealed_to`: they expired, or were sealed before this tier was configured. The smallest
    /// time where nothing is missing.
    pub complete_from: TimeNs,
    /// Its files. Shared between snapshots.
    pub segments: Arc<[Segment]>,
    /// Schema of every file: for a summary see [`cube_schema`](crate::cube_schema), for raw
    /// rows see [`raw_schema`](crate::raw_schema). 128-bit columns are `Binary`.
    pub schema: SchemaRef,
    /// Where the files are.
    pub objects: Arc<dyn ObjectStore>,
}

/// One Parquet file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its path in [`TierView::objects`].
    pub path: Path,
    /// Its size.
    pub bytes: u64,
    /// Its rows: states in a summary, the table's own rows in raw.
    pub rows: u64,
    /// How many of the table's rows it stands for.
    pub source_rows: u64,
    /// Smallest time of a row in it.
    pub first_time: TimeNs,
    /// Largest time of a row in it.
    pub last_time: TimeNs,
    /// Start of its first window; for raw rows as `first_time`.
    pub first_window: TimeNs,
    /// Start of its last window; for raw rows as `last_time`.
    pub last_window: TimeNs,
    /// Least and greatest place of a row in the table's sequence, with rows of other segments between
    /// them perhaps. Nothing where it holds no rows, and where a version that kept no places wrote them.
    pub places: Option<(Seq, Seq)>,
}
