//! Calls of functions as rows of tables that scripts make.
//!
//! ```text
//! Tracepoint ─► target (processes, file) ─► function (symbol) ─► debug_info ─► signature
//!                                               └─► expression ─► layout ─► Plan ─► Control: uprobes
//! RING: Trace ─► pipeline ─► Tracing ─► rows ─► Tracer::table
//! ```
//!
//! A tracepoint only probes processes that are watched, each by itself, and the kernel program checks
//! the scope once more; it ends when its time is over, whoever asked for it. Its table is in memory and
//! goes with it. Texts are redacted as bodies are.

mod debug_info;
mod expression;
mod function;
mod layout;
mod rows;
mod signature;
mod target;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use undine_ebpf::Header;
use undine_ebpf::trace::{PLANS_MAX, TraceInfo};
use undine_schema::trace::{
    EXPRESSION_BYTES_MAX, NAME_BYTES_MAX, OUTPUTS_MAX, TRACEPOINTS_MAX, TTL_MAX, TraceColumn,
    TraceCounts, TraceError, TraceState, TraceStatus, TraceTable, TraceValue, Tracepoint, Tracer,
};
use undine_schema::{Clock, TimeNs, tables};

pub use rows::{BYTES_MAX, ROWS_MAX};
pub use target::PROCESSES_MAX;

use crate::event::ProcessKey;
use crate::kernel::{Control, TraceSite};
use crate::redaction::Mode;
use crate::rows::Origin;
use function::Traced;
use rows::{Call, Output, Rows};

/// Ended tracepoints that are still shown.
const ENDED_MAX: usize = 64;
/// Changes of state that wait to be told.
const CHANGES_MAX: usize = 256;

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
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by whoever deploys, so that nobody else's rows wait for that.
    deploying: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    slots: [Option<Deployment>; TRACEPOINTS_MAX],
    /// Those that failed or ended, oldest first.
    ended: VecDeque<TraceStatus>,
    /// What is being deployed.
    pending: Option<TraceStatus>,
    changes: Vec<TraceStatus>,
    /// Messages of tracepoints that are gone.
    orphans: u64,
    numbers: u64,
}

#[derive(Debug)]
struct Deployment {
    tracepoint: Tracepoint,
    generation: u32,
    status: TraceStatus,
    rows: Rows,
    /// Lost calls that were told.
    told: u64,
}

