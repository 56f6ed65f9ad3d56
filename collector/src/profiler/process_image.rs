//! One process's code: what is mapped where, and what its addresses are called.

use std::collections::HashMap;
use std::sync::Arc;

use super::fold::UNKNOWN;
use super::mapping::{self, Mapping};
use super::module::{FileKey, Modules, open};
use super::perf_map::PerfMap;
use super::unwind::{Cache, StackUnwinder, Unwound};
use crate::event::ProcessKey;
use crate::kernel::StackBytes;
use crate::process::is_running;

/// Stands for code that is in no file and that its runtime gave no name.
const ANONYMOUS: &str = "[anon]";
/// Samples after which it is judged whether frame pointers can be followed.
const JUDGED_SAMPLES_MIN: u64 = 8;
/// Fewest frames of a stack that was followed to its end: a function, `main` and what calls it.
const FRAMES_MIN: usize = 3;

/// One process's code.
#[derive(Debug)]
pub(crate) struct ProcessImage {
    process: ProcessKey,
    mappings: Vec<Mapping>,
    /// The files of mappings that were looked at, by the mapping's first address.
    files: HashMap<u64, Option<FileKey>>,
    perf_map: Option<PerfMap>,
    unwinder: Option<StackUnwinder>,
    /// The round in which it was last read what is mapped, and what its runtime wrote.
    mapped_at: u64,
    perf_map_at: u64,
    /// Samples whose frame pointers were followed, and those where that led nowhere.
    seen: u64,
    broken: u64,
    /// The round of its last sample.
    pub(crate) used_at: u64,
    /// Whether the kernel copies its stacks.
    pub(crate) is_copied: bool,
}

impl ProcessImage {
    /// The code of `process` as it is now.
    pub(crate) fn read(process: ProcessKey, round: u64) -> Self {
        let mut image = Self {
            process,
            mappings: Vec::new(),
            files: HashMap::new(),
            perf_map: None,
            unwinder: None,
            mapped_at: 0,
            perf_map_at: 0,
            seen: 0,
            broken: 0,
            used_at: round,
            is_copied: false,
        };
        image.read_mappings(round);
        image
    }

    /// The file that it was started from: the one that is mapped lowest, as the kernel places the
    /// program below its libraries.
    pub(crate) fn program(&mut self) -> Option<FileKey> {
        let first = self.mappings.iter().find(|mapping| mapping.is_file())?.clone();
        self.file(&first)
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

    /// Takes note of a stack that was found by frame pointers. Gives whether they lead nowhere in
    /// this process, so that its stacks should be copied.
    pub(crate) fn judge(&mut self, frames: &[u64], count: u64, round: u64) -> bool {
        let callers = frames.get(1..).unwrap_or_default();
        let is_code = |address: &u64| mapping::find(&self.mappings, *address).is_some();
        let mut is_broken = frames.len() < FRAMES_MIN || !callers.iter().all(is_code);
        if is_broken && frames.len() >= FRAMES_MIN && self.read_mappings(round) {
            let is_code = |address: &u64| mapping::find(&self.mappings, *address).is_some();
            is_broken = !callers.iter().all(is_code);
        }
        self.seen += count;
        self.broken += if is_broken { count } else { 0 };
        self.seen >= JUDGED_SAMPLES_MIN && self.broken * 4 >= self.seen
    }

    /// The frames of a copied stack.
    pub(crate) fn unwind(
        &mut self,
        stack: &StackBytes,
        modules: &mut Modules,
        cache: &mut Cache,
        round: u64,
    ) -> Unwound {
        self.mapping(stack.ip, round);
        if self.unwinder.is_none() {
            self.unwinder = Some(self.build_unwinder(modules));
        }
        let unwinder = self.unwinder.get_or_insert_default();
        unwinder.unwind(stack, cache)
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
    fn stacks_are_copied_where_frame_pointers_lead_nowhere() {
        let whole = [0x1010, 0x1020, 0x1030];
        for (frames, is_broken) in
            [(&whole[..], false), (&whole[..2], true), (&[0x1010, 0x7777, 0x1010], true)]
        {
            let mut image = image(vec![code(0x1000, "/usr/bin/x", 7)]);
            assert!(!image.judge(frames, JUDGED_SAMPLES_MIN - 1, 2), "too early");
            assert_eq!(image.judge(frames, 1, 2), is_broken, "{frames:x?}");
        }
        let mut image = image(vec![code(0x1000, "/usr/bin/x", 7)]);
        image.judge(&whole, 80, 2);
        assert!(!image.judge(&[0x1010], 20, 2), "a few of many");
        assert!(image.judge(&[0x1010], 10, 2));
    }
}
