//! The catalog of one tier: a Delta log (reader 1, writer 2) that any engine reads.
//!
//! A commit is one numbered file that only one writer can make. It names the files that come and go
//! and, in `txn`, the place up to which the tier holds every row, so both change together. Whoever
//! finds its number taken by another life of the node stops writing.

mod checkpoint;
mod file_stats;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::datatypes::{DataType, Schema};
use serde_json::{Value, json};
use undine_schema::{Seq, TimeNs};

pub(crate) use self::file_stats::FileStats;

use self::checkpoint::Checkpoint;
use crate::{disk, durable};

/// The application id of the time from which a tier is complete.
const COMPLETE_FROM: &str = "undine/complete_from";
/// How often old commits are looked for.
const COMMITS_LOOKED_AT_EVERY: Duration = Duration::from_hours(1);

/// What a reader and a writer must know.
struct Protocol {
    reader: u64,
    writer: u64,
}

const PROTOCOL: Protocol = Protocol { reader: 1, writer: 2 };

impl Protocol {
    fn action(&self) -> Value {
        json!({"minReaderVersion": self.reader, "minWriterVersion": self.writer})
    }
}

/// What a commit changes.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) operation: &'static str,
    pub(crate) sealed_to: Option<Seq>,
    pub(crate) complete_from: Option<TimeNs>,
    pub(crate) add: Vec<FileStats>,
    pub(crate) remove: Vec<String>,
}

/// Why a Delta log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}; check that the disk has room and that this user may write there", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A commit does not say what it should.
    #[error("commit {path} cannot be understood: {what}; restore it from a copy", path = path.display())]
    Corrupt {
        /// The commit.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another writer has taken over.
    #[error("commit {path} was written by life {epoch} of this node; this one no longer writes", path = path.display())]
    Fenced {
        /// The commit.
        path: PathBuf,
        /// Whose it is.
        epoch: u64,
    },
}

/// The log of one tier, and what its last version says.
#[derive(Debug)]
pub(crate) struct DeltaLog {
    dir: PathBuf,
    app_id: String,
    schema: String,
    epoch: u16,
    /// Whether the disk may hold a commit that is not known here.
    stale: bool,
    fenced: Option<(PathBuf, u64)>,
    commits_collected: Option<TimeNs>,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    next_version: u64,
    sealed_to: Seq,
    complete_from: Option<TimeNs>,
    files: Vec<FileStats>,
    /// Files that went, and when.
    removed: Vec<(String, TimeNs)>,
    last_epoch: u64,
    /// The last version's own `metaData`, `txn`s by application and `add`s by path, as they were
    /// written.
    meta_data: Option<Value>,
    txns: BTreeMap<String, Value>,
    adds: BTreeMap<String, Value>,
}

impl DeltaLog {
    /// Reads the log in `dir`, which need not exist.
    pub(crate) fn open(dir: PathBuf, app_id: String, schema: &Schema) -> Result<Self, DeltaError> {
        let mut log = Self {
            dir,
            app_id,
            schema: schema_string(schema),
            epoch: 0,
            stale: false,
            fenced: None,
            commits_collected: None,
            state: State::default(),
        };
        log.state = log.load()?;
        Ok(log)
    }

    /// Makes the log where it is missing. It will say that it holds the rows up to `sealed_to`, of
    /// which those before `complete_from` may be missing. From now on `epoch` writes it.
    pub(crate) fn begin(
        &mut self,
        epoch: u16,
        sealed_to: Seq,
        complete_from: Option<TimeNs>,
        now: TimeNs,
    ) -> Result<(), DeltaError> {
        self.epoch = epoch;
        if self.state.next_version > 0 {
            return Ok(());
        }
        durable::create_dirs(&self.log_dir()).map_err(io_error("make", &self.log_dir()))?;
        let sealed_to = Some(sealed_to);
        let operation = "CREATE TABLE";
        self.commit(
            &Change { operation, sealed_to, complete_from, add: vec![], remove: vec![] },
            now,
        )
    }

    /// Whether the log has no version yet.
    pub(crate) fn is_new(&self) -> bool {
        self.state.next_version == 0
    }

