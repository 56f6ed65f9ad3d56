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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;
    use crate::event::ProcessKey;
    use crate::kernel::ProfileTotals;
    use crate::process::{FactSource, Facts};
    use crate::profiler::StackCount;
    use crate::redaction::{Mode, Redaction};

    #[test]
    fn a_stack_is_a_row_with_its_service_and_a_lost_sample_is_told_once() {
        let process = ProcessKey { tgid: 7, start_ns: 5 };
        let facts = Facts { exe: "/usr/bin/cart".to_owned(), ..Facts::default() };
        let facts = FactSource::Recorded(HashMap::from([(process, facts)]));
        let mut processes = Processes::new(1, Vec::new(), facts);
        let redaction = Redaction { headers: Mode::Full, bodies: Mode::Full };
        let origin = Origin { node: "knot".to_owned(), asid: 1, redaction, wall_minus_mono_ns: 0 };
        let (mut rows, mut losses) = (StackRows::default(), DataLosses::new(0));
        let kernel = ProfileTotals { taken: 9, map_full: 4, ..ProfileTotals::default() };
        let counts = ProfileCounts { kernel, samples: 5, ..ProfileCounts::default() };
        let stacks = vec![StackCount { process, stack: Arc::from("main;f"), count: 5 }];
        let now = TimeNs::new(42);
        let batch = Batch { stacks, counts, answers: None };
        rows.write(&batch, now, &mut processes, &mut losses, &origin);
        let none = Batch { stacks: Vec::new(), counts, answers: None };
        rows.write(&none, now, &mut processes, &mut losses, &origin);
        assert_eq!((rows.counts(), losses.len()), (&counts, 1));
        let batch = rows.rows.finish();
        let text = |column: &str| {
            let column = batch.column_by_name(column).unwrap().as_any();
            column.downcast_ref::<StringArray>().unwrap().value(0).to_owned()
        };
        let number = |column: &str| {
            let column = batch.column_by_name(column).unwrap().as_any();
            column.downcast_ref::<Int64Array>().unwrap().value(0)
        };
        assert_eq!(batch.num_rows(), 1);
        assert_eq!(["stack_trace", "service", "node"].map(text), ["main;f", "cart", "knot"]);
        let numbers = ["time_", "count", "stack_trace_id"].map(number);
        assert_eq!(numbers, [42, 5, stack_id("main;f")]);
    }
}
