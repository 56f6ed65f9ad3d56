//! What came from one side and is not read yet, with when it came.

use std::collections::VecDeque;

/// Most operations of which it is known which of the bytes that are kept they brought; what more of
/// them bring counts as the last one's.
const ARRIVALS_MAX: usize = 256;

/// What came from one side and is not read yet.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) partial: Vec<u8>,
    /// How many of those bytes came when, the first of them first.
    arrivals: VecDeque<(usize, u64)>,
    /// How many bytes the dialect wants to see at once.
    pub(super) wanted: usize,
    /// How many of the next bytes are of no interest.
    pub(super) skip: u64,
    /// When the first byte of the message at hand came.
    pub(super) message_began_at: u64,
}

impl Window {
    /// Discards what is of no interest; the rest of `bytes`.
    pub(super) fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= skipped as u64;
        &bytes[skipped..]
    }

    /// Adds bytes that came at `at` until there are as many as wanted; the rest of `bytes`.
    pub(super) fn gather<'a>(&mut self, bytes: &'a [u8], at: u64) -> &'a [u8] {
        let room = self.wanted.saturating_sub(self.partial.len()).min(bytes.len());
        let (more, rest) = bytes.split_at(room);
        self.keep(more, at);
        rest
    }

    /// Keeps bytes that came at `at`.
    pub(super) fn keep(&mut self, bytes: &[u8], at: u64) {
        if bytes.is_empty() {
            return;
        }
        self.partial.extend_from_slice(bytes);
        let is_full = self.arrivals.len() >= ARRIVALS_MAX;
        match self.arrivals.back_mut() {
            Some((count, last)) if *last == at || is_full => *count += bytes.len(),
            _ => self.arrivals.push_back((bytes.len(), at)),
        }
    }

    /// Forgets the first bytes that are kept.
    pub(super) fn drop_first(&mut self, mut bytes: usize) {
        self.partial.drain(..bytes);
        while let Some((count, _)) = self.arrivals.front_mut() {
            if *count > bytes {
                *count -= bytes;
                break;
            }
            bytes -= *count;
            self.arrivals.pop_front();
        }
        self.wanted = 0;
    }

    /// When the first byte that is kept came, if any is.
    pub(super) fn kept_since(&self) -> Option<u64> {
        self.arrivals.front().map(|(_, at)| *at)
    }

    pub(super) fn clear(&mut self) {
        (self.partial, self.arrivals) = (Vec::new(), VecDeque::new());
        (self.wanted, self.skip) = (0, 0);
    }

    /// Forgets all bytes that are kept.
    pub(super) fn drop_all(&mut self) {
        self.partial.clear();
        self.arrivals.clear();
    }

    /// Bytes that it holds on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.partial.capacity() + self.arrivals.capacity() * size_of::<(usize, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_knows_when_it_came() {
        let mut window = Window { wanted: 6, ..Window::default() };
        window.keep(b"ab", 1);
        assert_eq!(window.gather(b"", 2), b"");
        assert_eq!(window.gather(b"cd", 3), b"");
        assert_eq!(window.gather(b"efg", 4), b"g");
        assert_eq!((window.partial.as_slice(), window.kept_since()), (&b"abcdef"[..], Some(1)));
        for (dropped, since) in [(1, Some(1)), (1, Some(3)), (3, Some(4)), (1, None)] {
            window.drop_first(dropped);
            assert_eq!(window.kept_since(), since);
        }
    }

    #[test]
    fn only_so_many_arrivals_are_known_apart() {
        let mut window = Window::default();
        for at in 0..1000 {
            window.keep(b"x", at);
        }
        assert!(window.heap_bytes() <= 1024 + ARRIVALS_MAX * 16, "{}", window.heap_bytes());
        window.drop_first(900);
        assert_eq!((window.partial.len(), window.kept_since()), (100, Some(255)));
    }
}
