//! The heads of requests, and what tells them from the bytes of other protocols.

use super::super::Probe;
use super::apis::{self, API_VERSIONS};
use super::body::{Body, Pace};

/// Longest message; brokers allow 100 MiB by default.
pub(super) const MESSAGE_BYTES_MAX: u64 = 256 << 20;
/// Longest client id.
const CLIENT_ID_BYTES_MAX: usize = 1024;
/// Highest API key that is taken for one.
const API_KEY_MAX: i16 = 127;
/// Highest version that is taken for one.
const VERSION_MAX: i16 = 63;
/// Bytes of a head without its client id.
const FIXED_BYTES: usize = 14;
/// Bytes of a length.
pub(super) const LENGTH_BYTES: usize = 4;

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) api_key: i16,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    pub(super) client_id: Option<&'a str>,
    /// Bytes of the message, with its length.
    pub(super) message_bytes: u64,
    /// Bytes of the head, with the length before it and without tagged fields.
    pub(super) bytes: usize,
}

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// This many bytes have to be there at once.
    Need(usize),
    /// They are no request.
    Bad,
}

impl<'a> Head<'a> {
    /// Reads the head of a request, or says as early as possible that there is none.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Stop> {
        let length = length(bytes)?;
        let within = |at, max| {
            let number = int16(bytes, at)?;
            number.filter(|number| (0..=max).contains(number)).ok_or(Stop::Bad)
        };
        let api_key = within(4, API_KEY_MAX)?;
        let version = within(6, VERSION_MAX)?;
        let correlation_id = bytes.get(8..12).and_then(|bytes| bytes.try_into().ok());
        let correlation_id = i32::from_be_bytes(correlation_id.ok_or(Stop::Need(FIXED_BYTES))?);
        let client_bytes = int16(bytes, 12)?.ok_or(Stop::Need(FIXED_BYTES))?;
        let head_bytes = FIXED_BYTES + usize::try_from(client_bytes).unwrap_or(0);
        let message_bytes = length + LENGTH_BYTES as u64;
        let is_sane = client_bytes >= -1
            && head_bytes <= FIXED_BYTES + CLIENT_ID_BYTES_MAX
            && head_bytes as u64 <= message_bytes;
        if !is_sane {
            return Err(Stop::Bad);
        }
        let name = &bytes[FIXED_BYTES..bytes.len().min(head_bytes)];
        if !name.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(Stop::Bad);
        }
        if bytes.len() < head_bytes {
            return Err(Stop::Need(head_bytes));
        }
        let name = str::from_utf8(name).ok().filter(|_| client_bytes >= 0);
        Ok(Self {
            api_key,
            version,
            correlation_id,
            client_id: name,
            message_bytes,
            bytes: head_bytes,
        })
    }
}

/// The length of a message that may be a request's.
fn length(bytes: &[u8]) -> Result<u64, Stop> {
    if bytes.first().is_some_and(|first| u64::from(*first) << 24 > MESSAGE_BYTES_MAX) {
        return Err(Stop::Bad);
    }
    let length = bytes.first_chunk().ok_or(Stop::Need(FIXED_BYTES))?;
    let length = u64::from(u32::from_be_bytes(*length));
    let bytes_min = (FIXED_BYTES - LENGTH_BYTES) as u64;
    if (bytes_min..=MESSAGE_BYTES_MAX).contains(&length) { Ok(length) } else { Err(Stop::Bad) }
}

/// A number at a place, or none where only its first byte tells that it is not a small one.
fn int16(bytes: &[u8], at: usize) -> Result<Option<i16>, Stop> {
    match bytes.get(at..) {
        Some([high, low, ..]) => Ok(Some(i16::from_be_bytes([*high, *low]))),
        Some([high]) if !matches!(high, 0 | 0xff) => Err(Stop::Bad),
        _ => Err(Stop::Need(FIXED_BYTES)),
    }
}

/// Whether `bytes` start with a request that no other protocol would send: one whose fields end
/// where its length says, or two in a row of one client.
pub(super) fn probe_request(bytes: &[u8]) -> Probe {
    let head = match Head::read(bytes) {
        Ok(head) => head,
        Err(Stop::Need(_)) => return Probe::Maybe,
        Err(Stop::Bad) => return Probe::No,
    };
    let is_named = head.client_id.is_some() || head.api_key == API_VERSIONS;
    if head.client_id == Some("") {
        return Probe::No;
    }
    let fit = fit(&head, &bytes[head.bytes..]);
    if is_named && fit == Probe::Yes {
        return Probe::Yes;
    }
    let whole = usize::try_from(head.message_bytes).unwrap_or(usize::MAX);
    let Some(rest) = bytes.get(whole..).filter(|_| fit != Probe::No) else { return fit };
    match Head::read(rest) {
        Ok(next) if next.client_id != head.client_id => Probe::No,
        Ok(next) if next.correlation_id != head.correlation_id.wrapping_add(1) => Probe::No,
        Ok(_) => Probe::Yes,
        Err(Stop::Need(_)) => Probe::Maybe,
        Err(Stop::Bad) => Probe::No,
    }
}

/// Whether the fields of a body end where its message does, or come to records that fit into it.
fn fit(head: &Head<'_>, bytes: &[u8]) -> Probe {
    let Some(api) = apis::find(head.api_key, head.version) else { return Probe::Maybe };
    let left = head.message_bytes - head.bytes as u64;
    let mut body = Body::of_request(api, head.version, left, 0);
    match body.read(bytes, 0) {
        Pace::Ended(_) if body.is_malformed() => Probe::No,
        Pace::Ended(_) | Pace::Skip(_) => Probe::Yes,
        Pace::Took(_) | Pace::Need(_) => Probe::Maybe,
    }
}
