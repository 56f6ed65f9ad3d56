//! The hot rows that a reader wants, and no chunk that cannot hold any.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use undine_schema::{Seq, SeqRange, TimeNs};

use crate::hot::Chunk;
use crate::hot_by_service::ByService;
use crate::hot_dictionary::{Dictionaries, Holding};
use crate::snapshot::Snapshot;

/// Which hot rows a reader wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Rows above this place: exactly.
    pub above: Seq,
    /// Rows whose time lies in it. This only leaves chunks out: a chunk that is given may hold other
    /// rows too, for the reader to filter.
    pub times: Range<TimeNs>,
}

/// Consecutive hot rows of one chunk, which it shares with the store.
#[derive(Clone, Debug)]
pub struct HotSlice {
    /// Where they stand; dense, one place a row.
    pub seqs: SeqRange,
    /// Where they are in the chunk.
    pub range: Range<usize>,
    /// Least and greatest time of a row of the chunk.
    pub times: (TimeNs, TimeNs),
    chunk: Arc<Chunk>,
    dictionaries: Dictionaries,
}

/// Which rows of a chunk hold a text.
#[derive(Clone, Debug)]
pub enum OfText {
    /// No row does.
    None,
    /// Every row does.
    All,
    /// These do.
    Some(Stretch),
}

/// Rows of one service in a chunk, which keeps them side by side. It means nothing elsewhere.
#[derive(Clone, Debug)]
pub struct Stretch(Range<usize>);

impl Stretch {
    /// How many rows it is.
    pub fn rows(&self) -> usize {
        self.0.len()
    }
}

impl Snapshot {
    /// Whether rows in memory show the column as numbers, since its texts come again and again.
    pub fn is_numbered(&self, column: usize) -> bool {
        self.dictionaries.has(column)
    }

    /// The hot rows above a place, without the chunks whose bounds say that no row of them is wanted.
    pub fn hot_rows<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = HotSlice> + 'a {
        self.hot.iter().filter(|chunk| wanted.may_be_in(chunk)).filter_map(|chunk| {
            let (seqs, range) = chunk.places_between(wanted.above, chunk.seqs.last)?;
            Some(HotSlice {
                seqs,
                range,
                times: (chunk.zones.first_time, chunk.zones.last_time),
                chunk: Arc::clone(chunk),
                dictionaries: self.dictionaries.clone(),
            })
        })
    }
}

impl HotSlice {
    /// The rows, with the table's Arrow schema.
    pub fn rows(&self) -> RecordBatch {
        self.chunk.rows().slice(self.range.start, self.range.len())
    }

    /// All rows of the chunk.
    pub fn chunk(&self) -> &Arc<RecordBatch> {
        self.chunk.rows()
    }

    /// A text that comes again and again as numbers into the table's dictionary: the number of each row
    /// of the chunk, and the texts. The texts are one and the same array for all slices of a snapshot,
    /// so equal numbers are equal texts in all of them. Nothing for other columns, and for chunks so
    /// new that they are not numbered yet.
    pub fn numbers(&self, column: &str) -> Option<(Int32Array, ArrayRef)> {
        let keys = self.chunk.keys.as_ref()?;
        let at = self.chunk().schema_ref().index_of(column).ok()?;
        self.dictionaries.column(keys, at, self.chunk().num_rows())
    }

    /// Which of the chunk's rows hold `text` in a column. Nothing where that is not known: for columns
    /// other than the service that hold several texts, and for chunks that are new or have many services.
    pub fn of_text(&self, column: &str, text: &str) -> Option<OfText> {
        let keys = self.chunk.keys.as_ref()?;
        let at = self.chunk().schema_ref().index_of(column).ok()?;
        Some(match self.dictionaries.holding(keys, at, text)? {
            Holding::All => OfText::All,
            Holding::Some(range) if range.is_empty() => OfText::None,
            Holding::Some(range) => OfText::Some(Stretch(range)),
        })
    }

    /// Those rows of a stretch that are in `range` of the chunk.
    pub fn within(&self, stretch: &Stretch, range: &Range<usize>) -> Stretch {
        let offsets = self.offsets(stretch);
        let from = offsets.partition_point(|&offset| usize::from(offset) < range.start);
        let until = offsets.partition_point(|&offset| usize::from(offset) < range.end);
        Stretch(stretch.0.start + from..stretch.0.start + until.max(from))
    }

    /// Which rows of the chunk a stretch is, ascending.
    pub fn places(&self, stretch: &Stretch) -> impl Iterator<Item = u32> + use<'_> {
        self.offsets(stretch).iter().map(|&offset| offset.into())
    }

    /// The integers of a stretch; nothing for columns that are not kept by service.
    pub fn integers_of(&self, stretch: &Stretch, column: &str) -> Option<Int64Array> {
        let at = self.chunk().schema_ref().index_of(column).ok()?;
        let packed = self.by_service()?.column(at)?;
        Some(packed.range(stretch.0.clone(), |value| value).into())
    }

    /// As [`numbers`](Self::numbers), for the rows of a stretch.
    pub fn numbers_of(&self, stretch: &Stretch, column: &str) -> Option<(Int32Array, ArrayRef)> {
        let keys = self.chunk.keys.as_ref()?;
        let at = self.chunk().schema_ref().index_of(column).ok()?;
        self.dictionaries.column_by_service(keys, at, stretch.0.clone())
    }

    fn offsets(&self, stretch: &Stretch) -> &[u16] {
        self.by_service().map_or(&[], |rows| rows.offsets(stretch.0.clone()))
    }

    fn by_service(&self) -> Option<&ByService> {
        self.chunk.keys.as_ref()?.by_service()
    }
}

impl Wanted {
    /// All rows above a place.
    pub fn above(above: Seq) -> Self {
        Self { above, times: TimeNs::new(i64::MIN)..TimeNs::new(i64::MAX) }
    }

    fn may_be_in(&self, chunk: &Chunk) -> bool {
        chunk.zones.first_time < self.times.end && self.times.start <= chunk.zones.last_time
    }
}
