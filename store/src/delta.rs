//! The catalog of one tier: a Delta log (reader 1, writer 2) that any engine reads.
//!
//! A commit is one numbered file that only one writer can make. It names the files that come and go
//! and, in `txn`, the place up to which the tier holds every row, so both change together. Whoever
//! finds its number taken by a later life of the node stops writing, and whoever finds a commit of
//! another program too: what that one meant with our files is for a person to say.

mod error;
mod schema;
mod file_stats;
mod author;
mod state;
mod checkpoint;
mod garbage;

use std::io;

use arrow::datatypes::Schema;
use serde_json::{Value, json};
use undine_schema::path_template::TEMPLATE_VERSION;
use undine_schema::{Incarnation, Seq, TimeNs};

#[cfg(test)]
pub(crate) use self::checkpoint::INTERVAL as CHECKPOINT_INTERVAL;
pub use self::error::DeltaError;
pub(crate) use self::file_stats::FileStats;

use self::author::Author;
use self::checkpoint::Checkpoint;
use self::error::Stop;
use self::schema::schema_string;
use self::state::{PROTOCOL, State};
use crate::backend::Folder;

/// The application id of the time from which a tier is complete.
const COMPLETE_FROM: &str = "undine/complete_from";

/// What a commit changes.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) operation: &'static str,
    pub(crate) sealed_to: Option<Seq>,
    pub(crate) complete_from: Option<TimeNs>,
    pub(crate) add: Vec<FileStats>,
    pub(crate) remove: Vec<String>,
}

/// The log of one tier, and what its last version says.
#[derive(Debug)]
pub(crate) struct DeltaLog {
    dir: Folder,
    log_dir: Folder,
    app_id: String,
    schema: String,
    epoch: u16,
    /// Whether there may be a commit that is not known here.
    stale: bool,
    stopped: Option<Stop>,
    commits_collected: Option<TimeNs>,
    orphans_collected: Option<TimeNs>,
    state: State,
}

impl DeltaLog {
    /// Reads the log in `dir`, which need not exist.
    pub(crate) fn open(
        dir: impl Into<Folder>,
        app_id: String,
        schema: &Schema,
    ) -> Result<Self, DeltaError> {
        let mut log = Self::unread(dir.into(), app_id, schema_string(schema));
        log.load()?;
        Ok(log)
    }

    /// The log of the same tier in another place, unread.
    pub(crate) fn twin(&self, dir: Folder) -> Self {
        Self::unread(dir, self.app_id.clone(), self.schema.clone())
    }

    /// Reads a log that is unread.
    pub(crate) fn read(&mut self) -> Result<(), DeltaError> {
        self.load()
    }

    fn unread(dir: Folder, app_id: String, schema: String) -> Self {
        Self {
            // A bucket behind it has a log of its own.
            log_dir: dir.sub("_delta_log").alone(),
            dir,
            app_id,
            schema,
            epoch: 0,
            stale: false,
            stopped: None,
            commits_collected: None,
            orphans_collected: None,
            state: State::default(),
        }
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
        self.create(sealed_to, complete_from, Vec::new(), now)
    }

    /// Makes the log, which is missing, of these files.
    pub(crate) fn create(
        &mut self,
        sealed_to: Seq,
        complete_from: Option<TimeNs>,
        add: Vec<FileStats>,
        now: TimeNs,
    ) -> Result<(), DeltaError> {
        self.log_dir.make().map_err(self.io_error("make", ""))?;
        let sealed_to = Some(sealed_to);
        let operation = "CREATE TABLE";
        self.commit(&Change { operation, sealed_to, complete_from, add, remove: vec![] }, now)
    }

    /// Makes the log, which is missing, of what `other` says.
    pub(crate) fn adopt(&mut self, other: &Self, now: TimeNs) -> Result<(), DeltaError> {
        self.epoch = u16::try_from(other.last_epoch()).unwrap_or(u16::MAX);
        let state = &other.state;
        self.create(state.sealed_to, state.complete_from, state.files.clone(), now)
    }

    /// From now on `life` writes the log.
    pub(crate) fn write_as(&mut self, life: Incarnation) {
        self.epoch = life.get();
    }

