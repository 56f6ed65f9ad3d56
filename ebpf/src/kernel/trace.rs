//! Calls of functions that a script asked for.
//!
//! What is read of a call is gathered in a map value of its own, also where it is sent at once, since
//! programs of processes may interrupt each other and so cannot share scratch memory.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_attach_cookie, bpf_loop, bpf_probe_read_kernel, bpf_probe_read_user,
            bpf_probe_read_user_str, bpf_ringbuf_output,
        },
    },
    macros::{map, uprobe, uretprobe},
    maps::{Array, LruHashMap},
    programs::{ProbeContext, RetProbeContext},
};
use undine_ebpf::{
    Counter, Header, Kind,
    trace::{
        AT_ENTRY, AT_RETURN, CALLS_MAX, CALLS_PER_SECOND_MAX, COUNTED_TEXT, DEREFS_MAX, Fetch,
        INTEGER, PLANS_MAX, Plan, TEXT_BYTES_MAX, TEXTS_MAX, Totals, TraceInfo, VALUES_MAX,
    },
};

use super::{
    maps::{RING, add, count},
    ring,
    scope::watches,
    task::Current,
};

/// What is read of a call, by its slot.
#[map]
static TRACE_PLANS: Array<Plan> = Array::with_max_entries(PLANS_MAX, 0);
/// What became of the calls of a plan.
#[map]
static TRACE_TOTALS: Array<Totals> = Array::with_max_entries(PLANS_MAX, 0);
/// Calls that have begun.
#[map]
static TRACE_CALLS: LruHashMap<CallKey, Call> = LruHashMap::with_max_entries(CALLS_MAX, 0);
/// A call of which nothing is known yet; never written.
#[map]
static TRACE_FRESH: Array<Call> = Array::with_max_entries(1, 0);

/// Which call: a function that calls itself has other stacks.
#[repr(C)]
#[derive(Clone, Copy)]
struct CallKey {
    thread: u64,
    /// The stack after the return.
    stack: u64,
    cookie: u64,
}

/// A call, as its message tells it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Call {
    header: Header,
    info: TraceInfo,
    texts: [[u8; TEXT_BYTES_MAX]; TEXTS_MAX],
}

/// Bytes of a message without texts.
const BARE_BYTES: u64 = (size_of::<Header>() + size_of::<TraceInfo>()) as u64;

/// What `fetch_value` works on.
struct Gather {
    plan: *const Plan,
    call: *mut Call,
    registers: *const c_void,
    moment: u8,
}

/// A function is called.
#[uprobe]
pub(crate) fn trace_enter(ctx: ProbeContext) -> u32 {
    // SAFETY: the helper only wants the context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some((plan, totals)) = plan_of(cookie) else { return 0 };
    let current = Current::get();
    if !watches(current, || current.netns()) || !is_told(totals) {
        return 0;
    }
    // SAFETY: registers are those of the process; `plan` and `totals` are map values.
    unsafe {
        let stack = (*ctx.regs).rsp + 8;
        let key = CallKey { thread: bpf_get_current_pid_tgid(), stack, cookie };
        let Some(call) = enter(&key) else {
            add(&raw mut (*totals).full, 1);
            return 0;
        };
        ring::fill(
            &raw mut (*call).header,
            Kind::Trace,
            current.tgid,
            current.tid,
            current.process_start_ns(),
        );
        (*call).info.slot = cookie as u32;
        (*call).info.generation = (cookie >> 32) as u32;
        (*call).info.entered_ns = (*call).header.time_mono_ns;
        (*call).info.texts = (*plan).texts;
        gather(plan, call, ctx.as_ptr(), AT_ENTRY);
        if (*plan).waits_for_return == 0 {
            send(call, totals);
            let _ = TRACE_CALLS.remove(&key);
        }
    }
    0
}

/// A function returns.
#[uretprobe]
pub(crate) fn trace_exit(ctx: RetProbeContext) -> u32 {
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some((plan, totals)) = plan_of(cookie) else { return 0 };
    // SAFETY: as above.
    unsafe {
        let stack = (*ctx.regs).rsp;
        let key = CallKey { thread: bpf_get_current_pid_tgid(), stack, cookie };
        let Some(call) = TRACE_CALLS.get_ptr_mut(&key) else { return 0 };
        (*call).header.time_mono_ns = ring::now_ns();
        gather(plan, call, ctx.as_ptr(), AT_RETURN);
        send(call, totals);
        let _ = TRACE_CALLS.remove(&key);
    }
    0
}

