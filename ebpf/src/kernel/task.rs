//! The task on whose behalf a program runs, and others.

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
#[cfg(feature = "before-5-17")]
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task},
};
use undine_ebpf::load::Offset;

use super::fields::read;
#[cfg(not(feature = "before-5-17"))]
use super::maps::offset;

/// `task_struct.flags`: a thread of the kernel itself.
const PF_KTHREAD: u32 = 0x0020_0000;

/// The task on whose behalf the program runs. Means nothing in a softirq.
///
/// The verifier knows what it is, so that its fields are read without a helper, which on a machine
/// with all mitigations costs ten times as much.
#[cfg(not(feature = "before-5-17"))]
#[derive(Clone, Copy)]
pub(crate) struct Current {
    task: *const u8,
    /// Process id as the host sees it.
    pub(crate) tgid: u32,
    /// Thread id as the host sees it.
    pub(crate) tid: u32,
}

/// The task on whose behalf the program runs. Means nothing in a softirq.
#[cfg(feature = "before-5-17")]
#[derive(Clone, Copy)]
pub(crate) struct Current {
    task: u64,
    /// Process id as the host sees it.
    pub(crate) tgid: u32,
    /// Thread id as the host sees it.
    pub(crate) tid: u32,
}

/// A field of a structure that the verifier knows.
#[cfg(not(feature = "before-5-17"))]
#[inline(always)]
fn field<T: Copy>(base: *const u8, field: Offset) -> T {
    // SAFETY: the verifier checks that there is such a field; a read that faults gives 0.
    unsafe { base.add(offset(field)).cast::<T>().read_volatile() }
}

#[cfg(not(feature = "before-5-17"))]
impl Current {
    #[inline(always)]
    pub(crate) fn get() -> Self {
        // SAFETY: the helper has no preconditions.
        let task = unsafe { bpf_get_current_task_btf() } as *const u8;
        Self { task, tgid: field(task, Offset::TaskTgid), tid: field(task, Offset::TaskPid) }
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.task as u64
    }

    /// Whether this is a thread of the kernel itself.
    #[inline(always)]
    pub(crate) fn is_kernel(self) -> bool {
        field::<u32>(self.task, Offset::TaskFlags) & PF_KTHREAD != 0
    }

    /// When its process started, in nanoseconds since boot.
    #[inline(always)]
    pub(crate) fn process_start_ns(self) -> u64 {
        let leader: *const u8 = field(self.task, Offset::TaskGroupLeader);
        field(leader, Offset::TaskStartBoottime)
    }

    /// Its unified cgroup.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        let set: *const u8 = field(self.task, Offset::TaskCgroups);
        let cgroup: *const u8 = field(set, Offset::CssSetDefault);
        let node: *const u8 = field(cgroup, Offset::CgroupNode);
        field(node, Offset::NodeId)
    }

    /// Its registers as they were when it entered the kernel.
    #[inline(always)]
    pub(crate) fn user_registers(self) -> *const u64 {
        // SAFETY: the task is what the helper takes.
        unsafe { bpf_task_pt_regs(self.task as *mut _) as *const u64 }
    }
}

#[cfg(feature = "before-5-17")]
impl Current {
    #[inline(always)]
    pub(crate) fn get() -> Self {
        let ids = bpf_get_current_pid_tgid();
        // SAFETY: the helper has no preconditions.
        let task = unsafe { bpf_get_current_task() };
        Self { task, tgid: (ids >> 32) as u32, tid: ids as u32 }
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.task
    }

    /// Whether this is a thread of the kernel itself.
    #[inline(always)]
    pub(crate) fn is_kernel(self) -> bool {
        read::<u32>(self.address(), Offset::TaskFlags) & PF_KTHREAD != 0
    }

    /// When its process started, in nanoseconds since boot.
    #[inline(always)]
    pub(crate) fn process_start_ns(self) -> u64 {
        process_start_ns(self.address())
    }

    /// Its unified cgroup.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_current_cgroup_id() }
    }

    /// Its registers as they were when it entered the kernel; kernel 5.15 and later.
    #[inline(always)]
    pub(crate) fn user_registers(self) -> *const u64 {
        // SAFETY: the first helper, which gives this same task, gives what the second one takes.
        unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u64 }
    }
}

impl Current {
    /// Name of its process.
    #[inline(always)]
    pub(crate) fn comm(self) -> [u64; 2] {
        comm(read(self.address(), Offset::TaskGroupLeader))
    }

    /// Inode of its network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        netns_inode(read(read(self.address(), Offset::TaskNsproxy), Offset::NsproxyNet))
    }

    /// The address of its `task_struct`, for reading further fields.
    #[inline(always)]
    pub(crate) fn as_address(self) -> u64 {
        self.address()
    }
}

/// Start of the process of the task at `task`, in nanoseconds since boot.
#[inline(always)]
pub(crate) fn process_start_ns(task: u64) -> u64 {
    read(read(task, Offset::TaskGroupLeader), Offset::TaskStartBoottime)
}

/// Name of the task at `task`.
#[inline(always)]
pub(crate) fn comm(task: u64) -> [u64; 2] {
    read(task, Offset::TaskComm)
}

/// Unified cgroup of the task at `task`.
#[inline(always)]
pub(crate) fn cgroup(task: u64) -> u64 {
    cgroup_id(cgroup_address(task))
}

/// Address of the unified cgroup of the task at `task`.
#[inline(always)]
pub(crate) fn cgroup_address(task: u64) -> u64 {
    read(read(task, Offset::TaskCgroups), Offset::CssSetDefault)
}

/// The id of the cgroup at `cgroup`.
#[inline(always)]
pub(crate) fn cgroup_id(cgroup: u64) -> u64 {
    read(read(cgroup, Offset::CgroupNode), Offset::NodeId)
}

/// Inode of the network namespace at `net`.
#[inline(always)]
pub(crate) fn netns_inode(net: u64) -> u32 {
    read(net, Offset::NetInum)
}
