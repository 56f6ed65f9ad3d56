//! One process's code: what is mapped where, and what its addresses are called.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::fold::UNKNOWN;
use super::mapping::{self, Mapping};
use super::module::{FileKey, Modules, open};
use super::perf_map::PerfMap;
use super::unwind::{StackUnwinder, Unwound};
use crate::event::ProcessKey;
use crate::kernel::StackBytes;
use crate::process::is_running;

/// Stands for code that is in no file and that its runtime gave no name.
const ANONYMOUS: &str = "[anon]";
/// Copied stacks after which it is judged whether frame pointers lead to the same callers.
const JUDGED_STACKS_MIN: u32 = 32;
/// One stack of so many may be led astray: where a function begins or ends, and in libraries.
const ASTRAY_IN_ONE: u32 = 20;
/// The outermost frames, which are of libraries: what calls `main`, and what calls that.
const LIBRARY_FRAMES: usize = 3;

/// One process's code.
#[derive(Debug)]
pub(crate) struct ProcessImage {
    process: ProcessKey,
    mappings: Vec<Mapping>,
    /// Device and inode of the program that it runs.
    program: Option<(u64, u64)>,
    /// The files of mappings that were looked at, by the mapping's first address.
    files: HashMap<u64, Option<FileKey>>,
    perf_map: Option<PerfMap>,
    unwinder: Option<StackUnwinder>,
    /// The round in which it was last read what is mapped, and what its runtime wrote.
    mapped_at: u64,
    perf_map_at: u64,
    /// Copied stacks, and those in which frame pointers lead elsewhere.
    stacks: u32,
    astray: u32,
    /// The round of its last sample.
    pub(crate) used_at: u64,
    /// Whether the kernel follows its frame pointers.
    pub(crate) keeps_frame_pointers: bool,
}

impl ProcessImage {
    /// The code of `process` as it is now.
    pub(crate) fn read(process: ProcessKey, round: u64) -> Self {
        let mut image = Self {
            process,
            mappings: Vec::new(),
            program: program_of(process),
            files: HashMap::new(),
            perf_map: None,
            unwinder: None,
            mapped_at: 0,
            perf_map_at: 0,
            stacks: 0,
            astray: 0,
            used_at: round,
            keeps_frame_pointers: false,
        };
        image.read_mappings(round);
        image
    }

    /// Takes note of a sample in `round`: the first in a round is an occasion to see whether the
    /// process runs another program by now.
    pub(crate) fn meet(&mut self, round: u64) {
        if self.used_at == round {
            return;
        }
        self.used_at = round;
        let program = program_of(self.process);
        if program.is_some() && program != self.program {
            self.program = program;
            self.perf_map = None;
            self.read_mappings(round);
        }
    }

    /// Reads what is mapped, at most once in a round. Gives whether that changed anything.
    fn read_mappings(&mut self, round: u64) -> bool {
        if self.mapped_at == round {
            return false;
        }
        self.mapped_at = round;
        let pid = self.process.tgid;
        let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { return false };
        // Afterwards, so that what was read is of this process and of no later one with its pid.
        if !is_running(self.process) {
            return false;
        }
        let mappings = mapping::parse(&maps);
        let has_changed = mappings != self.mappings && !mappings.is_empty();
        if has_changed {
            self.mappings = mappings;
            self.files.clear();
            self.unwinder = None;
        }
        has_changed
    }

    fn mapping(&mut self, address: u64, round: u64) -> Option<Mapping> {
        if mapping::find(&self.mappings, address).is_none() {
            self.read_mappings(round);
        }
        mapping::find(&self.mappings, address).cloned()
    }

    fn file(&mut self, mapping: &Mapping) -> Option<FileKey> {
        let pid = self.process.tgid;
        *self.files.entry(mapping.start).or_insert_with(|| open(pid, mapping).map(|(key, _)| key))
    }

    /// What is at `address`, or at the call before it where it is a return address.
    pub(crate) fn name(
        &mut self,
        address: u64,
        is_return: bool,
        modules: &mut Modules,
        round: u64,
    ) -> Arc<str> {
        let address = address.saturating_sub(u64::from(is_return));
        let Some(mapping) = self.mapping(address, round) else { return Arc::from(UNKNOWN) };
        let offset = address - mapping.start + mapping.offset;
        let pid = self.process.tgid;
        if let Some(key) = self.file(&mapping)
            && let Some(module) = modules.get(key, pid, &mapping)
            && let Some(address) = module.address_of(offset)
        {
            let name = module.function(address);
            let unnamed = || Arc::from(format!("{}+{address:#x}", mapping.module_name()));
            return name.unwrap_or_else(unnamed);
        }
        if let Some(name) = self.compiled(address, round) {
            return name;
        }
        match mapping.path.as_str() {
            "" => Arc::from(ANONYMOUS),
            name if name.starts_with('[') => Arc::from(name),
            _ => Arc::from(format!("{}+{offset:#x}", mapping.module_name())),
        }
    }

    /// The name that the process's runtime gave to its code at `address`.
    fn compiled(&mut self, address: u64, round: u64) -> Option<Arc<str>> {
        let known = self.perf_map.as_ref().and_then(|map| map.name(address));
        if known.is_some() || self.perf_map_at == round {
            return known.cloned();
        }
        self.perf_map_at = round;
        if is_running(self.process)
            && let Some(map) = PerfMap::read(self.process.tgid, self.perf_map.as_ref())
        {
            self.perf_map = Some(map);
        }
        self.perf_map.as_ref()?.name(address).cloned()
    }

