//! A Delta log, read by the protocol's rules: the newest checkpoint, then every commit after it.

use std::collections::{BTreeMap, BTreeSet};

use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use undine_schema::{Seq, TimeNs};

use super::tables::{Tables, Unread};
use super::{Finding, SegmentState, TierState, Unneeded, UnneededFile};

/// The application id of the time from which a tier is complete.
const COMPLETE_FROM: &str = "undine/complete_from";
/// The file that names the newest checkpoint.
pub(super) const POINTER: &str = "_last_checkpoint";

/// What the last version of a log says.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) findings: Vec<Finding>,
    version: u64,
    /// The newest checkpoint's version.
    checkpoint: Option<u64>,
    name: String,
    columns: Vec<(String, String)>,
    txns: BTreeMap<String, i64>,
    life: u64,
    /// In the order in which they were added.
    files: Vec<SegmentState>,
    removed: BTreeMap<String, TimeNs>,
}

impl Catalog {
    /// Reads the log whose files are `commits`; nothing where its first commit was never made.
    pub(super) async fn read(
        tables: &Tables,
        commits: &[ObjectMeta],
    ) -> Result<Option<Self>, Unread> {
        let mut catalog = Self::default();
        let mut next = 0;
        let checkpoints = commits.iter().filter_map(|file| {
            let version = version_of(file, ".checkpoint.parquet")?;
            Some((version, &file.location))
        });
        if let Some((version, path)) = checkpoints.max() {
            let actions = actions_of(&tables.get(path).await?);
            let actions = actions.map_err(|what| tables.damaged(path, what))?;
            for action in &actions {
                catalog.apply(action).map_err(|what| tables.damaged(path, what))?;
            }
            catalog.checkpoint = Some(version);
            next = version + 1;
        }
        catalog.check_pointer(tables, commits).await?;
        let mut later: Vec<_> = commits
            .iter()
            .filter_map(|file| Some((version_of(file, ".json")?, &file.location)))
            .filter(|(version, _)| *version >= next)
            .collect();
        later.sort_unstable();
        let last = later.last().map(|(version, _)| *version);
        for (version, path) in later {
            if version != next {
                let what = format!("commit {next} is missing, and later ones are there");
                return Err(tables.damaged(path, what).into());
            }
            let text = tables.get(path).await?;
            let actions: Result<Vec<Value>, _> =
                serde_json::Deserializer::from_slice(&text).into_iter().collect();
            match actions.map_err(|error| error.to_string()) {
                Ok(actions) if !actions.is_empty() => {
                    for action in &actions {
                        catalog.apply(action).map_err(|what| tables.damaged(path, what))?;
                    }
                    next += 1;
                }
                // A commit that a power loss cut short counts as absent.
                _ if last == Some(version) => catalog.findings.push(Finding::warning(
                    tables.place(path),
                    "the last commit is cut short; it counts as absent, and what it would have \
                     sealed is still in the log",
                    "nothing: the next start sets it aside",
                )),
                Ok(_) => return Err(tables.damaged(path, "it is empty".to_owned()).into()),
                Err(what) => return Err(tables.damaged(path, what).into()),
            }
        }
        Ok(next.checked_sub(1).map(|version| Self { version, ..catalog }))
    }

    /// Whether the file that names the newest checkpoint names one that is there.
    async fn check_pointer(
        &mut self,
        tables: &Tables,
        commits: &[ObjectMeta],
    ) -> Result<(), Unread> {
        let is_it = |file: &&ObjectMeta| file.location.filename() == Some(POINTER);
        let Some(pointer) = commits.iter().find(is_it) else {
            return Ok(());
        };
        let path = &pointer.location;
        let value: Value = serde_json::from_slice(&tables.get(path).await?)
            .map_err(|error| tables.damaged(path, format!("it is not JSON: {error}")))?;
        let version = value["version"].as_u64();
        let there = |file: &ObjectMeta| version_of(file, ".checkpoint.parquet") == version;
        if version.is_none() || !commits.iter().any(there) {
            // One that was written since the folder was listed is newer than what was listed.
            if version.is_some_and(|version| Some(version) > self.checkpoint.or(Some(0))) {
                self.findings.push(Finding::warning(
                    tables.place(path),
                    "it names a checkpoint that was not there when the folder was listed",
                    "check again when no store runs on the folder",
                ));
                return Ok(());
            }
            return Err(tables
                .damaged(path, "it names a checkpoint that is not there".to_owned())
                .into());
        }
        Ok(())
    }

