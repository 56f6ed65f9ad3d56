//! Which of several unusual services is to blame: how much of a caller's excess its callees explain.
//!
//! For every caller and callee the time and the failures that the callee adds to one request of the
//! caller are known, since a server's row names its caller. What they usually add is learned; what
//! they add beyond that, divided by what the caller itself has beyond its usual, is the share that the
//! callee explains. From half upwards the caller is a *symptom*: it waits, or it passes errors on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::features::Calls;
use crate::histogram::as_f64;

/// From this share on an excess counts as explained.
const EXPLAINED: f64 = 0.5;
/// A caller's latency excess below this share of its usual latency is noise, and not divided by.
const TELLING: f64 = 0.1;
/// How fast the present fades, a window.
const PRESENT: f64 = 0.5;
/// Windows over which the usual fades.
const USUAL_WINDOWS: f64 = 60.0;
/// A window moves the usual by at most this factor of itself, so that spikes are not learned.
const USUAL_CLIP: f64 = 0.5;
/// Longest chain of callees that is followed.
const HOPS_MAX: usize = 16;

/// Why a service is only a symptom.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explanation {
    /// The callee at the end of the chain.
    pub(crate) root: String,
    /// The share that the next callee explains, the least along the chain.
    pub(crate) share: f64,
}

/// The graph of who calls whom, with what calls usually cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Blame {
    services: BTreeMap<String, Cost>,
    edges: BTreeMap<String, BTreeMap<String, Cost>>,
}

/// Totals of one window, with the caller's requests that they are divided by.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Cost {
    requests: f64,
    latency_ns: f64,
    errors: f64,
    usual_latency_ns: f64,
    usual_errors: f64,
    usual_windows: f64,
}

impl Cost {
    fn take(&mut self, requests: f64, calls: Calls) {
        self.requests = self.requests * PRESENT + requests;
        self.latency_ns = self.latency_ns * PRESENT + calls.latency_ns;
        self.errors = self.errors * PRESENT + as_f64(calls.errors);
    }

    fn learn(&mut self) {
        if self.requests <= 0.0 {
            return;
        }
        self.usual_windows = (self.usual_windows + 1.0).min(USUAL_WINDOWS);
        let rate = 1.0 / self.usual_windows;
        let (latency, errors) = (self.latency_ns / self.requests, self.errors / self.requests);
        let limit = USUAL_CLIP * self.usual_latency_ns;
        let step = latency - self.usual_latency_ns;
        self.usual_latency_ns +=
            rate * if self.usual_windows < 4.0 { step } else { step.clamp(-limit, limit) };
        self.usual_errors += rate * (errors - self.usual_errors);
    }

    fn excess_latency(&self) -> f64 {
        self.latency_ns / self.requests.max(1e-9) - self.usual_latency_ns
    }

    fn excess_errors(&self) -> f64 {
        self.errors / self.requests.max(1e-9) - self.usual_errors
    }
}

