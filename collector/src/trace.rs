//! Calls of functions, and what programs of bpftrace print, as rows of tables that scripts make.
//!
//! ```text
//! Tracepoint ─► target (processes, file) ─► function (symbol) ─► debug_info ─► signature
//!         │                                     └─► expression ─► layout ─► Plan ─► Control: uprobes
//!         │     RING: Trace ─► pipeline ─► Tracing ─► calls ─► rows ─► Tracer::table
//!         └──► bpftrace ─► a child, limited to the scope ─────────► rows ─► Tracer::table
//! ```
//!
//! A tracepoint of a function only probes processes that are watched, each by itself, and the kernel
//! program checks the scope once more. A tracepoint ends when its time is over, whoever asked for it.
//! Its table is in memory and goes with it. Texts are redacted as bodies are.

pub mod bpftrace;

mod calls;
mod check;
mod debug_info;
mod deploy;
mod deployments;
mod expression;
mod function;
mod layout;
mod rows;
mod signature;
mod target;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::programs::uprobe::UProbeLink;
use undine_ebpf::Header;
use undine_ebpf::trace::{PLANS_MAX, TraceInfo};
use undine_schema::trace::{
    TRACEPOINTS_MAX, TTL_MAX, TraceColumn, TraceCounts, TraceError, TraceState, TraceStatus,
    TraceTable, Tracepoint, Tracer,
};
use undine_schema::{Clock, TimeNs};

pub use rows::{BYTES_MAX, ROWS_MAX};
pub use target::PROCESSES_MAX;

use crate::event::ProcessKey;
use crate::kernel::Control;
use crate::redaction::Mode;
use crate::rows::Origin;
use bpftrace::Programs;
use calls::Call;
use deployments::{Deployment, Probe, State};

/// How long a program may take to end before it is killed, in nanoseconds.
const LEAVING_NS_MAX: i64 = 2_000_000_000;

const _: () = assert!(TRACEPOINTS_MAX <= PLANS_MAX as usize, "each tracepoint has a slot");

/// Deploys tracepoints and keeps their rows; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Tracing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    control: Control,
    asid: u32,
    /// What is kept of texts.
    mode: Mode,
    programs: Programs,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by whoever deploys, so that nobody else's rows wait for that.
    deploying: Mutex<()>,
}

