//! What functions may know beyond their arguments, the same all through one run.

use std::collections::HashMap;

use undine_store::TableStats;

/// What is known of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) cmdline: String,
    pub(crate) service: String,
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) container: String,
    pub(crate) container_id: String,
}

/// The surroundings of a run.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) cpus: i64,
    /// Time between two samples of a CPU, if it is profiled.
    pub(crate) profiler_period_ms: Option<i64>,
    /// What the store holds of each table; empty unless the script asks about it.
    pub(crate) tables: Vec<TableStats>,
    /// By upid; empty unless the script asks about processes.
    pub(crate) processes: HashMap<[u8; 16], Process>,
}

impl Environment {
    pub(crate) fn process(&self, upid: &[u8]) -> Option<&Process> {
        let key: [u8; 16] = upid.try_into().ok()?;
        self.processes.get(&key)
    }
}