/// The plan that a probe is of.
#[inline(always)]
fn plan_of(cookie: u64) -> Option<(*const Plan, *mut Totals)> {
    let plan = TRACE_PLANS.get_ptr(cookie as u32)?;
    let totals = TRACE_TOTALS.get_ptr_mut(cookie as u32)?;
    // SAFETY: a map value.
    let is_current = unsafe { (*plan).generation } == (cookie >> 32) as u32;
    is_current.then_some((plan, totals))
}

/// Counts a call. Gives whether it is told of.
#[inline(always)]
fn is_told(totals: *mut Totals) -> bool {
    let now = ring::now_ns();
    // SAFETY: a map value. Where two CPUs begin a second at once, a few calls more are told.
    unsafe {
        add(&raw mut (*totals).calls, 1);
        if now - (*totals).second_ns >= 1_000_000_000 {
            (*totals).second_ns = now;
            (*totals).in_second = 0;
        }
        if add(&raw mut (*totals).in_second, 1) >= CALLS_PER_SECOND_MAX {
            add(&raw mut (*totals).limited, 1);
            return false;
        }
    }
    true
}

/// Enters a call of which nothing is known yet.
#[inline(always)]
fn enter(key: &CallKey) -> Option<*mut Call> {
    let fresh = TRACE_FRESH.get(0)?;
    let _ = TRACE_CALLS.insert(key, fresh, 0);
    TRACE_CALLS.get_ptr_mut(key)
}

/// Reads the values of one moment.
#[inline(always)]
unsafe fn gather(plan: *const Plan, call: *mut Call, registers: *const c_void, moment: u8) {
    let mut gather = Gather { plan, call, registers, moment };
    // SAFETY: the helper calls `fetch_value` with this context and nothing else, while it lives.
    unsafe {
        let context = (&raw mut gather).cast();
        bpf_loop(VALUES_MAX as u32, fetch_value as *mut _, context, 0);
    }
}

/// Reads value `index`. Gives 1 where there is none.
unsafe extern "C" fn fetch_value(index: u32, gather: *mut Gather) -> i64 {
    // SAFETY: see `gather`. The mask keeps the index inside; helpers check addresses.
    unsafe {
        let Gather { plan, call, registers, moment } = *gather;
        if index >= (*plan).values {
            return 1;
        }
        let at = below::<VALUES_MAX>(u64::from(index)) as usize;
        let fetch = (&raw const (*plan).fetches).cast::<Fetch>().add(at);
        if (*fetch).moment != moment {
            return 0;
        }
        let value = (&raw mut (*call).info.values).cast::<u64>().add(at);
        if !read_value(fetch, call, value, registers) {
            (*call).info.faults |= 1 << index;
        }
    }
    0
}

/// Reads a value. Gives whether that was possible.
#[inline(always)]
unsafe fn read_value(
    fetch: *const Fetch,
    call: *mut Call,
    value: *mut u64,
    registers: *const c_void,
) -> bool {
    // SAFETY: as above.
    unsafe {
        let mut current = register(registers, (*fetch).register);
        let mut length = 0;
        if (*fetch).kind == COUNTED_TEXT {
            length = register(registers, (*fetch).length_register);
        }
        let derefs = (*fetch).derefs;
        let mut step = 0;
        while step < DEREFS_MAX {
            if step >= derefs as usize {
                break;
            }
            let offset = *(&raw const (*fetch).offsets).cast::<i32>().add(step);
            let address = current.wrapping_add(offset as i64 as u64);
            let is_last = step + 1 == derefs as usize;
            let width = if is_last { u64::from((*fetch).width) } else { 8 };
            // Twice as large as a word, so that the mask that the verifier sees keeps the read inside.
            let mut word = [0_u64; 2];
            let to = (&raw mut word).cast();
            if bpf_probe_read_user(to, below::<16>(width) as u32, address as *const _) != 0 {
                return false;
            }
            current = word[0];
            if is_last && (*fetch).kind == COUNTED_TEXT {
                let from = address.wrapping_add(8);
                if bpf_probe_read_user((&raw mut length).cast(), 8, from as *const _) != 0 {
                    return false;
                }
            }
            step += 1;
        }
        if (*fetch).kind == INTEGER {
            *value = current;
            return true;
        }
        let address = current.wrapping_add((*fetch).text_offset as i64 as u64);
        let at = below::<TEXTS_MAX>(u64::from((*fetch).text)) as usize;
        let text = (&raw mut (*call).texts).cast::<[u8; TEXT_BYTES_MAX]>().add(at);
        if (*fetch).kind == COUNTED_TEXT {
            *value = length;
            let most = TEXT_BYTES_MAX as u64;
            let bytes = at_most_a_text(if length > most { most } else { length });
            return bpf_probe_read_user(text.cast(), bytes as u32, address as *const _) == 0;
        }
        let read = bpf_probe_read_user_str(text.cast(), TEXT_BYTES_MAX as u32, address as *const _);
        if read < 0 {
            return false;
        }
        *value = read as u64;
        true
    }
}

