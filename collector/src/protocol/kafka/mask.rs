//! What of Kafka's protocol is structure: heads, numbers, error codes, and how long texts and arrays are.
//! Texts, ids, records and tagged fields are content.

use std::collections::BTreeMap;

use super::apis::{self, API_VERSIONS};
use super::body::{Body, Masking};
use super::head::{Head, Stop};
use super::{RESPONSE_HEAD_BYTES, UNSUPPORTED_VERSION, response_head};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::{Mask, Step, fill};

/// Most requests whose response is awaited; beyond, those of the oldest are not understood.
const REQUESTS_MAX: usize = 1024;

/// Masks a connection to a Kafka broker.
#[derive(Debug, Default)]
pub(crate) struct KafkaMask {
    /// The bodies on their way.
    bodies: [Option<Body>; 2],
    /// API keys and versions of requests, by their correlation ids.
    requests: BTreeMap<i32, (i16, i16)>,
}

impl Mask for KafkaMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        if let Some(mut body) = self.bodies[side as usize].take() {
            let step = match body.mask(bytes) {
                Masking::Need(wanted) => Step::Need(wanted),
                Masking::Took(taken) => Step::Took(taken),
                Masking::Pass(content) => Step::Content(content),
                Masking::End => return self.message(side, bytes),
            };
            self.bodies[side as usize] = Some(body);
            return step;
        }
        self.message(side, bytes)
    }
}

impl KafkaMask {
    fn message(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        match side {
            Side::Client => self.request(bytes),
            Side::Server => self.response(bytes),
        }
    }

    fn request(&mut self, bytes: &mut [u8]) -> Step {
        let head = match Head::read(bytes) {
            Ok(head) => head,
            Err(Stop::Need(wanted)) => return Step::Need(wanted),
            Err(Stop::Bad) => return Step::Lost,
        };
        if self.requests.len() >= REQUESTS_MAX {
            self.requests.pop_first();
        }
        self.requests.insert(head.correlation_id, (head.api_key, head.version));
        let left = head.message_bytes - head.bytes as u64;
        let body = apis::find(head.api_key, head.version).map_or_else(
            || Body::unknown(left, 0),
            |api| Body::of_request(api, head.version, left, 0),
        );
        self.bodies[Side::Client as usize] = Some(body);
        let (bytes_of_head, name_bytes) = (head.bytes, head.client_id.map_or(0, str::len));
        fill(&mut bytes[bytes_of_head - name_bytes..bytes_of_head]);
        Step::Took(bytes_of_head)
    }

    fn response(&mut self, bytes: &[u8]) -> Step {
        let Some(head) = bytes.first_chunk() else { return Step::Need(RESPONSE_HEAD_BYTES) };
        let Some((message_bytes, correlation_id)) = response_head(*head) else { return Step::Lost };
        let left = message_bytes - RESPONSE_HEAD_BYTES as u64;
        let request = self.requests.get(&correlation_id).copied();
        let is_versions = request.is_some_and(|(key, _)| key == API_VERSIONS);
        let is_unsupported = match bytes.get(RESPONSE_HEAD_BYTES..RESPONSE_HEAD_BYTES + 2) {
            None if is_versions && left >= 2 => return Step::Need(RESPONSE_HEAD_BYTES + 2),
            error => is_versions && error == Some(&UNSUPPORTED_VERSION[..]),
        };
        self.requests.remove(&correlation_id);
        let api = request.and_then(|(key, version)| {
            let version = if is_unsupported { 0 } else { version };
            apis::find(key, version).map(|api| (api, version))
        });
        let body = api.map_or_else(
            || Body::unknown(left, 0),
            |(api, version)| Body::of_response(api, version, !is_versions, left, 0),
        );
        self.bodies[Side::Server as usize] = Some(body);
        Step::Took(RESPONSE_HEAD_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_requests_and_responses_the_structure_is_kept() {
        check::<KafkaMask>(&[
            // Metadata 0, of one topic.
            (
                Side::Client,
                "\0\0\0\x16\0\x03\0\0\0\0\0\x07\0\x03ann\0\0\0\x01\0\x03top",
                "\0\0\0\x16\0\x03\0\0\0\0\0\x07\0\x03xxx\0\0\0\x01\0\x03xxx",
            ),
            // A response to what was not seen.
            (Side::Server, "\0\0\0\x06\0\0\0\x09hi", "\0\0\0\x06\0\0\0\x09xx"),
        ]);
    }
}
