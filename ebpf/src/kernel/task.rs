//! The task on whose behalf a program runs, and others.

#[cfg(feature = "before-5-17")]
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
#[cfg(not(feature = "before-5-17"))]
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task},
};
use undine_ebpf::load::Offset;

use super::fields::read;
#[cfg(feature = "before-5-17")]
use super::maps::{REGISTERS, REGISTERS_LEN};

/// `task_struct.flags`: a thread of the kernel itself.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Bytes of a thread's kernel stack on x86-64, but for kernels that check every access to memory.
#[cfg(feature = "before-5-17")]
const STACK_BYTES: u64 = 16 * 1024;

/// Index of `cs` in `struct pt_regs` of x86-64, and the bits of it that say who ran.
#[cfg(feature = "before-5-17")]
const CODE_SEGMENT: usize = 17;
#[cfg(feature = "before-5-17")]
const USER_MODE: u64 = 3;

/// The task on whose behalf the program runs. Means nothing in a softirq.
#[derive(Clone, Copy)]
pub(crate) struct Current {
    task: u64,
    /// Process id as the host sees it.
    pub(crate) tgid: u32,
    /// Thread id as the host sees it.
    pub(crate) tid: u32,
}

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

    /// Its unified cgroup.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_current_cgroup_id() }
    }

    /// Its registers as they were when it entered the kernel; kernel 5.15 and later.
    #[cfg(not(feature = "before-5-17"))]
    #[inline(always)]
    pub(crate) fn user_registers(self) -> *const u64 {
        // SAFETY: the first helper, which gives this same task, gives what the second one takes.
        unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u64 }
    }

    /// A copy of its registers as they were when it entered the kernel; null where they are not those
    /// of a process. No helper says where they are, which is at the end of the thread's kernel stack.
    #[cfg(feature = "before-5-17")]
    #[inline(always)]
    pub(crate) fn user_registers(self) -> *const u64 {
        let Some(copy) = REGISTERS.get_ptr_mut(0) else { return core::ptr::null() };
        let stack: u64 = read(self.task, Offset::TaskStack);
        let bytes = size_of::<[u64; REGISTERS_LEN]>();
        let place = stack.wrapping_add(STACK_BYTES - bytes as u64);
        // SAFETY: the copy is a map value of this size, and the helper checks the address.
        unsafe {
            if bpf_probe_read_kernel(copy.cast(), bytes as u32, place as *const _) != 0
                || (*copy)[CODE_SEGMENT] & USER_MODE != USER_MODE
            {
                return core::ptr::null();
            }
        }
        copy.cast()
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