    /// Takes note of where frame pointers lead in a copied stack, whose frames are `unwound`. Gives
    /// whether they can be relied on, so that stacks need not be copied.
    pub(crate) fn judge(&mut self, stack: &StackBytes, unwound: &Unwound) -> bool {
        self.stacks += 1;
        self.astray += u32::from(!follows_frame_pointers(stack, &unwound.frames));
        if self.stacks < JUDGED_STACKS_MIN {
            return false;
        }
        let is_reliable = self.astray * ASTRAY_IN_ONE <= self.stacks;
        // The newest say more than the oldest.
        self.stacks /= 2;
        self.astray /= 2;
        is_reliable
    }

    /// The frames of a copied stack.
    pub(crate) fn unwind(
        &mut self,
        stack: &StackBytes,
        modules: &mut Modules,
        round: u64,
    ) -> Unwound {
        self.mapping(stack.ip, round);
        if self.unwinder.is_none() {
            self.unwinder = Some(self.build_unwinder(modules));
        }
        let unwinder = self.unwinder.get_or_insert_default();
        unwinder.unwind(stack)
    }

    fn build_unwinder(&mut self, modules: &mut Modules) -> StackUnwinder {
        let mut unwinder = StackUnwinder::default();
        let pid = self.process.tgid;
        for mapping in self.mappings.clone() {
            if let Some(key) = self.file(&mapping)
                && let Some(module) = modules.get(key, pid, &mapping)
                && let Some(address) = module.address_of(mapping.offset)
                && let Some(tables) = module.unwind_tables()
            {
                unwinder.add(
                    mapping.start,
                    mapping.end,
                    mapping.start.wrapping_sub(address),
                    &tables,
                );
            }
        }
        unwinder
    }
}

/// Device and inode of the program that `process` runs.
fn program_of(process: ProcessKey) -> Option<(u64, u64)> {
    let program = std::fs::metadata(format!("/proc/{}/exe", process.tgid)).ok()?;
    Some((program.dev(), program.ino()))
}

/// Whether the frame pointers of `stack` lead to the callers that were found otherwise.
fn follows_frame_pointers(stack: &StackBytes, frames: &[u64]) -> bool {
    let word = |address| stack.word(address);
    let mut pointer = stack.fp;
    // The outermost functions of a program are its libraries', which may do otherwise.
    let callers = frames.get(1..frames.len().saturating_sub(LIBRARY_FRAMES)).unwrap_or_default();
    for caller in callers {
        let (next, found) = (word(pointer), pointer.checked_add(8).and_then(word));
        if found != Some(*caller) {
            return false;
        }
        pointer = next.unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(mappings: Vec<Mapping>) -> ProcessImage {
        // No such process, so that nothing is read.
        let process = ProcessKey { tgid: u32::MAX, start_ns: 0 };
        let mut image = ProcessImage::read(process, 1);
        image.mappings = mappings;
        image
    }

    fn code(start: u64, path: &str, inode: u64) -> Mapping {
        Mapping { start, end: start + 0x1000, offset: 0x2000, inode, path: path.to_owned() }
    }

    #[test]
    fn an_address_without_a_name_says_where_it_is() {
        let mut image = image(vec![
            code(0x1000, "/usr/lib/libc.so.6", 7),
            code(0x2000, "", 0),
            code(0x3000, "[vdso]", 0),
        ]);
        let mut modules = Modules::default();
        let mut name = |address, is_return| image.name(address, is_return, &mut modules, 2);
        assert_eq!(&*name(0x1010, false), "libc.so.6+0x2010");
        assert_eq!(&*name(0x1010, true), "libc.so.6+0x200f");
        assert_eq!(&*name(0x2010, true), "[anon]");
        assert_eq!(&*name(0x3010, true), "[vdso]");
        assert_eq!(&*name(0x9010, true), UNKNOWN);
    }

    #[test]
    fn frame_pointers_are_relied_on_where_they_lead_to_the_callers() {
        // From 0x1000: what the innermost function keeps, then two frames.
        let words: [u64; 6] = [0xdead, 0x1020, 0x55, 0xbeef, 0, 0x66];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let stack = StackBytes { ip: 0x44, sp: 0x1000, fp: 0x1008, bytes };
        let library = [0x77; LIBRARY_FRAMES];
        let unwound = |callers: &[u64]| Unwound {
            frames: [&[0x44], callers, &library[..]].concat(),
            is_whole: true,
        };
        let judged = |stack: &StackBytes, unwound: &Unwound| {
            let mut image = image(Vec::new());
            (0..JUDGED_STACKS_MIN).map(|_| image.judge(stack, unwound)).collect::<Vec<_>>()
        };
        let good = judged(&stack, &unwound(&[0x55, 0x66]));
        assert_eq!(good.iter().filter(|is_reliable| **is_reliable).count(), 1, "not too early");
        assert_eq!(good.last(), Some(&true));
        let elsewhere = judged(&stack, &unwound(&[0x55, 0x67]));
        assert_eq!(elsewhere.last(), Some(&false));
        let none = judged(&StackBytes { fp: 1, ..stack }, &unwound(&[0x55, 0x66]));
        assert_eq!(none.last(), Some(&false));
    }
}
