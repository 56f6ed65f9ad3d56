//! The rows of one dynamic table, in memory and bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int64Builder, RecordBatch,
    StringBuilder,
};
use arrow::datatypes::SchemaRef;
use undine_ebpf::trace::{COUNTED_TEXT, Fetch, TEXT_BYTES_MAX, TraceInfo};
use undine_schema::trace::{TraceColumn, TraceTable, arrow_schema};
use undine_schema::{PxlType, SemanticType, TimeNs, Upid};

use super::layout::{Decode, Reading};
use crate::redaction::{self, Mode};

/// Most rows of a dynamic table; the oldest make room.
pub const ROWS_MAX: usize = 100_000;
/// Most bytes of a dynamic table's rows; the oldest make room.
pub const BYTES_MAX: usize = 16 << 20;
/// Rows that are gathered before they are a batch; what makes room is a batch.
const BATCH_ROWS: usize = 1024;

/// What a column of a dynamic table is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The value at this place of a call.
    Value(usize, Reading),
    /// From call to return.
    Latency,
}

/// A call, as a row has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) time: TimeNs,
    pub(crate) upid: Upid,
    pub(crate) mono_ns: u64,
    pub(crate) info: &'a TraceInfo,
    pub(crate) texts: &'a [u8],
}

/// The rows of a dynamic table.
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Arc<[TraceColumn]>,
    schema: SchemaRef,
    outputs: Vec<Output>,
    mode: Mode,
    times: Int64Builder,
    upids: FixedSizeBinaryBuilder,
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

#[derive(Debug)]
enum Cells {
    Integers(Int64Builder),
    Floats(Float64Builder),
    Booleans(BooleanBuilder),
    Texts(StringBuilder),
}

/// The columns of a table with these outputs.
pub(crate) fn columns<'a>(outputs: impl Iterator<Item = (&'a str, Output)>) -> Arc<[TraceColumn]> {
    let first = [
        ("time_", PxlType::Time64Ns, SemanticType::TimeNs),
        ("upid", PxlType::Uint128, SemanticType::Upid),
    ];
    let others = outputs.map(|(name, output)| match output {
        Output::Value(_, reading) => (name, reading.decode.pxl_type(), SemanticType::None),
        Output::Latency => (name, PxlType::Int64, SemanticType::DurationNs),
    });
    first
        .into_iter()
        .chain(others)
        .map(|(name, pxl_type, semantic)| TraceColumn { name: name.into(), pxl_type, semantic })
        .collect()
}

