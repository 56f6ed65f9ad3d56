//! Deploying a tracepoint: whether it may be, whom and what it names, and its probes.

use std::time::Duration;

use undine_schema::tables;
use undine_schema::trace::{
    TRACEPOINTS_MAX, TraceError, TraceProgram, TraceState, TraceStatus, TraceSubject,
    TracedFunction, Tracepoint,
};

use super::bpftrace::{self, Programs};
use super::calls::{self, Calls, Output};
use super::deployments::{Deployment, Probe, State};
use super::function::{self, Traced};
use super::{Tracing, check, target};
use crate::kernel::{Membership, TraceSite};

impl Tracing {
    /// Checks what needs no look at processes; gives whether there was nothing more to do.
    pub(super) fn admit(&self, state: &mut State, wanted: &Tracepoint) -> Result<bool, TraceError> {
        check::check(wanted)?;
        state.note_ended();
        let same_name = |of: &Option<Deployment>| {
            of.as_ref().is_some_and(|of| of.tracepoint.name == wanted.name)
        };
        let known = state.slots.iter().position(same_name);
        // One whose program ended is deployed anew; until that has succeeded its rows stay.
        let has_ended = |of: &Deployment| of.status.state != TraceState::Running;
        let replaced = known.filter(|slot| state.slots[*slot].as_ref().is_some_and(has_ended));
        if replaced.is_none()
            && let Some(current) = known.and_then(|slot| state.slots[slot].as_mut())
        {
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
        let others = state.slots.iter().flatten().filter(|of| of.tracepoint.name != wanted.name);
        let other = others.clone().find(|of| of.tracepoint.table == wanted.table);
        if is_taken || other.is_some() {
            let whose = other.map_or_else(
                || "is one of Undine's own".to_owned(),
                |other| format!("belongs to the tracepoint `{}`", other.tracepoint.name),
            );
            let reason = format!("the table `{}` {whose}", wanted.table);
            return Err(TraceError::new(reason, "give another table name"));
        }
        if replaced.is_none() && state.slots.iter().all(Option::is_some) {
            let names: Vec<_> = others.map(|of| of.tracepoint.name.as_str()).collect();
            let reason = format!("there are {TRACEPOINTS_MAX} tracepoints already");
            return Err(TraceError::new(reason, format!("delete one of {}", names.join(", "))));
        }
        Ok(false)
    }

    /// Puts its probes.
    pub(super) fn deploy(
        &self,
        wanted: &Tracepoint,
        status: TraceStatus,
    ) -> Result<(), TraceError> {
        match &wanted.subject {
            TraceSubject::Function(function) => self.deploy_function(wanted, function, status),
            TraceSubject::Programs(programs) => self.deploy_program(wanted, programs, status),
        }
    }

    fn deploy_function(
        &self,
        wanted: &Tracepoint,
        function: &TracedFunction,
        status: TraceStatus,
    ) -> Result<(), TraceError> {
        let (Traced { plan, outputs, .. }, sites) = self.prepare(function)?;
        let names = function.outputs.iter().map(|output| output.column.as_str());
        let columns = calls::columns(names.zip::<Vec<Output>>(outputs.clone()));
        let calls = Calls::new(columns, outputs, self.0.mode);
        let refused = |why| {
            TraceError::new(why, "`undine doctor` says whether this kernel can trace functions")
        };
        // Nobody else deploys meanwhile, so the slot stays free, or what ended stays in it or goes.
        let slot = self.state().slot_for(wanted)?;
        let place = u32::try_from(slot).unwrap_or(u32::MAX);
        let control = &self.0.control;
        let generation = control.plan_trace(place, &plan).map_err(refused)?;
        // There before the first call, and locked by nobody while the kernel probes the functions:
        // whoever reads the ring wants it for each call.
        let replaced = Self::place(
            &mut self.state(),
            slot,
            wanted,
            status,
            Probe::Function { generation, calls },
        );
        match control.trace(place, &sites) {
            Ok(()) => {
                let mut state = self.state();
                self.runs(&mut state, slot, wanted.ttl);
                self.retire(&mut state, slot, replaced, "it was deployed again");
                Ok(())
            }
            Err(why) => {
                self.state().slots[slot] = replaced;
                drop(self.untrace(place, &wanted.name));
                Err(refused(why))
            }
        }
    }

    fn deploy_program(
        &self,
        wanted: &Tracepoint,
        programs: &[TraceProgram],
        status: TraceStatus,
    ) -> Result<(), TraceError> {
        if self.0.programs == Programs::Refuse {
            let help = "set `capture.trace_programs = true`";
            return Err(TraceError::new("programs of bpftrace are not run here", help));
        }
        let at_work = self.state().slots.iter().flatten().filter(|of| of.runs_program()).count();
        if at_work >= bpftrace::RUNNING_MAX {
            let reason = format!("{} programs of bpftrace run already", bpftrace::RUNNING_MAX);
            return Err(TraceError::new(reason, "delete one; px.GetTracepointStatus() lists them"));
        }
        let scope = self.membership()?;
        let running = bpftrace::run(programs, &scope, self.0.mode)?;
        let mut state = self.state();
        match state.slot_for(wanted) {
            Ok(slot) => {
                let probe = Probe::Program { running, scope };
                let replaced = Self::place(&mut state, slot, wanted, status, probe);
                self.runs(&mut state, slot, wanted.ttl);
                self.retire(&mut state, slot, replaced, "it was deployed again");
                Ok(())
            }
            Err(error) => {
                drop(state);
                running.end();
                Err(error)
            }
        }
    }

    /// Puts what is being deployed into a slot; gives what was there.
    fn place(
        state: &mut State,
        slot: usize,
        wanted: &Tracepoint,
        status: TraceStatus,
        probe: Probe,
    ) -> Option<Deployment> {
        state.pending = None;
        let tracepoint = wanted.clone();
        state.slots[slot].replace(Deployment { tracepoint, status, probe, told: 0 })
    }

    /// What is in a slot has been deployed.
    fn runs(&self, state: &mut State, slot: usize, ttl: Duration) {
        let Some(current) = &mut state.slots[slot] else { return };
        current.status.state = TraceState::Running;
        current.status.expires = self.expiry(ttl);
        let status = current.status.clone();
        state.tell(status);
    }

    /// Finds the processes and the function.
    fn prepare(&self, wanted: &TracedFunction) -> Result<(Traced, Vec<TraceSite>), TraceError> {
        let membership = self.membership()?;
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

    fn membership(&self) -> Result<Membership, TraceError> {
        self.0.control.membership().map_err(|error| {
            TraceError::new(format!("the scope cannot be read: {error}"), "run `undine doctor`")
        })
    }
}
