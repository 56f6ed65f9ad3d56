//! Whether everything that the logs promise is there and is what they say.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use undine_schema::{Seq, SeqRange};

use super::tables::{Failed, Tables, Unread};
use super::{
    Finding, Folder, InspectError, Inspection, SegmentState, Severity, TierState, io_error,
};
use crate::folder::EXEMPLARS;
use crate::log::examine;
use crate::sketch::Sketch;

/// Bytes at the end of a file that are read first; a footer is rarely longer.
const FOOTER_BYTES: u64 = 64 * 1024;
/// Files that are checked at once.
const CHECKS: usize = 8;

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
    /// Files that only the folder's bucket has, and that were not looked at.
    pub files_in_bucket: u64,
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
        self.tables.verify(&mut verified, depth).await?;
        Ok(verified)
    }
}

impl Tables {
    /// Checks every file that the catalogs name, and the catalogs against each other.
    pub(super) async fn verify(
        &self,
        verified: &mut Verification,
        depth: Depth,
    ) -> Result<(), Failed> {
        let held = &verified.inspection;
        verified.findings.extend(same_rows(self, held));
        let files = held.tiers.iter().flat_map(|tier| tier.segments.iter().map(move |f| (tier, f)));
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            files.partition(|(_, file)| file.found_bytes.is_none() && held.bucket.is_some());
        verified.files = here.len() as u64;
        verified.bytes = here.iter().map(|(_, file)| file.bytes).sum();
        verified.files_in_bucket = elsewhere.len() as u64;
        let may_go = held.bucket.is_some();
        let checked = stream::iter(here)
            .map(async |(tier, file)| {
                let path = tier.prefix.clone().join(&*file.name);
                match self.check(tier, file, &path, depth).await {
                    Ok(()) => Ok(None),
                    Err(Unread::Damaged(_)) if may_go && self.is_gone(&path).await => Ok(None),
                    Err(Unread::Damaged(finding)) => Ok(Some(finding)),
                    Err(Unread::Failed(failed)) => Err(failed),
                }
            })
            .buffered(CHECKS);
        let damaged: Vec<_> = checked.try_collect().await?;
        verified.findings.extend(damaged.into_iter().flatten());
        verified.findings.sort_by_key(|finding| finding.severity);
        Ok(())
    }

    /// Whether a running store has taken a file away meanwhile, which the bucket then has.
    async fn is_gone(&self, path: &Path) -> bool {
        matches!(self.objects.head(path).await, Err(object_store::Error::NotFound { .. }))
    }

    async fn check(
        &self,
        tier: &TierState,
        file: &SegmentState,
        path: &Path,
        depth: Depth,
    ) -> Result<(), Unread> {
        let damaged = |what: String| Err(self.damaged(path, what).into());
        match file.found_bytes {
            None => return damaged(format!("it is missing; it holds {} rows", file.rows)),
            Some(found) if found != file.bytes => {
                return damaged(format!("it has {found} bytes instead of {}", file.bytes));
            }
            Some(_) => {}
        }
        let footer = self.footer(path, file.bytes).await?;
        let rows = footer.file_metadata().num_rows();
        if u64::try_from(rows) != Ok(file.rows) {
            return damaged(format!("it has {rows} rows instead of {}", file.rows));
        }
        let fields = footer.file_metadata().schema_descr().root_schema().get_fields();
        let unknown =
            fields.iter().find(|field| !tier.columns.iter().any(|(name, _)| name == field.name()));
        if let Some(unknown) = unknown {
            return damaged(format!("the log does not know its column {}", unknown.name()));
        }
        if depth == Depth::Footers {
            return Ok(());
        }
        decode(self.get(path).await?, file).or_else(damaged)
    }

    async fn footer(&self, path: &Path, size: u64) -> Result<ParquetMetaData, Unread> {
        let end = async |bytes: u64| {
            let end = self.objects.get_range(path, size.saturating_sub(bytes)..size).await;
            end.map_err(|error| self.unread(path, error))
        };
        let damaged =
            |error: ParquetError| self.damaged(path, format!("its footer is damaged: {error}"));
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&end(FOOTER_BYTES).await?, size) {
            Ok(()) => {}
            Err(ParquetError::NeedMoreData(needed)) => {
                reader.try_parse_sized(&end(needed as u64).await?, size).map_err(damaged)?;
            }
            Err(error) => return Err(damaged(error).into()),
        }
        Ok(reader.finish().map_err(damaged)?)
    }
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
        for seqs in SeqRange::join(places) {
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

/// Whether tiers of a node that hold the same rows stand for as many.
fn same_rows(tables: &Tables, held: &Inspection) -> Vec<Finding> {
    let mut by_node: BTreeMap<_, Vec<&TierState>> = BTreeMap::new();
    for tier in &held.tiers {
        // Rows that stand for others are no sum of all.
        if tier.complete_from.is_none() && tier.tier != EXEMPLARS {
            by_node.entry((&tier.table, &tier.node)).or_default().push(tier);
        }
    }
    let pairs = by_node.values().flat_map(|tiers| tiers.windows(2));
    let differ = pairs.filter(|pair| {
        pair[0].sealed_to == pair[1].sealed_to && pair[0].source_rows() != pair[1].source_rows()
    });
    let finding = |pair: &[&TierState]| {
        let (a, b) = (pair[0], pair[1]);
        let (rows, others, up_to) = (a.source_rows(), b.source_rows(), a.sealed_to);
        let what = format!(
            "it stands for {rows} rows, tier {} for {others}, though both hold every row up to {up_to}",
            b.tier
        );
        tables.damaged(&a.prefix, what)
    };
    differ.map(finding).collect()
}
