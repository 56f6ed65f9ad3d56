//! One frame of the log.
//!
//! ```text
//! magic 4 │ header length 4 │ body length 8 │ CRC32 of all but magic and itself 4 │ header │ body
//! ```
//!
//! The header is JSON: which rows of which tables, and how safe they had to be. The body is one
//! Arrow IPC stream (LZ4) for each part that carries rows. Numbers are little-endian.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use serde::{Deserialize, Serialize};
use undine_schema::{Durability, RetryKey, Seq, SeqRange, TableDef, TimeNs};

pub(super) const MAGIC: [u8; 4] = *b"UWL1";
const PRELUDE_BYTES: usize = 20;
/// A length above this is a damaged one.
const BODY_BYTES_MAX: u64 = 1 << 32;

/// A frame on its way to the log.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: TimeNs,
    pub(crate) durability: Durability,
    pub(crate) retry_key: Option<RetryKey>,
    pub(crate) parts: Vec<EntryPart>,
    /// Memory that it holds.
    pub(crate) bytes: u64,
}

/// Consecutive places of one table.
#[derive(Debug)]
pub(crate) struct EntryPart {
    pub(crate) table: &'static TableDef,
    pub(crate) seqs: SeqRange,
    pub(crate) content: Content<RecordBatch>,
}

/// What stands at some places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Content<Rows> {
    /// These rows.
    Rows(Rows),
    /// Rows that nobody wanted to be logged.
    Memory,
    /// Rows that were evicted unsealed, and reported.
    Evicted,
    /// Rows that a crash took, and that were reported.
    Lost,
}

/// What a frame says about itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// When it was accepted, nanoseconds since the epoch.
    pub(crate) at: i64,
    /// Whether its rows must be sealed before they are evicted.
    pub(crate) commit: bool,
    /// Bytes of its segment that were synced before it was written: what is bad below them is
    /// damaged, and not torn by a power loss. Earlier versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) synced: Option<u64>,
    /// The sender's retry key in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_key: Option<String>,
    pub(crate) parts: Vec<PartHeader>,
}

/// Where a part of a frame stands; rows are given by their bytes in the body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartHeader {
    pub(crate) table: String,
    first: u64,
    last: u64,
    pub(crate) content: Content<u64>,
}

impl PartHeader {
    pub(crate) fn seqs(&self) -> SeqRange {
        SeqRange { first: Seq::from_raw(self.first), last: Seq::from_raw(self.last) }
    }
}

/// The bytes of a frame that is written to a segment of which `synced` bytes are synced.
pub(super) fn encode(entry: &Entry, synced: u64) -> Result<Vec<u8>, ArrowError> {
    let mut body = Vec::new();
    let mut parts = Vec::with_capacity(entry.parts.len());
    for part in &entry.parts {
        let content = match &part.content {
            Content::Rows(rows) => {
                let before = body.len();
                write_rows(rows, &mut body)?;
                Content::Rows((body.len() - before) as u64)
            }
            Content::Memory => Content::Memory,
            Content::Evicted => Content::Evicted,
            Content::Lost => Content::Lost,
        };
        let (first, last) = (part.seqs.first.raw(), part.seqs.last.raw());
        parts.push(PartHeader { table: part.table.name.to_owned(), first, last, content });
    }
    let header = Header {
        at: entry.at.get(),
        commit: entry.durability == Durability::Commit,
        synced: Some(synced),
        retry_key: entry.retry_key.map(|key| hex(&key)),
        parts,
    };
    let header = serde_json::to_vec(&header).map_err(|e| ArrowError::ExternalError(e.into()))?;
    let header_length =
        u32::try_from(header.len()).map_err(|e| ArrowError::ExternalError(e.into()))?;
    let mut lengths = [0; 12];
    lengths[..4].copy_from_slice(&header_length.to_le_bytes());
    lengths[4..].copy_from_slice(&(body.len() as u64).to_le_bytes());
    let mut frame = Vec::with_capacity(PRELUDE_BYTES + header.len() + body.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&lengths);
    frame.extend_from_slice(&checksum(&lengths, &header, &body).to_le_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// A whole frame at the start of `bytes`: its header, its body and its length.
pub(super) fn decode(bytes: &[u8]) -> Option<(Header, &[u8], usize)> {
    let prelude = bytes.get(..PRELUDE_BYTES)?;
    if prelude[..4] != MAGIC {
        return None;
    }
    let header_length = u32::from_le_bytes(prelude[4..8].try_into().ok()?) as usize;
    let body_length = u64::from_le_bytes(prelude[8..16].try_into().ok()?);
    if body_length > BODY_BYTES_MAX {
        return None;
    }
    let body_length = usize::try_from(body_length).ok()?;
    let header = bytes.get(PRELUDE_BYTES..PRELUDE_BYTES + header_length)?;
    let length = PRELUDE_BYTES + header_length + body_length;
    let body = bytes.get(PRELUDE_BYTES + header_length..length)?;
    let expected = u32::from_le_bytes(prelude[16..20].try_into().ok()?);
    if checksum(&prelude[4..16], header, body) != expected {
        return None;
    }
    Some((serde_json::from_slice(header).ok()?, body, length))
}

/// The rows of a part, with the schema that the table declares now: columns are matched by name,
/// and one that the log does not know holds its type's zero.
pub(crate) fn decode_rows(table: &TableDef, bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let logged = reader.next().ok_or_else(|| {
        ArrowError::IpcError("a frame announces rows and holds none".to_owned())
    })??;
    let columns = table.columns.iter().map(|column| {
        let wanted = column.pxl_type.arrow();
        let known = logged.column_by_name(column.name).filter(|c| c.data_type() == &wanted);
        known.map_or_else(|| zeros(&wanted, logged.num_rows()), Arc::clone)
    });
    RecordBatch::try_new(table.arrow_schema(), columns.collect())
}

/// The retry key that a header names.
pub(crate) fn key_of(hex: &str) -> Option<RetryKey> {
    let mut key = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(RetryKey(key))
}

fn hex(key: &RetryKey) -> String {
    use std::fmt::Write;
    key.0.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every character");
        text
    })
}

fn write_rows(rows: &RecordBatch, body: &mut Vec<u8>) -> Result<(), ArrowError> {
    let options =
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(body, &rows.schema(), options)?;
    writer.write(rows)?;
    writer.finish()
}

fn checksum(lengths: &[u8], header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(lengths);
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

fn zeros(data_type: &DataType, rows: usize) -> ArrayRef {
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::from(vec![0; rows])),
        DataType::Float64 => Arc::new(Float64Array::from(vec![0.0; rows])),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![false; rows])),
        DataType::FixedSizeBinary(width) => {
            let bytes = usize::try_from(*width).unwrap_or(0) * rows;
            Arc::new(FixedSizeBinaryArray::new(*width, Buffer::from(vec![0_u8; bytes]), None))
        }
        _ => Arc::new(StringArray::from(vec![""; rows])),
    }
}
