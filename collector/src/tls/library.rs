//! A TLS library: which of its functions move plaintext, and where in its file they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use memchr::memmem;
use object::read::ReadCache;
use object::{Architecture, Object, ObjectSection, ObjectSegment, ObjectSymbol};
use undine_ebpf::load::COOKIE_EGRESS;

use super::go_functions::{self, GoError, GoFunction};
use super::object_layout::ObjectLayout;
use super::placement::{self, Count, Manner, Place, Placing};
use super::rustls_functions::{self, RustlsError, RustlsFunction, Work};

/// Most bytes of a function's code that are looked at.
const CODE_BYTES_MAX: u64 = 128;
/// Most bytes of symbols' names that are searched before the symbols are walked through.
const NAMES_BYTES_MAX: u64 = 64 << 20;

/// A function that moves plaintext.
struct Function {
    name: &'static str,
    egress: bool,
    count: Count,
}

/// Functions that take an object, a buffer and its length. One that calls another of them counts once:
/// what is within counts.
const FUNCTIONS: [Function; 9] = [
    Function { name: "SSL_write", egress: true, count: Count::Returned },
    Function { name: "SSL_read", egress: false, count: Count::Returned },
    Function { name: "SSL_write_ex", egress: true, count: Count::Written },
    Function { name: "SSL_read_ex", egress: false, count: Count::Written },
    Function { name: "gnutls_record_send", egress: true, count: Count::Returned },
    Function { name: "gnutls_record_send2", egress: true, count: Count::Returned },
    Function { name: "gnutls_record_send_range", egress: true, count: Count::Returned },
    Function { name: "gnutls_record_recv", egress: false, count: Count::Returned },
    Function { name: "gnutls_record_recv_seq", egress: false, count: Count::Returned },
];

/// Functions that end an object.
const ENDS: [&str; 2] = ["SSL_free", "gnutls_deinit"];

/// Functions that tell the client's random bytes of a handshake.
const RANDOM: [&str; 2] = ["SSL_get_client_random", "gnutls_session_get_random"];

/// The function that tells whether an object is the server's.
const SERVER: &str = "SSL_is_server";

/// Libraries that the same kernel programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// OpenSSL, `BoringSSL` and `GnuTLS`.
    C,
    /// Go's `crypto/tls`.
    Go,
    /// rustls.
    Rustls,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::C, Self::Go, Self::Rustls];

    /// What its libraries are called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::C => "OpenSSL, BoringSSL and GnuTLS",
            Self::Go => "Go's crypto/tls",
            Self::Rustls => "rustls",
        }
    }

    /// That of a function that is probed.
    fn of(function: &str) -> Self {
        let of_c = FUNCTIONS.iter().map(|of| of.name).chain(ENDS).any(|name| name == function);
        if of_c {
            Self::C
        } else if function.starts_with("crypto/tls.") {
            Self::Go
        } else {
            Self::Rustls
        }
    }
}

/// A place in a file for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Offset of the instruction in the file.
    pub offset: u64,
    /// The probe's cookie, without the library's index.
    pub cookie: u64,
}

/// What is probed in a library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Library {
    /// Where calls begin and return, each once.
    pub calls: Vec<Site>,
    /// Where objects end.
    pub ends: Vec<Site>,
    /// Where calls of Go's functions begin, and where they return.
    pub go_entries: Vec<Site>,
    /// See `go_entries`.
    pub go_returns: Vec<Site>,
    /// Where rustls is given plaintext that is to be sent.
    pub rustls_sends: Vec<Site>,
    /// Where rustls has plaintext that was received.
    pub rustls_receives: Vec<Site>,
    /// Where rustls reads or writes ciphertext.
    pub rustls_carries: Vec<Site>,
    /// Where objects keep what tells them apart.
    pub layout: ObjectLayout,
    /// How each function's probe is placed.
    pub manners: BTreeMap<&'static str, Manner>,
}

