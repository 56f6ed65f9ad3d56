//! Whether everything that the logs promise is there and is what they say.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use undine_schema::{Seq, SeqRange};

use super::{
    Finding, Folder, InspectError, Inspection, RESTORE, SegmentState, Severity, TierState, io_error,
};
use crate::folder::EXEMPLARS;
use crate::log::examine;
use crate::sketch::Sketch;
use crate::store::join;

/// Bytes at the end of a file that are read first; a footer is rarely longer.
const FOOTER_BYTES: u64 = 64 * 1024;

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Sizes, footers, row counts and the log's checksums.
    Footers,
    /// Every page of every file is decoded too, and compared with what the logs say of it.
    Pages,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// What the folder holds.
    pub inspection: Inspection,
    /// What is not as it should be, the worst first.
    pub findings: Vec<Finding>,
    /// Files of tiers that were looked at.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Frames of the log whose checksum holds.
    pub frames: u64,
}

impl Verification {
    /// The findings that mean that data is missing or wrong.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error)
    }
}

impl Folder {
    /// Checks the whole folder. Beside a running store it sees one moment of each tier.
    ///
    /// # Errors
    /// Where the folder cannot be listed.
    pub async fn verify(&self, depth: Depth) -> Result<Verification, InspectError> {
        let mut verified = Verification::default();
        // The log first: what is sealed and deleted from it meanwhile is then in the catalogs.
        let log_dir = self.dir.join("log");
        let log = if log_dir.is_dir() {
            examine(&log_dir).map_err(io_error("read the log in", &log_dir))?
        } else {
            Vec::new()
        };
        verified.inspection = self.inspect().await?;
        verified.findings = verified.inspection.findings.clone();
        let running = verified.inspection.in_use_by.is_some();
        let last = log.len().saturating_sub(1);
        for (at, segment) in log.iter().enumerate() {
            verified.frames += segment.frames;
            let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("log/{name}");
            let broken = segment.bad_bytes + if at < last { segment.torn_bytes } else { 0 };
            if broken > 0 {
                verified.findings.push(Finding::error(
                    place,
                    format!("the checksums of {broken} bytes do not hold"),
                    "start undine: it keeps every good frame, sets the damaged file aside and \
                     writes to data_loss which rows are gone; check the disk",
                ));
            } else if segment.torn_bytes > 0 && !running {
                verified.findings.push(Finding::warning(
                    place,
                    format!("the last {} bytes are no whole frame", segment.torn_bytes),
                    "nothing: they were never acknowledged, and the next start cuts them off",
                ));
            }
        }
        for segment in verified.inspection.log.iter().filter(|segment| segment.quarantined) {
            verified.findings.push(Finding::warning(
                format!("log/{}", segment.name),
                "a damaged part of the log was set aside; data_loss says which rows are gone",
                "check the disk; delete the file when nobody needs to look at it any more",
            ));
        }
        let places = log.into_iter().flat_map(|segment| segment.places);
        gaps(&verified.inspection, places, &mut verified.findings);
        same_rows(&verified.inspection, &mut verified.findings);
        for tier in &verified.inspection.tiers {
            for file in &tier.segments {
                verified.files += 1;
                verified.bytes += file.bytes;
                if let Err((what, remedy)) = self.check(tier, file, depth).await {
                    let place = format!("{}/{}", tier.place(), file.name);
                    verified.findings.push(Finding::error(place, what, remedy));
                }
            }
        }
        verified.findings.sort_by_key(|finding| finding.severity);
        Ok(verified)
    }

    async fn check(
        &self,
        tier: &TierState,
        file: &SegmentState,
        depth: Depth,
    ) -> Result<(), (String, &'static str)> {
        let damaged = |what: String| (what, RESTORE);
        match file.found_bytes {
            None => return Err(damaged(format!("it is missing; it holds {} rows", file.rows))),
            Some(found) if found != file.bytes => {
                return Err(damaged(format!("it has {found} bytes instead of {}", file.bytes)));
            }
            Some(_) => {}
        }
        let path = tier.prefix.clone().join(&*file.name);
        let footer = footer(&*self.objects, &path, file.bytes).await;
        let footer = footer.map_err(|error| damaged(format!("its footer is damaged: {error}")))?;
        let rows = footer.file_metadata().num_rows();
        if u64::try_from(rows) != Ok(file.rows) {
            return Err(damaged(format!("it has {rows} rows instead of {}", file.rows)));
        }
        let fields = footer.file_metadata().schema_descr().root_schema().get_fields();
        let unknown =
            fields.iter().find(|field| !tier.columns.iter().any(|(name, _)| name == field.name()));
        if let Some(unknown) = unknown {
            return Err(damaged(format!("the log does not know its column {}", unknown.name())));
        }
        if depth == Depth::Footers {
            return Ok(());
        }
        let read = async { self.objects.get(&path).await?.bytes().await };
        let bytes = read.await.map_err(|error| damaged(format!("it cannot be read: {error}")))?;
        decode(bytes, file).map_err(damaged)
    }
}

async fn footer(
    objects: &dyn ObjectStore,
    path: &object_store::path::Path,
    size: u64,
) -> Result<ParquetMetaData, ParquetError> {
    let external = |error: object_store::Error| ParquetError::External(error.into());
    let mut reader = ParquetMetaDataReader::new();
    let from = size.saturating_sub(FOOTER_BYTES);
    let end = objects.get_range(path, from..size).await.map_err(external)?;
    match reader.try_parse_sized(&end, size) {
        Ok(()) => {}
        Err(ParquetError::NeedMoreData(needed)) => {
            let from = size.saturating_sub(needed as u64);
            let end = objects.get_range(path, from..size).await.map_err(external)?;
            reader.try_parse_sized(&end, size)?;
        }
        Err(error) => return Err(error),
    }
    reader.finish()
}

