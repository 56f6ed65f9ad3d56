//! The tracepoints that there are, and those that ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use aya::programs::uprobe::UProbeLink;
use undine_schema::TimeNs;
use undine_schema::trace::{
    TRACEPOINTS_MAX, TraceColumn, TraceError, TraceState, TraceStatus, TraceTable, Tracepoint,
};

use super::bpftrace::Running;
use super::calls::Calls;
use crate::kernel::Membership;

/// Ended tracepoints that are still shown.
const ENDED_MAX: usize = 64;
/// Changes of state that wait to be told.
const CHANGES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) slots: [Option<Deployment>; TRACEPOINTS_MAX],
    /// Those that failed or ended, oldest first.
    pub(super) ended: VecDeque<TraceStatus>,
    /// What is being deployed.
    pub(super) pending: Option<TraceStatus>,
    pub(super) changes: Vec<TraceStatus>,
    /// Whether nothing more may be deployed.
    pub(super) is_closed: bool,
    /// Programs that were told to end, and when.
    pub(super) leaving: Vec<(Running, TimeNs)>,
    /// Probes of ended tracepoints; the kernel takes its time to take them away.
    pub(super) probes: Vec<UProbeLink>,
    /// Threads that take such probes away.
    pub(super) removals: Vec<JoinHandle<()>>,
    /// Messages of tracepoints that are gone.
    pub(super) orphans: u64,
    pub(super) numbers: u64,
}

#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) tracepoint: Tracepoint,
    pub(super) status: TraceStatus,
    pub(super) probe: Probe,
    /// Lost calls that were told.
    pub(super) told: u64,
}

/// What makes the rows of a tracepoint.
#[derive(Debug)]
pub(super) enum Probe {
    Function { generation: u32, calls: Calls },
    Program { running: Running, scope: Membership },
}

impl Probe {
    pub(super) fn columns(&self) -> Arc<[TraceColumn]> {
        match self {
            Self::Function { calls, .. } => Arc::clone(calls.columns()),
            Self::Program { running, .. } => Arc::clone(running.columns()),
        }
    }

    pub(super) fn table(&mut self) -> TraceTable {
        match self {
            Self::Function { calls, .. } => calls.table(),
            Self::Program { running, .. } => running.table(),
        }
    }
}

impl Deployment {
    pub(super) fn runs_program(&self) -> bool {
        matches!(&self.probe, Probe::Program { running, .. } if running.ended().is_none())
    }

    /// Whether a program that runs is limited to what is watched now.
    pub(super) fn is_within(&self, now: Option<&Membership>) -> bool {
        match &self.probe {
            Probe::Program { running, scope } if running.ended().is_none() => {
                now.is_some_and(|now| scope.means_the_same_as(now))
            }
            _ => true,
        }
    }
}

impl State {
    /// The slot of the one called as `wanted`, which has ended, or one that is free.
    pub(super) fn slot_for(&self, wanted: &Tracepoint) -> Result<usize, TraceError> {
        if self.is_closed {
            return Err(TraceError::new("Undine ends", "deploy it when Undine runs again"));
        }
        let is_own = |of: &Option<Deployment>| {
            of.as_ref().is_some_and(|of| of.tracepoint.name == wanted.name)
        };
        let own = self.slots.iter().position(is_own);
        own.or_else(|| self.slots.iter().position(Option::is_none)).ok_or_else(|| {
            let reason = format!("there are {TRACEPOINTS_MAX} tracepoints already");
            TraceError::new(reason, "delete one")
        })
    }

    /// Notices programs that have ended by themselves. Their rows stay until their time is over.
    pub(super) fn note_ended(&mut self) {
        for at in 0..self.slots.len() {
            let Some(current) = &mut self.slots[at] else { continue };
            let Probe::Program { running, .. } = &current.probe else { continue };
            let Some(said) = running.ended() else { continue };
            if current.status.state != TraceState::Running {
                continue;
            }
            let (state, reason) = if said.is_empty() {
                (TraceState::Terminated, "the program ended by itself".to_owned())
            } else {
                (TraceState::Failed, format!("bpftrace ended: {said}"))
            };
            (current.status.state, current.status.reason) = (state, reason);
            current.status.counts = running.counts();
            let status = current.status.clone();
            self.tell(status);
        }
    }

    /// Remembers a tracepoint that is no more.
    pub(super) fn note(&mut self, status: TraceStatus) {
        self.tell(status.clone());
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(status);
    }

    pub(super) fn tell(&mut self, status: TraceStatus) {
        if self.changes.len() < CHANGES_MAX {
            self.changes.push(status);
        }
    }
}
