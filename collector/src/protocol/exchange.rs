//! One HTTP request with its response, as it is put together.

use super::output::Output;
use super::unpack;
use crate::event::ProcessKey;
use crate::redaction::Mode;

/// Largest buffer that a finished exchange keeps for the next one.
const POOLED_BYTES_MAX: usize = 16 * 1024;

/// What a body is, as far as rows tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentType {
    /// Anything else.
    #[default]
    Unknown = 0,
    /// JSON.
    Json = 1,
    /// gRPC.
    Grpc = 2,
}

/// How far the response of an exchange has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseProgress {
    /// Nothing of it was seen, or interim responses only.
    #[default]
    Awaited,
    /// Its head was seen.
    Begun,
    /// All of it was seen.
    Complete,
}

/// A body on its way: the first bytes, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The first bytes, at most the configured number.
    pub kept: Vec<u8>,
    /// All bytes.
    pub size: u64,
}

impl Body {
    fn clear(&mut self) {
        self.kept.clear();
        self.kept.shrink_to(POOLED_BYTES_MAX);
        self.size = 0;
    }

    /// Takes the next bytes, and keeps of them what `out` wants to be kept.
    pub(crate) fn take(&mut self, bytes: &[u8], out: &Output) {
        let redacted = out.redaction.bodies == Mode::Redacted;
        self.push(bytes, if redacted { 0 } else { out.body_bytes_max });
    }

    /// Replaces the first bytes by what they were before `gzip` made them, where `headers` say so.
    /// The size stays that of what was sent.
    fn unpack(&mut self, headers: &str, out: &Output) {
        const CODING: &[u8] = b"\"content-encoding\"";
        let names_coding = || {
            headers.as_bytes().windows(CODING.len()).any(|name| name.eq_ignore_ascii_case(CODING))
        };
        if self.kept.starts_with(&unpack::GZIP)
            && names_coding()
            && let Some(unpacked) = unpack::gzip(&self.kept, out.body_bytes_max)
        {
            self.kept = unpacked;
        }
    }

    fn push(&mut self, bytes: &[u8], kept_max: usize) {
        let room = kept_max.saturating_sub(self.kept.len());
        // Only what is contiguous from the start is kept.
        if room > 0 && self.kept.len() as u64 == self.size {
            self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
    }
}

/// A request and its response. Header values are redacted already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// When the request's first byte was seen, `CLOCK_MONOTONIC`.
    pub requested_at: u64,
    /// When the response's last byte was seen, or the connection ended without one.
    pub responded_at: u64,
    /// Who read or wrote the request.
    pub process: ProcessKey,
    /// Major version of HTTP.
    pub major_version: u8,
    /// Minor version of HTTP/1; 0 for HTTP/2.
    pub minor_version: u8,
    /// The verb.
    pub method: String,
    /// The target as sent.
    pub path: String,
    /// Request headers as a JSON object.
    pub req_headers: String,
    /// Request body.
    pub req_body: Body,
    /// Status; 0 where there was no response.
    pub resp_status: u16,
    /// Reason phrase.
    pub resp_message: String,
    /// Response headers as a JSON object.
    pub resp_headers: String,
    /// Response body.
    pub resp_body: Body,
    /// What the response's body is.
    pub content_type: ContentType,
    /// A sum of `QUALITY_…`.
    pub quality: u8,
    pub(crate) request_complete: bool,
    pub(crate) response: ResponseProgress,
    pub(crate) probation: bool,
}

impl Exchange {
    /// Empties it for the next request; what is large is given back.
    pub(crate) fn clear(&mut self) {
        for text in [
            &mut self.method,
            &mut self.path,
            &mut self.req_headers,
            &mut self.resp_message,
            &mut self.resp_headers,
        ] {
            text.clear();
            text.shrink_to(POOLED_BYTES_MAX);
        }
        self.req_body.clear();
        self.resp_body.clear();
        self.requested_at = 0;
        self.responded_at = 0;
        self.process = ProcessKey::default();
        self.major_version = 0;
        self.minor_version = 0;
        self.resp_status = 0;
        self.content_type = ContentType::Unknown;
        self.quality = 0;
        self.request_complete = false;
        self.response = ResponseProgress::Awaited;
        self.probation = false;
    }

    /// It is over: its bodies are shown as they were before they were packed for the way.
    pub(crate) fn unpack_bodies(&mut self, out: &Output) {
        self.req_body.unpack(&self.req_headers, out);
        self.resp_body.unpack(&self.resp_headers, out);
    }

    /// Bytes that it holds.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.method.len()
            + self.path.len()
            + self.req_headers.len()
            + self.resp_message.len()
            + self.resp_headers.len()
            + self.req_body.kept.len()
            + self.resp_body.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redaction::Redaction;

    #[test]
    fn a_body_is_shown_as_it_was_before_gzip_as_far_as_it_is_kept() {
        let text = b"one two one two one two";
        let packed = miniz_oxide::deflate::compress_to_vec(text, 6);
        let packed = [&unpack::GZIP[..], &[0, 0, 0, 0, 0, 0, 3], &packed, &[0; 8]].concat();
        let out = Output::new(Redaction { headers: Mode::Full, bodies: Mode::Full }, 9);
        let body = || Body { kept: packed.clone(), size: 99 };
        let mut exchange = Exchange {
            req_body: body(),
            req_headers: "{\"Content-Type\":\"application/gzip\"}".to_owned(),
            resp_body: body(),
            resp_headers: "{\"Content-Encoding\":\"gzip\"}".to_owned(),
            ..Exchange::default()
        };
        exchange.unpack_bodies(&out);
        assert_eq!(exchange.resp_body, Body { kept: b"one two o".to_vec(), size: 99 });
        // A file is what was sent.
        assert_eq!(exchange.req_body, body());
    }
}
