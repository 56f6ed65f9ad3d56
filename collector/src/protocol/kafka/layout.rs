//! What the fields of a body are, as a language of a few words; [`super::apis`] speaks it.

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// One byte, 0 or 1.
    Bool,
    /// Numbers of this many bits.
    Int8,
    Int16,
    Int32,
    Int64,
    /// An error code; none is 0.
    Error,
    /// How many replicas must have a batch before the response; 0 where there is none.
    Acks,
    /// 16 bytes.
    Uuid,
    /// A text, maybe none.
    Text,
    /// Bytes, of which only the size is told.
    Sized,
    /// An array of what has these fields, maybe none.
    Array(&'static [Field]),
}

/// A field and the versions of its message that have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// Its name in JSON; empty for the items of an array of plain values.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    first: i16,
    last: i16,
}

impl Field {
    /// Whether this version of the message has it.
    pub(super) const fn is_in(&self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }
}

/// A field of every version.
pub(super) const fn field(name: &'static str, kind: Kind) -> Field {
    between(0, i16::MAX, name, kind)
}

/// A field of version `first` and later ones.
pub(super) const fn since(first: i16, name: &'static str, kind: Kind) -> Field {
    between(first, i16::MAX, name, kind)
}

/// A field of the versions up to `last`.
pub(super) const fn until(last: i16, name: &'static str, kind: Kind) -> Field {
    between(0, last, name, kind)
}

/// A field of some versions.
pub(super) const fn between(first: i16, last: i16, name: &'static str, kind: Kind) -> Field {
    Field { name, kind, first, last }
}

/// An array of plain values.
pub(super) const INT32S: Kind = Kind::Array(&[field("", Kind::Int32)]);
/// See [`INT32S`].
pub(super) const INT64S: Kind = Kind::Array(&[field("", Kind::Int64)]);
/// See [`INT32S`].
pub(super) const TEXTS: Kind = Kind::Array(&[field("", Kind::Text)]);