impl Tracing {
    /// No tracepoints yet.
    pub(crate) fn new(
        control: Control,
        asid: u32,
        mode: Mode,
        programs: Programs,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (state, deploying) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { control, asid, mode, programs, clock, state, deploying }))
    }

    /// Takes a call of a traced function.
    pub(crate) fn call(&self, header: &Header, info: &TraceInfo, texts: &[u8], origin: &Origin) {
        let mut state = self.state();
        let found = usize::try_from(info.slot).ok().and_then(|slot| state.slots.get_mut(slot));
        let calls = found.and_then(Option::as_mut).and_then(|current| match &mut current.probe {
            Probe::Function { generation, calls } if *generation == info.generation => Some(calls),
            _ => None,
        });
        let Some(calls) = calls else {
            state.orphans += 1;
            return;
        };
        let process = ProcessKey { tgid: header.tgid, start_ns: header.process_start_ns };
        calls.push(Call {
            time: origin.wall(header.time_mono_ns),
            upid: process.upid(origin.asid),
            mono_ns: header.time_mono_ns,
            info,
            texts,
        });
    }

    /// Ends tracepoints whose time is over, and counts. Call it about once a second.
    pub(crate) fn keep_house(&self, now: TimeNs) -> Told {
        let mut state = self.state();
        // It reads maps and files, so only where a program needs it.
        let has_programs = state.slots.iter().flatten().any(Deployment::runs_program);
        let scope = has_programs.then(|| self.0.control.membership());
        for slot in 0..state.slots.len() {
            let Some(current) = &mut state.slots[slot] else { continue };
            let reason = match &scope {
                _ if current.status.state == TraceState::Pending => continue,
                _ if current.status.expires <= now => "its time is over",
                // What cannot be known may have changed.
                Some(scope) if !current.is_within(scope.as_ref().ok()) => {
                    "what Undine watches is not what it was deployed for"
                }
                _ => continue,
            };
            self.end(&mut state, slot, reason);
        }
        // Told to end when they were taken from their slots.
        state.leaving.retain(|(program, since)| {
            if program.ended().is_none() && now.get() - since.get() > LEAVING_NS_MAX {
                program.kill();
            }
            program.ended().is_none()
        });
        state.note_ended();
        take_away_probes(&mut state);
        let mut lost = Vec::new();
        for (slot, current) in (0..).zip(&mut state.slots) {
            let Some(current) = current else { continue };
            self.count(slot, current);
            let counts = &current.status.counts;
            let all = counts.limited + counts.dropped;
            if all > current.told {
                lost.push((current.tracepoint.name.clone(), all - current.told));
                current.told = all;
            }
        }
        Told { changes: std::mem::take(&mut state.changes), lost }
    }

    /// Messages that came after their tracepoint had ended.
    pub fn orphans(&self) -> u64 {
        self.state().orphans
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all programs and waits until they are gone.
    pub(crate) fn end_programs(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for slot in 0..state.slots.len() {
            if state.slots[slot].as_ref().is_some_and(Deployment::runs_program) {
                self.end(&mut state, slot, "Undine ends");
            }
        }
        let leaving = std::mem::take(&mut state.leaving);
        let removals = std::mem::take(&mut state.removals);
        drop(state);
        for (program, _) in &leaving {
            program.end();
        }
        for removal in removals {
            if removal.join().is_err() {
                tracing::error!("the thread that takes probes away panicked");
            }
        }
    }

    /// Reads what became of the calls.
    fn count(&self, slot: u32, deployment: &mut Deployment) {
        let calls = match &deployment.probe {
            Probe::Program { running, .. } => {
                deployment.status.counts = running.counts();
                return;
            }
            Probe::Function { calls, .. } => calls,
        };
        let (rows, evicted_rows) = calls.made_and_evicted();
        let totals = match self.0.control.trace_totals(slot) {
            Ok(totals) => totals,
            Err(error) => {
                tracing::warn!(%error, "calls of a traced function cannot be counted");
                return;
            }
        };
        deployment.status.counts = TraceCounts {
            calls: totals.calls,
            rows,
            limited: totals.limited,
            dropped: totals.dropped + totals.full,
            unreadable: totals.faults,
            evicted_rows,
        };
    }

    /// Ends what is in a slot, and its table.
    fn end(&self, state: &mut State, slot: usize, reason: &str) {
        let ended = state.slots.get_mut(slot).and_then(Option::take);
        self.retire(state, slot, ended, reason);
    }

    /// Ends what was in a slot. Its probes do nothing any more; they wait in `state` to be taken away.
    fn retire(&self, state: &mut State, slot: usize, ended: Option<Deployment>, reason: &str) {
        let Some(mut ended) = ended else { return };
        let place = u32::try_from(slot).unwrap_or(u32::MAX);
        self.count(place, &mut ended);
        match ended.probe {
            Probe::Function { .. } => {
                state.probes.extend(self.untrace(place, &ended.tracepoint.name));
            }
            Probe::Program { running, .. } => {
                running.interrupt();
                state.leaving.push((running, self.0.clock.now()));
            }
        }
        if ended.status.state != TraceState::Running {
            // How it ended by itself is known.
            state.note(ended.status);
            return;
        }
        let reason = reason.to_owned();
        state.note(TraceStatus { state: TraceState::Terminated, reason, ..ended.status });
    }

    /// Takes the plan of tracepoint `name` out of its slot; gives its probes.
    fn untrace(&self, slot: u32, name: &str) -> Vec<UProbeLink> {
        self.0.control.untrace(slot).unwrap_or_else(|error| {
            tracing::warn!(%error, name, "a tracepoint may live on");
            Vec::new()
        })
    }

    fn expiry(&self, ttl: Duration) -> TimeNs {
        let ttl = i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX);
        TimeNs::new(self.0.clock.now().get().saturating_add(ttl))
    }
}

