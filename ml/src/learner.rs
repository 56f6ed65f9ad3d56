//! Everything that is learned, as one value: rows go in, findings come out.
//!
//! ```text
//! rows ─► features ─► ClosedWindow ─► detectors ─► verdicts ─► incidents ─► findings
//!                                        ▲                        │
//!                                        └── how much to learn ◄──┘
//! ```
//!
//! Throughput is judged for a whole service, errors and latency for each of its pods. What is judged
//! is learned only after the incidents have been stepped, so that a fault teaches nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use undine_schema::TimeNs;

use crate::baseline::{Observed, Shape, Weight};
use crate::blame::Blame;
use crate::detector::{
    self, Detector, ErrorShare, Feature, Typical, UNUSUAL, Verdict, latency_of, throughput_of,
};
use crate::features::{Calls, Cells, ClosedWindow, Features, Limits, SAMPLES_MAX, Side, Taken};
use crate::histogram::{Histogram, as_f64};
use crate::incidents::{Change, Incidents, Rules, ServiceVerdict, Standing, Turn};

/// A quantile is taken from at least this many requests; quiet services gather them over windows.
const SUPPORT: u64 = 20;
/// From so many at least where waiting took too long, and then only the median.
const SUPPORT_MIN: u64 = 5;
/// How many windows a quiet service gathers requests for.
const CARRY_WINDOWS_MAX: u32 = 12;
/// Windows with a probability below this are written to the table `anomalies`.
pub(crate) const ANOMALY_P: f64 = 0.001;

/// What a configuration sets, in the learner's terms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) window: Duration,
    pub(crate) warmup_windows: u32,
    pub(crate) memory_windows: u32,
    pub(crate) relearn_windows: u32,
    pub(crate) latency_resolution: Duration,
    pub(crate) rules: Rules,
}

/// One unusual window of one feature.
#[derive(Clone, Debug)]
pub(crate) struct Unusual {
    pub(crate) service: String,
    pub(crate) verdict: Verdict,
    pub(crate) incident_id: String,
}

/// What a closed window led to.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    pub(crate) start: TimeNs,
    pub(crate) end: TimeNs,
    pub(crate) anomalies: Vec<Unusual>,
    pub(crate) changes: Vec<Change>,
}

/// Open windows, baselines, graph and incidents.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Learner {
    features: Features,
    services: BTreeMap<String, ServiceModel>,
    blame: Blame,
    incidents: Incidents,
    /// Windows that began earlier were not watched from beginning to end.
    watched_since_ns: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ServiceModel {
    side: Side,
    throughput: Detector,
    pods: BTreeMap<String, PodModel>,
    /// Until its first whole window begins, nothing is learned of a service.
    started: bool,
    #[serde(skip)]
    pending: Option<Observed>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PodModel {
    error_share: ErrorShare,
    error_ratio: Detector,
    p50: Detector,
    p99: Detector,
    usual_requests: Typical,
    usual_support: Typical,
    carry: Histogram,
    carry_windows: u32,
    recent_errors: f64,
    recent_requests: f64,
    #[serde(skip)]
    pending: Pending,
}

/// What was judged and waits to be learned.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    errors: Option<(f64, f64, Observed)>,
    p50: Option<Observed>,
    p99: Option<Observed>,
}

impl Learner {
    /// Knows nothing yet.
    pub(crate) fn new(settings: &Settings, lateness: Duration, limits: Limits) -> Self {
        let width = i64::try_from(settings.window.as_nanos()).unwrap_or(i64::MAX);
        let lateness = i64::try_from(lateness.as_nanos()).unwrap_or(i64::MAX);
        Self {
            features: Features::new(width, lateness, limits),
            services: BTreeMap::new(),
            blame: Blame::default(),
            incidents: Incidents::default(),
            watched_since_ns: i64::MIN,
        }
    }

    /// Finds names again after it was loaded.
    pub(crate) fn reindex(&mut self) {
        self.features.reindex();
    }

    /// How many services have a baseline or are getting one.
    pub(crate) fn services(&self) -> usize {
        self.services.len()
    }

    /// How many pods of services are known.
    pub(crate) fn entities(&self) -> usize {
        self.features.entities()
    }

    /// How many incidents are open.
    pub(crate) fn incidents_open(&self) -> usize {
        self.incidents.open()
    }

    /// Rows are missing or nobody watched: windows that began before `time` say nothing about
    /// throughput, and those that are empty say nothing at all.
    pub(crate) fn watched_since(&mut self, time: TimeNs) {
        self.watched_since_ns = self.watched_since_ns.max(time.get());
    }

