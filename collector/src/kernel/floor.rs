//! Programs that do the least that programs on the tracepoints of sockets and on functions of TLS libraries could
//! do, beside which Undine's own cost can be judged: how much of that is the kernel's price for any program.

use std::{collections::BTreeMap, fmt, io, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{
        Program, ProgramError, RawTracePoint, UProbe,
        uprobe::{UProbeAttachLocation, UProbeScope},
    },
};

use super::{
    BuildError, Cgroup, OffsetsError, ProgramCost, cgroups, cost, object, offsets,
    programs::{self, SOCKET_LENGTH},
};
use crate::tls::{
    Placing,
    library::{Library, LibraryError},
};

/// Bytes of a ring that is not used: as few as the kernel takes.
const NO_RING_BYTES: u32 = 4096;

/// What the programs do with an operation of the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// They see that it is one, and nothing else.
    Nothing,
    /// They copy what it moved into a ring: no connection, no header, nothing is counted. At most
    /// 1023 bytes of each of its first two runs.
    Copy,
}

impl Work {
    const fn program(self) -> &'static str {
        match self {
            Self::Nothing => "floor_empty",
            Self::Copy => "floor_copy",
        }
    }
}

/// Why such programs do not run.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The cgroup is not there.
    #[error("cannot look at the cgroup {0}")]
    Cgroup(std::path::PathBuf, #[source] io::Error),
    /// The kernel's types cannot be read.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// The object or its ring was refused.
    #[error(transparent)]
    Object(#[from] BuildError),
    /// The library is not one whose calls can be probed.
    #[error("cannot look into the library {0}")]
    Library(std::path::PathBuf, #[source] LibraryError),
    /// It has no functions that move plaintext.
    #[error("the file {0} is no TLS library; name one, as libssl.so.3")]
    NoLibrary(std::path::PathBuf),
    /// The kernel does not take the program; it needs 6.3.
    #[error("the program {0} cannot be attached; it needs Linux 6.3")]
    Program(&'static str, #[source] ProgramError),
}

/// Such programs, attached until this is dropped.
pub struct Floor {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
}

impl fmt::Debug for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Floor").finish_non_exhaustive()
    }
}

impl Floor {
    /// Attaches programs that do `work` for the processes in `cgroup` itself, and a ring of
    /// `ring_bytes` that nobody is woken for.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub fn build(work: Work, cgroup: &Cgroup, ring_bytes: u32) -> Result<Self, FloorError> {
        let mut floor = Self::load(cgroup, ring_bytes)?;
        let name = work.program();
        floor.on_sockets(name).map_err(|cause| FloorError::Program(name, cause))?;
        Ok(floor)
    }

    /// Attaches programs that do nothing for the processes in `cgroup` itself where calls of the TLS library at
    /// `path` begin and where they return, as Undine's are.
    ///
    /// # Errors
    /// Where the kernel refuses it, or it is no TLS library.
    pub fn of_calls(path: &Path, cgroup: &Cgroup) -> Result<Self, FloorError> {
        let library = Library::read(path, Placing::Best)
            .map_err(|cause| FloorError::Library(path.to_path_buf(), cause))?
            .filter(|library| !library.calls.is_empty())
            .ok_or_else(|| FloorError::NoLibrary(path.to_path_buf()))?;
        let mut floor = Self::load(cgroup, NO_RING_BYTES)?;
        for name in ["floor_exit", "floor_enter"] {
            floor
                .on_calls(name, path, &library)
                .map_err(|cause| FloorError::Program(name, cause))?;
        }
        Ok(floor)
    }

    fn load(cgroup: &Cgroup, ring_bytes: u32) -> Result<Self, FloorError> {
        let path = cgroup.path();
        let cgroup =
            cgroups::id(path).map_err(|cause| FloorError::Cgroup(path.to_path_buf(), cause))?;
        let layout = offsets::of_running_kernel()?;
        let mut ebpf = EbpfLoader::new()
            .override_global("OFFSETS", &layout.offsets, true)
            .override_global("FLOOR_CGROUP", &cgroup, true)
            .map_max_entries("RING", ring_bytes)
            .load(object::usual())
            .map_err(|cause| BuildError::Load(Box::new(cause)))?;
        let ring = programs::take(&mut ebpf, "RING")?;
        Ok(Self { ebpf, ring })
    }

    /// Loads the program and puts it on both tracepoints.
    fn on_sockets(&mut self, name: &str) -> Result<(), ProgramError> {
        let program: &mut RawTracePoint = self.program(name)?.try_into()?;
        program.load()?;
        for probe in &SOCKET_LENGTH {
            program.attach(probe.name)?;
        }
        Ok(())
    }

    /// Loads the program and puts it on the calls of the `library` at `path`.
    fn on_calls(&mut self, name: &str, path: &Path, library: &Library) -> Result<(), ProgramError> {
        let program: &mut UProbe = self.program(name)?.try_into()?;
        program.load()?;
        for site in &library.calls {
            let at = UProbeAttachLocation::AbsoluteOffset(site.offset);
            program.attach(at, path, UProbeScope::AllProcesses)?;
        }
        Ok(())
    }

    fn program(&mut self, name: &str) -> Result<&mut Program, ProgramError> {
        let missing = || ProgramError::InvalidName { name: name.to_owned() };
        self.ebpf.program_mut(name).ok_or_else(missing)
    }

    /// Takes the copies out of the ring; how many there were.
    pub fn take_copies(&mut self) -> u64 {
        let mut copies = 0;
        while self.ring.next().is_some() {
            copies += 1;
        }
        copies
    }

    /// What the programs cost while `act` runs.
    ///
    /// # Errors
    /// Where this process may not ask the kernel to count.
    pub fn cost_during<T>(
        &self,
        act: impl FnOnce() -> T,
    ) -> Result<(super::CostSample, T), aya::sys::SyscallError> {
        let totals = || -> BTreeMap<String, ProgramCost> { cost::run_totals(&self.ebpf) };
        cost::during(totals, act)
    }
}
