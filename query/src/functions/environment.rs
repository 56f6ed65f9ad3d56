//! What functions may know beyond their arguments, the same all through one run.

use std::collections::HashMap;
use std::sync::Arc;

use undine_schema::trace::{TraceColumn, TraceStatus, TraceTable};

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
    /// By upid; empty unless the script asks about processes.
    pub(crate) processes: HashMap<[u8; 16], Process>,
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
