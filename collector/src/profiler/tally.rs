//! How often each stack of each process was seen since rows were last written.

use std::collections::HashMap;
use std::sync::Arc;

use super::StackCount;
use crate::event::ProcessKey;

/// Most different stacks in an interval; samples of further ones are counted under
/// [`OTHER_STACKS`], for each process.
pub const STACKS_MAX: usize = 32 * 1024;

/// The stack of samples that came when there were too many different ones.
pub const OTHER_STACKS: &str = "[other]";

/// Samples by process and stack.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    stacks: HashMap<ProcessKey, HashMap<Arc<str>, u64>>,
    len: usize,
}

impl Tally {
    /// Counts samples. Gives whether their stack is told.
    pub(crate) fn add(&mut self, process: ProcessKey, stack: &str, count: u64) -> bool {
        let stacks = self.stacks.entry(process).or_default();
        if let Some(known) = stacks.get_mut(stack) {
            *known += count;
            return true;
        }
        let is_told = self.len < STACKS_MAX;
        let stack = if is_told { stack } else { OTHER_STACKS };
        *stacks.entry(Arc::from(stack)).or_default() += count;
        self.len += usize::from(is_told);
        is_told
    }

    /// Takes what was counted and starts again.
    pub(crate) fn take(&mut self) -> Vec<StackCount> {
        self.len = 0;
        let of = |(process, stacks): (ProcessKey, HashMap<Arc<str>, u64>)| {
            stacks.into_iter().map(move |(stack, count)| StackCount { process, stack, count })
        };
        std::mem::take(&mut self.stacks).into_iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sample_is_missing_where_there_are_too_many_stacks() {
        let mut tally = Tally::default();
        let processes = [1, 2].map(|tgid| ProcessKey { tgid, start_ns: 0 });
        let samples = u64::try_from(STACKS_MAX).unwrap() + 100;
        let mut told = 0;
        for at in 0..samples {
            told += u64::from(tally.add(processes[(at % 2) as usize], &at.to_string(), 3));
        }
        assert!(tally.add(processes[0], "0", 1), "a known stack is always told");
        let stacks = tally.take();
        assert_eq!(told, samples - 100);
        assert_eq!(stacks.iter().map(|stack| stack.count).sum::<u64>(), samples * 3 + 1);
        let others = stacks.iter().filter(|stack| &*stack.stack == OTHER_STACKS);
        assert_eq!(others.map(|stack| stack.count).collect::<Vec<_>>(), [150, 150]);
        assert!(tally.take().is_empty());
        assert!(tally.add(processes[0], "new", 1), "then there is room again");
    }
}
