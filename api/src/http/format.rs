//! Writes answers as JSON, NDJSON, CSV or an Arrow stream, each within a limit of bytes.
//!
//! 64-bit integers are JSON numbers with all their digits. `PxL` has no null, so doubles that JSON
//! cannot hold are the strings `"NaN"`, `"Infinity"` and `"-Infinity"` and never `null`.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use axum::http::{HeaderMap, StatusCode, header};

use super::cells::{Cell, Cells, semantic_name, type_name};
use super::problem::Problem;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Every table with its columns' types, notes and sources.
    Json,
    /// One object a row; `_table` names its table.
    NdJson,
    /// RFC 4180, values as they are.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

impl Format {
    const ALL: [Self; 4] = [Self::Json, Self::NdJson, Self::Csv, Self::Arrow];

    /// The media type that it is sent as.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::NdJson => "ndjson",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
        }
    }

    /// The format that a request asks for: `?format=`, otherwise the first of `Accept` that is
    /// known, otherwise JSON.
    pub(crate) fn choose(asked: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        if let Some(asked) = asked {
            return Self::ALL.into_iter().find(|format| format.name() == asked).ok_or_else(|| {
                Problem::bad_request("unknown_format", format!("there is no format {asked:?}"))
                    .hint("use json, ndjson, csv or arrow")
            });
        }
        let Some(accept) = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok())
        else {
            return Ok(Self::Json);
        };
        accept.split(',').find_map(Self::of_media_range).ok_or_else(|| {
            let detail = format!("no answer can be written as {accept:?}");
            Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail).hint(
                "accept application/json, application/x-ndjson, text/csv or \
                 application/vnd.apache.arrow.stream",
            )
        })
    }

    fn of_media_range(range: &str) -> Option<Self> {
        let name = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "*/*" | "application/*" | "application/json" => Some(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
                Some(Self::NdJson)
            }
            "text/csv" | "text/*" => Some(Self::Csv),
            "application/vnd.apache.arrow.stream" => Some(Self::Arrow),
            _ => None,
        }
    }
}

/// A table of an answer as the writers see it.
#[derive(Clone, Debug)]
pub(crate) struct Table<'a> {
    pub(crate) name: &'a str,
    pub(crate) schema: SchemaRef,
    pub(crate) batches: &'a [RecordBatch],
}

/// Why an answer could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the answer is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("cannot write the answer")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("cannot write the answer")]
    Json(#[source] serde_json::Error),
    #[error("cannot write the answer")]
    Io(#[source] io::Error),
}

/// A buffer that refuses to grow beyond a limit.
#[derive(Debug)]
pub(crate) struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_over: bool,
}

