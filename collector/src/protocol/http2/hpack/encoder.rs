//! A small encoder, for tests.

use super::super::huffman;
use super::table::STATIC;

/// How a header is written where the tables do not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::http2) enum Literal {
    Kept,
    NotKept,
    NeverKept,
}

/// Writes headers, and keeps the table that their reader should have.
#[derive(Debug)]
pub(in crate::protocol::http2) struct Encoder {
    entries: Vec<(String, String)>,
    bytes_max: usize,
    pub(in crate::protocol::http2) huffman: bool,
}

impl Encoder {
    pub(in crate::protocol::http2) const fn new() -> Self {
        Self { entries: Vec::new(), bytes_max: 4096, huffman: true }
    }

    pub(in crate::protocol::http2) fn resize(&mut self, bytes_max: usize, block: &mut Vec<u8>) {
        integer_into(bytes_max, 5, 0x20, block);
        self.bytes_max = bytes_max;
        self.evict();
    }

    pub(in crate::protocol::http2) fn field(
        &mut self,
        name: &str,
        value: &str,
        literal: Literal,
        block: &mut Vec<u8>,
    ) {
        let own = self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = STATIC.iter().copied().chain(own).collect();
        if let Some(place) = all.iter().position(|entry| *entry == (name, value)) {
            return integer_into(place + 1, 7, 0x80, block);
        }
        let known = all.iter().position(|entry| entry.0 == name).map_or(0, |place| place + 1);
        match literal {
            Literal::Kept => integer_into(known, 6, 0x40, block),
            Literal::NotKept => integer_into(known, 4, 0, block),
            Literal::NeverKept => integer_into(known, 4, 0x10, block),
        }
        if known == 0 {
            self.string_into(name, block);
        }
        self.string_into(value, block);
        if literal == Literal::Kept {
            self.entries.insert(0, (name.to_owned(), value.to_owned()));
            self.evict();
        }
    }

    pub(in crate::protocol::http2) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            self.field(name, value, Literal::Kept, &mut block);
        }
        block
    }

    fn evict(&mut self) {
        let bytes = |entries: &[(String, String)]| {
            entries.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
        };
        while bytes(&self.entries) > self.bytes_max {
            self.entries.pop();
        }
    }

    fn string_into(&self, text: &str, block: &mut Vec<u8>) {
        if !self.huffman {
            integer_into(text.len(), 7, 0, block);
            block.extend_from_slice(text.as_bytes());
            return;
        }
        let mut coded = Vec::new();
        huffman::encode_into(text.as_bytes(), &mut coded);
        integer_into(coded.len(), 7, 0x80, block);
        block.extend_from_slice(&coded);
    }
}

fn integer_into(value: usize, prefix: u8, flags: u8, block: &mut Vec<u8>) {
    let byte = |value: usize| u8::try_from(value).unwrap();
    let most = (1 << prefix) - 1;
    if value < most {
        return block.push(flags | byte(value));
    }
    block.push(flags | byte(most));
    let mut left = value - most;
    while left > 0x7f {
        block.push(byte(left & 0x7f | 0x80));
        left >>= 7;
    }
    block.push(byte(left));
}