/// Why a file's functions cannot be probed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It cannot be read.
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    /// It is not an ELF file, or a damaged one.
    #[error("it is not a usable ELF file")]
    Elf(#[source] object::Error),
    /// Its code is for another machine.
    #[error("its code is not for x86-64, which is all that TLS is read of")]
    Architecture,
    /// It is a Go program that is not understood.
    #[error("it speaks TLS in Go, but cannot be read")]
    Go(#[source] GoError),
    /// It is a program with rustls whose functions are not found.
    #[error("its TLS cannot be read")]
    Rustls(#[source] RustlsError),
}

impl Library {
    /// Reads the file at `path`, to place probes of functions in C as `placing` says; `None` where it
    /// has no function that is known here.
    ///
    /// # Errors
    /// Where it is no ELF file for this machine.
    pub fn read(path: &Path, placing: Placing) -> Result<Option<Self>, LibraryError> {
        let file = File::open(path).map_err(LibraryError::Read)?;
        let cache = ReadCache::new(file);
        let elf = object::File::parse(&cache).map_err(LibraryError::Elf)?;
        let addresses = addresses(&elf);
        let go = go_functions::functions(&elf).map_err(LibraryError::Go)?;
        let rustls = rustls_functions::functions(&elf).map_err(LibraryError::Rustls);
        let is_other = !addresses.is_empty() || !go.is_empty();
        let rustls = match rustls {
            // What else there is is read nevertheless.
            Err(error) if is_other => {
                tracing::warn!(path = %path.display(), %error, "rustls in a program is not read");
                Vec::new()
            }
            found => found?,
        };
        if !is_other && rustls.is_empty() {
            return Ok(None);
        }
        if elf.architecture() != Architecture::X86_64 {
            return Err(LibraryError::Architecture);
        }
        let mut library = Self::of_c(&elf, &addresses, placing);
        library.add_go(&elf, go);
        library.add_rustls(&elf, &rustls);
        let is_known = Family::ALL.into_iter().any(|family| library.has(family));
        Ok(is_known.then_some(library))
    }

    /// As [`read`](Self::read), of a file that is not called as TLS libraries are, into which one in C may be
    /// linked; `None` also where it cannot be read.
    pub fn read_linked(path: &Path, placing: Placing) -> Option<Self> {
        let cache = ReadCache::new(File::open(path).ok()?);
        let elf = object::File::parse(&cache).ok()?;
        let addresses = addresses(&elf);
        if addresses.is_empty() || elf.architecture() != Architecture::X86_64 {
            return None;
        }
        Some(Self::of_c(&elf, &addresses, placing)).filter(|library| library.has(Family::C))
    }

    /// What functions in C at these addresses are probed by.
    fn of_c(elf: &Elf<'_>, addresses: &BTreeMap<&'static str, u64>, placing: Placing) -> Self {
        let mut library = Self::default();
        let code_of = |name| addresses.get(name).and_then(|address| code(elf, *address));
        let random = RANDOM.into_iter().find_map(code_of);
        library.layout = ObjectLayout::of_code(random, code_of(SERVER));
        for function in &FUNCTIONS {
            if let Some(address) = addresses.get(function.name) {
                let code = |address| placing.looks().then(|| code(elf, address)).flatten();
                let place = placement::of_call(*address, function.count, code);
                let egress = if function.egress { COOKIE_EGRESS } else { 0 };
                library.add_call(elf, function.name, place, egress);
            }
        }
        for name in ENDS {
            if let Some(address) = addresses.get(name) {
                let code = placing.looks().then(|| code(elf, *address)).flatten();
                let place = placement::of_entry(*address, code.unwrap_or_default());
                if let Some(offset) = offset(elf, place.address) {
                    library.manners.insert(name, place.manner);
                    library.ends.push(Site { offset, cookie: 0 });
                }
            }
        }
        library
    }

    /// Whether it has functions of `family`.
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::C => !self.calls.is_empty(),
            Family::Go => !self.go_entries.is_empty(),
            Family::Rustls => !self.rustls_sends.is_empty(),
        }
    }

    /// Leaves out what it has of `family`.
    pub fn leave_out(&mut self, family: Family) {
        let sites: &mut [&mut Vec<Site>] = match family {
            Family::C => &mut [&mut self.calls, &mut self.ends],
            Family::Go => &mut [&mut self.go_entries, &mut self.go_returns],
            Family::Rustls => {
                &mut [&mut self.rustls_sends, &mut self.rustls_receives, &mut self.rustls_carries]
            }
        };
        for sites in sites {
            sites.clear();
        }
        self.manners.retain(|function, _| Family::of(function) != family);
    }

    fn add_go(&mut self, elf: &Elf<'_>, functions: Vec<GoFunction>) {
        for function in functions {
            let cookie = function.cookie;
            let site = |address| offset(elf, address).map(|offset| Site { offset, cookie });
            let Some(entry) = site(function.entry) else { continue };
            self.manners.insert(function.name, function.manner);
            self.go_entries.push(entry);
            self.go_returns.extend(function.returns.into_iter().filter_map(site));
        }
    }

    fn add_rustls(&mut self, elf: &Elf<'_>, functions: &[RustlsFunction]) {
        for function in functions {
            let code = code(elf, function.address).unwrap_or_default();
            let place = placement::of_first(function.address, code);
            let Some(offset) = offset(elf, place.address) else { continue };
            let (sites, cookie) = match function.work {
                Work::Send => (&mut self.rustls_sends, COOKIE_EGRESS),
                Work::Receive => (&mut self.rustls_receives, 0),
                Work::Write => (&mut self.rustls_carries, COOKIE_EGRESS),
                Work::Read => (&mut self.rustls_carries, 0),
            };
            sites.push(Site { offset, cookie });
            self.manners.insert(function.name, place.manner);
        }
    }

    fn add_call(&mut self, elf: &Elf<'_>, name: &'static str, place: Place, egress: u64) {
        let Some(offset) = offset(elf, place.address) else { return };
        let site = Site { offset, cookie: place.count | egress };
        self.manners.insert(name, place.manner);
        if !self.calls.contains(&site) {
            self.calls.push(site);
        }
    }
}

