//! Whether a process is watched.
//!
//! Undine itself never is. Then whatever a target excludes is not watched, whatever a target
//! includes is, and [`Settings::watch_others`](undine_ebpf::load::Settings) decides the rest.

use core::ptr::read_volatile;

#[cfg(not(feature = "before-5-17"))]
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use undine_ebpf::load::{
    CGROUP_LEVELS_MAX, KIND_CGROUP, KIND_COMM, KIND_NETNS, KIND_TGID, VERDICT_EXCLUDE,
    VERDICT_INCLUDE, VERDICTS_PER_CPU,
};

use super::{
    maps::{SCOPE_CGROUP, SCOPE_COMM, SCOPE_NETNS, SCOPE_TGID, SETTINGS, VERDICTS, add, own_tgid},
    task::Current,
};

/// Whether `current` is watched; `netns` gives the network namespace that is meant and is only
/// asked where it matters. Must not be called in a softirq, where there is no current process.
#[inline(always)]
pub(crate) fn watches(current: Current, netns: impl Fn() -> u32) -> bool {
    if current.is_kernel() || current.tgid == own_tgid() {
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

/// As [`watches`], without going through the targets where that was done for the same process lately
/// and no target has changed since. What a cgroup belongs to never changes, so which one the thread
/// is in says the rest.
///
/// Only for tracepoints, of which none begins while another runs on the same CPU.
#[inline(always)]
pub(crate) fn remembers_watching(current: Current, netns: impl Fn() -> u32) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    let slot = VERDICTS.get_ptr_mut(current.tgid & (VERDICTS_PER_CPU - 1));
    let Some(last) = slot else { return false };
    let kinds = settings.kinds;
    // SAFETY: map values; one of settings may change at any time, and is read before the targets are,
    // so that a verdict is never taken for newer than it is.
    unsafe {
        let epoch = read_volatile(&raw const settings.epoch);
        let cgroup = current.cgroup();
        let netns = if kinds & KIND_NETNS != 0 { netns() } else { 0 };
        if (*last).tgid == current.tgid
            && (*last).epoch == epoch
            && (*last).cgroup == cgroup
            && (*last).netns == netns
        {
            return (*last).is_watched != 0;
        }
        let is_watched = watches(current, || netns);
        (*last).epoch = epoch;
        (*last).cgroup = cgroup;
        (*last).netns = netns;
        // A name can change at any time.
        let lasts = kinds & KIND_COMM == 0;
        (*last).tgid = if lasts { current.tgid } else { 0 };
        (*last).is_watched = u64::from(lasts && is_watched);
        is_watched
    }
}

/// Makes verdicts that were found before old.
#[inline(always)]
pub(crate) fn forget_verdicts() {
    if let Some(settings) = SETTINGS.get_ptr_mut(0) {
        // SAFETY: a map value.
        add(unsafe { &raw mut (*settings).epoch }, 1);
    }
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
