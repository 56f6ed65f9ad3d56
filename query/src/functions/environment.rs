//! What functions may know beyond their arguments, the same all through one run.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use undine_schema::trace::{TraceColumn, TraceStatus, TraceTable};
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

/// What is known of a pod by its processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) services: BTreeSet<String>,
    pub(crate) node: String,
}

/// The pods of `processes` by their name, which is their UID as long as nobody tells another.
pub(crate) fn pods(processes: &HashMap<[u8; 16], Process>) -> HashMap<String, Pod> {
    let mut pods: HashMap<String, Pod> = HashMap::new();
    for process in processes.values().filter(|process| !process.pod.is_empty()) {
        let pod = pods.entry(process.pod.clone()).or_default();
        pod.node.clone_from(&process.node);
        if !process.service.is_empty() {
            pod.services.insert(process.service.clone());
        }
    }
    pods
}

impl Pod {
    /// One service by its name, several as a JSON list.
    pub(crate) fn service(&self) -> String {
        match (self.services.len(), self.services.first()) {
            (0, _) | (_, None) => String::new(),
            (1, Some(service)) => service.clone(),
            (_, Some(_)) => {
                let list: serde_json::Value = self.services.iter().cloned().collect();
                list.to_string()
            }
        }
    }
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
    /// By name, of those processes.
    pub(crate) pods: HashMap<String, Pod>,
    /// The tables of tracepoints that the script reads.
    pub(crate) traces: HashMap<String, TraceTable>,
    /// The columns of all tables of tracepoints.
    pub(crate) trace_columns: Vec<(String, Arc<[TraceColumn]>)>,
    /// All tracepoints; empty unless the script asks about them.
    pub(crate) tracepoints: Vec<TraceStatus>,
}

impl Environment {
    pub(crate) fn process(&self, upid: &[u8]) -> Option<&Process> {
        let key: [u8; 16] = upid.try_into().ok()?;
        self.processes.get(&key)
    }
}