    /// The place up to which the tier holds every row.
    pub(crate) fn sealed_to(&self) -> Seq {
        self.state.sealed_to
    }

    /// The time before which rows may be missing.
    pub(crate) fn complete_from(&self) -> TimeNs {
        self.state.complete_from.unwrap_or(TimeNs::new(i64::MIN))
    }

    /// The files of the last version.
    pub(crate) fn files(&self) -> &[FileStats] {
        &self.state.files
    }

    /// The folder of the tier's files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The highest life that has written to it.
    pub(crate) fn last_epoch(&self) -> u64 {
        self.state.last_epoch
    }

    /// Reads the log again where a failed commit may have reached the disk after all. Must come
    /// before the choice of what to commit.
    pub(crate) fn refresh(&mut self) -> Result<(), DeltaError> {
        if let Some((path, epoch)) = &self.fenced {
            return Err(DeltaError::Fenced { path: path.clone(), epoch: *epoch });
        }
        if self.stale {
            durable::sync_dir(&self.log_dir()).map_err(io_error("sync", &self.log_dir()))?;
            self.state = self.load()?;
            self.stale = false;
        }
        Ok(())
    }

    /// Commits the next version.
    pub(crate) fn commit(&mut self, change: &Change, now: TimeNs) -> Result<(), DeltaError> {
        self.refresh()?;
        let version = self.state.next_version;
        let path = self.commit_path(version);
        let id = ulid::Ulid::generate().to_string();
        let text = self.actions(change, &id, now);
        match durable::publish_new(&path, text.as_bytes()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.check_owner(&path, &id)?;
            }
            Err(error) => {
                self.stale = true;
                return Err(io_error("commit", &path)(error));
            }
        }
        self.state.apply_all(&text, &self.app_id).map_err(|what| corrupt(&path, what))?;
        self.state.next_version = version + 1;
        if version > 0 && version.is_multiple_of(checkpoint::INTERVAL) {
            let actions = self.state.actions();
            if let Err(error) = checkpoint::write(&self.log_dir(), version, &actions) {
                tracing::warn!(dir = %self.dir.display(), %error, "a checkpoint cannot be written");
            }
        }
        Ok(())
    }

    /// Deletes files that went more than `keep` ago, and files older than that which no version has
    /// ever named.
    pub(crate) fn collect_garbage(&mut self, now: TimeNs, keep: Duration) -> io::Result<u64> {
        let mut deleted = 0;
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.state.removed)
            .into_iter()
            .partition(|(_, at)| now.since(*at) >= keep);
        self.state.removed = kept;
        for (name, _) in &gone {
            deleted += remove_existing(&self.dir.join(name))?;
        }
        self.collect_commits(now, keep)?;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let known = self.state.files.iter().any(|file| file.name == name)
                || self.state.removed.iter().any(|(removed, _)| removed == name);
            let ours = [".parquet", ".tmp"].iter().any(|end| name.ends_with(end));
            if ours && !known && now.since(changed_at(&entry)?) >= keep {
                deleted += remove_existing(&entry.path())?;
            }
        }
        Ok(deleted)
    }

    /// Deletes old commits and checkpoints that the newest checkpoint stands for.
    fn collect_commits(&mut self, now: TimeNs, keep: Duration) -> io::Result<()> {
        let last = self.state.next_version.saturating_sub(1);
        let newest = last - last % checkpoint::INTERVAL;
        let dir = self.log_dir();
        let looked =
            self.commits_collected.is_some_and(|at| now.since(at) < COMMITS_LOOKED_AT_EVERY);
        if looked || newest == 0 || !checkpoint::is_newest(&dir, newest) {
            return Ok(());
        }
        self.commits_collected = Some(now);
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let digits = name.to_str().and_then(|name| name.get(..20)?.parse::<u64>().ok());
            let unfinished = name.to_str().is_some_and(|name| name.ends_with(".tmp"));
            if (unfinished || digits.is_some_and(|version| version < newest))
                && now.since(changed_at(&entry)?) >= keep
            {
                remove_existing(&entry.path())?;
            }
        }
        Ok(())
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.join("_delta_log")
    }

    fn commit_path(&self, version: u64) -> PathBuf {
        self.log_dir().join(format!("{version:020}.json"))
    }

    /// Finds out who made the commit that was to be ours.
    fn check_owner(&mut self, path: &Path, id: &str) -> Result<(), DeltaError> {
        let text = fs::read_to_string(path).map_err(io_error("read", path))?;
        let info = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let info = info.map(|action| action["commitInfo"].clone()).find(Value::is_object);
        let info = info.unwrap_or_default();
        if info["commitId"] == id {
            return Ok(());
        }
        let epoch = info["writerEpoch"].as_u64().unwrap_or(0);
        self.stale = true;
        if epoch == u64::from(self.epoch) {
            let error = io::Error::other("an earlier attempt reached the disk; it is read again");
            return Err(io_error("commit", path)(error));
        }
        self.fenced = Some((path.to_owned(), epoch));
        Err(DeltaError::Fenced { path: path.to_owned(), epoch })
    }

    fn actions(&self, change: &Change, id: &str, now: TimeNs) -> String {
        let now_ms = now.get() / 1_000_000;
        let mut actions = vec![json!({"commitInfo": {
            "timestamp": now_ms,
            "operation": change.operation,
            "operationParameters": {},
            "engineInfo": concat!("undine/", env!("CARGO_PKG_VERSION")),
            "commitId": id,
            "writerEpoch": self.epoch,
        }})];
        if self.state.next_version == 0 {
            actions.push(json!({"protocol": PROTOCOL.action()}));
        }
        if self.state.schema() != Some(&self.schema) {
            actions.push(json!({"metaData": {
                "id": uuid(ulid::Ulid::generate().0),
                "name": self.app_id,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": self.schema,
                "partitionColumns": [],
                "configuration": {},
                "createdTime": now_ms,
            }}));
        }
        let txn = |app_id: &str, version: i64| json!({"txn": {"appId": app_id, "version": version, "lastUpdated": now_ms}});
        if let Some(sealed_to) = change.sealed_to {
            actions.push(txn(&self.app_id, sealed_to.raw().cast_signed()));
        }
        if let Some(complete_from) = change.complete_from {
            actions.push(txn(COMPLETE_FROM, complete_from.get()));
        }
        let data_change = change.operation != "OPTIMIZE";
        for name in &change.remove {
            actions.push(json!({"remove": {
                "path": name,
                "deletionTimestamp": now_ms,
                "dataChange": data_change,
            }}));
        }
        let raw = !self.schema.contains("\"window_start\"");
        actions.extend(change.add.iter().map(|file| file.add(now_ms, data_change, raw)));
        let mut text = String::new();
        for action in actions {
            text.push_str(&action.to_string());
            text.push('\n');
        }
        text
    }

    fn load(&self) -> Result<State, DeltaError> {
        let dir = self.log_dir();
        let mut names = match fs::read_dir(&dir) {
            Ok(entries) => entries
                .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
                .map_err(io_error("list", &dir))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(io_error("list", &dir)(error)),
        };
        let mut state = State::default();
        let checkpoint = checkpoint::read(&dir).map_err(|(path, what)| corrupt(&path, what))?;
        if let Some(Checkpoint { version, actions }) = checkpoint {
            let applied = actions.iter().try_for_each(|action| state.apply(action, &self.app_id));
            applied.map_err(|what| corrupt(&dir, what))?;
            state.next_version = version + 1;
        }
        names.retain(|name| version_of(name).is_some_and(|v| v >= state.next_version));
        names.sort_unstable();
        for (at, name) in names.iter().enumerate() {
            let path = dir.join(name);
            if path != self.commit_path(state.next_version) {
                let what = format!("commit {} before it is missing", state.next_version);
                return Err(corrupt(&path, what));
            }
            let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            let mut next = State { next_version: state.next_version + 1, ..State::default() };
            match check(&text) {
                Ok(()) => {
                    state.apply_all(&text, &self.app_id).map_err(|what| corrupt(&path, what))?;
                }
                Err(what) if at + 1 == names.len() => {
                    set_aside(&path, &what).map_err(io_error("rename", &path))?;
                    next.next_version -= 1;
                }
                Err(what) => return Err(corrupt(&path, what)),
            }
            state.next_version = next.next_version;
        }
        Ok(state)
    }
}

