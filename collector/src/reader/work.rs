//! From messages to rows: the pipeline, with what is recorded, written and told of errors beside it.

use std::sync::Arc;

use undine_schema::TimeNs;
use undine_schema::tables::{COLLECTOR_ERRORS, CollectorErrors};

use super::{own_process, told};
use crate::error_log::{ErrorLog, Status};
use crate::kernel::{ConnectionState, Control};
use crate::loss::KernelTotals;
use crate::pipeline::Pipeline;
use crate::profiler::Batch;
use crate::recording::{Recorder, RecordingError};
use crate::tcp_health;
use crate::writer::Writer;

/// What messages go through.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) pipeline: Pipeline,
    pub(super) writer: Writer,
    pub(super) recorder: Option<Recorder>,
    undecodable: u64,
    pub(super) errors: Arc<ErrorLog>,
    error_rows: CollectorErrors,
    /// Messages for which the ring had no room, as far as told.
    dropped: u64,
    /// Ends of sockets that were missed, as far as told.
    missed_ends: u64,
    /// Operations of which the ring got fewer bytes, by rung.
    pub(super) shed: [u64; 3],
}

impl Work {
    pub(super) fn new(
        pipeline: Pipeline,
        writer: Writer,
        recorder: Option<Recorder>,
        errors: Arc<ErrorLog>,
    ) -> Self {
        Self {
            pipeline,
            writer,
            recorder,
            undecodable: 0,
            errors,
            error_rows: CollectorErrors::new(0),
            dropped: 0,
            missed_ends: 0,
            shed: [0; 3],
        }
    }

    /// Takes what the profiler hands over, and tells of stacks that it does not have as they were.
    pub(super) fn stacks(&mut self, batch: &Batch, now: TimeNs) {
        let (known, kernel) = (self.pipeline.profile_counts().kernel, &batch.counts.kernel);
        let unkept = kernel.stacks_full.saturating_sub(known.stacks_full);
        let text = "there were too many different stacks; samples have [lost] in place of theirs";
        self.errors.report("profiler", Status::Exhausted, text, unkept);
        let refused = kernel.refused.saturating_sub(known.refused);
        let text = "the kernel could not walk a stack; samples have [lost] in its place";
        self.errors.report("profiler", Status::System, text, refused);
        let uncopied = kernel.copies_dropped.saturating_sub(known.copies_dropped);
        let text =
            "the ring had no room for copies of stacks; frame pointers were followed instead";
        self.errors.report("profiler", Status::Exhausted, text, uncopied);
        self.pipeline.stacks(batch, now);
    }

    pub(super) fn message(&mut self, message: &[u8]) {
        if let Err(error) = self.pipeline.message(message) {
            let text = format!("a kernel message cannot be decoded: {error}");
            self.errors.report("sockets", Status::Internal, &text, 1);
            self.undecodable += 1;
            if self.undecodable.is_power_of_two() {
                let count = self.undecodable;
                tracing::error!(%error, count, "a kernel message cannot be decoded");
            }
        }
        if self.recorder.is_some() {
            for (key, facts) in self.pipeline.take_fresh_facts() {
                self.record(|recorder| recorder.process(key, &facts));
            }
            self.record(|recorder| recorder.message(message));
        }
    }

    /// Reads the kernel's counters, and which connections ended without a message.
    pub(super) fn kernel(&mut self, control: &Control, mono_now: u64) {
        if let Some(counters) = told(control.counters()) {
            let totals = KernelTotals {
                attempts: counters.attempts,
                dropped: counters.dropped,
                dropped_bytes: counters.dropped_bytes,
                dropped_operations: counters.dropped_operations,
                operations: counters.operations,
                operation_bytes: counters.operation_bytes,
                dropped_datagrams: counters.dropped_datagrams,
                dropped_datagram_bytes: counters.dropped_datagram_bytes,
                untold_tcp_events: counters.untold_tcp_events,
                shed_operations: counters.shed_operations,
                shed_bytes: counters.shed_bytes,
                unadmitted_operations: counters.unadmitted_operations,
                unadmitted_bytes: counters.unadmitted_bytes,
            };
            self.pipeline.kernel(totals);
            self.record(|recorder| recorder.kernel(&totals));
            self.shed = totals.shed_operations;
            let dropped = totals.dropped.saturating_sub(self.dropped);
            self.dropped = totals.dropped;
            let text = "the ring had no room for messages; data_loss says what is missing";
            self.errors.report("sockets", Status::Exhausted, text, dropped);
            let missed = counters.missed_ends.saturating_sub(self.missed_ends);
            self.missed_ends = counters.missed_ends;
            let text = "the kernel did not tell that a socket was closed; its connection ended when another socket \
                        was accepted at its place";
            self.errors.report("sockets", Status::System, text, missed);
        }
        for ConnectionState { conn, totals, .. } in told(control.take_closed()).unwrap_or_default()
        {
            self.pipeline.closed(conn, &totals, 0);
        }
        for (key, untold) in told(control.take_untold()).unwrap_or_default() {
            // As a message of its own, so that it is recorded as others are.
            if let Some(message) = tcp_health::message_of(&key, &untold, mono_now) {
                self.message(&message);
            }
        }
    }

    pub(super) fn write(&mut self, now: TimeNs) {
        let mut batches = self.pipeline.take_rows(now);
        if !self.error_rows.is_empty() {
            batches.push((&COLLECTOR_ERRORS, self.error_rows.finish()));
        }
        let (pipeline, errors) = (&mut self.pipeline, &self.errors);
        self.writer.write(batches, &mut |refused| {
            let text = format!("rows of {} were not stored: {}", refused.table, refused.reason);
            errors.report("store", Status::Exhausted, &text, refused.rows);
            pipeline.refused(refused.table, refused.reason, refused.rows);
        });
        if self.recorder.is_none() {
            // Only a recording wants them.
            self.pipeline.take_fresh_facts();
        }
    }

    /// Writes the errors that may be rows now; all of them where nothing follows.
    pub(super) fn write_errors(&mut self, now: TimeNs, is_last: bool) {
        let upid = own_process().map(|own| self.pipeline.upid(own)).unwrap_or_default();
        let origin = (upid, self.pipeline.node());
        self.errors.write(&mut self.error_rows, now, origin, is_last);
    }

    pub(super) fn give_up(&mut self) {
        let pipeline = &mut self.pipeline;
        self.writer.give_up(&mut |refused| {
            pipeline.refused(refused.table, refused.reason, refused.rows);
        });
    }

    /// Says what the recording lacks.
    pub(super) fn tell_left_out(&self) {
        let bytes = self.recorder.as_ref().map_or(0, Recorder::left_out_bytes);
        if bytes > 0 {
            tracing::warn!(bytes, "the recording leaves out what may be content for all it knows");
        }
    }

    pub(super) fn record(&mut self, act: impl FnOnce(&mut Recorder) -> Result<(), RecordingError>) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = act(recorder) {
            tracing::warn!(%error, "the recording ends here; capture goes on");
            let text = format!("the recording ends here: {error}");
            self.errors.report("recording", Status::System, &text, 1);
            self.recorder = None;
        }
    }
}