impl Tracing {
    /// No tracepoints yet.
    pub(crate) fn new(control: Control, asid: u32, mode: Mode, clock: Arc<dyn Clock>) -> Self {
        let (state, deploying) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { control, asid, mode, clock, state, deploying }))
    }

    /// Takes a call of a traced function.
    pub(crate) fn call(&self, header: &Header, info: &TraceInfo, texts: &[u8], origin: &Origin) {
        let mut state = self.state();
        let found = usize::try_from(info.slot).ok().and_then(|slot| state.slots.get_mut(slot));
        let current = found.and_then(Option::as_mut);
        let Some(current) = current.filter(|of| of.generation == info.generation) else {
            state.orphans += 1;
            return;
        };
        let process = ProcessKey { tgid: header.tgid, start_ns: header.process_start_ns };
        current.rows.push(Call {
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
        for slot in 0..state.slots.len() {
            let Some(current) = &state.slots[slot] else { continue };
            if current.status.expires <= now {
                self.end(&mut state, slot, "its time is over");
            }
        }
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

    /// Reads what became of the calls.
    fn count(&self, slot: u32, deployment: &mut Deployment) {
        let totals = match self.0.control.trace_totals(slot) {
            Ok(totals) => totals,
            Err(error) => {
                tracing::warn!(%error, "calls of a traced function cannot be counted");
                return;
            }
        };
        deployment.status.counts = TraceCounts {
            calls: totals.calls,
            rows: deployment.rows.made,
            limited: totals.limited,
            dropped: totals.dropped + totals.full,
            unreadable: totals.faults,
            evicted_rows: deployment.rows.evicted,
        };
    }

    /// Takes the probes of a slot away, and its table.
    fn end(&self, state: &mut State, slot: usize, reason: &str) {
        let Some(mut ended) = state.slots.get_mut(slot).and_then(Option::take) else { return };
        let place = u32::try_from(slot).unwrap_or(u32::MAX);
        self.count(place, &mut ended);
        if let Err(error) = self.0.control.untrace(place) {
            tracing::warn!(%error, name = ended.tracepoint.name, "a tracepoint may live on");
        }
        let reason = reason.to_owned();
        state.note(TraceStatus { state: TraceState::Terminated, reason, ..ended.status });
    }

    /// Checks what needs no look at processes; gives whether there was nothing more to do.
    fn admit(&self, state: &mut State, wanted: &Tracepoint) -> Result<bool, TraceError> {
        check(wanted)?;
        let same_name = |current: &&mut Deployment| current.tracepoint.name == wanted.name;
        if let Some(current) = state.slots.iter_mut().flatten().find(same_name) {
            if !current.tracepoint.does_the_same_as(wanted) {
                let reason = format!("there is another tracepoint `{}`", wanted.name);
                return Err(TraceError::new(
                    reason,
                    format!("delete it first: pxtrace.DeleteTracepoint('{}')", wanted.name),
                ));
            }
            current.status.expires = self.expiry(wanted.ttl);
            return Ok(true);
        }
        let is_taken = tables::find(&wanted.table).is_some();
        let other = state.slots.iter().flatten().find(|of| of.tracepoint.table == wanted.table);
        if is_taken || other.is_some() {
            let whose = other.map_or_else(
                || "is one of Undine's own".to_owned(),
                |other| format!("belongs to the tracepoint `{}`", other.tracepoint.name),
            );
            let reason = format!("the table `{}` {whose}", wanted.table);
            return Err(TraceError::new(reason, "give another table name"));
        }
        if state.slots.iter().all(Option::is_some) {
            let names: Vec<_> =
                state.slots.iter().flatten().map(|of| of.tracepoint.name.as_str()).collect();
            let reason = format!("there are {TRACEPOINTS_MAX} tracepoints already");
            return Err(TraceError::new(reason, format!("delete one of {}", names.join(", "))));
        }
        Ok(false)
    }

    fn expiry(&self, ttl: Duration) -> TimeNs {
        let ttl = i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX);
        TimeNs::new(self.0.clock.now().get().saturating_add(ttl))
    }

    /// Finds the processes and the function.
    fn prepare(&self, wanted: &Tracepoint) -> Result<(Traced, Vec<TraceSite>), TraceError> {
        let membership = self.0.control.membership().map_err(|error| {
            TraceError::new(format!("the scope cannot be read: {error}"), "run `undine doctor`")
        })?;
        let targets = target::resolve(&wanted.target, &membership.processes(), self.0.asid)?;
        let mut traced: Option<Traced> = None;
        let mut sites = Vec::with_capacity(targets.len());
        for target in targets {
            let found = function::find(&target.file, &wanted.function, &wanted.outputs)?;
            let (path, offset, pid) = (target.file, found.offset, target.pid);
            sites.push(TraceSite { path, offset, pid });
            match &traced {
                Some(first) if (&first.plan, &first.outputs) != (&found.plan, &found.outputs) => {
                    let reason = format!(
                        "process {} has another build of `{}` than process {}",
                        pid, wanted.function, sites[0].pid
                    );
                    return Err(TraceError::new(reason, "give a target that has one build"));
                }
                Some(_) => {}
                None => traced = Some(found),
            }
        }
        let traced = traced.ok_or_else(|| TraceError::new("the target names no process", ""))?;
        Ok((traced, sites))
    }

    fn deploy(&self, wanted: &Tracepoint, status: TraceStatus) -> Result<(), TraceError> {
        let (Traced { plan, outputs, .. }, sites) = self.prepare(wanted)?;
        let names = wanted.outputs.iter().map(|output| output.column.as_str());
        let columns = rows::columns(names.zip::<Vec<Output>>(outputs.clone()));
        let rows = Rows::new(columns, outputs, self.0.mode);
        let mut state = self.state();
        // Nobody else has taken one meanwhile.
        let Some(slot) = state.slots.iter().position(Option::is_none) else {
            let reason = format!("there are {TRACEPOINTS_MAX} tracepoints already");
            return Err(TraceError::new(reason, "delete one"));
        };
        let place = u32::try_from(slot).unwrap_or(u32::MAX);
        let generation = self.0.control.trace(place, &plan, &sites).map_err(|why| {
            TraceError::new(why, "`undine doctor` says whether this kernel can trace functions")
        })?;
        let expires = self.expiry(wanted.ttl);
        let status = TraceStatus { state: TraceState::Running, expires, ..status };
        state.pending = None;
        state.tell(status.clone());
        let tracepoint = wanted.clone();
        state.slots[slot] = Some(Deployment { tracepoint, generation, status, rows, told: 0 });
        Ok(())
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

impl State {
    /// Remembers a tracepoint that is no more.
    fn note(&mut self, status: TraceStatus) {
        self.tell(status.clone());
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(status);
    }

    fn tell(&mut self, status: TraceStatus) {
        if self.changes.len() < CHANGES_MAX {
            self.changes.push(status);
        }
    }
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
        Ok(())
    }

    fn statuses(&self) -> Vec<TraceStatus> {
        let mut state = self.state();
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
        let table = |of: &Deployment| (of.tracepoint.table.clone(), Arc::clone(of.rows.columns()));
        state.slots.iter().flatten().map(table).collect()
    }

    fn table(&self, name: &str) -> Option<TraceTable> {
        let mut state = self.state();
        let found = state.slots.iter_mut().flatten().find(|of| of.tracepoint.table == name);
        found.map(|of| of.rows.table())
    }
}

/// What is wrong with a tracepoint by itself.
fn check(wanted: &Tracepoint) -> Result<(), TraceError> {
    let named = [
        ("the tracepoint's name", wanted.name.as_str()),
        ("the table's name", wanted.table.as_str()),
        ("the function's name", wanted.function.as_str()),
    ];
    let columns = wanted.outputs.iter().map(|output| ("a column's name", output.column.as_str()));
    for (what, name) in named.into_iter().chain(columns) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
            let reason = format!("{what} must have 1 to {NAME_BYTES_MAX} bytes of plain text");
            return Err(TraceError::new(reason, "choose another"));
        }
    }
    if wanted.ttl.is_zero() || wanted.ttl > TTL_MAX {
        let reason = format!("a tracepoint cannot live for {:?}", wanted.ttl);
        return Err(TraceError::new(reason, "give a time of at most 24h, such as '5m'"));
    }
    let count = wanted.outputs.len();
    if count == 0 || count > OUTPUTS_MAX {
        let reason = format!("a tracepoint with {count} columns is not possible");
        return Err(TraceError::new(reason, format!("give 1 to {OUTPUTS_MAX}")));
    }
    for (at, output) in wanted.outputs.iter().enumerate() {
        let before = wanted.outputs[..at].iter().any(|other| other.column == output.column);
        if before || matches!(output.column.as_str(), "time_" | "upid") {
            let reason = format!("there are two columns `{}`", output.column);
            return Err(TraceError::new(reason, "every row has time_ and upid besides yours"));
        }
        let (TraceValue::Argument(text) | TraceValue::Returned(text)) = &output.value else {
            continue;
        };
        if text.len() > EXPRESSION_BYTES_MAX {
            let reason = format!("an expression has more than {EXPRESSION_BYTES_MAX} bytes");
            return Err(TraceError::new(reason, "name less"));
        }
    }
    Ok(())
}
