//! Fields of a message, from its front, to be kept or overwritten.

use super::fill;

/// What is left of a message. Numbers are big endian unless said otherwise.
#[derive(Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a mut [u8]);

impl<'a> Fields<'a> {
    /// Keeps so many bytes.
    pub(crate) fn keep(&mut self, bytes: usize) -> Option<&'a mut [u8]> {
        if bytes > self.0.len() {
            return None;
        }
        let (kept, rest) = std::mem::take(&mut self.0).split_at_mut(bytes);
        self.0 = rest;
        Some(kept)
    }

    /// Overwrites so many bytes.
    pub(crate) fn fill(&mut self, bytes: usize) -> Option<()> {
        self.keep(bytes).map(fill)
    }

    /// Overwrites what is left.
    pub(crate) fn fill_rest(&mut self) {
        fill(std::mem::take(&mut self.0));
    }

    /// Keeps bytes as an array.
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.keep(N)?.first_chunk().copied()
    }

    /// Keeps a byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// Keeps a number of 16 bits.
    pub(crate) fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Keeps a number of 32 bits.
    pub(crate) fn long(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Keeps a number of 32 bits, the lowest first.
    pub(crate) fn long_le(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Keeps a length of 8 bits and overwrites what it counts.
    pub(crate) fn fill_vector8(&mut self) -> Option<()> {
        let length = self.byte()?;
        self.fill(length.into())
    }

    /// Keeps a length of 16 bits and overwrites what it counts.
    pub(crate) fn fill_vector16(&mut self) -> Option<()> {
        let length = self.short()?;
        self.fill(length.into())
    }

    /// Keeps a length of 32 bits and overwrites what it counts.
    pub(crate) fn fill_vector32(&mut self) -> Option<()> {
        let length = self.long()?;
        self.fill(usize::try_from(length).ok()?)
    }

    /// Takes a text up to the zero after it, or to the end.
    pub(crate) fn text(&mut self) -> &'a mut [u8] {
        let end = self.0.iter().position(|byte| *byte == 0);
        let length = end.unwrap_or(self.0.len());
        let text = self.keep(length).unwrap_or_default();
        self.keep(1);
        text
    }
}
