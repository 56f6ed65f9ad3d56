//! Where in a process's memory the bytes of an operation are.

use aya_ebpf::helpers::{
    bpf_probe_read_user, generated::bpf_probe_read_user as bpf_probe_read_user_bytes,
};

/// A run of bytes, then possibly further runs that an array of `struct iovec` names.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    /// Address of the next byte.
    pub(crate) base: u64,
    /// Bytes left in this run.
    pub(crate) len: u64,
    /// Address of the next `struct iovec`.
    next: u64,
    /// How many of them are left.
    runs: u64,
}

impl Buffer {
    /// One run.
    #[inline(always)]
    pub(crate) fn contiguous(base: u64, len: u64) -> Self {
        Self { base, len, next: 0, runs: 0 }
    }

    /// The `runs` runs that the array at `iovecs` names.
    #[inline(always)]
    pub(crate) fn vectored(iovecs: u64, runs: u64) -> Self {
        Self { base: 0, len: 0, next: iovecs, runs }
    }

    /// The runs that the `struct msghdr` at `header` names; none where it cannot be read.
    #[inline(always)]
    pub(crate) fn message(header: u64) -> Self {
        // `msg_iov` and `msg_iovlen` follow `msg_name` and `msg_namelen`.
        // SAFETY: the helper checks the address.
        let found = unsafe { bpf_probe_read_user((header + 16) as *const [u64; 2]) };
        match found {
            Ok([iovecs, runs]) => Self::vectored(iovecs, runs),
            Err(_) => Self::vectored(0, 0),
        }
    }

    /// Address and length of the next two runs, the second of them empty where there is only one;
    /// `None` where this is no array or cannot be read.
    #[inline(always)]
    pub(crate) fn first_two(&self) -> Option<[(u64, u64); 2]> {
        const RUN_BYTES: u64 = 16;
        if self.len != 0 || self.runs == 0 {
            return None;
        }
        let mut found = [0_u64; 4];
        let bytes = if self.runs == 1 { RUN_BYTES } else { 2 * RUN_BYTES };
        // SAFETY: the helper checks the address; there is room for two runs.
        let fault = unsafe {
            bpf_probe_read_user_bytes(
                found.as_mut_ptr().cast(),
                bytes as u32,
                self.next as *const _,
            )
        };
        let [first, first_len, second, second_len] = found;
        (fault == 0).then_some([(first, first_len), (second, second_len)])
    }

    /// Goes to the next run. Gives whether there was one that could be read.
    #[inline(always)]
    pub(crate) fn advance(&mut self) -> bool {
        if self.runs == 0 {
            return false;
        }
        // SAFETY: the helper checks the address.
        let found = unsafe { bpf_probe_read_user(self.next as *const [u64; 2]) };
        let Ok([base, len]) = found else { return false };
        self.base = base;
        self.len = len;
        self.next += 16;
        self.runs -= 1;
        true
    }
}
