//! The end of processes, as rows of `proc_exit_events`.

use arrow::array::RecordBatch;
use undine_ebpf::ProcessInfo;
use undine_schema::tables::{
    DataLoss, DataLosses, PROC_EXIT_EVENTS, ProcExitEvent, ProcExitEvents,
};
use undine_schema::{TableDef, TimeNs};

use crate::event::ProcessKey;
use crate::loss::KernelTotals;
use crate::process::Processes;
use crate::rows::Origin;

/// Rows that wait to be taken, and what is missing of them.
#[derive(Debug)]
pub(crate) struct Exits {
    rows: ProcExitEvents,
    /// Lost messages that may have been about the end of a process, as far as told.
    lost_reported: u64,
}

impl Default for Exits {
    fn default() -> Self {
        Self { rows: ProcExitEvents::new(0), lost_reported: 0 }
    }
}

impl Exits {
    /// Rows that wait.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The process `key` ended at `at`.
    pub(crate) fn push(
        &mut self,
        key: ProcessKey,
        at: u64,
        info: &ProcessInfo,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let service = processes.service(key, None);
        let known = processes.get(key);
        self.rows.push(&ProcExitEvent {
            time_: origin.wall(at),
            upid: key.upid(origin.asid),
            exit_code: i64::from(info.exit_code >> 8 & 0xff),
            signal: i64::from(info.exit_code & 0x7f),
            comm: &crate::process::comm(info),
            service: &service,
            pod: known.map_or("", |known| &known.place.pod_uid),
            namespace: "",
            node: &origin.node,
            container: known.map_or("", |known| known.place.container_name()),
        });
    }

    /// Takes what waits.
    pub(crate) fn take(&mut self) -> Option<(&'static TableDef, RecordBatch)> {
        (!self.rows.is_empty()).then(|| (&PROC_EXIT_EVENTS, self.rows.finish()))
    }

    /// Writes bounds of the rows that are missing since the last call. A lost message that was not
    /// the first of an operation may have been about the end of a process.
    pub(crate) fn write_losses(
        &mut self,
        rows: &mut DataLosses,
        now: TimeNs,
        totals: &KernelTotals,
    ) {
        let lost = totals.dropped.saturating_sub(totals.dropped_operations);
        let fresh = lost.saturating_sub(self.lost_reported);
        if fresh == 0 {
            return;
        }
        self.lost_reported = lost;
        rows.push(&DataLoss {
            time_: now,
            source_table: PROC_EXIT_EVENTS.name,
            stage: "collector",
            reason: "ring_full",
            rows_max: i64::try_from(fresh).unwrap_or(i64::MAX),
            detail: &format!("{fresh} lost messages that were not the first of an operation"),
            ..DataLoss::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::process::{FactSource, Facts};
    use crate::redaction::Redaction;

    #[test]
    fn a_process_that_ended_is_one_row_with_its_code_or_its_signal() {
        let key = ProcessKey { tgid: 7, start_ns: 0 };
        let facts = Facts { exe: "/bin/web".to_owned(), ..Facts::default() };
        let recorded = FactSource::Recorded(HashMap::from([(key, facts)]));
        let mut processes = Processes::new(1, Vec::new(), recorded);
        let origin = Origin {
            node: "knot".to_owned(),
            asid: 1,
            redaction: Redaction::STRICT,
            wall_minus_mono_ns: 100,
        };
        let mut exits = Exits::default();
        processes.meet(key);
        // 128 says that there is a core file.
        for exit_code in [3 << 8, 9, 0x80 | 0xb, 0] {
            let mut info = ProcessInfo { exit_code, ..ProcessInfo::default() };
            info.comm[..3].copy_from_slice(b"web");
            exits.push(key, 5, &info, &mut processes, &origin);
        }
        let (table, batch) = exits.take().unwrap();
        assert_eq!((table.name, exits.take().is_none()), ("proc_exit_events", true));
        let numbers = |column: &str| {
            let column = batch.column_by_name(column).unwrap();
            column.as_primitive::<Int64Type>().values().to_vec()
        };
        assert_eq!(numbers("exit_code"), [3, 0, 0, 0]);
        assert_eq!(numbers("signal"), [0, 9, 11, 0]);
        assert_eq!(numbers("time_"), [105; 4]);
        let service = batch.column_by_name("service").unwrap().as_string::<i32>();
        assert_eq!(service.value(0), "web");
    }

    #[test]
    fn a_lost_message_is_at_most_one_missing_row_and_told_once() {
        let mut exits = Exits::default();
        let mut rows = DataLosses::new(0);
        let totals = KernelTotals { dropped: 5, dropped_operations: 3, ..KernelTotals::default() };
        exits.write_losses(&mut rows, TimeNs::ZERO, &totals);
        exits.write_losses(&mut rows, TimeNs::ZERO, &totals);
        let batch = rows.finish();
        let bound = batch.column_by_name("rows_max").unwrap().as_primitive::<Int64Type>();
        assert_eq!(bound.values().to_vec(), [2]);
    }
}