/// Has a thread of its own take probes away: whoever reads the ring must not wait for the kernel.
fn take_away_probes(state: &mut State) {
    state.removals.retain(|removal| !removal.is_finished());
    if state.probes.is_empty() {
        return;
    }
    let probes = std::mem::take(&mut state.probes);
    let thread = std::thread::Builder::new().name("undine-untrace".to_owned());
    // Where there is no thread to be had they go at once.
    match thread.spawn(move || drop(probes)) {
        Ok(removal) => state.removals.push(removal),
        Err(error) => tracing::warn!(%error, "probes are taken away while nothing else is done"),
    }
}

/// What a tracepoint's keeper has to tell.
#[derive(Debug)]
pub(crate) struct Told {
    /// Tracepoints whose state is another than before.
    pub(crate) changes: Vec<TraceStatus>,
    /// Names of tracepoints, and how many calls more were lost.
    pub(crate) lost: Vec<(String, u64)>,
}

impl Tracer for Tracing {
    fn upsert(&self, tracepoint: Tracepoint) -> Result<(), TraceError> {
        let _alone = self.0.deploying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        state.numbers += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.0.clock.now().get().to_be_bytes());
        id[8..12].copy_from_slice(&self.0.asid.to_be_bytes());
        let number = u32::try_from(state.numbers & 0xffff_ffff).unwrap_or(0);
        id[12..].copy_from_slice(&number.to_be_bytes());
        let status = TraceStatus {
            id,
            name: tracepoint.name.clone(),
            table: tracepoint.table.clone(),
            state: TraceState::Pending,
            reason: String::new(),
            expires: self.expiry(tracepoint.ttl.min(TTL_MAX)),
            counts: TraceCounts::default(),
        };
        let deployed = match self.admit(&mut state, &tracepoint) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                state.pending = Some(status.clone());
                drop(state);
                self.deploy(&tracepoint, status.clone())
            }
            Err(error) => {
                drop(state);
                Err(error)
            }
        };
        if let Err(error) = &deployed {
            let mut state = self.state();
            state.pending = None;
            let reason = error.reason.clone();
            state.note(TraceStatus { state: TraceState::Failed, reason, ..status });
        }
        deployed
    }

    fn delete(&self, name: &str) -> Result<(), TraceError> {
        let _alone = self.0.deploying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        let is_it =
            |of: &Option<Deployment>| of.as_ref().is_some_and(|of| of.tracepoint.name == name);
        let Some(slot) = state.slots.iter().position(is_it) else {
            let reason = format!("there is no tracepoint `{name}`");
            return Err(TraceError::new(reason, "px.GetTracepointStatus() lists them"));
        };
        self.end(&mut state, slot, "it was deleted");
        let leaving = std::mem::take(&mut state.leaving);
        let probes = std::mem::take(&mut state.probes);
        drop(state);
        for (program, _) in &leaving {
            program.end();
        }
        drop(probes);
        Ok(())
    }

    fn statuses(&self) -> Vec<TraceStatus> {
        let mut state = self.state();
        state.note_ended();
        for (slot, current) in (0..).zip(&mut state.slots) {
            if let Some(current) = current {
                self.count(slot, current);
            }
        }
        let running = state.slots.iter().flatten().map(|current| &current.status);
        running.chain(&state.pending).chain(&state.ended).cloned().collect()
    }

    fn tables(&self) -> Vec<(String, Arc<[TraceColumn]>)> {
        let state = self.state();
        let table = |of: &Deployment| (of.tracepoint.table.clone(), of.probe.columns());
        state.slots.iter().flatten().map(table).collect()
    }

    fn table(&self, name: &str) -> Option<TraceTable> {
        let mut state = self.state();
        let found = state.slots.iter_mut().flatten().find(|of| of.tracepoint.table == name);
        found.map(|of| of.probe.table())
    }
}