    /// Takes in rows; windows that they prove to be over are judged.
    pub(crate) fn take(
        &mut self,
        settings: &Settings,
        rows: &RecordBatch,
        latest: TimeNs,
        findings: &mut Vec<Findings>,
    ) -> Taken {
        let mut closed = Vec::new();
        let taken = self.features.take(rows, latest, &mut closed);
        self.observe_all(settings, &closed, findings);
        taken
    }

    /// Judges every window that ends at or before `watermark`.
    pub(crate) fn close_until(
        &mut self,
        settings: &Settings,
        watermark: TimeNs,
        findings: &mut Vec<Findings>,
    ) {
        let mut closed = Vec::new();
        let unwatched = TimeNs::new(self.watched_since_ns.min(watermark.get()));
        self.features.skip_silence_until(unwatched, &mut closed);
        self.features.close_until(watermark, &mut closed);
        self.observe_all(settings, &closed, findings);
    }

    fn observe_all(
        &mut self,
        settings: &Settings,
        closed: &[ClosedWindow],
        findings: &mut Vec<Findings>,
    ) {
        for window in closed {
            findings.push(self.observe(settings, window));
        }
        if !closed.is_empty() {
            let incidents = &self.incidents;
            let gone = self.features.shed(|service| incidents.open_id(service).is_some());
            for (service, pod) in gone {
                self.forget(&service, &pod);
            }
        }
    }

    fn forget(&mut self, service: &str, pod: &str) {
        let Some(model) = self.services.get_mut(service) else { return };
        model.pods.remove(pod);
        if model.pods.is_empty() {
            self.services.remove(service);
            self.blame.forget(service);
            self.incidents.forget(service);
        }
    }

    /// Judges a window, steps the incidents, and only then learns.
    fn observe(&mut self, settings: &Settings, window: &ClosedWindow) -> Findings {
        let whole = window.start.get() >= self.watched_since_ns;
        let verdicts = self.judge(settings, window, whole);
        self.weigh(window, &verdicts);
        let span = (window.start, window.end);
        let (changes, standing) =
            self.incidents.step(&settings.rules, span, &verdicts, &self.blame);
        self.learn(settings, &standing, &changes);
        self.blame.learn(|service| {
            standing.suspicious.contains(service)
                || standing.open.contains(service)
                || standing.symptoms.contains(service)
        });
        let anomalies = verdicts
            .into_iter()
            .flat_map(|service| {
                let incident_id = self.incidents.open_id(&service.service).unwrap_or("").to_owned();
                let name = service.service;
                let rare = service.verdicts.into_iter().filter(|verdict| verdict.p < ANOMALY_P);
                rare.map(move |verdict| Unusual {
                    service: name.clone(),
                    verdict,
                    incident_id: incident_id.clone(),
                })
            })
            .collect();
        Findings { start: window.start, end: window.end, anomalies, changes }
    }

    fn judge(
        &mut self,
        settings: &Settings,
        window: &ClosedWindow,
        whole: bool,
    ) -> Vec<ServiceVerdict> {
        let mut present: BTreeMap<&str, Vec<(&str, &Cells)>> = BTreeMap::new();
        for entity in &window.entities {
            present.entry(&entity.service).or_default().push((&entity.pod, &entity.cells));
            if !self.services.contains_key(&entity.service) {
                self.services.insert(entity.service.clone(), ServiceModel::new(entity.side));
            }
        }
        let mut verdicts = Vec::with_capacity(self.services.len());
        for (name, model) in &mut self.services {
            let pods = present.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            verdicts.push(model.judge(settings, name, pods, whole));
        }
        verdicts
    }

    /// Tells the graph what each service answered and asked for.
    fn weigh(&mut self, window: &ClosedWindow, verdicts: &[ServiceVerdict]) {
        let mut totals: BTreeMap<&str, Calls> =
            verdicts.iter().map(|v| (v.service.as_str(), Calls::default())).collect();
        for entity in &window.entities {
            let total = totals.entry(entity.service.as_str()).or_default();
            total.requests += entity.cells.requests;
            total.errors += entity.cells.errors;
            total.latency_ns += entity.cells.latency_ns;
        }
        self.blame.take_services(totals.iter().map(|(name, calls)| (*name, *calls)));
        let edges = window.edges.iter();
        self.blame.take_edges(
            edges.map(|edge| (edge.caller.as_str(), edge.callee.as_str(), edge.calls)),
            |caller| totals.get(caller).map_or(0, |total| total.requests),
        );
    }

