//! Files whose code processes run: the names of their functions, and how to unwind their frames.
//!
//! Functions are kept as numbers; a name is read from the file when the first sample of its
//! function comes, so that a large program costs little memory.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;

use super::elf::{Elf, Symbol, Symbols, text_at};
use super::go_symbols;
use super::mapping::Mapping;

/// Most functions that are kept of one file.
const FUNCTIONS_MAX: usize = 1 << 20;
/// Most names that are kept of one file; then they are read anew.
const NAMES_MAX: usize = 8192;
/// Longest name in a file, in bytes; what is beyond is cut.
const RAW_NAME_BYTES_MAX: usize = 4096;
/// Longest name of a frame, in bytes; what is beyond is cut.
const NAME_BYTES_MAX: usize = 512;
/// What a name takes beside its text, in bytes.
const NAME_BYTES_MORE: usize = 48;
/// Most bytes of unwinding tables of one file.
const UNWIND_BYTES_MAX: usize = 32 << 20;
/// Most files that are remembered to be no programs; then all are looked at anew.
const OTHERS_MAX: usize = 4096;
/// Most files that are kept open.
pub(crate) const MODULES_MAX: usize = 256;
/// Most bytes that all of them take; those that were not used for longest go first.
pub(crate) const MODULES_BYTES_MAX: usize = 64 << 20;

/// A file as it was at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileKey {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_ns: i64,
}

/// What unwinding needs of a file.
#[derive(Debug)]
pub(crate) struct UnwindTables {
    /// `.eh_frame`: its addresses according to the file, and its bytes.
    pub(crate) eh_frame: (Range<u64>, Arc<[u8]>),
    /// `.eh_frame_hdr`, an index of it.
    pub(crate) eh_frame_hdr: Option<(Range<u64>, Arc<[u8]>)>,
    /// Addresses of `.text` according to the file.
    pub(crate) text: Option<Range<u64>>,
    /// Addresses of `.got` according to the file.
    pub(crate) got: Option<Range<u64>>,
}

/// Where Debian and others keep the names that were taken out of a file.
const DEBUG_FILES: &str = "/usr/lib/debug/.build-id";

/// A file that processes run.
#[derive(Debug)]
pub(crate) struct Module {
    elf: Elf,
    /// Where the names are: in the file itself, or in one apart.
    named: File,
    symbols: Symbols,
    file: File,
    names: HashMap<u64, Arc<str>>,
    names_bytes: usize,
    unwind: OnceCell<Option<Arc<UnwindTables>>>,
    used_at: u64,
}

impl Module {
    fn read(file: File) -> io::Result<Self> {
        let elf = Elf::read(&file)?;
        let apart = if elf.has_all_symbols() { None } else { names_apart(&elf, &file) };
        let (named, symbols) = match apart {
            Some(found) => found,
            None => (file.try_clone()?, names_inside(&elf, &file)?),
        };
        Ok(Self {
            elf,
            named,
            symbols,
            file,
            names: HashMap::new(),
            names_bytes: 0,
            unwind: OnceCell::new(),
            used_at: 0,
        })
    }

