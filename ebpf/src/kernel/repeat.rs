//! Doing a step until it says that there is no more to do, as often as a limit allows.
//!
//! Since kernel 5.17 `bpf_loop` does that. Before, the verifier goes through every round of a loop
//! with all that may differ in it, which is too much for it. The feature `before-5-17` builds the
//! same programs so that a step is a function of the object's own symbols: such a function the
//! verifier checks once and by itself, for whatever numbers it is given, and then only counts the
//! rounds. What the step works on it finds by those numbers again.

/// Calls `step` up to `times_max` times, until it gives something else than 0.
///
/// # Safety
/// `context` must be what `step` wants, on the stack of the caller, and nothing else may use it
/// meanwhile.
#[cfg(not(feature = "before-5-17"))]
#[inline(always)]
pub(crate) unsafe fn repeat<Context>(
    times_max: u32,
    step: unsafe extern "C" fn(u32, *mut Context) -> i64,
    context: *mut Context,
) {
    // SAFETY: as the caller promises.
    unsafe {
        aya_ebpf::helpers::generated::bpf_loop(times_max, step as *mut _, context.cast(), 0);
    }
}

/// Calls `step` with the numbers from 0 up to `times`, but with no more than `TIMES_MAX` of them,
/// until it gives something else than 0.
#[cfg(feature = "before-5-17")]
#[inline(always)]
pub(crate) fn repeat<const TIMES_MAX: u64>(times: u64, step: impl Fn(u64) -> u64) {
    let mut index = 0;
    while index < TIMES_MAX {
        if index >= times || step(index) != 0 {
            break;
        }
        index += 1;
    }
}
