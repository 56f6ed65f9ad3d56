//! Rows of `stack_traces.beta`.

use undine_schema::TimeNs;
use undine_schema::tables::{DataLoss, DataLosses, STACK_TRACES, StackTrace, StackTraces};

use crate::process::Processes;
use crate::profiler::{Batch, ProfileCounts, stack_id};
use crate::rows::Origin;

/// Gathers rows of `stack_traces.beta`.
#[derive(Debug)]
pub(crate) struct StackRows {
    pub(crate) rows: StackTraces,
    /// What was known when the last batch came.
    counts: ProfileCounts,
}

impl Default for StackRows {
    fn default() -> Self {
        Self { rows: StackTraces::new(0), counts: ProfileCounts::default() }
    }
}

impl StackRows {
    /// What the profiler has seen and done, as far as it is in rows.
    pub(crate) const fn counts(&self) -> &ProfileCounts {
        &self.counts
    }

    /// Writes what the profiler hands over, and what is missing from it.
    pub(crate) fn write(
        &mut self,
        batch: &Batch,
        now: TimeNs,
        processes: &mut Processes,
        losses: &mut DataLosses,
        origin: &Origin,
    ) {
        for stack in &batch.stacks {
            processes.meet(stack.process);
            let service = processes.service(stack.process, None);
            let known = processes.get(stack.process);
            self.rows.push(&StackTrace {
                time_: now,
                upid: stack.process.upid(origin.asid),
                stack_trace_id: stack_id(&stack.stack),
                stack_trace: &stack.stack,
                count: i64::try_from(stack.count).unwrap_or(i64::MAX),
                service: &service,
                pod: known.map_or("", |known| &known.place.pod_uid),
                namespace: "",
                node: &origin.node,
                container: known.map_or("", |known| known.place.container_name()),
            });
        }
        let lost = batch.counts.kernel.map_full.saturating_sub(self.counts.kernel.map_full);
        if lost > 0 {
            losses.push(&DataLoss {
                time_: now,
                source_table: STACK_TRACES.name,
                stage: "kernel",
                reason: "map_full",
                rows_max: i64::try_from(lost).unwrap_or(i64::MAX),
                detail: &format!("{lost} samples of the CPU; there were too many different stacks"),
                ..DataLoss::default()
            });
        }
        self.counts = batch.counts;
    }
}
