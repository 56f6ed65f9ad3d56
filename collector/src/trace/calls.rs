//! Calls of a function as rows of its table.

use std::sync::Arc;

use undine_ebpf::trace::{COUNTED_TEXT, Fetch, TEXT_BYTES_MAX, TraceInfo};
use undine_schema::trace::{TraceColumn, TraceTable};
use undine_schema::{PxlType, SemanticType, TimeNs, Upid};

use super::layout::{Decode, Reading};
use super::rows::{Cells, Rows};
use crate::redaction::{self, Mode};

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

/// The rows of the calls of one function.
#[derive(Debug)]
pub(crate) struct Calls {
    rows: Rows,
    outputs: Vec<Output>,
    mode: Mode,
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

impl Calls {
    /// No rows yet.
    pub(crate) fn new(columns: Arc<[TraceColumn]>, outputs: Vec<Output>, mode: Mode) -> Self {
        Self { rows: Rows::new(columns), outputs, mode }
    }

    /// Appends a row.
    pub(crate) fn push(&mut self, call: Call<'_>) {
        let (outputs, mode) = (&self.outputs, self.mode);
        self.rows.append(|cells| {
            let [time, upid, cells @ ..] = cells else { return };
            time.integer(call.time.get());
            upid.upid(call.upid);
            for (cells, output) in cells.iter_mut().zip(outputs) {
                cells.push(*output, &call, mode);
            }
        });
    }

    /// The rows that were made since the beginning, and those that made room.
    pub(crate) fn made_and_evicted(&self) -> (u64, u64) {
        (self.rows.made, self.rows.evicted)
    }

    /// The columns.
    pub(crate) fn columns(&self) -> &Arc<[TraceColumn]> {
        self.rows.columns()
    }

    /// The table now.
    pub(crate) fn table(&mut self) -> TraceTable {
        self.rows.table()
    }
}

impl Cells {
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
            (Self::Upids(_), _) => unreachable!("no value is a process"),
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
    redaction::body_into(mode, &all[..kept], size, out);
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    fn value(at: usize, decode: Decode) -> Output {
        Output::Value(at, Reading { fetch: Fetch { kind: 1, ..Fetch::default() }, decode })
    }

    fn rows(outputs: Vec<Output>, mode: Mode) -> Calls {
        let names = ["a", "b", "c", "d"];
        Calls::new(columns(names.into_iter().zip(outputs.iter().copied())), outputs, mode)
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
}