    fn apply(&mut self, action: &Value) -> Result<(), String> {
        let actions = action.as_object().ok_or("an action is no object")?;
        for (kind, action) in actions {
            match kind.as_str() {
                "add" => self.add(action)?,
                "remove" => {
                    let name = action["path"].as_str().ok_or("a removal names no path")?;
                    self.files.retain(|file| file.name != name);
                    let at = action["deletionTimestamp"].as_i64().unwrap_or(0);
                    self.removed.insert(name.to_owned(), TimeNs::new(at.saturating_mul(1_000_000)));
                }
                "txn" => {
                    let application = action["appId"].as_str().ok_or("a txn has no appId")?;
                    let version = action["version"].as_i64().ok_or("a txn has no version")?;
                    self.txns.insert(application.to_owned(), version);
                }
                "metaData" => {
                    action["name"].as_str().unwrap_or_default().clone_into(&mut self.name);
                    self.columns = columns(action["schemaString"].as_str().unwrap_or("{}"))?;
                }
                "commitInfo" => {
                    self.life = self.life.max(action["writerEpoch"].as_u64().unwrap_or(0));
                }
                "protocol" if action["minReaderVersion"].as_u64() > Some(1) => {
                    return Err("another program has raised the reader version".to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, add: &Value) -> Result<(), String> {
        let name = add["path"].as_str().ok_or("an added file has no path")?.to_owned();
        let stats = add["stats"].as_str().unwrap_or("{}");
        let stats: Value = serde_json::from_str(stats)
            .map_err(|error| format!("the statistics of {name} are not JSON: {error}"))?;
        let tag = |tag: &str| add["tags"][tag].as_str().and_then(|text| text.parse::<i64>().ok());
        let rows = stats["numRecords"].as_u64().ok_or("an added file has no numRecords")?;
        let times = tag("firstTime").zip(tag("lastTime"));
        let file = SegmentState {
            bytes: add["size"].as_u64().ok_or("an added file has no size")?,
            rows,
            source_rows: tag("sourceRows").map_or(rows, i64::cast_unsigned),
            times: times.map(|(first, last)| (TimeNs::new(first), TimeNs::new(last))),
            found_bytes: None,
            name,
        };
        if self.files.iter().any(|known| known.name == file.name) {
            self.findings.push(Finding::error(
                &file.name,
                format!("version after {} names the file twice", self.version),
                "its rows may count twice; restore the folder from a copy",
            ));
            return Ok(());
        }
        self.files.push(file);
        Ok(())
    }

    /// The tier in the folder `prefix` that holds `files`, whose log is this one.
    pub(super) fn state(
        mut self,
        table: String,
        tier: String,
        node: String,
        prefix: Path,
        files: &[ObjectMeta],
        commits: &[ObjectMeta],
    ) -> TierState {
        let on_disk: BTreeMap<_, _> =
            files.iter().filter_map(|file| Some((file.location.filename()?, file))).collect();
        for segment in &mut self.files {
            segment.found_bytes = on_disk.get(&*segment.name).map(|file| file.size);
        }
        let named: BTreeSet<_> = self.files.iter().map(|file| &*file.name).collect();
        let mut unneeded = Vec::new();
        for (&name, file) in &on_disk {
            let ours = [".parquet", ".tmp"].iter().any(|end| name.ends_with(end));
            if !ours || named.contains(name) {
                continue;
            }
            let (since, why) = match self.removed.get(name) {
                Some(&at) => (at, Unneeded::Removed),
                None => (changed_at(file), Unneeded::Orphan),
            };
            unneeded.push(UnneededFile { name: name.to_owned(), bytes: file.size, since, why });
        }
        for file in commits {
            let Some(name) = file.location.filename() else { continue };
            let mut versions = [".json", ".checkpoint.parquet"].into_iter();
            let version = versions.find_map(|end| version_of(file, end));
            let old = version.is_some_and(|version| Some(version) < self.checkpoint);
            let why = if old {
                Unneeded::OldCommit
            } else if name.contains(".unfinished.") {
                Unneeded::Unfinished
            } else if name.strip_suffix(".tmp").is_some() {
                Unneeded::Orphan
            } else {
                continue;
            };
            let (name, since) = (format!("_delta_log/{name}"), changed_at(file));
            unneeded.push(UnneededFile { name, bytes: file.size, since, why });
        }
        TierState {
            table,
            tier,
            node,
            prefix,
            version: self.version,
            sealed_to: self
                .txns
                .get(&self.name)
                .map_or(Seq::ZERO, |&seq| Seq::from_raw(seq.cast_unsigned())),
            complete_from: self.txns.get(COMPLETE_FROM).map(|&time| TimeNs::new(time)),
            life: self.life,
            columns: self.columns,
            segments: self.files,
            unneeded,
        }
    }
}

/// The version that a file of the log is of, if its name ends in `end`.
pub(super) fn version_of(file: &ObjectMeta, end: &str) -> Option<u64> {
    let digits = file.location.filename()?.strip_suffix(end)?;
    digits.parse().ok().filter(|_| digits.len() == 20)
}

fn changed_at(file: &ObjectMeta) -> TimeNs {
    TimeNs::new(file.last_modified.timestamp_nanos_opt().unwrap_or(0))
}

/// Names and types of a schema as Delta writes it.
fn columns(schema: &str) -> Result<Vec<(String, String)>, String> {
    let schema: Value =
        serde_json::from_str(schema).map_err(|error| format!("the schema is not JSON: {error}"))?;
    let fields = schema["fields"].as_array().ok_or("the schema has no fields")?;
    let column = |field: &Value| {
        let name = field["name"].as_str()?.to_owned();
        let array = &field["type"]["elementType"];
        let of = |value: &Value| value.as_str().map(str::to_owned);
        let type_name = of(&field["type"]).or_else(|| Some(format!("array<{}>", of(array)?)))?;
        Some((name, type_name))
    };
    let columns: Option<Vec<_>> = fields.iter().map(column).collect();
    columns.ok_or_else(|| "the schema has a field without name or type".to_owned())
}

/// The actions of a checkpoint, one a row.
fn actions_of(bytes: &Bytes) -> Result<Vec<Value>, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(|e| text(&e))?;
    let mut json = LineDelimitedWriter::new(Vec::new());
    for batch in reader.build().map_err(|e| text(&e))? {
        json.write(&batch.map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    }
    json.finish().map_err(|e| text(&e))?;
    let lines = json.into_inner();
    let values: Result<Vec<_>, _> =
        serde_json::Deserializer::from_slice(&lines).into_iter().collect();
    values.map_err(|e| text(&e))
}
