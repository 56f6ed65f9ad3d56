//! The tables that headers refer to: the one of the standard, and the one that a connection fills.

use std::collections::VecDeque;

use super::{Bad, ENTRY_BYTES, Field};

/// The entries that every connection has.
#[rustfmt::skip]
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// An entry that a connection made.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name, then its value.
    text: Box<[u8]>,
    /// Bytes of its name, if that is known.
    name: Option<usize>,
}

impl Entry {
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.name.map(|length| &self.text[..length])
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.text[self.name.unwrap_or(0)..]
    }

    /// What it counts, or the least that it may where its name is unknown.
    const fn bytes(&self) -> usize {
        self.text.len() + ENTRY_BYTES
    }
}

/// The entries that a connection made and still has.
#[derive(Debug)]
pub(super) struct Table {
    /// Those that were seen, the newest first.
    seen: VecDeque<Entry>,
    seen_bytes: usize,
    bytes_max: usize,
    /// Whether behind those that were seen there may be others.
    has_unseen: bool,
}

impl Table {
    pub(super) const fn empty(bytes_max: usize) -> Self {
        Self { seen: VecDeque::new(), seen_bytes: 0, bytes_max, has_unseen: false }
    }

    /// A table of which nothing is known but that it has at most `bytes_max` bytes.
    pub(super) const fn unknown(bytes_max: usize) -> Self {
        Self { seen: VecDeque::new(), seen_bytes: 0, bytes_max, has_unseen: true }
    }

    /// The entry so many places behind the newest; `None` where it was not seen.
    pub(super) fn get(&self, place: usize) -> Result<Option<&Entry>, Bad> {
        match self.seen.get(place) {
            None if !self.has_unseen => Err(Bad),
            entry => Ok(entry),
        }
    }

    pub(super) fn insert(&mut self, field: Field<'_>) {
        let value = field.value.unwrap_or_default();
        let text = [field.name.unwrap_or_default(), value].concat().into_boxed_slice();
        let entry = Entry { text, name: field.name.map(<[u8]>::len) };
        self.seen_bytes += entry.bytes();
        // One that is too large empties the table and goes the same way.
        self.seen.push_front(entry);
        self.evict();
    }

    pub(super) fn resize(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.evict();
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.seen_bytes
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let entries = self.seen.len() * ENTRY_BYTES;
        self.seen_bytes - entries + self.seen.capacity() * size_of::<Entry>()
    }

    fn evict(&mut self) {
        while self.seen_bytes > self.bytes_max
            && let Some(oldest) = self.seen.pop_back()
        {
            self.seen_bytes -= oldest.bytes();
            self.has_unseen = false;
        }
        // The oldest go first, so what was not seen is gone when there is no room for it.
        if self.bytes_max - self.seen_bytes < ENTRY_BYTES {
            self.has_unseen = false;
        }
    }
}