    fn learn(&mut self, settings: &Settings, standing: &Standing, changes: &[Change]) {
        for (name, model) in &mut self.services {
            let frozen = standing.open.contains(name) || standing.symptoms.contains(name);
            let weight = if frozen {
                Weight::None
            } else if standing.doubtful.contains(name) {
                Weight::Tenth
            } else {
                Weight::Full
            };
            model.learn(settings, weight);
            if standing.symptoms.contains(name) {
                model.detectors(Detector::settle);
            }
        }
        for change in changes {
            let Some(model) = self.services.get_mut(&change.incident.service) else { continue };
            match change.turn {
                Turn::Resolved => model.detectors(Detector::settle),
                Turn::Accepted => model.start_anew(settings),
                Turn::Opened | Turn::Updated => {}
            }
        }
    }
}

impl ServiceModel {
    fn new(side: Side) -> Self {
        Self {
            side,
            throughput: Detector::default(),
            pods: BTreeMap::new(),
            started: false,
            pending: None,
        }
    }

    fn judge(
        &mut self,
        settings: &Settings,
        name: &str,
        pods: &[(&str, &Cells)],
        whole: bool,
    ) -> ServiceVerdict {
        let mut service = ServiceVerdict {
            service: name.to_owned(),
            is_peer: self.side == Side::Peer,
            ..ServiceVerdict::default()
        };
        // The first window began before the service was seen.
        let is_first = !std::mem::replace(&mut self.started, true);
        let requests: u64 = pods.iter().map(|(_, cells)| cells.requests).sum();
        self.pending = None;
        if whole && !is_first {
            service.verdicts.extend(self.judge_throughput(settings, requests));
        }
        for (pod, model) in &mut self.pods {
            if !pods.iter().any(|(name, _)| name == pod) {
                model.pending = Pending::default();
                model.carry_windows += u32::from(model.carry.total() > 0);
            }
        }
        let mut affected = 0.0;
        for (pod, cells) in pods {
            if !self.pods.contains_key(*pod) {
                self.pods.insert((*pod).to_owned(), PodModel::default());
            }
            let Some(model) = self.pods.get_mut(*pod) else { continue };
            model.pending = Pending::default();
            if is_first {
                continue;
            }
            let first = service.verdicts.len();
            affected +=
                model.judge(settings, cells, &mut service.verdicts) * as_f64(cells.requests);
            for verdict in &mut service.verdicts[first..] {
                (*pod).clone_into(&mut verdict.pod);
            }
            service.failed.extend(cells.failed.iter().cloned());
            service.slowest.extend(cells.slowest.iter().cloned());
        }
        service.affected = affected / as_f64(requests.max(1));
        service.failed.truncate(SAMPLES_MAX);
        service.slowest.sort_by_key(|sample| std::cmp::Reverse(sample.latency_ns));
        service.slowest.truncate(SAMPLES_MAX);
        service
    }

    fn judge_throughput(&mut self, settings: &Settings, requests: u64) -> Option<Verdict> {
        let shape = settings.shape(Feature::Throughput);
        let observed = detector::throughput(as_f64(requests));
        self.pending = Some(observed);
        let verdict = self.throughput.judge(Feature::Throughput, &shape, observed)?;
        let seconds = settings.window.as_secs_f64();
        Some(Verdict {
            value: as_f64(requests) / seconds,
            expected: throughput_of(self.throughput.baseline().level()) / seconds,
            requests,
            ..verdict
        })
    }

    fn learn(&mut self, settings: &Settings, weight: Weight) {
        if let Some(observed) = self.pending.take() {
            let shape = settings.shape(Feature::Throughput);
            self.throughput.learn(&shape, observed, weight, settings.relearn_windows);
        }
        for pod in self.pods.values_mut() {
            pod.learn(settings, weight);
        }
    }

    fn detectors(&mut self, mut act: impl FnMut(&mut Detector)) {
        act(&mut self.throughput);
        for pod in self.pods.values_mut() {
            act(&mut pod.error_ratio);
            act(&mut pod.p50);
            act(&mut pod.p99);
        }
    }

    fn start_anew(&mut self, settings: &Settings) {
        self.throughput.start_anew(&settings.shape(Feature::Throughput));
        for pod in self.pods.values_mut() {
            pod.error_share.start_anew(pod.recent_errors, pod.recent_requests);
            pod.error_ratio.settle();
            pod.p50.start_anew(&settings.shape(Feature::LatencyP50));
            pod.p99.start_anew(&settings.shape(Feature::LatencyP99));
        }
    }
}

