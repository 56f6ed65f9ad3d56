//! Whether a process is watched.
//!
//! Undine itself never is. Then whatever a target excludes is not watched, whatever a target
//! includes is, and [`Settings::watch_others`](undine_ebpf::load::Settings) decides the rest.

#[cfg(not(feature = "before-5-17"))]
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use undine_ebpf::load::{
    CGROUP_LEVELS_MAX, KIND_CGROUP, KIND_COMM, KIND_NETNS, KIND_TGID, VERDICT_EXCLUDE,
    VERDICT_INCLUDE,
};

use super::{
    maps::{SCOPE_CGROUP, SCOPE_COMM, SCOPE_NETNS, SCOPE_TGID, SETTINGS, own_tgid},
    task::Current,
};

/// Whether `current` is watched; `netns` gives the network namespace that is meant and is only
/// asked where it matters. Must not be called in a softirq, where there is no current process.
#[inline(always)]
pub(crate) fn watches(current: Current, netns: impl Fn() -> u32) -> bool {
    !current.is_kernel() && watches_process(current, netns)
}

/// As [`watches`], where it is known that `current` is not a thread of the kernel itself.
#[inline(always)]
pub(crate) fn watches_process(current: Current, netns: impl Fn() -> u32) -> bool {
    if current.tgid == own_tgid() {
        return false;
    }
    let Some(settings) = SETTINGS.get(0) else { return false };
    let kinds = settings.kinds;
    let mut verdict = 0;
    // SAFETY (of every `get` here): an entry that is replaced meanwhile yields one of the two
    // verdicts, and either is right at that moment.
    if kinds & KIND_TGID != 0 {
        if let Some(found) = unsafe { SCOPE_TGID.get(current.tgid) } {
            verdict |= found.verdict;
        }
    }
    if kinds & KIND_CGROUP != 0 {
        verdict |= cgroup_verdict(current);
    }
    if kinds & KIND_NETNS != 0 {
        if let Some(found) = unsafe { SCOPE_NETNS.get(netns()) } {
            verdict |= *found;
        }
    }
    if kinds & KIND_COMM != 0 {
        if let Some(found) = unsafe { SCOPE_COMM.get(current.comm()) } {
            verdict |= *found;
        }
    }
    if verdict & VERDICT_EXCLUDE != 0 {
        return false;
    }
    verdict & VERDICT_INCLUDE != 0 || settings.watch_others != 0
}

/// What the current process's cgroup and all above it say together.
#[cfg(not(feature = "before-5-17"))]
#[inline(always)]
fn cgroup_verdict(_current: Current) -> u32 {
    let mut verdict = 0;
    let mut level = 0;
    while level < CGROUP_LEVELS_MAX {
        // SAFETY: the helper gives 0 where there is no such level.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        // SAFETY: as above.
        if let Some(found) = unsafe { SCOPE_CGROUP.get(id) } {
            verdict |= *found;
        }
        level += 1;
    }
    verdict
}

/// What the current process's cgroup and those above it say together. Kernels before 5.12 give no
/// ancestors to programs on raw tracepoints, so the way is gone by hand.
#[cfg(feature = "before-5-17")]
#[inline(always)]
fn cgroup_verdict(current: Current) -> u32 {
    let mut verdict = 0;
    let mut cgroup = super::task::cgroup_address(current.as_address());
    let mut level = 0;
    while level < CGROUP_LEVELS_MAX {
        if cgroup == 0 {
            break;
        }
        let id = super::task::cgroup_id(cgroup);
        // SAFETY: as above.
        if let Some(found) = unsafe { SCOPE_CGROUP.get(id) } {
            verdict |= *found;
        }
        cgroup = super::fields::read(cgroup, undine_ebpf::load::Offset::CgroupParent);
        level += 1;
    }
    verdict
}
