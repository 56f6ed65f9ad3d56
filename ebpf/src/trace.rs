//! What the programs `trace_enter` and `trace_exit` and user space tell each other: calls of functions
//! that a script asked for.
//!
//! A [`Plan`] says what is read of a call. It has a slot in the map `TRACE_PLANS`, and the cookie of
//! each of its probes names the slot and the plan's generation ([`cookie`]), so that a probe that
//! outlives its plan does nothing. A call is one [`crate::Kind::Trace`]: a [`TraceInfo`], then
//! [`TraceInfo::texts`] times [`TEXT_BYTES_MAX`] bytes of text.
//!
//! **Loss identity.** Per plan `calls = limited + full + sent + dropped + open` ([`Totals`]); what is
//! open has not returned yet, or was displaced by [`CALLS_MAX`] younger calls.

/// Most plans at a time.
pub const PLANS_MAX: u32 = 16;

/// Most values of one call. A power of two, so that a mask keeps an index inside.
pub const VALUES_MAX: usize = 16;

/// Most pointers that are followed to one value.
pub const DEREFS_MAX: usize = 4;

/// Most texts among the values of one call. A power of two.
pub const TEXTS_MAX: usize = 4;

/// Most bytes of one text.
pub const TEXT_BYTES_MAX: usize = 256;

/// Most calls that are known to have begun and not to have returned.
pub const CALLS_MAX: u32 = 2048;

/// Most calls of a plan that are told of in a second; further ones are counted.
pub const CALLS_PER_SECOND_MAX: u64 = 10_000;

/// How many registers there are in the kernel's `struct pt_regs` of x86-64.
pub const REGISTERS: u8 = 21;

/// [`Fetch::kind`]: an integer.
pub const INTEGER: u8 = 0;
/// [`Fetch::kind`]: a text that a NUL ends.
pub const TEXT: u8 = 1;
/// [`Fetch::kind`]: a text whose length stands behind its address: in [`Fetch::length_register`], or
/// where pointers are followed, in the eight bytes after the last.
pub const COUNTED_TEXT: u8 = 2;

/// [`Fetch::moment`]: when the function is called.
pub const AT_ENTRY: u8 = 0;
/// [`Fetch::moment`]: when it returns.
pub const AT_RETURN: u8 = 1;

/// One value of a call: the content of a register, then pointers that are followed from there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetch {
    /// Place in `struct pt_regs`, in words.
    pub register: u8,
    /// How many pointers are followed, at most [`DEREFS_MAX`].
    pub derefs: u8,
    /// [`INTEGER`], [`TEXT`] or [`COUNTED_TEXT`].
    pub kind: u8,
    /// [`AT_ENTRY`] or [`AT_RETURN`].
    pub moment: u8,
    /// Bytes that the last step reads, 1 to 8.
    pub width: u8,
    /// Which text of the call it is, where it is one.
    pub text: u8,
    /// As `register`, where a counted text has its length.
    pub length_register: u8,
    /// Reserved, 0.
    pub reserved: u8,
    /// What is added before each step.
    pub offsets: [i32; DEREFS_MAX],
    /// What is added to the address of a text.
    pub text_offset: i32,
    /// Reserved, 0.
    pub reserved_too: i32,
}

/// What is read of a call. Value of the map `TRACE_PLANS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Which plan of this slot it is; 0 where there is none.
    pub generation: u32,
    /// How many of `fetches` there are.
    pub values: u32,
    /// How many of them are texts.
    pub texts: u32,
    /// Not 0 where a call is told when it returns.
    pub waits_for_return: u32,
    /// What is read.
    pub fetches: [Fetch; VALUES_MAX],
}

/// Body of [`crate::Kind::Trace`]. [`crate::Header::captured`] bytes of text follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceInfo {
    /// The plan's slot.
    pub slot: u32,
    /// The plan's generation.
    pub generation: u32,
    /// When the call began, `CLOCK_MONOTONIC`.
    pub entered_ns: u64,
    /// A bit for each value that could not be read.
    pub faults: u32,
    /// How many texts follow, each with room for [`TEXT_BYTES_MAX`] bytes.
    pub texts: u32,
    /// Integers as they were read, and the lengths of texts in bytes. Of an integer of fewer than
    /// eight bytes the upper ones mean nothing.
    pub values: [u64; VALUES_MAX],
}

/// What became of the calls of a plan; exact. Value of the map `TRACE_TOTALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Calls by processes in scope.
    pub calls: u64,
    /// Calls beyond [`CALLS_PER_SECOND_MAX`].
    pub limited: u64,
    /// Calls for which there was no room to remember them.
    pub full: u64,
    /// Calls that a message tells of.
    pub sent: u64,
    /// Calls for whose message the ring had no room.
    pub dropped: u64,
    /// Values that could not be read.
    pub faults: u64,
    /// When this second began, `CLOCK_MONOTONIC`.
    pub second_ns: u64,
    /// Calls in it.
    pub in_second: u64,
}

/// The cookie of a plan's probes.
pub const fn cookie(slot: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | slot as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<Fetch>(), 8 + 4 * DEREFS_MAX + 8);
        assert_eq!(size_of::<Plan>(), 16 + VALUES_MAX * size_of::<Fetch>());
        assert_eq!(size_of::<TraceInfo>(), 24 + 8 * VALUES_MAX);
        assert_eq!(size_of::<Totals>(), 64);
    }

    #[test]
    fn masks_fit_what_they_guard() {
        assert!(VALUES_MAX.is_power_of_two() && TEXTS_MAX.is_power_of_two());
        assert!(PLANS_MAX.is_power_of_two());
    }
}
