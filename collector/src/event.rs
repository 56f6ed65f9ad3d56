//! Messages of the kernel programs: what they say, and of whom.

mod layout;

use undine_ebpf::{
    BEGINNING_MISSED, BEGINNING_SEEN, ConnInfo, ConnTotals, FLAG_BYPASSED, FLAG_CONTINUED,
    FLAG_ELIDED, FLAG_FAULT, FLAG_SHED, FLAG_TRUNCATED, Header, ProcessInfo, TcpEvent,
    TcpEventKind, TlsInfo, trace::TraceInfo,
};

pub use layout::DecodeError;
pub(crate) use layout::leave_out_last;

/// A process as messages name it: its pid and when it started, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Process id as the host sees it.
    pub tgid: u32,
    /// Start of the process since boot, in nanoseconds.
    pub start_ns: u64,
}

/// One direction of a connection, as its process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// The process received the bytes.
    Ingress,
    /// The process sent the bytes.
    Egress,
}

impl Flow {
    /// The other direction.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// Its place in an array of two, as in the kernel's messages.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A message of the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// What every message starts with.
    pub header: Header,
    /// The rest, by its kind.
    pub body: Body<'a>,
}

/// What follows a message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Bytes moved on a connection.
    Data {
        /// Which way.
        flow: Flow,
        /// The captured bytes; the message covers [`Header::len`] of them.
        payload: &'a [u8],
    },
    /// A connection was seen for the first time.
    Open(ConnInfo),
    /// A connection is gone.
    Close(ConnTotals),
    /// A datagram moved on a watched port.
    Datagram {
        /// Which way.
        flow: Flow,
        /// What is known of its socket and its peer.
        info: ConnInfo,
        /// The captured bytes of [`Header::len`].
        payload: &'a [u8],
    },
    /// It became known which connection carries a plaintext.
    Tls(TlsInfo),
    /// A process was forked.
    Fork(ProcessInfo),
    /// A process runs a new program.
    Exec(ProcessInfo),
    /// A process ended.
    Exit(ProcessInfo),
    /// Something that a TCP connection's bytes do not tell.
    Tcp(TcpEventKind, TcpEvent),
    /// A function that a script asked for was called.
    Trace {
        /// What was read of the call.
        info: TraceInfo,
        /// Its texts, each in [`TEXT_BYTES_MAX`] bytes.
        texts: &'a [u8],
    },
}

/// Whether a connection was known before its first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beginning {
    /// No byte had moved before the first that was seen.
    Seen,
    /// Bytes had moved before.
    Missed,
    /// The message does not say; it is of an older version.
    #[default]
    Untold,
}

impl Event<'_> {
    /// The process that the message is about.
    pub const fn process(&self) -> ProcessKey {
        ProcessKey { tgid: self.header.tgid, start_ns: self.header.process_start_ns }
    }

    /// Whether the message goes on with the operation of the message before it.
    pub const fn is_continued(&self) -> bool {
        self.header.flags & FLAG_CONTINUED != 0
    }

    /// Whether the message's connection was known before its first byte.
    pub const fn beginning(&self) -> Beginning {
        match self.header.beginning {
            BEGINNING_SEEN => Beginning::Seen,
            BEGINNING_MISSED => Beginning::Missed,
            _ => Beginning::Untold,
        }
    }

    /// Why fewer bytes were captured than the message covers, `None` where all were.
    pub const fn uncaptured(&self) -> Option<Uncaptured> {
        let flags = self.header.flags;
        if self.header.len == self.header.captured {
            None
        } else if flags & FLAG_BYPASSED != 0 {
            Some(Uncaptured::Bypassed)
        } else if flags & FLAG_ELIDED != 0 {
            Some(Uncaptured::Elided)
        } else if flags & FLAG_FAULT != 0 {
            Some(Uncaptured::Fault)
        } else if flags & FLAG_SHED != 0 {
            Some(Uncaptured::Shed)
        } else {
            // FLAG_TRUNCATED, or a kernel that forgot to say why.
            let _ = FLAG_TRUNCATED;
            Some(Uncaptured::Truncated)
        }
    }
}

/// Why bytes of an operation are known by their number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Uncaptured {
    /// There were more than one operation may send.
    Truncated,
    /// They never were in a buffer of the process.
    Bypassed,
    /// They are the ciphertext of a plaintext that is captured itself. Nothing is lost.
    Elided,
    /// The process's memory could not be read.
    Fault,
    /// The ring was filling, so that fewer bytes were sent.
    Shed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uncaptured_bytes_have_a_reason() {
        let of = |len, flags| {
            let header = Header { len, captured: 3, flags, ..Header::default() };
            let body = Body::Data { flow: Flow::Egress, payload: b"abc" };
            Event { header, body }.uncaptured()
        };
        assert_eq!(of(3, 0), None);
        assert_eq!(of(10, 0), Some(Uncaptured::Truncated));
        assert_eq!(of(10, FLAG_BYPASSED), Some(Uncaptured::Bypassed));
    }
}