/// Decodes every page and compares what the log says of the file.
fn decode(bytes: Bytes, file: &SegmentState) -> Result<(), String> {
    let undecodable = |error: &dyn std::error::Error| format!("a page is damaged: {error}");
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| undecodable(&error))?;
    let (mut rows, mut source_rows) = (0, 0);
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for batch in reader.build().map_err(|error| undecodable(&error))? {
        let batch = batch.map_err(|error| undecodable(&error))?;
        rows += batch.num_rows() as u64;
        let column = |name: &str| {
            let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
            Some(column.values().as_ref())
        };
        source_rows += column("rows")
            .filter(|_| column("window_start").is_some())
            .map_or(batch.num_rows() as u64, |rows| {
                rows.iter().copied().map(i64::cast_unsigned).sum()
            });
        let times = |names: [&str; 2]| names.into_iter().find_map(column).unwrap_or_default();
        first = first.min(times(["first_time", "time_"]).iter().copied().min().unwrap_or(first));
        last = last.max(times(["last_time", "time_"]).iter().copied().max().unwrap_or(last));
        sketches(&batch)?;
    }
    if rows != file.rows || source_rows != file.source_rows {
        let (said, said_source) = (file.rows, file.source_rows);
        return Err(format!(
            "it holds {rows} rows that stand for {source_rows}, the log says {said} for {said_source}"
        ));
    }
    match file.times {
        Some((said_first, said_last)) if (said_first.get(), said_last.get()) != (first, last) => {
            Err(format!(
                "its times are {first} to {last}, the log says {said_first} to {said_last}"
            ))
        }
        _ => Ok(()),
    }
}

/// Whether every sketch can be read and counts no more values than its group has rows.
fn sketches(batch: &RecordBatch) -> Result<(), String> {
    let rows = batch.column_by_name("rows").and_then(|rows| rows.as_primitive_opt::<Int64Type>());
    for field in batch.schema().fields() {
        let Some(measure) = field.name().strip_suffix("_sketch_keys") else { continue };
        let counts = batch.column_by_name(&format!("{measure}_sketch_counts"));
        let keys = batch.column_by_name(field.name()).and_then(|keys| keys.as_list_opt::<i32>());
        let counts = counts.and_then(|counts| counts.as_list_opt::<i32>());
        let (Some(keys), Some(counts), Some(rows)) = (keys, counts, rows) else {
            return Err(format!("the sketches of {measure} are not two lists"));
        };
        for at in 0..batch.num_rows() {
            let (keys, counts) = (keys.value(at), counts.value(at));
            let parts = keys.as_primitive_opt::<Int32Type>().zip(counts.as_primitive_opt());
            let (keys, counts) = parts.ok_or_else(|| format!("{measure}: no integers"))?;
            let counts: &arrow::array::Int64Array = counts;
            let sketch = Sketch::from_parts(keys.values(), counts.values());
            let sketch = sketch.map_err(|error| format!("sketch of {measure}: {error}"))?;
            if sketch.count() > rows.value(at) {
                let (values, rows) = (sketch.count(), rows.value(at));
                return Err(format!("a sketch of {measure} counts {values} values of {rows} rows"));
            }
        }
    }
    Ok(())
}

/// Rows that are neither sealed nor in the log, as far as the log itself tells.
fn gaps(
    inspection: &Inspection,
    places: impl Iterator<Item = (String, SeqRange)>,
    findings: &mut Vec<Finding>,
) {
    let mut by_table: BTreeMap<String, Vec<SeqRange>> = BTreeMap::new();
    places.for_each(|(table, seqs)| by_table.entry(table).or_default().push(seqs));
    for (table, places) in by_table {
        let tiers = inspection.tiers.iter().filter(|tier| {
            tier.table == table && inspection.node.as_ref().is_none_or(|node| *node == tier.node)
        });
        let Some(sealed_to) = tiers.map(|tier| tier.sealed_to).min() else { continue };
        let mut after = sealed_to;
        for seqs in join(&places) {
            let same_life = seqs.first.incarnation() == after.incarnation();
            if same_life && seqs.first.counter() > after.counter() + 1 {
                let first = Seq::from_raw(after.raw() + 1);
                let last = Seq::from_raw(seqs.first.raw() - 1);
                findings.push(Finding::warning(
                    "log",
                    format!("rows {first} to {last} of {table} are neither sealed nor in the log"),
                    "the next start writes them to data_loss, unless it has already",
                ));
            }
            after = after.max(seqs.last);
        }
    }
}

/// Whether tiers that hold the same rows stand for as many.
fn same_rows(inspection: &Inspection, findings: &mut Vec<Finding>) {
    // Rows that stand for others are no sum of all.
    let whole = |tier: &&TierState| tier.complete_from.is_none() && tier.tier != EXEMPLARS;
    let tiers: Vec<_> = inspection.tiers.iter().filter(whole).collect();
    for pair in tiers.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let same = (&a.table, &a.node, a.sealed_to) == (&b.table, &b.node, b.sealed_to);
        if same && a.source_rows() != b.source_rows() {
            findings.push(Finding::error(
                a.place(),
                format!(
                    "it stands for {} rows, tier {} for {}, though both hold every row up to {}",
                    a.source_rows(),
                    b.tier,
                    b.source_rows(),
                    a.sealed_to,
                ),
                RESTORE,
            ));
        }
    }
}