impl Bounded {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, is_over: false }
    }

    /// What was written, or why not all of it was.
    pub(crate) fn finish(self, written: Result<(), WriteError>) -> Result<Vec<u8>, WriteError> {
        if self.is_over {
            return Err(WriteError::TooLarge { bytes_max: self.bytes_max });
        }
        written.map(|()| self.bytes)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            self.is_over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the columns of a table as `[{"name":…,"type":…,"semantic":…},…]`.
pub(crate) fn columns(table: &Table<'_>) -> Vec<serde_json::Value> {
    let describe = |field: &arrow::datatypes::FieldRef| {
        serde_json::json!({
            "name": field.name(),
            "type": type_name(field),
            "semantic": semantic_name(field),
        })
    };
    table.schema.fields().iter().map(describe).collect()
}

/// Writes the first `rows_max` rows as arrays, `[[…],[…]]`, and returns how many they were.
pub(crate) fn rows(
    table: &Table<'_>,
    rows_max: usize,
    out: &mut Bounded,
) -> Result<usize, WriteError> {
    let mut written = 0;
    put(out, b"[")?;
    for batch in table.batches {
        let cells = Cells::new(batch)?;
        for at in 0..cells.rows().min(rows_max - written) {
            put(out, if written == 0 { b"[" } else { b",\n[" })?;
            for (column, cell) in cells.row(at).enumerate() {
                if column > 0 {
                    put(out, b",")?;
                }
                json_cell(&cell?, out)?;
            }
            put(out, b"]")?;
            written += 1;
        }
    }
    put(out, b"]")?;
    Ok(written)
}

/// Writes one object a row.
pub(crate) fn ndjson(tables: &[Table<'_>], out: &mut Bounded) -> Result<(), WriteError> {
    for table in tables {
        let mut keys = Vec::with_capacity(table.schema.fields().len());
        for field in table.schema.fields() {
            keys.push(serde_json::to_vec(field.name()).map_err(WriteError::Json)?);
        }
        for batch in table.batches {
            let cells = Cells::new(batch)?;
            for at in 0..cells.rows() {
                put(out, b"{\"_table\":")?;
                json_text(table.name, out)?;
                for (key, cell) in keys.iter().zip(cells.row(at)) {
                    put(out, b",")?;
                    put(out, key)?;
                    put(out, b":")?;
                    json_cell(&cell?, out)?;
                }
                put(out, b"}\n")?;
            }
        }
    }
    Ok(())
}

/// Writes a header and the rows, lines ending in CR LF as RFC 4180 has it.
pub(crate) fn csv(table: &Table<'_>, out: &mut Bounded) -> Result<(), WriteError> {
    for (column, field) in table.schema.fields().iter().enumerate() {
        csv_separator(column, out)?;
        csv_text(field.name(), out)?;
    }
    put(out, b"\r\n")?;
    for batch in table.batches {
        let cells = Cells::new(batch)?;
        for at in 0..cells.rows() {
            for (column, cell) in cells.row(at).enumerate() {
                csv_separator(column, out)?;
                match cell? {
                    Cell::Null => {}
                    Cell::Text(text) => csv_text(&text, out)?,
                    Cell::Float(float) if !float.is_finite() => put(out, special(float))?,
                    cell => json_cell(&cell, out)?,
                }
            }
            put(out, b"\r\n")?;
        }
    }
    Ok(())
}

/// Writes an Arrow IPC stream.
pub(crate) fn arrow(table: &Table<'_>, out: &mut Bounded) -> Result<(), WriteError> {
    let mut writer = StreamWriter::try_new(out, &table.schema)?;
    for batch in table.batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    Ok(())
}

/// Writes bytes as they are.
pub(crate) fn put(out: &mut Bounded, bytes: &[u8]) -> Result<(), WriteError> {
    out.write_all(bytes).map_err(WriteError::Io)
}

/// Writes text as a JSON string.
pub(crate) fn json_text(text: &str, out: &mut Bounded) -> Result<(), WriteError> {
    serde_json::to_writer(out, text).map_err(WriteError::Json)
}

fn json_cell(cell: &Cell<'_>, out: &mut Bounded) -> Result<(), WriteError> {
    match cell {
        Cell::Null => put(out, b"null"),
        Cell::Boolean(true) => put(out, b"true"),
        Cell::Boolean(false) => put(out, b"false"),
        Cell::Int(int) => write!(out, "{int}").map_err(WriteError::Io),
        Cell::Unsigned(int) => write!(out, "{int}").map_err(WriteError::Io),
        Cell::Float(float) if float.is_finite() => {
            serde_json::to_writer(out, float).map_err(WriteError::Json)
        }
        Cell::Float(float) => {
            put(out, b"\"")?;
            put(out, special(*float))?;
            put(out, b"\"")
        }
        Cell::Text(text) => json_text(text, out),
    }
}

fn special(float: f64) -> &'static [u8] {
    if float.is_nan() {
        b"NaN"
    } else if float > 0.0 {
        b"Infinity"
    } else {
        b"-Infinity"
    }
}

fn csv_separator(column: usize, out: &mut Bounded) -> Result<(), WriteError> {
    if column > 0 { put(out, b",") } else { Ok(()) }
}

fn csv_text(text: &str, out: &mut Bounded) -> Result<(), WriteError> {
    if !text.bytes().any(|byte| matches!(byte, b'"' | b',' | b'\r' | b'\n')) {
        return put(out, text.as_bytes());
    }
    put(out, b"\"")?;
    put(out, text.replace('"', "\"\"").as_bytes())?;
    put(out, b"\"")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int64Array, StringArray,
    };
    use arrow::ipc::reader::StreamReader;
    use undine_schema::Upid;

    use super::*;

    fn batch() -> RecordBatch {
        let upids = [Upid::new(1, 42, 7), Upid::new(0, 0, 0)];
        let upids = FixedSizeBinaryArray::try_from_iter(upids.iter().map(Upid::as_bytes)).unwrap();
        RecordBatch::try_from_iter([
            ("time_", Arc::new(Int64Array::from(vec![1_795_236_763_123_456_789, -1])) as ArrayRef),
            ("upid", Arc::new(upids)),
            ("share", Arc::new(Float64Array::from(vec![f64::NAN, 0.1]))),
            ("ok", Arc::new(BooleanArray::from(vec![true, false]))),
            ("req, path", Arc::new(StringArray::from(vec!["/a\"b\",\r\nc", ""]))),
        ])
        .unwrap()
    }

    fn written(write: impl FnOnce(&Table<'_>, &mut Bounded) -> Result<(), WriteError>) -> Vec<u8> {
        let batches = [batch()];
        let table = Table { name: "out", schema: batches[0].schema(), batches: &batches };
        let mut out = Bounded::new(10_000);
        let result = write(&table, &mut out);
        out.finish(result).unwrap()
    }

    #[test]
    fn json_rows_keep_every_digit_and_name_what_is_no_number() {
        let text = written(|table, out| rows(table, 10, out).map(drop));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "[[1795236763123456789,\"00000001-0000-002a-0000-000000000007\",\"NaN\",true,\
             \"/a\\\"b\\\",\\r\\nc\"],\n\
             [-1,\"00000000-0000-0000-0000-000000000000\",0.1,false,\"\"]]"
        );
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed[0][0].as_i64(), Some(1_795_236_763_123_456_789));
    }

    #[test]
    fn json_rows_stop_at_the_limit_that_was_asked_for() {
        let text = written(|table, out| rows(table, 1, out).map(|rows| assert_eq!(rows, 1)));
        let parsed: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(parsed.as_array().unwrap().len(), 1);
    }

    #[test]
    fn ndjson_names_the_table_in_every_row() {
        let text = written(|table, out| ndjson(std::slice::from_ref(table), out));
        let lines: Vec<serde_json::Value> = String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["_table"], "out");
        assert_eq!(lines[0]["share"], "NaN");
        assert_eq!(lines[1]["ok"], false);
    }

    #[test]
    fn csv_quotes_what_rfc_4180_wants_quoted_and_nothing_else() {
        let text = String::from_utf8(written(csv)).unwrap();
        assert_eq!(
            text,
            "time_,upid,share,ok,\"req, path\"\r\n\
             1795236763123456789,00000001-0000-002a-0000-000000000007,NaN,true,\
             \"/a\"\"b\"\",\r\nc\"\r\n\
             -1,00000000-0000-0000-0000-000000000000,0.1,false,\r\n"
        );
    }

    #[test]
    fn an_arrow_stream_reads_back_as_the_same_rows() {
        let bytes = written(arrow);
        let batches: Vec<_> =
            StreamReader::try_new(bytes.as_slice(), None).unwrap().map(Result::unwrap).collect();
        // NaN is not equal to itself, so the columns are compared without it.
        let columns = [0, 1, 3, 4];
        assert_eq!(batches[0].project(&columns).unwrap(), batch().project(&columns).unwrap());
    }

    #[test]
    fn an_answer_beyond_its_limit_is_an_error_in_every_format() {
        type Writer<'a> = &'a dyn Fn(&mut Bounded) -> Result<(), WriteError>;

        let batches = [batch()];
        let table = Table { name: "out", schema: batches[0].schema(), batches: &batches };
        let writers: [Writer<'_>; 4] = [
            &|out| rows(&table, 10, out).map(drop),
            &|out| ndjson(std::slice::from_ref(&table), out),
            &|out| csv(&table, out),
            &|out| arrow(&table, out),
        ];
        for write in writers {
            let mut out = Bounded::new(40);
            let written = write(&mut out);
            let error = out.finish(written).unwrap_err();
            assert!(matches!(error, WriteError::TooLarge { bytes_max: 40 }), "{error:?}");
        }
    }

    #[test]
    fn the_format_is_what_the_query_or_else_the_accept_header_says() {
        let choose = |asked, accept: &'static str| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            Format::choose(asked, &headers).map_err(|problem| problem.code())
        };
        assert_eq!(choose(None, ""), Ok(Format::Json));
        assert_eq!(choose(None, "*/*"), Ok(Format::Json));
        assert_eq!(choose(None, "image/png, text/csv;q=0.9"), Ok(Format::Csv));
        assert_eq!(choose(None, "application/vnd.apache.arrow.stream"), Ok(Format::Arrow));
        assert_eq!(choose(None, "image/png"), Err("not_acceptable"));
        assert_eq!(choose(Some("ndjson"), "text/csv"), Ok(Format::NdJson));
        assert_eq!(choose(Some("xml"), ""), Err("unknown_format"));
    }
}