impl State {
    fn schema(&self) -> Option<&str> {
        self.meta_data.as_ref()?["schemaString"].as_str()
    }

    /// The actions that give this state, for a checkpoint.
    fn actions(&self) -> Vec<Value> {
        let mut actions = vec![json!({"protocol": PROTOCOL.action()})];
        actions.extend(self.meta_data.iter().map(|action| json!({"metaData": action})));
        actions.extend(self.txns.values().map(|action| json!({"txn": action})));
        actions.extend(self.removed.iter().map(|(name, at)| {
            let at = at.get() / 1_000_000;
            json!({"remove": {"path": name, "deletionTimestamp": at, "dataChange": false}})
        }));
        // In the order in which they came, which is the order in which they are merged.
        let adds = self.files.iter().filter_map(|file| self.adds.get(&file.name));
        actions.extend(adds.map(|action| json!({"add": action})));
        actions
    }

    fn apply_all(&mut self, text: &str, app_id: &str) -> Result<(), String> {
        for line in text.lines().filter(|line| !line.is_empty()) {
            let action: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            self.apply(&action, app_id)?;
        }
        Ok(())
    }

    fn apply(&mut self, action: &Value, app_id: &str) -> Result<(), String> {
        let Some((kind, action)) = action.as_object().and_then(|object| object.iter().next())
        else {
            return Err("an action is no object".to_owned());
        };
        match kind.as_str() {
            "add" => {
                let file = FileStats::parse(action)?;
                self.adds.insert(file.name.clone(), action.clone());
                self.files.push(file);
            }
            "remove" => {
                let name = action["path"].as_str().ok_or("a removal names no path")?;
                self.adds.remove(name);
                let at = action["deletionTimestamp"].as_i64().unwrap_or(0);
                self.files.retain(|file| file.name != name);
                self.removed.push((name.to_owned(), TimeNs::new(at.saturating_mul(1_000_000))));
            }
            "txn" => {
                let version = action["version"].as_i64().ok_or("a txn has no version")?;
                let application = action["appId"].as_str().ok_or("a txn has no appId")?;
                self.txns.insert(application.to_owned(), action.clone());
                if action["appId"] == app_id {
                    self.sealed_to = Seq::from_raw(version.cast_unsigned());
                } else if action["appId"] == COMPLETE_FROM {
                    self.complete_from = Some(TimeNs::new(version));
                }
            }
            "metaData" => self.meta_data = Some(action.clone()),
            "commitInfo" => {
                let epoch = action["writerEpoch"].as_u64().unwrap_or(0);
                self.last_epoch = self.last_epoch.max(epoch);
            }
            "protocol" if action["minReaderVersion"].as_u64() > Some(PROTOCOL.reader) => {
                return Err("another program has raised the table's reader version".to_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

/// A commit that was cut short by a power loss counts as absent; its number is free again.
fn set_aside(path: &Path, what: &str) -> io::Result<()> {
    tracing::warn!(commit = %path.display(), what, "set an unfinished commit aside");
    disk::rename(path, path.with_extension(format!("unfinished.{}", ulid::Ulid::generate())))?;
    durable::sync_dir(durable::parent(path))
}

/// The version that a file of the log commits.
fn version_of(name: &str) -> Option<u64> {
    name.strip_suffix(".json").filter(|digits| digits.len() == 20)?.parse().ok()
}

fn check(text: &str) -> Result<(), String> {
    let mut actions = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        serde_json::from_str::<Value>(line).map_err(|error| error.to_string())?;
        actions += 1;
    }
    if actions == 0 { Err("it is empty".to_owned()) } else { Ok(()) }
}

fn changed_at(entry: &fs::DirEntry) -> io::Result<TimeNs> {
    let changed = entry.metadata()?.modified()?.duration_since(std::time::UNIX_EPOCH);
    Ok(TimeNs::ZERO.saturating_add(changed.unwrap_or_default()))
}

fn remove_existing(path: &Path) -> io::Result<u64> {
    match disk::remove_file(path) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The schema as Delta writes it: every field may be null, so that a later one can be added.
fn schema_string(schema: &Schema) -> String {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| {
            let delta_type = delta_type(field.data_type());
            json!({"name": field.name(), "type": delta_type, "nullable": true, "metadata": {}})
        })
        .collect();
    json!({"type": "struct", "fields": fields}).to_string()
}

fn delta_type(data_type: &DataType) -> Value {
    match data_type {
        DataType::Int64 => json!("long"),
        DataType::Int32 => json!("integer"),
        DataType::Float64 => json!("double"),
        DataType::Boolean => json!("boolean"),
        DataType::Binary => json!("binary"),
        DataType::Timestamp(..) => json!("timestamp"),
        DataType::List(item) => json!({
            "type": "array", "elementType": delta_type(item.data_type()), "containsNull": true,
        }),
        _ => json!("string"),
    }
}

fn uuid(number: u128) -> String {
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn corrupt(path: &Path, what: String) -> DeltaError {
    DeltaError::Corrupt { path: path.to_owned(), what }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeltaError {
    let path = path.to_owned();
    move |source| DeltaError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn open(dir: &Path) -> DeltaLog {
        let schema = Schema::new(vec![Field::new("time_", DataType::Int64, false)]);
        DeltaLog::open(dir.to_owned(), "undine/t/raw/n".to_owned(), &schema).unwrap()
    }

    fn begun(dir: &Path, epoch: u16) -> DeltaLog {
        let mut log = open(dir);
        log.begin(epoch, Seq::ZERO, None, TimeNs::ZERO).unwrap();
        log
    }

    fn file(name: &str) -> FileStats {
        let time = TimeNs::new(-5);
        FileStats {
            name: name.to_owned(),
            bytes: 9,
            rows: 2,
            source_rows: 3,
            first_time: time,
            last_time: time,
            first_window: time,
            last_window: time,
        }
    }

    fn write(log: &mut DeltaLog, seq: u64, name: &str) -> Result<(), DeltaError> {
        let sealed_to = Some(Seq::from_raw(seq));
        let (operation, complete_from) = ("WRITE", None);
        let change =
            Change { operation, sealed_to, complete_from, add: vec![file(name)], remove: vec![] };
        log.commit(&change, TimeNs::ZERO)
    }

    #[test]
    fn a_log_read_back_says_what_was_committed() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = begun(dir.path(), 1);
        write(&mut log, 7, "a").unwrap();
        write(&mut log, 9, "b").unwrap();
        let change = Change {
            operation: "OPTIMIZE",
            sealed_to: None,
            complete_from: Some(TimeNs::new(i64::MAX)),
            add: vec![file("c")],
            remove: vec!["a".to_owned(), "b".to_owned()],
        };
        log.commit(&change, TimeNs::ZERO).unwrap();
        for log in [log, open(dir.path())] {
            assert_eq!(log.sealed_to(), Seq::from_raw(9));
            assert_eq!(log.complete_from(), TimeNs::new(i64::MAX));
            assert_eq!(log.files(), [file("c")]);
            assert_eq!(log.state.next_version, 4);
            assert_eq!(log.last_epoch(), 1);
        }
    }

    #[test]
    fn a_writer_that_another_life_has_overtaken_stops() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = begun(dir.path(), 1);
        let mut new = begun(dir.path(), 2);
        write(&mut new, 7, "a").unwrap();
        for _ in 0..2 {
            let error = write(&mut old, 7, "b").unwrap_err();
            assert!(matches!(error, DeltaError::Fenced { epoch: 2, .. }), "{error}");
        }
        write(&mut new, 8, "c").unwrap();
        assert_eq!(open(dir.path()).files(), [file("a"), file("c")]);
    }

    #[test]
    fn a_commit_of_this_life_that_was_thought_to_have_failed_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = begun(dir.path(), 1);
        let mut same_life = begun(dir.path(), 1);
        write(&mut same_life, 7, "a").unwrap();
        assert!(matches!(write(&mut log, 7, "b").unwrap_err(), DeltaError::Io { .. }));
        log.refresh().unwrap();
        assert_eq!((log.sealed_to(), log.files()), (Seq::from_raw(7), &[file("a")][..]));
        write(&mut log, 8, "b").unwrap();
    }

    #[test]
    fn a_last_commit_without_its_bytes_counts_as_absent() {
        for torn in ["", "{\"add\": {"] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = begun(dir.path(), 1);
            write(&mut log, 7, "a").unwrap();
            fs::write(log.commit_path(2), torn).unwrap();
            let mut log = open(dir.path());
            assert_eq!(log.sealed_to(), Seq::from_raw(7));
            log.begin(2, Seq::ZERO, None, TimeNs::ZERO).unwrap();
            write(&mut log, 8, "b").unwrap();
            assert_eq!(open(dir.path()).files().len(), 2);
        }
    }

    #[test]
    fn a_damaged_commit_before_others_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = begun(dir.path(), 1);
        write(&mut log, 7, "a").unwrap();
        fs::write(log.commit_path(0), "").unwrap();
        let schema = Schema::empty();
        let error = DeltaLog::open(dir.path().to_owned(), "x".to_owned(), &schema).unwrap_err();
        assert!(error.to_string().contains("00000000000000000000.json"), "{error}");
    }

    #[test]
    fn a_log_with_a_checkpoint_needs_no_commit_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = begun(dir.path(), 1);
        for seq in 1..=checkpoint::INTERVAL {
            write(&mut log, seq, &format!("f{seq}")).unwrap();
        }
        let change = Change {
            operation: "OPTIMIZE",
            sealed_to: None,
            complete_from: Some(TimeNs::new(5)),
            add: vec![],
            remove: vec!["f1".to_owned()],
        };
        log.commit(&change, TimeNs::new(7_000_000)).unwrap();
        for version in 0..checkpoint::INTERVAL {
            fs::remove_file(log.commit_path(version)).unwrap();
        }
        let mut read = open(dir.path());
        assert_eq!(read.files(), log.files());
        assert_eq!(read.files().len(), 99);
        assert_eq!(read.sealed_to(), Seq::from_raw(checkpoint::INTERVAL));
        assert_eq!(read.complete_from(), TimeNs::new(5));
        assert_eq!(read.state.actions(), log.state.actions());
        read.begin(2, Seq::ZERO, None, TimeNs::ZERO).unwrap();
        write(&mut read, 200, "g").unwrap();
        assert_eq!(open(dir.path()).files().len(), 100);
        fs::remove_file(dir.path().join("_delta_log/_last_checkpoint")).unwrap();
        let schema = Schema::empty();
        let error = DeltaLog::open(dir.path().to_owned(), "x".to_owned(), &schema).unwrap_err();
        assert!(error.to_string().contains("commit 0 before it is missing"), "{error}");
    }

