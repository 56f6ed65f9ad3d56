//! Whose a commit is.

use serde_json::Value;

use super::COMPLETE_FROM;

/// Who wrote a commit.
pub(super) struct Author {
    pub(super) commit_id: Option<String>,
    /// Which life of the node, or which other program.
    pub(super) epoch: Result<u64, String>,
}

impl Author {
    pub(super) fn of(text: &str, app_id: &str) -> Self {
        let actions = || text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let info = actions().map(|action| action["commitInfo"].clone()).find(Value::is_object);
        let info = info.unwrap_or_default();
        let others =
            actions().filter_map(|action| action["txn"]["appId"].as_str().map(str::to_owned));
        let mut others = others.filter(|id| id != app_id && id != COMPLETE_FROM);
        let epoch = match (info["writerEpoch"].as_u64(), others.next()) {
            (Some(epoch), None) => Ok(epoch),
            (_, Some(other)) => Err(format!("application {other}")),
            (None, None) => {
                let engine = info["engineInfo"].as_str().or(info["clientVersion"].as_str());
                let operation = info["operation"].as_str().unwrap_or("a commit");
                Err(format!("{} ({operation})", engine.unwrap_or("another program")))
            }
        };
        Self { commit_id: info["commitId"].as_str().map(str::to_owned), epoch }
    }
}
