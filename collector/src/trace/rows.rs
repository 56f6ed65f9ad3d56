//! The rows of one dynamic table, in memory and bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int64Builder, RecordBatch,
    StringBuilder,
};
use arrow::datatypes::SchemaRef;
use undine_schema::trace::{TraceColumn, TraceTable, arrow_schema};
use undine_schema::{PxlType, Upid};

/// Most rows of a dynamic table; the oldest make room.
pub const ROWS_MAX: usize = 100_000;
/// Most bytes of a dynamic table's rows; the oldest make room.
pub const BYTES_MAX: usize = 16 << 20;
/// Rows that are gathered before they are a batch; what makes room is a batch.
const BATCH_ROWS: usize = 1024;

/// The rows of a dynamic table.
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Arc<[TraceColumn]>,
    schema: SchemaRef,
    cells: Vec<Cells>,
    waiting: usize,
    batches: VecDeque<RecordBatch>,
    /// Rows in them.
    finished: usize,
    bytes: usize,
    /// Rows that were made since the beginning.
    pub(crate) made: u64,
    /// Rows that made room.
    pub(crate) evicted: u64,
}

/// The cells of a column that are gathered.
#[derive(Debug)]
pub(crate) enum Cells {
    Integers(Int64Builder),
    Upids(FixedSizeBinaryBuilder),
    Floats(Float64Builder),
    Booleans(BooleanBuilder),
    Texts(StringBuilder),
}

impl Rows {
    /// No rows yet.
    pub(crate) fn new(columns: Arc<[TraceColumn]>) -> Self {
        let cells = columns.iter().map(|column| Cells::of(column.pxl_type)).collect();
        Self {
            schema: arrow_schema(&columns),
            columns,
            cells,
            waiting: 0,
            batches: VecDeque::new(),
            finished: 0,
            bytes: 0,
            made: 0,
            evicted: 0,
        }
    }

    /// The columns.
    pub(crate) fn columns(&self) -> &Arc<[TraceColumn]> {
        &self.columns
    }

    /// Appends a row, whose every cell `fill` appends.
    pub(crate) fn append(&mut self, fill: impl FnOnce(&mut [Cells])) {
        fill(&mut self.cells);
        self.made += 1;
        self.waiting += 1;
        if self.waiting >= BATCH_ROWS {
            self.finish();
        }
    }

    /// The table now.
    pub(crate) fn table(&mut self) -> TraceTable {
        self.finish();
        let batches = self.batches.iter().cloned().collect();
        TraceTable { columns: Arc::clone(&self.columns), batches }
    }

    fn finish(&mut self) {
        if self.waiting == 0 {
            return;
        }
        self.waiting = 0;
        let arrays: Vec<ArrayRef> = self.cells.iter_mut().map(Cells::finish).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays)
            .expect("the builders are those of the schema");
        self.finished += batch.num_rows();
        self.bytes += batch.get_array_memory_size();
        self.batches.push_back(batch);
        while self.finished > ROWS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.finished -= oldest.num_rows();
            self.bytes = self.bytes.saturating_sub(oldest.get_array_memory_size());
            self.evicted += oldest.num_rows() as u64;
        }
    }
}

impl Cells {
    fn of(pxl_type: PxlType) -> Self {
        match pxl_type {
            PxlType::Float64 => Self::Floats(Float64Builder::new()),
            PxlType::Boolean => Self::Booleans(BooleanBuilder::new()),
            PxlType::String => Self::Texts(StringBuilder::new()),
            PxlType::Uint128 => Self::Upids(FixedSizeBinaryBuilder::new(16)),
            PxlType::Int64 | PxlType::Time64Ns => Self::Integers(Int64Builder::new()),
        }
    }

    /// Appends a number to a column of numbers.
    pub(crate) fn integer(&mut self, value: i64) {
        match self {
            Self::Integers(cells) => cells.append_value(value),
            other => unreachable!("a number for {other:?}"),
        }
    }

    /// Appends a process to a column of processes.
    pub(crate) fn upid(&mut self, value: Upid) {
        match self {
            Self::Upids(cells) => {
                cells.append_value(value.as_bytes()).expect("a upid is 16 bytes, its width");
            }
            other => unreachable!("a process for {other:?}"),
        }
    }

    /// Appends a text to a column of texts.
    pub(crate) fn text(&mut self, value: String) {
        match self {
            Self::Texts(cells) => cells.append_value(value),
            other => unreachable!("a text for {other:?}"),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Integers(cells) => Arc::new(cells.finish()),
            Self::Upids(cells) => Arc::new(cells.finish()),
            Self::Floats(cells) => Arc::new(cells.finish()),
            Self::Booleans(cells) => Arc::new(cells.finish()),
            Self::Texts(cells) => Arc::new(cells.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use undine_schema::SemanticType;

    use super::*;

    #[test]
    fn the_oldest_rows_make_room() {
        let (pxl_type, semantic) = (PxlType::Int64, SemanticType::None);
        let mut rows = Rows::new([TraceColumn { name: "a".into(), pxl_type, semantic }].into());
        let count = i64::try_from(ROWS_MAX + BATCH_ROWS).unwrap();
        for number in 0..count {
            rows.append(|cells| cells[0].integer(number));
        }
        let table = rows.table();
        let kept: usize = table.batches.iter().map(RecordBatch::num_rows).sum();
        assert!(kept <= ROWS_MAX, "{kept}");
        assert_eq!(kept as u64 + rows.evicted, rows.made);
        let last = table.batches.last().unwrap().column(0).as_primitive::<Int64Type>();
        assert_eq!(last.values().last(), Some(&(count - 1)));
    }
}
