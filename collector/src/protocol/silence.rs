//! Whether a client that was not heard from the beginning waits for a response that nobody saw it
//! ask for.
//!
//! Where responses do not name their requests, a client that keeps several requests under way, each
//! sent when a response comes, looks just like one that waits its turn. What tells them apart:
//! * At the server's end the order of operations: servers read a request when they have answered
//!   those before it.
//! * At the client's end silence: such a client sends as soon as a response lets it, so a request
//!   that comes long after the last byte of either side has none under way before it.

use crate::event::Flow;

/// How long a connection is silent before a request that is the only one under way, in nanoseconds.
pub(super) const SILENT_NS: u64 = 100_000_000;

/// When a connection was last used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    last_at: Option<u64>,
}

impl Silence {
    /// Something was sent at `at`, or is known to be missing.
    pub(super) fn ends(&mut self, at: u64) {
        self.last_at = self.last_at.max(Some(at));
    }

    /// Whether a request that goes the way of `requests` at `at` has none under way before it.
    pub(super) fn proves_turn(&self, requests: Flow, at: u64) -> bool {
        let is_silent = |last_at: u64| at.saturating_sub(last_at) >= SILENT_NS;
        requests == Flow::Ingress || self.last_at.is_some_and(is_silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_clients_end_only_silence_proves_that_nothing_is_under_way() {
        let mut silence = Silence::default();
        assert!(silence.proves_turn(Flow::Ingress, 1));
        assert!(!silence.proves_turn(Flow::Egress, SILENT_NS), "what was before is not known");
        silence.ends(5);
        silence.ends(3);
        assert!(!silence.proves_turn(Flow::Egress, 4 + SILENT_NS));
        assert!(silence.proves_turn(Flow::Egress, 5 + SILENT_NS));
    }
}
