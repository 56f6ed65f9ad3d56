//! What a window showed.

use std::time::Duration;

use anyhow::Result;
use undine_collector::kernel::CostSample;

/// What a server was asked in a while, and what that took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// CPU time of the server for each request.
    pub(super) server_us: f64,
    /// CPU time of the collector's thread for each request.
    pub(super) collector_us: f64,
    pub(super) requests_per_s: f64,
    /// Runs of programs and time in them for each request; only of windows without a collector.
    pub(super) runs: f64,
    pub(super) programs_us: f64,
    /// A call in a process that is not watched, and in one that is.
    pub(super) call_outside_ns: f64,
    pub(super) call_inside_ns: f64,
    /// An exchange of two messages in a process that is watched; only of windows without a collector.
    pub(super) exchange_ns: f64,
    pub(super) rows: u64,
    pub(super) lost: u64,
    /// Plaintexts of which it is not known which connection carries them.
    pub(super) unbound: u64,
    pub(super) requests: u64,
}

impl Window {
    /// With what the programs cost while `requests` were sent.
    pub(super) fn with_cost(self, cost: &CostSample, requests: u32) -> Self {
        let (mut runs, mut time) = (0, Duration::ZERO);
        for program in cost.programs.values() {
            runs += program.runs;
            time += program.time;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let runs = runs as f64 / f64::from(requests);
        Self { runs, programs_us: time.as_secs_f64() * 1e6 / f64::from(requests), ..self }
    }

    /// The best of both in each respect; what was lost in either.
    fn better(&self, other: &Self) -> Self {
        Self {
            server_us: self.server_us.min(other.server_us),
            collector_us: self.collector_us.min(other.collector_us),
            requests_per_s: self.requests_per_s.max(other.requests_per_s),
            runs: self.runs.min(other.runs),
            programs_us: self.programs_us.min(other.programs_us),
            call_outside_ns: self.call_outside_ns.min(other.call_outside_ns),
            call_inside_ns: self.call_inside_ns.min(other.call_inside_ns),
            exchange_ns: self.exchange_ns.min(other.exchange_ns),
            rows: self.rows + other.rows,
            lost: self.lost + other.lost,
            unbound: self.unbound + other.unbound,
            requests: self.requests + other.requests,
        }
    }
}

/// Has `windows` of each of `kinds` in turn, and gives what each kind showed at best.
pub(super) fn best_of<K: Copy>(
    windows: u32,
    kinds: &[K],
    window: impl Fn(K) -> Result<Window>,
) -> Result<Vec<Window>> {
    let mut best: Vec<Window> = kinds.iter().map(|kind| window(*kind)).collect::<Result<_>>()?;
    for _ in 1..windows {
        for (best, kind) in best.iter_mut().zip(kinds) {
            *best = best.better(&window(*kind)?);
        }
    }
    Ok(best)
}
