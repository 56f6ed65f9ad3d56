//! A Delta log's state in one Parquet file, so that neither we nor other engines read every commit.
//!
//! Written every [`INTERVAL`] commits beside them; `_last_checkpoint` names the newest. Commits
//! before it are deleted when they are as old as deleted files may get.

use std::io;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::error::ArrowError;
use arrow::json::{LineDelimitedWriter, ReaderBuilder};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use serde_json::{Value, json};

use super::DeltaError;
use crate::backend::Folder;
use crate::segment_file;

/// Commits between two checkpoints.
pub(crate) const INTERVAL: u64 = 100;

/// A version and the actions that give its state.
pub(super) struct Checkpoint {
    pub(super) version: u64,
    pub(super) actions: Vec<Value>,
}

const POINTER: &str = "_last_checkpoint";

/// Writes the state at `version`, one action a row, and points to it.
pub(super) fn write(dir: &Folder, version: u64, actions: &[Value]) -> Result<(), ParquetError> {
    let schema = Arc::new(schema());
    let mut decoder = ReaderBuilder::new(Arc::clone(&schema))
        .with_batch_size(actions.len().max(1))
        .build_decoder()?;
    decoder.serialize(actions)?;
    let rows = decoder.flush()?.ok_or_else(|| ParquetError::General("no action".to_owned()))?;
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None)?;
    writer.write(&rows)?;
    dir.replace(&name_of(version), writer.into_inner()?.into())?;
    let pointer = json!({"version": version, "size": actions.len()}).to_string();
    dir.replace(POINTER, pointer.into())?;
    Ok(())
}

/// The newest checkpoint's version and actions; none where there is none.
pub(super) fn read(dir: &Folder) -> Result<Option<Checkpoint>, DeltaError> {
    let Some(version) = newest(dir)? else { return Ok(None) };
    let name = name_of(version);
    let actions =
        read_actions(get(dir, &name)?).map_err(|error| corrupt(dir, &name, error.to_string()))?;
    Ok(Some(Checkpoint { version, actions }))
}

/// Whether a start would read the checkpoint of `version`: its file may be there and the pointer
/// still name an older one, since they are two files.
pub(super) fn is_newest(dir: &Folder, version: u64) -> io::Result<bool> {
    let is_named = newest(dir).is_ok_and(|newest| newest == Some(version));
    Ok(is_named && dir.has(&name_of(version))?)
}

/// The version that the pointer names; an empty file counts as absent.
fn newest(dir: &Folder) -> Result<Option<u64>, DeltaError> {
    let text = match get(dir, POINTER) {
        Ok(text) if text.is_empty() => return Ok(None),
        Ok(text) => text,
        Err(DeltaError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let value: Value =
        serde_json::from_slice(&text).map_err(|error| corrupt(dir, POINTER, error.to_string()))?;
    let version = value["version"].as_u64();
    version.map(Some).ok_or_else(|| corrupt(dir, POINTER, "it names no version".to_owned()))
}

fn corrupt(dir: &Folder, name: &str, what: String) -> DeltaError {
    DeltaError::Corrupt { path: dir.join(name), what }
}

fn get(dir: &Folder, name: &str) -> Result<Bytes, DeltaError> {
    let path = dir.join(name);
    dir.get(name).map_err(|source| DeltaError::Io { action: "read", path, source })
}

fn read_actions(file: Bytes) -> Result<Vec<Value>, ParquetError> {
    let mut json = LineDelimitedWriter::new(Vec::new());
    for batch in segment_file::decode(file)? {
        json.write(&batch)?;
    }
    json.finish()?;
    let lines = json.into_inner();
    let values = serde_json::Deserializer::from_slice(&lines).into_iter();
    let values: Result<Vec<_>, _> = values.collect();
    values.map_err(|error| ArrowError::ExternalError(error.into()).into())
}

fn name_of(version: u64) -> String {
    format!("{version:020}.checkpoint.parquet")
}

/// The protocol's schema of a checkpoint, as far as these logs use it.
fn schema() -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let map = |name: &str| {
        let entry = vec![Field::new("key", DataType::Utf8, false), text("value")];
        let entries = Field::new("key_value", DataType::Struct(Fields::from(entry)), false);
        Field::new(name, DataType::Map(Arc::new(entries), false), true)
    };
    let structure = |name: &str, fields: Vec<Field>| {
        Field::new(name, DataType::Struct(Fields::from(fields)), true)
    };
    let format = structure("format", vec![text("provider"), map("options")]);
    let columns = Field::new("element", DataType::Utf8, true);
    let columns = Field::new("partitionColumns", DataType::List(Arc::new(columns)), true);
    Schema::new(vec![
        structure("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
        structure(
            "add",
            vec![
                text("path"),
                map("partitionValues"),
                long("size"),
                long("modificationTime"),
                flag("dataChange"),
                text("stats"),
                map("tags"),
            ],
        ),
        structure("remove", vec![text("path"), long("deletionTimestamp"), flag("dataChange")]),
        structure(
            "metaData",
            vec![
                text("id"),
                text("name"),
                format,
                text("schemaString"),
                columns,
                map("configuration"),
                long("createdTime"),
            ],
        ),
        structure("protocol", vec![int("minReaderVersion"), int("minWriterVersion")]),
    ])
}
