//! Probes of TLS libraries, and what the programs know of their plaintexts.

use std::collections::HashSet;
use std::path::Path;

use aya::{
    Ebpf,
    maps::{self, Array, MapData},
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
};
use undine_ebpf::load::{
    COOKIE_LIBRARY_SHIFT, Connection, TLS_LIBRARIES_MAX, TLS_OF_C, TLS_OF_GO, TLS_OF_RUST, TlsKey,
    TlsLibrary, TlsStream,
};

use super::{
    ConnectionState, ControlError, Outcome, process_tree,
    programs::{Plain, Probe, outcome_of, state_of, unusable},
    ring,
};
use crate::event::ProcessKey;
use crate::process;
use crate::tls::library::{Family, Library, Site};

/// The programs by whom they read. Half of what a library says is of no use, so none of a family is
/// used where the kernel refuses one of them; the other families are read nevertheless.
const PROGRAMS: [(Family, &[&str]); 3] = [
    (Family::C, &["tls_enter", "tls_exit", "tls_free"]),
    (Family::Go, &["go_tls_enter", "go_tls_exit"]),
    (Family::Rustls, &["rustls_send_enter", "rustls_send_exit", "rustls_receive", "rustls_carry"]),
];

/// Why the programs are not used with the hooks that are.
const NO_HOOKS: &str = "what a TLS library is told is bound to a socket by what it does \
     there meanwhile, which neither tracepoints (6.3) nor programs on functions (5.17) show here";

/// Names of the programs.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().flat_map(|(_, names)| names).copied()
}

/// What is lost without the programs of a family.
const fn without(family: Family) -> &'static str {
    match family {
        Family::C => "what OpenSSL, BoringSSL and GnuTLS say inside TLS is not read",
        Family::Go => "what Go's crypto/tls says inside TLS is not read",
        Family::Rustls => "what rustls says inside TLS is not read",
    }
}

/// Probes of TLS libraries.
pub(super) struct TlsProbes {
    pub(super) streams: maps::HashMap<MapData, Plain<TlsKey>, Plain<TlsStream>>,
    /// Which of them a connection carries; only whether an entry is there is of interest here.
    pub(super) carriers: maps::HashMap<MapData, u64, Plain<TlsKey>>,
    pub(super) known: Array<MapData, Plain<TlsLibrary>>,
    /// Calls that goroutines are in, of which only the object is of interest here.
    pub(super) go_calls: maps::HashMap<MapData, Plain<TlsKey>, [u64; 7]>,
    /// Libraries that are probed.
    pub(super) libraries: u32,
    /// A sum of `TLS_OF_…`.
    pub(super) of: u32,
    /// Whose programs are in the kernel, all of them.
    pub(super) loaded: Vec<Family>,
}

impl TlsProbes {
    /// Loads the programs, where `hooks_see_calls`; they run once a library is probed. How each fared.
    pub(super) fn load(&mut self, ebpf: &mut Ebpf, hooks_see_calls: bool) -> Vec<(Probe, Outcome)> {
        let mut outcomes = Vec::new();
        for (family, names) in PROGRAMS {
            let before = outcomes.len();
            for name in names {
                let outcome = if hooks_see_calls {
                    let loaded = program(ebpf, name).and_then(UProbe::load);
                    loaded.map_or_else(|error| outcome_of(&error), |()| Outcome::Standby)
                } else {
                    Outcome::Refused(NO_HOOKS.to_owned())
                };
                outcomes.push((Probe { name, without: without(family) }, outcome));
            }
            if outcomes[before..].iter().all(|(_, outcome)| *outcome == Outcome::Standby) {
                self.loaded.push(family);
            }
        }
        outcomes
    }

    /// Probes a library's functions. Leaves those out of `library` whose programs are not loaded.
    pub(super) fn probe(&mut self, ebpf: &mut Ebpf, path: &Path, library: &mut Library) -> Outcome {
        let is_wanted = |family: &Family| library.has(*family) && !self.loaded.contains(family);
        let lacking: Vec<_> = Family::ALL.into_iter().filter(is_wanted).collect();
        for family in &lacking {
            library.leave_out(*family);
        }
        if let Some(family) = lacking.first()
            && !Family::ALL.into_iter().any(|family| library.has(family))
        {
            let (name, own) = (family.name(), "their own rows here say why");
            return Outcome::Refused(format!("the programs for {name} are not loaded; {own}"));
        }
        if self.libraries >= TLS_LIBRARIES_MAX {
            return Outcome::Refused(format!("{TLS_LIBRARIES_MAX} libraries are probed already"));
        }
        let index = self.libraries;
        self.libraries += 1;
        let with_index = |site: &Site| Site {
            cookie: site.cookie | u64::from(index) << COOKIE_LIBRARY_SHIFT,
            ..*site
        };
        let layout = &library.layout;
        let known = TlsLibrary {
            probed_since_ns: 0,
            random_via: layout.random_via,
            random_at: layout.random_at,
            server_at: layout.server_at,
            server_bits: layout.server_bits,
            sendable_at: 0,
            reserved: 0,
        };
        if let Err(error) = self.known.set(index, Plain(known), 0) {
            return Outcome::Refused(error.to_string());
        }
        let mut links = Vec::new();
        for (name, sites) in [
            ("tls_exit", &library.calls),
            ("tls_free", &library.ends),
            ("tls_enter", &library.calls),
            ("go_tls_exit", &library.go_returns),
            ("go_tls_enter", &library.go_entries),
            ("rustls_send_exit", &library.rustls_sends),
            ("rustls_carry", &library.rustls_carries),
            ("rustls_receive", &library.rustls_receives),
            ("rustls_send_enter", &library.rustls_sends),
        ] {
            for site in sites.iter().map(with_index) {
                match attach(ebpf, name, path, site) {
                    Ok(link) => links.push((name, link)),
                    Err(error) => {
                        take_away(ebpf, links);
                        return outcome_of(&error);
                    }
                }
            }
        }
        for family in Family::ALL.into_iter().filter(|family| library.has(*family)) {
            self.of |= match family {
                Family::C => TLS_OF_C,
                Family::Go => TLS_OF_GO,
                Family::Rustls => TLS_OF_RUST,
            };
        }
        self.write_since(index, known);
        Outcome::Attached
    }

