//! Which of the messages of a `sendmmsg` or `recvmmsg` an operation is about.
//!
//! The registers only say where all of them are, so they are counted, thread by thread. A call is
//! over after its last message, or with one that fails; and before it goes to the next, the kernel
//! writes the length of the last one beside it. Where that is not there, another call has begun.

use aya_ebpf::helpers::bpf_probe_read_user;

use super::maps::{CALLERS, SEVERAL};

/// Bytes of a `struct mmsghdr`, and where the length is in it.
pub(crate) const MMSGHDR_BYTES: u64 = 64;
pub(crate) const MMSGHDR_LEN: u64 = 56;

/// How far a thread is in its call.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    /// Address of the messages.
    vector: u64,
    /// How many they are.
    messages: u64,
    /// Number of the system call.
    number: u64,
    /// Index of the next one.
    next: u64,
    /// Bytes of the last one.
    len: u64,
}

/// The index of a message of `len` bytes, which thread `tid` moves in system call `number` with the
/// `messages` messages at `vector`.
#[inline(always)]
pub(crate) fn next(tid: u32, number: u64, vector: u64, messages: u64, len: u64) -> u64 {
    // SAFETY: copied at once; only the thread itself changes its entry.
    let index = match unsafe { CALLERS.get(tid) }.copied() {
        Some(last)
            if last.vector == vector
                && last.messages == messages
                && last.number == number
                && last.next < messages
                && is_written(&last) =>
        {
            last.next
        }
        _ => 0,
    };
    if let Some(several) = SEVERAL.get_ptr_mut(0) {
        // SAFETY: a map value; all write the same.
        unsafe { *several = 1 };
    }
    let progress = Progress { vector, messages, number, next: index + 1, len };
    let _ = CALLERS.insert(tid, progress, 0);
    index
}

/// Takes note that the call of thread `tid` is over.
#[inline(always)]
pub(crate) fn end(tid: u32) {
    let _ = CALLERS.remove(tid);
}

/// Whether any thread has ever moved several messages with one call.
#[inline(always)]
pub(crate) fn is_used() -> bool {
    SEVERAL.get(0).is_some_and(|several| *several != 0)
}

/// Whether the length of the last message is beside it.
#[inline(always)]
fn is_written(last: &Progress) -> bool {
    let place = last.vector.wrapping_add((last.next - 1) * MMSGHDR_BYTES + MMSGHDR_LEN);
    // SAFETY: the helper checks the address in the process.
    let found = unsafe { bpf_probe_read_user(place as *const u32) };
    found.is_ok_and(|len| u64::from(len) == last.len)
}
