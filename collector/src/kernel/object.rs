//! Which build of the kernel programs is loaded.
#![expect(unsafe_code, reason = "the limit on locked memory is raised through libc")]

use std::{borrow::Cow, io};

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
    util::KernelVersion,
};

/// The first kernel with `bpf_loop`.
pub(super) const BPF_LOOP: KernelVersion = KernelVersion::new(5, 17, 0);

/// The first kernel that does not count maps as locked memory.
const MAPS_NOT_LOCKED: KernelVersion = KernelVersion::new(5, 11, 0);

/// A build of the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// [`Self::Usual`] where the kernel has `bpf_loop`, as 5.17 and later do, otherwise
    /// [`Self::Before5_17`].
    Fitting,
    /// What kernels since 5.17 take.
    Usual,
    /// What kernels since 5.10 take. It does the same with loops that the verifier must go through,
    /// and two threads that send on one connection at the same moment may be given one position.
    Before5_17,
    /// The bytes of an ELF object with programs of the same names and maps.
    Given(Vec<u8>),
}

impl Object {
    /// The ELF object, aligned as a parser wants it. Asks the kernel where it decides.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Fitting if has_loop() => Cow::Borrowed(usual()),
            Self::Usual => Cow::Borrowed(usual()),
            Self::Fitting | Self::Before5_17 => Cow::Borrowed(before_5_17()),
            Self::Given(bytes) => Cow::Borrowed(bytes),
        }
    }
}

/// Whether this kernel has `bpf_loop`. Distributions carry it into older kernels too, so the kernel
/// is asked; where it does not answer, its version counts.
pub(super) fn has_loop() -> bool {
    is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_loop).unwrap_or_else(
        |error| {
            tracing::debug!(%error, "the kernel does not say whether it has bpf_loop");
            KernelVersion::current().is_ok_and(|version| version >= BPF_LOOP)
        },
    )
}

#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

pub(super) fn usual() -> &'static [u8] {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../ebpf/undine.bpf.o"));
    &OBJECT.0
}

pub(super) fn before_5_17() -> &'static [u8] {
    static OBJECT: &Aligned<[u8]> =
        &Aligned(*include_bytes!("../../../ebpf/undine-before-5.17.bpf.o"));
    &OBJECT.0
}

/// Lets maps be as large as they are asked to be on kernels that count them as locked memory.
/// Where that is not allowed, the maps are refused, which says what to do.
pub(super) fn allow_locked_memory() {
    if KernelVersion::current().is_ok_and(|version| version >= MAPS_NOT_LOCKED) {
        return;
    }
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives through the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "the limit on locked memory cannot be raised");
    }
}