    /// Says when a library's probes were in place.
    fn write_since(&mut self, index: u32, mut known: TlsLibrary) {
        // The programs may have learnt of it meanwhile.
        if let Ok(Plain(now)) = self.known.get(&index, 0) {
            known = now;
        }
        known.probed_since_ns = ring::clock_ns(libc::CLOCK_MONOTONIC).cast_unsigned();
        if let Err(error) = self.known.set(index, Plain(known), 0) {
            tracing::warn!(%error, "a TLS library's plaintexts will all count as joined midway");
        }
    }

    /// Plaintexts that are open and were announced.
    pub(super) fn streams(&self) -> Result<Vec<ConnectionState>, ControlError> {
        let mut open = Vec::new();
        for entry in &self.streams {
            let (_, Plain(stream)) = entry.map_err(unusable("TLS_STREAMS"))?;
            if stream.connection.announced != 0 {
                open.push(state_of(&stream.connection));
            }
        }
        Ok(open)
    }

    /// Forgets plaintexts and calls of processes that have ended, of which nothing else tells. Gives the
    /// plaintexts that still waited for a call to return.
    pub(super) fn forget_ended(&mut self) -> Result<Vec<Connection>, ControlError> {
        let mut ended = Vec::new();
        for entry in &self.streams {
            let (Plain(key), Plain(stream)) = entry.map_err(unusable("TLS_STREAMS"))?;
            let is_carried = stream.carrier != 0 && stream.is_let_go == 0;
            if !is_carried && has_ended(key.tgid, stream.connection.process_start_ns) {
                ended.push((key, stream));
            }
        }
        // A call does not say of which process it is where another has its number, but of which object.
        let objects: HashSet<_> = ended.iter().map(|(key, _)| *key).collect();
        let mut waited = Vec::new();
        for (key, stream) in ended {
            // Whoever takes this entry out tells that the plaintext ends.
            let tells = stream.carrier != 0 && self.carriers.remove(&stream.carrier).is_ok();
            if tells && stream.connection.announced != 0 {
                waited.push(stream.connection);
            }
            if let Err(error) = self.streams.remove(&Plain(key)) {
                tracing::debug!(%error, "an ended process's plaintext is gone already");
            }
        }
        let mut ended = Vec::new();
        for entry in &self.go_calls {
            let (Plain(key), [object, ..]) = entry.map_err(unusable("GO_CALLS"))?;
            let of = TlsKey { object, ..key };
            if objects.contains(&of) || !process_tree::is_process(key.tgid) {
                ended.push(key);
            }
        }
        for key in ended {
            if let Err(error) = self.go_calls.remove(&Plain(key)) {
                tracing::debug!(%error, "an ended process's call is gone already");
            }
        }
        Ok(waited)
    }
}

/// Whether the process `tgid` that began at `start_ns` has ended, also where another has its number by
/// now. Of a plaintext that is being entered the start is not known yet.
fn has_ended(tgid: u32, start_ns: u64) -> bool {
    let is_other = || start_ns != 0 && !process::is_running(ProcessKey { tgid, start_ns });
    !process_tree::is_process(tgid) || is_other()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, ProgramError> {
    let missing = || ProgramError::InvalidName { name: name.to_owned() };
    ebpf.program_mut(name).ok_or_else(missing)?.try_into()
}

fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    path: &Path,
    site: Site,
) -> Result<UProbeLinkId, ProgramError> {
    let location = UProbeAttachLocation::AbsoluteOffset(site.offset);
    let point = UProbeAttachPoint { location, cookie: Some(site.cookie) };
    program(ebpf, name)?.attach(point, path, UProbeScope::AllProcesses)
}

/// Takes probes away again, since half of them would tell half of what was said.
fn take_away(ebpf: &mut Ebpf, links: Vec<(&'static str, UProbeLinkId)>) {
    for (name, link) in links {
        if let Err(error) = program(ebpf, name).and_then(|program| program.detach(link)) {
            tracing::warn!(name, %error, "a probe could not be taken away");
        }
    }
}

/// Takes the programs out of the kernel, with all their probes.
pub(super) fn unload(ebpf: &mut Ebpf) {
    for name in names() {
        if let Ok(program) = program(ebpf, name)
            && let Err(error) = program.unload()
            && !matches!(error, ProgramError::NotLoaded)
        {
            tracing::warn!(name, %error, "a kernel program could not be unloaded");
        }
    }
}
