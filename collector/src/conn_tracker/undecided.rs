//! The first bytes of a connection, kept until they decide what is spoken.

use super::parser::feed;
use crate::data_stream::{Delivery, Operation};
use crate::endpoints::Role;
use crate::event::Flow;
use crate::protocol::gap::{Cause, LostRows, Start};
use crate::protocol::output::Output;
use crate::protocol::{self, PROBE_BYTES_MAX, Protocol, ProtocolCode, Verdict, infer};

/// Most operations that are kept while the protocol is undecided.
const UNDECIDED_OPERATIONS_MAX: usize = 64;

/// The first bytes of a connection whose protocol is not known yet.
#[derive(Debug, Default)]
pub(super) struct Undecided {
    bytes: [Vec<u8>; 2],
    operations: Vec<(Flow, usize, Operation)>,
    gap: Option<Cause>,
    lost_bytes: [u64; 2],
}

impl Undecided {
    pub(super) fn take(&mut self, delivery: Delivery<'_>) -> Verdict {
        let (flow, bytes, operation) = match delivery {
            Delivery::Bytes(flow, bytes, operation) => (flow, bytes, operation),
            Delivery::Hole(flow, bytes, why, _) => {
                self.note_gap(flow, bytes, Cause::of(why));
                return Verdict::NeedMore;
            }
        };
        if self.operations.is_empty()
            && let verdict @ Verdict::Speaks { .. } = infer_one(flow, bytes)
        {
            return verdict;
        }
        self.operations.push((flow, bytes.len(), operation));
        self.bytes[flow.index()].extend_from_slice(bytes);
        let verdict = match infer(&self.bytes[0], &self.bytes[1]) {
            Verdict::NeedMore if self.is_full() => Verdict::Opaque,
            verdict => verdict,
        };
        if verdict == Verdict::Opaque
            && let Some(cause) = self.gap
        {
            // After a gap these may be the middle of anything, so only a yes counts.
            self.note_gap(flow, 0, cause);
            return Verdict::NeedMore;
        }
        verdict
    }

    fn is_full(&self) -> bool {
        self.operations.len() >= UNDECIDED_OPERATIONS_MAX
            || self.bytes.iter().any(|bytes| bytes.len() >= PROBE_BYTES_MAX)
    }

    /// Forgets the bytes at hand, which cannot be told apart from the middle of a message.
    fn note_gap(&mut self, flow: Flow, bytes: u64, cause: Cause) {
        self.gap.get_or_insert(cause);
        self.operations.clear();
        for (lost, kept) in self.lost_bytes.iter_mut().zip(&mut self.bytes) {
            *lost = lost.saturating_add(kept.len() as u64);
            kept.clear();
        }
        let lost = &mut self.lost_bytes[flow.index()];
        *lost = lost.saturating_add(bytes);
    }

    /// Makes it a parser and feeds it what was kept and `last`, unless that was kept too.
    pub(super) fn into_protocol(
        self,
        code: ProtocolCode,
        requests: Flow,
        was_missed: bool,
        last: Delivery<'_>,
        out: &mut Output,
    ) -> Box<dyn Protocol> {
        let [asked, pushed] =
            [requests, requests.opposite()].map(|flow| self.lost_bytes[flow.index()]);
        let request_bytes = if code.servers_push() { asked.saturating_add(pushed) } else { asked };
        let start = match self.gap {
            Some(cause) => Start::AfterGap { cause, request_bytes },
            None if was_missed => Start::AfterGap { cause: Cause::Midstream, request_bytes: 0 },
            None => Start::AtItsBeginning,
        };
        let mut parser = protocol::start(code, requests, start);
        if self.operations.is_empty() {
            feed(parser.as_mut(), last, out);
        }
        let mut at = [0; 2];
        for (flow, length, operation) in self.operations {
            let from = at[flow.index()];
            at[flow.index()] += length;
            parser.bytes(flow, &self.bytes[flow.index()][from..from + length], operation, out);
        }
        parser
    }

    pub(super) fn take_lost_rows(&mut self, role: Role) -> Option<LostRows> {
        let bytes = match role.requests() {
            Some(flow) => self.lost_bytes[flow.index()],
            None => self.lost_bytes[0].max(self.lost_bytes[1]),
        };
        let request_bytes_min = ProtocolCode::Unknown.request_bytes_min();
        let rows_max = bytes / request_bytes_min;
        if rows_max == 0 {
            return None;
        }
        for lost in &mut self.lost_bytes {
            *lost = (*lost).min(bytes % request_bytes_min);
        }
        let cause = self.gap.unwrap_or(Cause::RingFull);
        let request_bytes = rows_max * request_bytes_min;
        Some(LostRows { cause, rows_min: 0, rows_max, request_bytes })
    }
}

fn infer_one(flow: Flow, bytes: &[u8]) -> Verdict {
    match flow {
        Flow::Ingress => infer(bytes, &[]),
        Flow::Egress => infer(&[], bytes),
    }
}