/// A register of the process.
#[inline(always)]
unsafe fn register(registers: *const c_void, at: u8) -> u64 {
    let mut word = 0_u64;
    // SAFETY: user space only names registers that there are; the helper checks the address.
    unsafe {
        let from = registers.cast::<u64>().add(below::<32>(u64::from(at)) as usize);
        bpf_probe_read_kernel((&raw mut word).cast(), 8, from.cast());
    }
    word
}

/// Sends what was gathered.
#[inline(always)]
unsafe fn send(call: *mut Call, totals: *mut Totals) {
    // SAFETY: `call` and `totals` are map values.
    unsafe {
        (*call).header.cpu_seq = ring::next_attempt();
        (*call).header.cpu = ring::cpu() as u16;
        let faults = u64::from((*call).info.faults);
        if faults != 0 {
            add(&raw mut (*totals).faults, u64::from(faults.count_ones()));
            count(Counter::Faults, 1);
        }
        let texts = (*call).info.texts;
        let captured = below::<8>(u64::from(texts)) * TEXT_BYTES_MAX as u64;
        let most = (TEXTS_MAX * TEXT_BYTES_MAX) as u64;
        let captured = if captured > most { most } else { captured };
        (*call).header.len = captured as u32;
        (*call).header.captured = captured as u32;
        let ring = &raw const RING as *mut _;
        let bytes = BARE_BYTES + at_most_all_texts(captured);
        if bpf_ringbuf_output(ring, call.cast(), bytes, ring::wakeup()) == 0 {
            add(&raw mut (*totals).sent, 1);
        } else {
            add(&raw mut (*totals).dropped, 1);
            count(Counter::Dropped, 1);
        }
    }
}

/// `value` below a power of two, in a way that lets the verifier see that.
#[inline(always)]
fn below<const LIMIT: usize>(mut value: u64) -> u64 {
    const { assert!(LIMIT.is_power_of_two()) };
    // SAFETY: a plain mask. In assembly because the compiler may know that the value is small and
    // leave the mask out, whereas the verifier does not.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) value,
            const LIMIT - 1,
            options(pure, nomem, nostack),
        );
    }
    value
}

/// `value`, in a way that lets the verifier see that it is no longer than a text.
#[inline(always)]
fn at_most_a_text(value: u64) -> u64 {
    at_most::<TEXT_BYTES_MAX>(value)
}

/// `value`, in a way that lets the verifier see that it is no longer than all texts.
#[inline(always)]
fn at_most_all_texts(value: u64) -> u64 {
    at_most::<{ TEXTS_MAX * TEXT_BYTES_MAX }>(value)
}

/// `value`, which is at most `MOST`, in a way that lets the verifier see that.
#[inline(always)]
fn at_most<const MOST: usize>(mut value: u64) -> u64 {
    // SAFETY: a comparison; in assembly as above.
    unsafe {
        core::arch::asm!(
            "if {0} <= {1} goto +1",
            "{0} = 0",
            inout(reg) value,
            const MOST,
            options(pure, nomem, nostack),
        );
    }
    value
}
