//! The headers of a block.

use super::{Bad, ENTRY_BYTES, FIELDS_BYTES_MAX};
use crate::protocol::headers::Header;

/// Largest buffers that are kept for the next block, in bytes.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// A header, either part of which may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::http2) struct Field<'a> {
    /// Its name.
    pub(in crate::protocol::http2) name: Option<&'a [u8]>,
    /// Its value.
    pub(in crate::protocol::http2) value: Option<&'a [u8]>,
}

impl Header for Field<'_> {
    /// A name that is no text is as good as unknown.
    fn name(&self) -> Option<&str> {
        std::str::from_utf8(self.name?).ok()
    }

    fn value(&self) -> Option<&[u8]> {
        self.value
    }
}

/// Where in the text a header is: its name up to `value_at`, then its value.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    value_at: usize,
    end: usize,
    has_name: bool,
    has_value: bool,
}

/// The headers of a block, in order.
#[derive(Debug, Default)]
pub(in crate::protocol::http2) struct Fields {
    text: Vec<u8>,
    places: Vec<Place>,
}

impl Fields {
    /// All of them.
    pub(in crate::protocol::http2) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.places.iter().map(|place| self.field(*place))
    }

    /// Whether any part of any is unknown.
    pub(in crate::protocol::http2) fn are_incomplete(&self) -> bool {
        self.places.iter().any(|place| !place.has_name || !place.has_value)
    }

    /// Bytes that it holds.
    pub(in crate::protocol::http2) const fn memory_bytes(&self) -> usize {
        self.text.capacity() + self.places.capacity() * size_of::<Place>()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES_MAX);
        self.places.clear();
        self.places.shrink_to(KEPT_BYTES_MAX / size_of::<Place>());
    }

    /// Whether there are not too many.
    pub(super) const fn check(&self) -> Result<(), Bad> {
        let bytes = self.text.len() + self.places.len() * ENTRY_BYTES;
        if bytes <= FIELDS_BYTES_MAX { Ok(()) } else { Err(Bad) }
    }

    pub(super) fn last(&self) -> Field<'_> {
        let none = Field { name: None, value: None };
        self.places.last().map_or(none, |place| self.field(*place))
    }

    pub(super) fn push(&mut self, name: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_name(name);
        self.text.extend_from_slice(value.unwrap_or_default());
        self.end_value(value.is_some());
    }

    /// Begins a header with a name; its value follows.
    pub(super) fn push_name(&mut self, name: Option<&[u8]>) {
        let at = self.text.len();
        self.text.extend_from_slice(name.unwrap_or_default());
        self.begin(at, name.is_some());
    }

    /// Begins a header with a name that `write` appends.
    pub(super) fn write_name(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        let at = self.text.len();
        write(&mut self.text)?;
        self.begin(at, true);
        Ok(())
    }

    /// Ends a header with a value that `write` appends.
    pub(super) fn write_value(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        write(&mut self.text)?;
        self.end_value(true);
        Ok(())
    }

    fn begin(&mut self, at: usize, has_name: bool) {
        let value_at = self.text.len();
        self.places.push(Place { at, value_at, end: value_at, has_name, has_value: false });
    }

    fn end_value(&mut self, has_value: bool) {
        let end = self.text.len();
        if let Some(place) = self.places.last_mut() {
            (place.end, place.has_value) = (end, has_value);
        }
    }

    fn field(&self, place: Place) -> Field<'_> {
        Field {
            name: place.has_name.then(|| &self.text[place.at..place.value_at]),
            value: place.has_value.then(|| &self.text[place.value_at..place.end]),
        }
    }
}