impl Rows {
    /// No rows yet.
    pub(crate) fn new(columns: Arc<[TraceColumn]>, outputs: Vec<Output>, mode: Mode) -> Self {
        let cells = outputs.iter().map(Cells::of).collect();
        Self {
            schema: arrow_schema(&columns),
            columns,
            outputs,
            mode,
            times: Int64Builder::new(),
            upids: FixedSizeBinaryBuilder::new(16),
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

    /// Appends a row.
    pub(crate) fn push(&mut self, call: Call<'_>) {
        self.times.append_value(call.time.get());
        self.upids.append_value(call.upid.as_bytes()).expect("a upid is 16 bytes, its width");
        for (cells, output) in self.cells.iter_mut().zip(&self.outputs) {
            cells.push(*output, &call, self.mode);
        }
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
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(self.times.finish()), Arc::new(self.upids.finish())];
        arrays.extend(self.cells.iter_mut().map(Cells::finish));
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
    fn of(output: &Output) -> Self {
        let pxl_type = match output {
            Output::Value(_, reading) => reading.decode.pxl_type(),
            Output::Latency => PxlType::Int64,
        };
        match pxl_type {
            PxlType::Float64 => Self::Floats(Float64Builder::new()),
            PxlType::Boolean => Self::Booleans(BooleanBuilder::new()),
            PxlType::String => Self::Texts(StringBuilder::new()),
            PxlType::Int64 | PxlType::Time64Ns | PxlType::Uint128 => {
                Self::Integers(Int64Builder::new())
            }
        }
    }

    fn push(&mut self, output: Output, call: &Call<'_>, mode: Mode) {
        let Output::Value(at, Reading { fetch, decode }) = output else {
            let latency = call.mono_ns.saturating_sub(call.info.entered_ns);
            if let Self::Integers(cells) = self {
                cells.append_value(i64::try_from(latency).unwrap_or(i64::MAX));
            }
            return;
        };
        let is_fault = call.info.faults & (1 << at) != 0;
        let raw = if is_fault { 0 } else { call.info.values.get(at).copied().unwrap_or(0) };
        match (self, decode) {
            (Self::Integers(cells), Decode::Integer { bytes, signed, shift }) => {
                cells.append_value(integer(raw >> shift, bytes, signed));
            }
            (Self::Booleans(cells), Decode::Boolean { shift }) => {
                cells.append_value(raw >> shift & 0xff != 0);
            }
            (Self::Floats(cells), Decode::Float { bytes: 4 }) => {
                let low = u32::try_from(raw & 0xffff_ffff).unwrap_or(0);
                cells.append_value(f64::from(f32::from_bits(low)));
            }
            (Self::Floats(cells), _) => cells.append_value(f64::from_bits(raw)),
            (Self::Texts(cells), decode) => {
                let mut kept = String::new();
                if !is_fault {
                    text_into(call.texts, &fetch, raw, decode, mode, &mut kept);
                }
                cells.append_value(kept);
            }
            (Self::Integers(cells), _) => cells.append_value(raw.cast_signed()),
            (Self::Booleans(cells), _) => cells.append_value(raw != 0),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Integers(cells) => Arc::new(cells.finish()),
            Self::Floats(cells) => Arc::new(cells.finish()),
            Self::Booleans(cells) => Arc::new(cells.finish()),
            Self::Texts(cells) => Arc::new(cells.finish()),
        }
    }
}

/// The lowest `bytes` bytes of `raw` as a number.
fn integer(raw: u64, bytes: u8, signed: bool) -> i64 {
    let unused = 64_u32.saturating_sub(u32::from(bytes) * 8).min(63);
    let high = raw << unused;
    if signed { high.cast_signed() >> unused } else { (high >> unused).cast_signed() }
}

/// What of a text may be kept.
fn text_into(
    texts: &[u8],
    fetch: &Fetch,
    length: u64,
    decode: Decode,
    mode: Mode,
    out: &mut String,
) {
    let start = usize::from(fetch.text) * TEXT_BYTES_MAX;
    let all = texts.get(start..start + TEXT_BYTES_MAX).unwrap_or_default();
    // The kernel counts the NUL, and writes one where it cut the text.
    let size = if fetch.kind == COUNTED_TEXT { length } else { length.saturating_sub(1) };
    let bytes_max = match decode {
        Decode::Text { bytes_max } => bytes_max,
        _ => TEXT_BYTES_MAX,
    };
    let kept = usize::try_from(size).unwrap_or(usize::MAX).min(all.len()).min(bytes_max);
    let kept = &all[..kept];
    // A text that was cut within a character is cut before it.
    let kept = match std::str::from_utf8(kept) {
        Err(error) if error.error_len().is_none() => &kept[..error.valid_up_to()],
        _ => kept,
    };
    redaction::body_into(mode, kept, size, out);
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    fn value(at: usize, decode: Decode) -> Output {
        Output::Value(at, Reading { fetch: Fetch { kind: 1, ..Fetch::default() }, decode })
    }

    fn rows(outputs: Vec<Output>, mode: Mode) -> Rows {
        let names = ["a", "b", "c", "d"];
        Rows::new(columns(names.into_iter().zip(outputs.iter().copied())), outputs, mode)
    }

    fn call<'a>(info: &'a TraceInfo, texts: &'a [u8]) -> Call<'a> {
        let (time, upid) = (TimeNs::new(5), Upid::new(1, 2, 3));
        Call { time, upid, mono_ns: 100, info, texts }
    }

    #[test]
    fn numbers_are_as_wide_as_they_were_declared() {
        assert_eq!(integer(0xffff_ff80, 1, true), -128);
        assert_eq!(integer(0xffff_ff80, 1, false), 128);
        assert_eq!(integer(0x1_ffff_fffe, 4, true), -2);
        assert_eq!(integer(0x1_ffff_fffe, 4, false), 0xffff_fffe);
        assert_eq!(integer(u64::MAX, 8, true), -1);
    }

    #[test]
    fn a_call_is_a_row_with_its_time_its_process_and_its_values() {
        let integer = Decode::Integer { bytes: 4, signed: true, shift: 0 };
        let outputs =
            vec![value(0, integer), Output::Latency, value(1, Decode::Text { bytes_max: 256 })];
        let mut rows = rows(outputs, Mode::Full);
        let mut texts = vec![0; TEXT_BYTES_MAX];
        texts[..3].copy_from_slice(b"abc");
        let mut info = TraceInfo { entered_ns: 40, texts: 1, ..TraceInfo::default() };
        info.values[..2].copy_from_slice(&[7, 4]);
        rows.push(call(&info, &texts));
        info.faults = 2;
        rows.push(call(&info, &texts));
        let table = rows.table();
        let batch = &table.batches[0];
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values()[..], [5, 5]);
        assert_eq!(batch.column(2).as_primitive::<Int64Type>().values()[..], [7, 7]);
        assert_eq!(batch.column(3).as_primitive::<Int64Type>().values()[..], [60, 60]);
        let texts: Vec<_> = batch.column(4).as_string::<i32>().iter().collect();
        assert_eq!(texts, [Some("abc"), Some("")]);
    }

    #[test]
    fn a_text_is_redacted_as_a_body_is() {
        let mut rows = rows(vec![value(0, Decode::Text { bytes_max: 256 })], Mode::Redacted);
        let mut texts = vec![0; TEXT_BYTES_MAX];
        texts[..6].copy_from_slice(b"secret");
        let mut info = TraceInfo { texts: 1, ..TraceInfo::default() };
        info.values[0] = 7;
        rows.push(call(&info, &texts));
        let table = rows.table();
        assert_eq!(table.batches[0].column(2).as_string::<i32>().value(0), "[redacted 6 bytes]");
    }

    #[test]
    fn the_oldest_rows_make_room() {
        let integer = Decode::Integer { bytes: 8, signed: true, shift: 0 };
        let mut rows = rows(vec![value(0, integer)], Mode::Full);
        let mut info = TraceInfo::default();
        for number in 0..(ROWS_MAX + BATCH_ROWS) as u64 {
            info.values[0] = number;
            rows.push(call(&info, &[]));
        }
        let table = rows.table();
        let kept: usize = table.batches.iter().map(RecordBatch::num_rows).sum();
        assert!(kept <= ROWS_MAX, "{kept}");
        assert_eq!(kept as u64 + rows.evicted, rows.made);
        let last = table.batches.last().unwrap().column(2).as_primitive::<Int64Type>();
        assert_eq!(last.values().last(), Some(&info.values[0].cast_signed()));
    }
}
