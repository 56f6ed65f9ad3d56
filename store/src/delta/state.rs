//! What a log says, action by action, up to a version.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use undine_schema::{Seq, TimeNs};

use super::COMPLETE_FROM;
use super::file_stats::FileStats;

/// What a reader and a writer must know.
pub(super) struct Protocol {
    reader: u64,
    writer: u64,
}

pub(super) const PROTOCOL: Protocol = Protocol { reader: 1, writer: 2 };

impl Protocol {
    pub(super) fn action(&self) -> Value {
        json!({"minReaderVersion": self.reader, "minWriterVersion": self.writer})
    }
}

/// What the actions of all versions say together.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) next_version: u64,
    pub(super) sealed_to: Seq,
    pub(super) complete_from: Option<TimeNs>,
    pub(super) files: Vec<FileStats>,
    /// Files that went, and when.
    pub(super) removed: Vec<(String, TimeNs)>,
    pub(super) last_epoch: u64,
    /// The last version's own `metaData`, `txn`s by application and `add`s by path, as they were
    /// written.
    pub(super) meta_data: Option<Value>,
    pub(super) txns: BTreeMap<String, Value>,
    pub(super) adds: BTreeMap<String, Value>,
}

impl State {
    /// Whether the last `metaData` says so.
    pub(super) fn is_described_by(&self, schema: &str, configuration: &Value) -> bool {
        self.meta_data.as_ref().is_some_and(|said| {
            said["schemaString"] == schema && said["configuration"] == *configuration
        })
    }

    /// The actions that give this state, for a checkpoint.
    pub(super) fn actions(&self) -> Vec<Value> {
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

    pub(super) fn apply_all(&mut self, text: &str, app_id: &str) -> Result<(), String> {
        for line in text.lines().filter(|line| !line.is_empty()) {
            let action: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            self.apply(&action, app_id)?;
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, action: &Value, app_id: &str) -> Result<(), String> {
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