impl Blame {
    /// Takes in what each service answered in a window.
    pub(crate) fn take_services<'a>(&mut self, totals: impl Iterator<Item = (&'a str, Calls)>) {
        for (service, calls) in totals {
            let cost = match self.services.get_mut(service) {
                Some(cost) => cost,
                None => self.services.entry(service.to_owned()).or_default(),
            };
            cost.take(as_f64(calls.requests), calls);
        }
    }

    /// Takes in who called whom in the same window; `requests_of` tells the requests that a caller
    /// answered in it.
    pub(crate) fn take_edges<'a>(
        &mut self,
        calls: impl Iterator<Item = (&'a str, &'a str, Calls)>,
        requests_of: impl Fn(&str) -> u64,
    ) {
        let mut seen: BTreeMap<(&str, &str), Calls> = BTreeMap::new();
        for (caller, callee, calls) in calls {
            seen.insert((caller, callee), calls);
            self.edges.entry(caller.to_owned()).or_default().entry(callee.to_owned()).or_default();
        }
        for (caller, callees) in &mut self.edges {
            let requests = as_f64(requests_of(caller));
            for (callee, cost) in callees {
                let calls = seen.get(&(caller.as_str(), callee.as_str())).copied();
                cost.take(requests, calls.unwrap_or_default());
            }
        }
    }

    /// Learns what is usual from the window taken in last, but not of services that are `unusual`,
    /// nor of calls between them.
    pub(crate) fn learn(&mut self, unusual: impl Fn(&str) -> bool) {
        for (service, cost) in &mut self.services {
            if !unusual(service) {
                cost.learn();
            }
        }
        for (caller, callees) in &mut self.edges {
            for (callee, cost) in callees {
                if !unusual(caller) && !unusual(callee) {
                    cost.learn();
                }
            }
        }
    }

    /// Forgets a service and its calls.
    pub(crate) fn forget(&mut self, service: &str) {
        self.services.remove(service);
        self.edges.remove(service);
        for callees in self.edges.values_mut() {
            callees.remove(service);
        }
    }

    /// Whether `caller` is known to call `callee`.
    pub(crate) fn calls(&self, caller: &str, callee: &str) -> bool {
        self.edges.get(caller).is_some_and(|callees| callees.contains_key(callee))
    }

    /// Follows the callees of `service` that explain its excess, as long as they are `suspicious`.
    pub(crate) fn explain(
        &self,
        service: &str,
        suspicious: impl Fn(&str) -> bool,
    ) -> Option<Explanation> {
        let mut visited = vec![service];
        let mut least = f64::INFINITY;
        while visited.len() <= HOPS_MAX {
            let here = visited[visited.len() - 1];
            let Some((callee, share)) = self.step(here, &suspicious) else { break };
            if visited.contains(&callee) {
                break;
            }
            least = least.min(share);
            visited.push(callee);
        }
        let root = visited[visited.len() - 1];
        (visited.len() > 1)
            .then(|| Explanation { root: root.to_owned(), share: least.clamp(0.0, 1.0) })
    }

    /// The suspicious callee that explains most of the excess of `service`, with its share.
    fn step(&self, service: &str, suspicious: &impl Fn(&str) -> bool) -> Option<(&str, f64)> {
        let own = self.services.get(service)?;
        let callees = self.edges.get(service)?;
        let share =
            |part: f64, whole: f64| if whole > 0.0 && part > 0.0 { part / whole } else { 0.0 };
        callees
            .iter()
            .filter(|(callee, _)| suspicious(callee))
            .map(|(callee, cost)| {
                let slower = own.excess_latency() > TELLING * own.usual_latency_ns;
                let slow =
                    if slower { share(cost.excess_latency(), own.excess_latency()) } else { 0.0 };
                let failing = share(cost.excess_errors(), own.excess_errors());
                (callee.as_str(), slow.max(failing))
            })
            .filter(|(_, share)| *share >= EXPLAINED)
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(requests: u64, latency_ms: f64, errors: u64) -> Calls {
        Calls { requests, errors, latency_ns: latency_ms * 1e6 * as_f64(requests) }
    }

    /// A chain gateway → orders → inventory with the given mean latencies and errors.
    fn window(blame: &mut Blame, gateway: (f64, u64), orders: (f64, u64), inventory: (f64, u64)) {
        let all = [("gateway", gateway), ("orders", orders), ("inventory", inventory)];
        blame.take_services(all.into_iter().map(|(name, (ms, k))| (name, calls(100, ms, k))));
        let edges = [("gateway", "orders", orders), ("orders", "inventory", inventory)];
        blame
            .take_edges(edges.into_iter().map(|(a, b, (ms, k))| (a, b, calls(100, ms, k))), |_| {
                100
            });
    }

    fn learned() -> Blame {
        let mut blame = Blame::default();
        for _ in 0..30 {
            window(&mut blame, (30.0, 0), (20.0, 0), (10.0, 0));
            blame.learn(|_| false);
        }
        blame
    }

    #[test]
    fn a_slow_leaf_explains_everyone_above_it() {
        let mut blame = learned();
        window(&mut blame, (131.0, 0), (120.0, 0), (110.0, 0));
        let explanation = blame.explain("gateway", |_| true).unwrap();
        assert_eq!(explanation.root, "inventory");
        assert!(explanation.share > 0.9);
        assert_eq!(blame.explain("inventory", |_| true), None);
    }

    #[test]
    fn a_slow_middle_is_not_explained_by_its_innocent_callee() {
        let mut blame = learned();
        window(&mut blame, (131.0, 0), (120.0, 0), (11.0, 0));
        assert_eq!(blame.explain("gateway", |_| true).unwrap().root, "orders");
        assert_eq!(blame.explain("orders", |_| true), None);
    }

    #[test]
    fn errors_that_are_passed_on_are_explained() {
        let mut blame = learned();
        window(&mut blame, (20.0, 30), (15.0, 30), (10.0, 0));
        assert_eq!(blame.explain("gateway", |_| true).unwrap().root, "orders");
        assert_eq!(blame.explain("orders", |_| true), None);
    }

    #[test]
    fn who_is_not_suspicious_explains_nothing() {
        let mut blame = learned();
        window(&mut blame, (131.0, 0), (120.0, 0), (110.0, 0));
        assert_eq!(blame.explain("gateway", |name| name == "gateway"), None);
    }

    #[test]
    fn a_ring_of_callers_ends() {
        let mut blame = Blame::default();
        let ring = [("a", "b"), ("b", "c"), ("c", "a")];
        for ms in [10.0, 10.0, 10.0, 90.0] {
            blame.take_services(["a", "b", "c"].into_iter().map(|name| (name, calls(10, ms, 0))));
            blame.take_edges(ring.into_iter().map(|(a, b)| (a, b, calls(10, ms, 0))), |_| 10);
            if ms < 50.0 {
                blame.learn(|_| false);
            }
        }
        assert!(blame.explain("a", |_| true).is_some());
    }
}
