//! Processes in scope: their birth, their programs and their end.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use undine_ebpf::{
    Header, Kind, ProcessInfo,
    load::{KIND_TGID, Offset},
};

use super::{
    fields::read,
    maps::{GONE, SCOPE_TGID, SETTINGS, TLS_CALLS},
    ring,
    scope::{forget_verdicts, watches},
    task::{self, Current},
    tls_calls::{call_key, leave},
};

/// A message about a process.
#[repr(C)]
struct ProcessMessage {
    header: Header,
    info: ProcessInfo,
}

/// A process as a message tells it.
struct Process {
    kind: Kind,
    /// Address of its `task_struct`.
    task: u64,
    tgid: u32,
    tid: u32,
    parent_tgid: u32,
    exit_code: i32,
}

#[raw_tracepoint]
pub(crate) fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    let child: u64 = ctx.arg(1);
    let (tgid, tid): (u32, u32) = (read(child, Offset::TaskTgid), read(child, Offset::TaskPid));
    if tgid != tid {
        return 0;
    }
    let current = Current::get();
    inherit(current.tgid, tgid);
    if watches(current, || current.netns()) {
        let parent_tgid = current.tgid;
        let kind = Kind::Fork;
        tell(Process { kind, task: child, tgid, tid, parent_tgid, exit_code: 0 });
    }
    0
}

#[raw_tracepoint]
pub(crate) fn sched_process_exec(_ctx: RawTracePointContext) -> i32 {
    let current = Current::get();
    if watches(current, || current.netns()) {
        tell(of_current(Kind::Exec, current, 0));
    }
    0
}

#[raw_tracepoint]
pub(crate) fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    let current = Current::get();
    let is_tls_seen = SETTINGS.get(0).is_some_and(|settings| settings.tls != 0);
    if is_tls_seen {
        let thread = call_key(u64::from(current.tgid) << 32 | u64::from(current.tid));
        // SAFETY: copied at once; only the thread itself changes it.
        if let Some(call) = unsafe { TLS_CALLS.get(thread) }.copied() {
            if call.object != 0 {
                leave(&call);
            }
            let _ = TLS_CALLS.remove(thread);
        }
    }
    // Only with its last thread a process ends.
    let signal = read(current.as_address(), Offset::TaskSignal);
    if read::<u32>(signal, Offset::SignalLive) != 0 {
        return 0;
    }
    if watches(current, || current.netns()) {
        if is_tls_seen {
            // Its connections end after this.
            let _ = GONE.insert(current.tgid, current.process_start_ns(), 0);
        }
        let exit_code = read(current.as_address(), Offset::TaskExitCode);
        tell(of_current(Kind::Exit, current, exit_code));
    }
    if SCOPE_TGID.remove(current.tgid).is_ok() {
        forget_verdicts();
    }
    0
}

#[inline(always)]
fn of_current(kind: Kind, current: Current, exit_code: i32) -> Process {
    let task = current.as_address();
    let parent_tgid = read(read(task, Offset::TaskRealParent), Offset::TaskTgid);
    Process { kind, task, tgid: current.tgid, tid: current.tid, parent_tgid, exit_code }
}

/// Gives `child` the verdict that `parent` has of its own.
#[inline(always)]
fn inherit(parent: u32, child: u32) {
    let Some(settings) = SETTINGS.get(0) else { return };
    if settings.kinds & KIND_TGID == 0 {
        return;
    }
    // SAFETY: copied at once; a verdict that changes meanwhile is set again for all children.
    if let Some(verdict) = (unsafe { SCOPE_TGID.get(parent) }).copied() {
        let _ = SCOPE_TGID.insert(child, verdict, 0);
        // What had the child's number before may have been found to be watched.
        forget_verdicts();
    }
}

#[inline(always)]
fn tell(process: Process) {
    ring::send::<ProcessMessage>(|message| {
        let start = task::process_start_ns(process.task);
        // SAFETY: `message` is in the ring; a name is two words.
        unsafe {
            let header = &raw mut (*message).header;
            ring::fill(header, process.kind, process.tgid, process.tid, start);
            let info = &raw mut (*message).info;
            (*info).cgroup = task::cgroup(process.task);
            (*info).parent_tgid = process.parent_tgid;
            (*info).exit_code = process.exit_code;
            // The thread that ends last may have a name of its own.
            let leader = read(process.task, Offset::TaskGroupLeader);
            (&raw mut (*info).comm).cast::<[u64; 2]>().write_unaligned(task::comm(leader));
        }
    });
}