impl PodModel {
    /// Appends what can be said of the window and returns the share of its requests that are
    /// affected beyond the usual.
    fn judge(&mut self, settings: &Settings, cells: &Cells, verdicts: &mut Vec<Verdict>) -> f64 {
        let mut affected = self.judge_errors(settings, cells, verdicts);
        self.carry.merge(&cells.latencies);
        self.carry_windows += 1;
        let support = self.carry.total();
        if support < SUPPORT && self.carry_windows < CARRY_WINDOWS_MAX {
            return affected;
        }
        let latencies = std::mem::take(&mut self.carry);
        self.carry_windows = 0;
        if support < SUPPORT_MIN {
            return affected;
        }
        let usual = self.usual_support.take(as_f64(support));
        let resolution = settings.latency_resolution;
        let mut judge = |feature, q, detector: &mut Detector| {
            let value = latencies.quantile(q)?;
            let observed = detector::latency(value, resolution, as_f64(support), usual);
            if let Some(verdict) = detector.judge(feature, &settings.shape(feature), observed) {
                let expected = latency_of(detector.baseline().level(), resolution);
                verdicts.push(Verdict { value, expected, requests: support, ..verdict });
            }
            Some(observed)
        };
        self.pending.p50 = judge(Feature::LatencyP50, 0.5, &mut self.p50);
        if support >= SUPPORT {
            self.pending.p99 = judge(Feature::LatencyP99, 0.99, &mut self.p99);
            if self.p99.baseline().is_warm() {
                let slow = latency_of(self.p99.baseline().level(), resolution);
                affected = affected.max(latencies.share_above(slow) - 0.01);
            }
        }
        affected.clamp(0.0, 1.0)
    }

    fn judge_errors(
        &mut self,
        settings: &Settings,
        cells: &Cells,
        verdicts: &mut Vec<Verdict>,
    ) -> f64 {
        let (errors, requests) = (as_f64(cells.errors), as_f64(cells.requests));
        let usual = self.usual_requests.take(requests);
        let residual = self.error_share.residual(errors, requests);
        let observed = detector::error_ratio(residual, requests, usual);
        self.pending.errors = Some((errors, requests, observed));
        let shape = settings.shape(Feature::ErrorRatio);
        let verdict = self.error_ratio.judge(Feature::ErrorRatio, &shape, observed);
        let (value, expected) = (errors / requests.max(1.0), self.error_share.ratio());
        verdicts.extend(verdict.map(|verdict| Verdict {
            value,
            expected,
            requests: cells.requests,
            ..verdict
        }));
        if self.error_ratio.baseline().is_warm() { (value - expected).max(0.0) } else { 0.0 }
    }

    fn learn(&mut self, settings: &Settings, weight: Weight) {
        let relearn = settings.relearn_windows;
        let pending = std::mem::take(&mut self.pending);
        if let Some((errors, requests, observed)) = pending.errors {
            self.recent_errors += (errors - self.recent_errors) / 16.0;
            self.recent_requests += (requests - self.recent_requests) / 16.0;
            let shape = settings.shape(Feature::ErrorRatio);
            self.learn_errors(&shape, (errors, requests, observed), weight, relearn);
        }
        for (feature, observed, detector) in [
            (Feature::LatencyP50, pending.p50, &mut self.p50),
            (Feature::LatencyP99, pending.p99, &mut self.p99),
        ] {
            if let Some(observed) = observed {
                detector.learn(&settings.shape(feature), observed, weight, relearn);
            }
        }
    }
}

impl PodModel {
    fn learn_errors(
        &mut self,
        shape: &Shape,
        (errors, requests, observed): (f64, f64, Observed),
        weight: Weight,
        relearn: u32,
    ) {
        if !self.error_share.is_warm() {
            for (errors, requests) in self.error_share.gather(shape, errors, requests) {
                let residual = self.error_share.residual(errors, requests);
                let observed = detector::error_ratio(residual, requests, requests);
                self.error_ratio.learn(shape, observed, weight, relearn);
            }
            return;
        }
        let deviation = self.error_ratio.baseline().deviation(shape, observed);
        let unusual = deviation.is_some_and(|deviation| deviation.abs() >= UNUSUAL);
        if self.error_ratio.learn(shape, observed, weight, relearn) {
            self.error_share.start_anew(self.recent_errors, self.recent_requests);
        }
        let weight = match weight {
            Weight::Full if unusual => Weight::Tenth,
            weight => weight,
        };
        self.error_share.learn(shape, errors, requests, weight);
    }
}

impl Settings {
    fn shape(&self, feature: Feature) -> Shape {
        feature.shape(self.warmup_windows, self.memory_windows)
    }
}

#[cfg(test)]
pub(crate) mod tests;