    /// The address that byte `offset` of the file has according to the file.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        self.elf.address_of(offset)
    }

    /// The name of the function that `address` is in, according to the file.
    pub(crate) fn function(&mut self, address: u64) -> Option<Arc<str>> {
        let functions = &self.symbols.functions;
        let after = functions.partition_point(|function| function.address <= address);
        let function = *functions.get(after.checked_sub(1)?)?;
        let is_inside = function.size == 0 || address - function.address < u64::from(function.size);
        if !is_inside {
            return None;
        }
        if let Some(name) = self.names.get(&function.address) {
            return Some(Arc::clone(name));
        }
        let name: Arc<str> = Arc::from(self.read_name(function)?);
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
            self.names_bytes = 0;
        }
        self.names_bytes += name.len() + NAME_BYTES_MORE;
        self.names.insert(function.address, Arc::clone(&name));
        Some(name)
    }

    fn read_name(&self, function: Symbol) -> Option<String> {
        let at = u64::from(function.name);
        let raw = text_at(&self.named, &self.symbols.names, at, RAW_NAME_BYTES_MAX).ok()?;
        (!raw.is_empty()).then(|| readable(&raw))
    }

    /// What unwinding needs, read when it is asked for the first time.
    pub(crate) fn unwind_tables(&self) -> Option<Arc<UnwindTables>> {
        let read = || {
            let tables = read_tables(&self.elf, &self.file).unwrap_or_else(|error| {
                tracing::debug!(%error, "a program's frames cannot be unwound");
                None
            });
            tables.map(Arc::new)
        };
        self.unwind.get_or_init(read).clone()
    }

    /// Bytes that it takes, roughly.
    fn bytes(&self) -> usize {
        let tables = self.unwind.get().into_iter().flatten().map(|tables| {
            tables.eh_frame.1.len() + tables.eh_frame_hdr.as_ref().map_or(0, |(_, b)| b.len())
        });
        self.symbols.functions.len() * size_of::<Symbol>()
            + self.names_bytes
            + tables.sum::<usize>()
    }
}

/// The names that a file itself has.
fn names_inside(elf: &Elf, file: &File) -> io::Result<Symbols> {
    let of_go = || go_symbols::functions(elf, file, FUNCTIONS_MAX);
    match if elf.has_all_symbols() { None } else { of_go() } {
        Some(symbols) => Ok(symbols),
        None => elf.functions(file, FUNCTIONS_MAX),
    }
}

/// The names of a file that were taken out of it when it was packaged, and where they are.
fn names_apart(elf: &Elf, file: &File) -> Option<(File, Symbols)> {
    let id = elf.build_id(file)?;
    let (_, apart) = open_plain(&format!("{DEBUG_FILES}/{}/{}.debug", id.get(..2)?, id.get(2..)?))?;
    let symbols = Elf::read(&apart).ok()?.functions(&apart, FUNCTIONS_MAX).ok()?;
    (!symbols.functions.is_empty()).then_some((apart, symbols))
}

fn read_tables(elf: &Elf, file: &File) -> io::Result<Option<UnwindTables>> {
    let Some(frames) = elf.section(".eh_frame") else { return Ok(None) };
    let bytes = Arc::from(frames.read(file, UNWIND_BYTES_MAX)?);
    let index = match elf.section(".eh_frame_hdr") {
        None => None,
        Some(index) => Some((index.addresses(), Arc::from(index.read(file, UNWIND_BYTES_MAX)?))),
    };
    let addresses = |name| elf.section(name).map(super::elf::Section::addresses);
    Ok(Some(UnwindTables {
        eh_frame: (frames.addresses(), bytes),
        eh_frame_hdr: index,
        text: addresses(".text"),
        got: addresses(".got"),
    }))
}

/// A name as its author wrote it: those of Rust and C++ are encoded in a file.
fn readable(raw: &str) -> String {
    let mut name = rustc_demangle::try_demangle(raw)
        .map(|name| format!("{name:#}"))
        .ok()
        .or_else(|| {
            raw.starts_with("_Z")
                .then(|| cpp_demangle::Symbol::new(raw).ok())?
                .and_then(|name| name.demangle().ok())
        })
        .unwrap_or_else(|| raw.to_owned());
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

/// Files that are kept.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    known: HashMap<FileKey, Module>,
    /// Files that are no programs, such as memory that a runtime compiles into.
    others: HashSet<FileKey>,
    clock: u64,
    evicted: u64,
}

