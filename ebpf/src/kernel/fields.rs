//! Reading kernel memory through addresses that the verifier knows nothing about.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use undine_ebpf::load::{NO_OFFSET, Offset};

use super::maps::offset;

/// A field of the structure at address `base`, or 0 where that is not readable.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(base: u64, field: Offset) -> T {
    read_at(base.wrapping_add(offset(field) as u64))
}

/// As [`read`], of a field that not every kernel has: then 0.
#[inline(always)]
pub(crate) fn read_if_any<T: Copy + Default>(base: u64, field: Offset) -> T {
    if offset(field) == NO_OFFSET as usize { T::default() } else { read(base, field) }
}

/// What is at `address`, or 0 where that is not readable.
#[inline(always)]
pub(crate) fn read_at<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper checks the address and fails where it is not readable.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}