type Elf<'a> = object::File<'a, &'a ReadCache<File>>;

/// Addresses of the functions that are known here.
fn addresses(elf: &Elf<'_>) -> BTreeMap<&'static str, u64> {
    let mut found = BTreeMap::new();
    if !may_have_functions(elf) {
        return found;
    }
    // What is linked into a program may be in the full table only.
    for symbol in elf.dynamic_symbols().chain(elf.symbols()) {
        if symbol.is_undefined() || symbol.address() == 0 {
            continue;
        }
        let Ok(name) = symbol.name_bytes() else { continue };
        let known = FUNCTIONS.iter().map(|function| function.name);
        let known = known.chain(ENDS).chain(RANDOM).chain([SERVER]);
        if let Some(known) = known.into_iter().find(|known| known.as_bytes() == name) {
            found.entry(known).or_insert(symbol.address());
        }
    }
    // Without a function that moves plaintext the others mean nothing.
    if !FUNCTIONS.iter().any(|function| found.contains_key(function.name)) {
        found.clear();
    }
    found
}

/// Whether the names of symbols have those of functions that move plaintext in them. To find that none does
/// takes one look at all of them, and not one at each.
fn may_have_functions(elf: &Elf<'_>) -> bool {
    let mut tables =
        [".dynstr", ".strtab"].into_iter().filter_map(|name| elf.section_by_name(name));
    tables.any(|table| {
        if table.size() > NAMES_BYTES_MAX {
            return true;
        }
        let names = table.data().unwrap_or_default();
        FUNCTIONS.iter().any(|function| memmem::find(names, function.name.as_bytes()).is_some())
    })
}

/// The code at an address.
fn code<'a>(elf: &Elf<'a>, address: u64) -> Option<&'a [u8]> {
    elf.segments().find_map(|segment| {
        let within = address.checked_sub(segment.address())?;
        let left = segment.file_range().1.checked_sub(within)?;
        segment.data_range(address, left.min(CODE_BYTES_MAX)).ok().flatten()
    })
}

/// Where in the file the code at an address is.
fn offset(elf: &Elf<'_>, address: u64) -> Option<u64> {
    elf.segments().find_map(|segment| {
        let within = address.checked_sub(segment.address())?;
        let (start, size) = segment.file_range();
        (within < size).then_some(start + within)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_tls_has_nothing_to_probe() {
        // This test's own executable links no TLS library.
        let exe = std::env::current_exe().unwrap();
        assert_eq!(Library::read(&exe, Placing::Best).unwrap(), None);
        let text = Library::read(Path::new("/proc/self/status"), Placing::Best).unwrap_err();
        assert!(matches!(text, LibraryError::Elf(_)), "{text:?}");
    }

    #[test]
    #[ignore = "a measurement"]
    fn what_a_look_at_every_library_of_this_machine_costs() {
        let folder = Path::new("/usr/lib/x86_64-linux-gnu");
        let files = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        let libraries = files.filter(|path| path.display().to_string().contains(".so"));
        let mut took: Vec<_> = libraries
            .map(|path| {
                let start = std::time::Instant::now();
                let found = Library::read_linked(&path, Placing::Best).is_some();
                (start.elapsed(), found, path)
            })
            .collect();
        took.sort();
        let sum: std::time::Duration = took.iter().map(|(took, ..)| *took).sum();
        println!("{} libraries in {sum:?}; longest {:?}", took.len(), took.last());
        let found = took.iter().filter(|(_, found, _)| *found).map(|(.., path)| path);
        println!("with TLS: {:?}", found.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_left_out_of_a_library_is_not_said_to_be_probed() {
        let site = Site { offset: 1, cookie: 0 };
        let names =
            ["SSL_write", "SSL_free", "crypto/tls.(*Conn).Read", "ChunkVecBuffer::write_to"];
        let mut library = Library {
            calls: vec![site],
            ends: vec![site],
            go_entries: vec![site],
            go_returns: vec![site],
            rustls_sends: vec![site],
            rustls_receives: vec![site],
            rustls_carries: vec![site],
            manners: names.map(|name| (name, Manner::Quick)).into(),
            ..Library::default()
        };
        for (family, left) in Family::ALL.into_iter().zip([&names[2..], &names[3..], &[]]) {
            assert!(library.has(family));
            library.leave_out(family);
            assert!(!library.has(family));
            let mut said: Vec<_> = library.manners.keys().copied().collect();
            said.sort_by_key(|name| names.iter().position(|known| known == name));
            assert_eq!(said, left);
        }
        assert_eq!(library, Library::default());
    }
}
