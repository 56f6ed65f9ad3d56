//! Finding the callers in a copy of a stack, by the tables that exceptions use (DWARF CFI).

use std::fmt;
use std::sync::Arc;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};

use super::module::UnwindTables;
use crate::kernel::StackBytes;

/// Most frames that are unwound.
pub(crate) const FRAMES_MAX: usize = 256;

/// The code of one process.
#[derive(Default)]
pub(crate) struct StackUnwinder {
    unwinder: UnwinderX86_64<Arc<[u8]>>,
    /// What was found out before. One for each process: the library tells processes apart by a
    /// number of 16 bits, which does not last for all of them.
    cache: Box<CacheX86_64>,
    modules: usize,
}

impl fmt::Debug for StackUnwinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackUnwinder").field("modules", &self.modules).finish_non_exhaustive()
    }
}

/// The frames of a stack, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unwound {
    /// Where the CPU was, then return addresses.
    pub(crate) frames: Vec<u64>,
    /// Whether the outermost of them is the first function of its thread.
    pub(crate) is_whole: bool,
}

impl StackUnwinder {
    /// Adds code that is mapped from `start` to `end` and lies `bias` above the addresses that its
    /// file says.
    pub(crate) fn add(&mut self, start: u64, end: u64, bias: u64, tables: &UnwindTables) {
        let (eh_frame_svma, eh_frame) = tables.eh_frame.clone();
        let (eh_frame_hdr_svma, eh_frame_hdr) = tables.eh_frame_hdr.clone().unzip();
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: tables.text.clone(),
            got_svma: tables.got.clone(),
            eh_frame_svma: Some(eh_frame_svma),
            eh_frame: Some(eh_frame),
            eh_frame_hdr_svma,
            eh_frame_hdr,
            ..ExplicitModuleSectionInfo::default()
        };
        self.unwinder.add_module(Module::new(String::new(), start..end, bias, sections));
        self.modules += 1;
    }

    /// The frames of `stack`.
    pub(crate) fn unwind(&mut self, stack: &StackBytes) -> Unwound {
        let registers = UnwindRegsX86_64::new(stack.ip, stack.sp, stack.fp);
        let mut read = |address: u64| stack.word(address).ok_or(());
        let mut frames = Vec::with_capacity(32);
        let mut iter = self.unwinder.iter_frames(stack.ip, registers, &mut self.cache, &mut read);
        let is_whole = loop {
            match iter.next() {
                Ok(Some(frame)) if frames.len() < FRAMES_MAX => frames.push(frame.address()),
                Ok(Some(_)) | Err(_) => break false,
                Ok(None) => break true,
            }
        };
        Unwound { frames, is_whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn without_tables_frame_pointers_are_followed_and_a_cut_stack_is_said_to_be() {
        let mut unwinder = StackUnwinder::default();
        let bytes = words(&[0, 0x1020, 0x5001, 0, 0, 0, 0]);
        let stack = StackBytes { ip: 0x5000, sp: 0x1000, fp: 0x1008, bytes };
        let unwound = unwinder.unwind(&stack);
        assert_eq!(unwound.frames[..2], [0x5000, 0x5001]);
        let cut = StackBytes { bytes: words(&[0]), ..stack };
        let unwound = unwinder.unwind(&cut);
        assert_eq!((unwound.frames, unwound.is_whole), (vec![0x5000], false));
    }
}