    #[test]
    fn commits_stay_while_the_pointer_does_not_name_the_checkpoint_after_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = begun(dir.path(), 1);
        for seq in 1..=2 * checkpoint::INTERVAL {
            write(&mut log, seq, &format!("f{seq}")).unwrap();
        }
        // As a kill between the two files of the second checkpoint leaves it.
        let pointer = dir.path().join("_delta_log/_last_checkpoint");
        for text in ["{\"version\":100,\"size\":102}", ""] {
            fs::write(&pointer, text).unwrap();
            let mut log = open(dir.path());
            let later = TimeNs::new(i64::MAX / 2);
            log.collect_garbage(later, Duration::from_hours(1)).unwrap();
            assert_eq!(open(dir.path()).files().len(), 200, "{text}");
        }
    }

    #[test]
    fn old_commits_go_once_a_checkpoint_stands_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = begun(dir.path(), 1);
        for seq in 1..=checkpoint::INTERVAL {
            write(&mut log, seq, &format!("f{seq}")).unwrap();
        }
        let now = changed_at(&fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap()).unwrap();
        let hour = Duration::from_hours(1);
        log.collect_garbage(now, hour).unwrap();
        assert!(log.commit_path(0).exists(), "it is young");
        log.collect_garbage(now.saturating_add(hour * 2), hour).unwrap();
        assert!(!log.commit_path(0).exists() && !log.commit_path(99).exists());
        assert!(log.commit_path(100).exists());
        assert_eq!(open(dir.path()).files().len(), 100);
    }
}