    /// Whether a later life than the one that writes it has written it.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.state.last_epoch > u64::from(self.epoch)
    }

    /// Stops writing it, since its last commit is not known here.
    pub(crate) fn stop_since(&mut self, by: &str) {
        let path = self.log_dir.join(&commit_name(self.state.next_version.saturating_sub(1)));
        self.stopped = Some(Stop::Foreign { path, by: by.to_owned() });
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
    pub(crate) fn dir(&self) -> &Folder {
        &self.dir
    }

    /// The highest life that has written to it.
    pub(crate) fn last_epoch(&self) -> u64 {
        self.state.last_epoch
    }

    /// Why it is not written any more, where it is not.
    pub(crate) fn stopped(&self) -> Option<DeltaError> {
        self.stopped.clone().map(DeltaError::from)
    }

    /// Reads the log again where a failed commit may have got there after all. Must come before the
    /// choice of what to commit.
    pub(crate) fn refresh(&mut self) -> Result<(), DeltaError> {
        if self.stale && self.stopped.is_none() {
            self.log_dir.sync().map_err(self.io_error("sync", ""))?;
            self.load()?;
            self.stale = false;
        }
        self.stopped().map_or(Ok(()), Err)
    }

    /// Commits the next version.
    pub(crate) fn commit(&mut self, change: &Change, now: TimeNs) -> Result<(), DeltaError> {
        self.refresh()?;
        let version = self.state.next_version;
        let name = commit_name(version);
        let id = ulid::Ulid::generate().to_string();
        let text = self.actions(change, &id, now);
        match self.log_dir.publish_new(&name, text.as_bytes()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.check_owner(&name, &id)?;
            }
            Err(error) => {
                self.stale = true;
                return Err(self.io_error("commit", &name)(error));
            }
        }
        let applied = self.state.apply_all(&text, &self.app_id);
        applied.map_err(|what| self.corrupt(&name, what))?;
        self.state.next_version = version + 1;
        if version > 0 && version.is_multiple_of(checkpoint::INTERVAL) {
            let actions = self.state.actions();
            if let Err(error) = checkpoint::write(&self.log_dir, version, &actions) {
                tracing::warn!(dir = %self.dir.display(), %error, "a checkpoint cannot be written");
            }
        }
        Ok(())
    }

    /// Finds out who made the commit that was to be ours.
    fn check_owner(&mut self, name: &str, id: &str) -> Result<(), DeltaError> {
        let text = self.read_commit(name)?;
        let author = Author::of(&text, &self.app_id);
        if author.commit_id.as_deref() == Some(id) {
            return Ok(());
        }
        self.stale = true;
        let path = self.log_dir.join(name);
        let stop = match author.epoch {
            Err(by) => Stop::Foreign { path, by },
            Ok(epoch) if epoch > u64::from(self.epoch) => Stop::Fenced { path, epoch },
            Ok(_) => {
                let error = io::Error::other("an earlier attempt was made after all; it is read");
                return Err(self.io_error("commit", name)(error));
            }
        };
        tracing::error!(log = %self.app_id, reason = ?stop, "a table is not written any more");
        self.stopped = Some(stop.clone());
        Err(stop.into())
    }

    /// What readers of the table's files may need to know beside their columns.
    fn configuration(&self) -> Value {
        if self.schema.contains("_path_template\"") {
            json!({"undine.pathTemplateVersion": TEMPLATE_VERSION.to_string()})
        } else {
            json!({})
        }
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
        let configuration = self.configuration();
        if !self.state.is_described_by(&self.schema, &configuration) {
            let id = self.state.meta_data.as_ref().and_then(|before| before["id"].as_str());
            let id = id.map_or_else(|| uuid(ulid::Ulid::generate().0), str::to_owned);
            actions.push(json!({"metaData": {
                "id": id,
                "name": self.app_id,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": self.schema,
                "partitionColumns": [],
                "configuration": configuration,
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

    /// Reads everything that was committed, up to the first commit of another program.
    fn load(&mut self) -> Result<(), DeltaError> {
        let mut state = State::default();
        let checkpoint = checkpoint::read(&self.log_dir);
        if let Some(Checkpoint { version, actions }) = checkpoint? {
            let applied = actions.iter().try_for_each(|action| state.apply(action, &self.app_id));
            applied.map_err(|what| self.corrupt("", what))?;
            state.next_version = version + 1;
        }
        let names = self.log_dir.list().map_err(self.io_error("list", ""))?;
        let mut names: Vec<_> = names.into_iter().map(|entry| entry.name).collect();
        names.retain(|name| version_of(name).is_some_and(|v| v >= state.next_version));
        names.sort_unstable();
        for (at, name) in names.iter().enumerate() {
            if *name != commit_name(state.next_version) {
                let what = format!("commit {} before it is missing", state.next_version);
                return Err(self.corrupt(name, what));
            }
            let text = self.read_commit(name)?;
            match check(&text) {
                Ok(()) => {}
                Err(what) if at + 1 == names.len() => {
                    self.set_aside(name, &what).map_err(self.io_error("rename", name))?;
                    break;
                }
                Err(what) => return Err(self.corrupt(name, what)),
            }
            if !self.add_commit(&mut state, name, &text)? {
                break;
            }
        }
        self.follow(&mut state)?;
        self.state = state;
        Ok(())
    }

    /// Takes in commits that a list did not name yet, as those of some buckets do for a while.
    fn follow(&mut self, state: &mut State) -> Result<(), DeltaError> {
        while self.dir.is_remote() && self.stopped.is_none() {
            let name = commit_name(state.next_version);
            match self.log_dir.get(&name) {
                Ok(text) => {
                    let text = String::from_utf8_lossy(&text);
                    self.add_commit(state, &name, &text)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(self.io_error("read", &name)(error)),
            }
        }
        Ok(())
    }

    /// Takes in a commit, or stops before it where it is another program's.
    fn add_commit(
        &mut self,
        state: &mut State,
        name: &str,
        text: &str,
    ) -> Result<bool, DeltaError> {
        if let Err(by) = Author::of(text, &self.app_id).epoch {
            let path = self.log_dir.join(name);
            tracing::error!(commit = %path.display(), by, "a table is not written any more, since another program has changed it");
            self.stopped = Some(Stop::Foreign { path, by });
            return Ok(false);
        }
        state.apply_all(text, &self.app_id).map_err(|what| self.corrupt(name, what))?;
        state.next_version += 1;
        Ok(true)
    }

    fn read_commit(&self, name: &str) -> Result<String, DeltaError> {
        let bytes = self.log_dir.get(name).map_err(self.io_error("read", name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A commit that was cut short by a power loss counts as absent; its number is free again.
    fn set_aside(&self, name: &str, what: &str) -> io::Result<()> {
        let path = self.log_dir.join(name);
        tracing::warn!(commit = %path.display(), what, "set an unfinished commit aside");
        let stem = name.trim_end_matches(".json");
        self.log_dir.rename(name, &format!("{stem}.unfinished.{}", ulid::Ulid::generate()))
    }

    fn corrupt(&self, name: &str, what: String) -> DeltaError {
        DeltaError::Corrupt { path: self.log_dir.join(name), what }
    }

    fn io_error(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> DeltaError {
        let path = self.log_dir.join(name);
        move |source| DeltaError::Io { action, path, source }
    }
}

fn commit_name(version: u64) -> String {
    format!("{version:020}.json")
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

fn uuid(number: u128) -> String {
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use arrow::datatypes::{DataType, Field};

    use super::*;

    impl DeltaLog {
        fn commit_path(&self, version: u64) -> PathBuf {
            self.log_dir.join(&commit_name(version))
        }
    }

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
            places: None,
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
    fn the_rule_of_path_templates_is_told_once_and_a_table_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        write(&mut begun(dir.path(), 1), 7, "a").unwrap();
        let fields = ["time_", "req_path_template"];
        let fields = fields.map(|name| Field::new(name, DataType::Utf8, false));
        let schema = Schema::new(fields.to_vec());
        for epoch in 2..5 {
            let app_id = "undine/t/raw/n".to_owned();
            let mut log = DeltaLog::open(dir.path().to_owned(), app_id, &schema).unwrap();
            log.begin(epoch, Seq::ZERO, None, TimeNs::ZERO).unwrap();
            for n in 0..10 {
                let seq = u64::from(epoch) * 100 + n;
                write(&mut log, seq, &seq.to_string()).unwrap();
            }
        }
        let commits = fs::read_dir(dir.path().join("_delta_log")).unwrap();
        let texts = commits
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == "json"))
            .map(|path| fs::read_to_string(path).unwrap());
        let texts: Vec<String> = texts.collect();
        let actions = texts.iter().flat_map(|text| text.lines());
        let actions = actions.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut said: Vec<_> = actions
            .filter_map(|action| action.get("metaData").cloned())
            .map(|said| (said["id"].clone(), said["configuration"].to_string()))
            .collect();
        said.sort_by_key(|(_, configuration)| configuration.len());
        let rule = format!(r#"{{"undine.pathTemplateVersion":"{TEMPLATE_VERSION}"}}"#);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!((&*said[0].1, &*said[1].1), ("{}", &*rule));
        assert_eq!(said[0].0, said[1].0);
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
        let now = log.log_dir.list().unwrap().into_iter().map(|entry| entry.changed).max().unwrap();
        let hour = Duration::from_hours(1);
        log.collect_garbage(now, hour).unwrap();
        assert!(log.commit_path(0).exists(), "it is young");
        log.collect_garbage(now.saturating_add(hour * 2), hour).unwrap();
        assert!(!log.commit_path(0).exists() && !log.commit_path(99).exists());
        assert!(log.commit_path(100).exists());
        assert_eq!(open(dir.path()).files().len(), 100);
    }
}