impl Modules {
    /// The file `key`, which is opened as `mapping` of process `pid` where it is not known.
    pub(crate) fn get(&mut self, key: FileKey, pid: u32, mapping: &Mapping) -> Option<&mut Module> {
        self.clock += 1;
        if self.others.contains(&key) {
            return None;
        }
        if !self.known.contains_key(&key) {
            let (found, file) = open(pid, mapping)?;
            if found != key {
                return None;
            }
            self.enter(key, file)?;
        }
        let clock = self.clock;
        let module = self.known.get_mut(&key)?;
        module.used_at = clock;
        Some(module)
    }

    fn enter(&mut self, key: FileKey, file: File) -> Option<()> {
        match Module::read(file) {
            Ok(module) => {
                self.known.insert(key, module);
                Some(())
            }
            Err(error) => {
                tracing::debug!(%error, "a program's names cannot be read");
                if self.others.len() >= OTHERS_MAX {
                    self.others.clear();
                }
                self.others.insert(key);
                None
            }
        }
    }

    /// Lets go of what is beyond the limits.
    pub(crate) fn keep_within(&mut self, modules_max: usize, bytes_max: usize) {
        let mut bytes: usize = self.known.values().map(Module::bytes).sum();
        while self.known.len() > modules_max || bytes > bytes_max {
            let oldest = self.known.iter().min_by_key(|(_, module)| module.used_at);
            let Some(key) = oldest.map(|(key, _)| *key) else { break };
            if let Some(module) = self.known.remove(&key) {
                bytes = bytes.saturating_sub(module.bytes());
                self.evicted += 1;
            }
        }
    }
}

/// Opens the file that `mapping` of process `pid` shows, which need not have a name any more.
pub(crate) fn open(pid: u32, mapping: &Mapping) -> Option<(FileKey, File)> {
    let Mapping { start, end, path, inode, .. } = mapping;
    let exact = open_plain(&format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
    exact.or_else(|| {
        let (key, file) = open_plain(&format!("/proc/{pid}/root{path}"))?;
        (key.inode == *inode).then_some((key, file))
    })
}

/// Opens a plain file, and nothing that would do something when it is opened.
fn open_plain(path: &str) -> Option<(FileKey, File)> {
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = options.open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let changed_ns = metadata.mtime().wrapping_mul(1_000_000_000) ^ metadata.mtime_nsec();
    let key = FileKey {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        changed_ns,
    };
    metadata.is_file().then_some((key, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiler::mapping::{find, parse};

    #[inline(never)]
    fn a_function_to_find() -> usize {
        std::hint::black_box(1)
    }

    fn own_code() -> Mapping {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        find(&parse(&maps), a_function_to_find as *const () as u64).unwrap().clone()
    }

    #[test]
    fn a_function_of_this_program_has_the_name_that_its_author_gave() {
        a_function_to_find();
        let (mapping, own) = (own_code(), std::process::id());
        let (key, _) = open(own, &mapping).unwrap();
        let mut modules = Modules::default();
        let module = modules.get(key, own, &mapping).unwrap();
        let offset = a_function_to_find as *const () as u64 - mapping.start + mapping.offset;
        let address = module.address_of(offset).unwrap();
        let name = module.function(address).unwrap();
        assert!(name.ends_with("tests::a_function_to_find"), "{name}");
        assert!(module.unwind_tables().is_some());
        assert!(module.bytes() > 1000);
        modules.keep_within(1, usize::MAX);
        assert_eq!(modules.evicted, 0);
        modules.keep_within(1, 1000);
        assert_eq!((modules.evicted, modules.known.len()), (1, 0));
    }

    #[test]
    fn names_are_those_of_the_source() {
        for (raw, name) in [
            ("main", "main"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backEOi",
                "std::vector<int, std::allocator<int> >::push_back(int&&)",
            ),
            ("_Zbroken", "_Zbroken"),
        ] {
            assert_eq!(readable(raw), name);
        }
        assert_eq!(readable(&"é".repeat(NAME_BYTES_MAX)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn what_is_no_plain_file_is_not_opened() {
        assert!(open_plain("/dev/zero").is_none());
        assert!(open_plain("/proc/self").is_none());
    }
}
