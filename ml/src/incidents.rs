//! From windows to incidents: when one opens, grows worse and is over, and whom it is about.
//!
//! ```text
//!            evidence ≥ open               quiet for resolve_windows
//!  calm ──────────────────────────► open ──────────────────────────► calm
//!   │                                ▲ │ worse: update
//!   └─ explained by a callee: symptom └─┘
//! ```
//!
//! Evidence is a leaky sum of decades: a window whose rarest feature has probability p adds
//! −log₁₀ p less [`DRIFT`], and never more than its share of what opens an incident, so that one
//! window never does, however rare. Several features or pods must share their probability. What is
//! unusual only in its moving mean adds less, since windows share that mean. Missing traffic gathers
//! its evidence apart and more slowly: clients may simply have stopped.
//!
//! A service whose excess is explained by a suspicious callee (`blame.rs`) is a symptom: it gathers no
//! evidence and is listed with the incident of the callee. While the callee is not sure yet, the
//! caller waits for [`HOLD_WINDOWS`] windows before it is taken for the cause after all.
//!
//! An open incident is over after a number of windows in a row in which no feature is rare and whose
//! mean deviation is that of a quiet service. The file knows no clock, no table and no baseline.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use undine_schema::TimeNs;

use crate::blame::{Blame, Explanation};
use crate::detector::{Feature, Verdict};
use crate::features::{SAMPLES_MAX, Sample};
use crate::histogram::as_f64;

/// A window that is unusual only by what lasts, not by itself, adds no more decades: windows share
/// the moving mean, and so its evidence.
const LASTING_DECADES_MAX: f64 = 3.3;
/// What a window must have in decades before it adds anything.
const DRIFT: f64 = 1.85;
/// A window in which only the slowest requests are unusual adds no more than this share of what
/// another may add: a pause of a second makes such a window.
const TAIL_SHARE: f64 = 0.7;
/// A window of missing traffic adds no more than this share of what another may add.
const TRAFFIC_SHARE: f64 = 0.4;
/// For how many windows a caller waits for its suspicious callee.
const HOLD_WINDOWS: u32 = 3;
/// A window is quiet if no feature is rarer than this many decades.
const QUIET_DECADES: f64 = 2.0;
/// Quiet windows must deviate by no more than this on average, in standard deviations.
const QUIET_DEVIATION: f64 = 1.3;
/// A service with this many decades in the present window is suspicious even without evidence.
const SUSPICIOUS_DECADES: f64 = 2.0;
/// How much worse an incident must be for the next update, as a factor of its deviation.
const WORSE: f64 = 1.5;
/// How often an incident is updated at most.
const UPDATES_MAX: u32 = 8;
/// An incident is critical once this share of requests is affected.
const CRITICAL_SHARE: f64 = 0.25;
/// How many symptoms are listed.
const SYMPTOMS_MAX: usize = 16;

/// What one service did in a window, judged.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceVerdict {
    pub(crate) service: String,
    pub(crate) is_peer: bool,
    pub(crate) verdicts: Vec<Verdict>,
    /// Share of its requests that failed or were slower than usual, beyond the usual share.
    pub(crate) affected: f64,
    pub(crate) failed: Vec<Sample>,
    pub(crate) slowest: Vec<Sample>,
}

/// The rules that a configuration sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Decades of evidence that open an incident.
    pub(crate) open_decades: f64,
    /// Windows that it takes at least: none adds more than its share of the evidence.
    pub(crate) open_windows: u32,
    /// Quiet windows in a row that end it.
    pub(crate) resolve_windows: u32,
    /// Whether missing traffic alone opens an incident.
    pub(crate) silence: Silence,
    /// After how long an incident is taken for the new normal, in nanoseconds.
    pub(crate) relearn_ns: i64,
}

/// What becomes of traffic that stays away while nothing else is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It opens an incident, after five windows at least.
    Incident,
    /// It is recorded as anomalous, nothing more.
    AnomalyOnly,
}

/// How bad an incident is, by the share of requests that are affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Severity {
    Warning,
    Critical,
}

/// One feature's part in an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Contribution {
    pub(crate) service: String,
    pub(crate) pod: String,
    pub(crate) feature: Feature,
    pub(crate) value: f64,
    pub(crate) expected: f64,
    pub(crate) deviation: f64,
    /// `−log₁₀ p`.
    pub(crate) decades: f64,
}

/// A service that suffers from the incident of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Symptom {
    pub(crate) contribution: Contribution,
    /// The share of its excess that its callee explains.
    pub(crate) explained: f64,
}

/// Something that is wrong with a service, from opening to resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Incident {
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) is_peer: bool,
    pub(crate) severity: Severity,
    pub(crate) started_ns: i64,
    /// Features when it was worst, most unusual first.
    pub(crate) contributions: Vec<Contribution>,
    pub(crate) affected: f64,
    pub(crate) symptoms: Vec<Symptom>,
    pub(crate) failed: Vec<Sample>,
    pub(crate) slowest: Vec<Sample>,
    /// The deviation that was last told.
    told: f64,
    updates: u32,
    quiet: u32,
    quiet_deviation: f64,
}

/// What happened to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Opened,
    Updated,
    /// The service is as it was before.
    Resolved,
    /// It lasted so long that it is the new normal.
    Accepted,
}

/// An incident as it was when it changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) turn: Turn,
    pub(crate) at: TimeNs,
    pub(crate) incident: Incident,
}

impl Change {
    /// Whether the incident is over.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.turn, Turn::Resolved | Turn::Accepted)
    }
}

/// What is known of one service between windows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Case {
    fault: f64,
    traffic: f64,
    /// When the first window of the present evidence began.
    onset_ns: Option<i64>,
    held: u32,
    open: Option<Box<Incident>>,
}

/// All services' cases.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Incidents {
    cases: BTreeMap<String, Case>,
}

/// What a step found out about a service, for whoever teaches its baselines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// Services with an open incident.
    pub(crate) open: BTreeSet<String>,
    /// Services that only suffer from another one.
    pub(crate) symptoms: BTreeSet<String>,
    /// Services that may be part of one.
    pub(crate) suspicious: BTreeSet<String>,
    /// Services with half the evidence of an incident or more.
    pub(crate) doubtful: BTreeSet<String>,
}

impl Incidents {
    /// The id of the open incident of a service.
    pub(crate) fn open_id(&self, service: &str) -> Option<&str> {
        Some(self.cases.get(service)?.open.as_ref()?.id.as_str())
    }

    /// How many incidents are open.
    pub(crate) fn open(&self) -> usize {
        self.cases.values().filter(|case| case.open.is_some()).count()
    }

    /// Forgets a service that has no open incident.
    pub(crate) fn forget(&mut self, service: &str) {
        self.cases.remove(service);
    }

    /// Goes one window further.
    pub(crate) fn step(
        &mut self,
        rules: &Rules,
        window: (TimeNs, TimeNs),
        services: &[ServiceVerdict],
        blame: &Blame,
    ) -> (Vec<Change>, Standing) {
        let (start, end) = window;
        for service in services {
            self.gather(rules, start, service);
        }
        let mut standing = self.standing(rules, services);
        let explained = self.explanations(rules, services, blame, &standing);
        let mut changes = Vec::new();
        for service in services {
            let held = match explained.get(service.service.as_str()) {
                Some(explanation) if !standing.open.contains(&service.service) => {
                    self.hold(rules, service, explanation)
                }
                _ => false,
            };
            if held {
                standing.symptoms.insert(service.service.clone());
            } else {
                changes.extend(self.advance(rules, end, service));
            }
        }
        for service in services.iter().filter(|s| standing.symptoms.contains(&s.service)) {
            let explanation = &explained[service.service.as_str()];
            self.attach(service, explanation, &mut changes);
        }
        standing.open = self
            .cases
            .iter()
            .filter(|(_, case)| case.open.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        (changes, standing)
    }

    fn gather(&mut self, rules: &Rules, start: TimeNs, service: &ServiceVerdict) {
        let case = match self.cases.get_mut(&service.service) {
            Some(case) => case,
            None => self.cases.entry(service.service.clone()).or_default(),
        };
        let gain_max = rules.open_decades / f64::from(rules.open_windows.max(1));
        let gain = |kind: Kind| {
            let lasting = decades(service, &[kind]).min(LASTING_DECADES_MAX);
            point_decades(service, &[kind]).max(lasting) - DRIFT
        };
        let fault = gain(Kind::Bulk).min(gain_max).max(gain(Kind::Tail).min(TAIL_SHARE * gain_max));
        let traffic = match rules.silence {
            Silence::Incident => {
                (point_decades(service, &[Kind::Traffic]) - DRIFT).min(TRAFFIC_SHARE * gain_max)
            }
            Silence::AnomalyOnly => -DRIFT,
        };
        case.fault = (case.fault + fault).clamp(0.0, 2.0 * rules.open_decades);
        case.traffic = (case.traffic + traffic).clamp(0.0, 2.0 * rules.open_decades);
        if case.fault <= 0.0 && case.traffic <= 0.0 {
            case.onset_ns = None;
            case.held = 0;
        } else {
            case.onset_ns.get_or_insert(start.get());
        }
    }

    fn standing(&self, rules: &Rules, services: &[ServiceVerdict]) -> Standing {
        let mut standing = Standing::default();
        for service in services {
            let case = &self.cases[&service.service];
            if case.open.is_some() {
                standing.open.insert(service.service.clone());
            }
            if case.open.is_some()
                || case.fault > 0.0
                || decades(service, &FAULT) >= SUSPICIOUS_DECADES
            {
                standing.suspicious.insert(service.service.clone());
            }
            if case.fault.max(case.traffic) >= rules.open_decades / 2.0 {
                standing.doubtful.insert(service.service.clone());
            }
        }
        standing
    }

    /// Which services are symptoms, and of whom.
    fn explanations(
        &self,
        rules: &Rules,
        services: &[ServiceVerdict],
        blame: &Blame,
        standing: &Standing,
    ) -> BTreeMap<String, Explanation> {
        let suspicious = |name: &str| standing.suspicious.contains(name);
        let mut explained = BTreeMap::new();
        for service in services {
            let name = service.service.as_str();
            let case = &self.cases[name];
            let by_callee = suspicious(name).then(|| blame.explain(name, suspicious)).flatten();
            // Who is called less because its caller fails, or calls less because its callee does.
            let by_neighbour = || {
                (case.traffic > 0.0 && case.fault < rules.open_decades)
                    .then(|| {
                        let neighbour = services.iter().find(|other| {
                            let other_name = other.service.as_str();
                            other_name != name
                                && (self.is_troubled(rules, other)
                                    && (blame.calls(other_name, name)
                                        || blame.calls(name, other_name))
                                    || blame.calls(other_name, name)
                                        && self.cases[other_name].traffic > 0.0)
                        })?;
                        Some(Explanation { root: neighbour.service.clone(), share: 1.0 })
                    })
                    .flatten()
            };
            if let Some(explanation) = by_callee.or_else(by_neighbour) {
                explained.insert(name.to_owned(), explanation);
            }
        }
        follow_to_roots(&mut explained);
        explained
    }

    /// Whether a service has a fault of its own, not only missing traffic.
    fn is_troubled(&self, rules: &Rules, service: &ServiceVerdict) -> bool {
        let case = &self.cases[&service.service];
        case.fault >= rules.open_decades / 2.0 || case.open.is_some()
    }

    /// A symptom gathers no evidence once its root is sure; before that it waits a while. Returns
    /// false when it has waited long enough.
    fn hold(&mut self, rules: &Rules, service: &ServiceVerdict, explanation: &Explanation) -> bool {
        let root_is_sure = self.cases.get(&explanation.root).is_some_and(|root| {
            root.open.is_some() || root.fault.max(root.traffic) >= rules.open_decades
        });
        let Some(case) = self.cases.get_mut(&service.service) else { return false };
        if root_is_sure {
            *case = Case::default();
            return true;
        }
        if case.fault.max(case.traffic) >= rules.open_decades {
            case.held += 1;
        }
        case.held <= HOLD_WINDOWS
    }

    fn advance(&mut self, rules: &Rules, at: TimeNs, service: &ServiceVerdict) -> Option<Change> {
        let case = self.cases.get_mut(&service.service)?;
        if case.open.is_some() {
            return case.follow(rules, at, service);
        }
        let by_fault = case.fault >= rules.open_decades
            && point_decades(service, &FAULT) >= SUSPICIOUS_DECADES / 2.0;
        let by_traffic = case.traffic >= rules.open_decades
            && point_decades(service, &[Kind::Traffic]) >= SUSPICIOUS_DECADES / 2.0;
        (by_fault || by_traffic).then(|| case.open(at, service))
    }

    /// Lists a symptom with the open incident of its root.
    fn attach(
        &mut self,
        service: &ServiceVerdict,
        explanation: &Explanation,
        changes: &mut [Change],
    ) {
        let Some(root) = self.cases.get_mut(&explanation.root) else { return };
        let Some(incident) = &mut root.open else { return };
        let Some(contribution) = contributions(service).into_iter().next() else { return };
        if contribution.decades < SUSPICIOUS_DECADES {
            return;
        }
        let symptom = Symptom { contribution, explained: explanation.share };
        let size = |s: &Symptom| s.contribution.deviation.abs();
        let known =
            incident.symptoms.iter().position(|s| s.contribution.service == service.service);
        match known {
            Some(at) if size(&incident.symptoms[at]) < size(&symptom) => {
                incident.symptoms[at] = symptom;
            }
            None if incident.symptoms.len() < SYMPTOMS_MAX => incident.symptoms.push(symptom),
            Some(_) | None => {}
        }
        let symptoms = incident.symptoms.clone();
        for change in changes.iter_mut().filter(|change| change.incident.id == incident.id) {
            change.incident.symptoms.clone_from(&symptoms);
        }
    }
}

impl Case {
    fn open(&mut self, at: TimeNs, service: &ServiceVerdict) -> Change {
        let started_ns = self.onset_ns.unwrap_or(at.get());
        let contributions = contributions(service);
        let incident = Incident {
            id: incident_id(&service.service, started_ns),
            service: service.service.clone(),
            is_peer: service.is_peer,
            severity: severity(service.affected),
            started_ns,
            told: worst(&contributions),
            contributions,
            affected: service.affected,
            symptoms: Vec::new(),
            failed: service.failed.clone(),
            slowest: service.slowest.clone(),
            updates: 0,
            quiet: 0,
            quiet_deviation: 0.0,
        };
        self.open = Some(Box::new(incident.clone()));
        self.held = 0;
        Change { turn: Turn::Opened, at, incident }
    }

    fn follow(&mut self, rules: &Rules, at: TimeNs, service: &ServiceVerdict) -> Option<Change> {
        let incident = self.open.as_mut()?;
        if at.get() - incident.started_ns >= rules.relearn_ns {
            return self.end(at, Turn::Accepted);
        }
        if incident.is_over(rules, service) {
            return self.end(at, Turn::Resolved);
        }
        incident.worsen(at, service)
    }

    fn end(&mut self, at: TimeNs, turn: Turn) -> Option<Change> {
        let incident = *self.open.take()?;
        *self = Self::default();
        Some(Change { turn, at, incident })
    }
}

impl Incident {
    /// The feature that contributes most.
    pub(crate) fn lead(&self) -> Option<&Contribution> {
        self.contributions.first()
    }

    fn is_over(&mut self, rules: &Rules, service: &ServiceVerdict) -> bool {
        let bulk = point_decades(service, &[Kind::Bulk]).max(match rules.silence {
            Silence::Incident => point_decades(service, &[Kind::Traffic]),
            Silence::AnomalyOnly => 0.0,
        });
        if bulk >= QUIET_DECADES {
            self.quiet = 0;
            self.quiet_deviation = 0.0;
            return false;
        }
        if point_decades(service, &[Kind::Tail]) >= QUIET_DECADES {
            self.quiet = self.quiet.saturating_sub(1);
            return false;
        }
        self.quiet += 1;
        let deviation = service
            .verdicts
            .iter()
            .filter(|verdict| Kind::of(verdict.feature) == Kind::Bulk)
            .map(|verdict| verdict.fault_deviation)
            .fold(0.0, f64::max);
        self.quiet_deviation += (deviation - self.quiet_deviation) / f64::from(self.quiet);
        if self.quiet < rules.resolve_windows {
            return false;
        }
        let is_calm = self.quiet_deviation <= QUIET_DEVIATION;
        if !is_calm {
            self.quiet = 0;
            self.quiet_deviation = 0.0;
        }
        is_calm
    }

    fn worsen(&mut self, at: TimeNs, service: &ServiceVerdict) -> Option<Change> {
        let contributions = contributions(service);
        let now = worst(&contributions);
        let severity = severity(service.affected).max(self.severity);
        let worse = now > WORSE * self.told || severity > self.severity;
        if now > worst(&self.contributions) || worse {
            self.contributions = contributions;
            self.affected = self.affected.max(service.affected);
            keep_samples(&mut self.failed, &service.failed);
            keep_samples(&mut self.slowest, &service.slowest);
        }
        if !worse || self.updates >= UPDATES_MAX {
            return None;
        }
        self.severity = severity;
        self.told = self.told.max(now);
        self.updates += 1;
        Some(Change { turn: Turn::Updated, at, incident: self.clone() })
    }
}

/// What a feature speaks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Many requests are slow or fail.
    Bulk,
    /// The slowest requests are slower.
    Tail,
    /// Requests stay away.
    Traffic,
}

/// The kinds that speak for a fault of the service itself.
const FAULT: [Kind; 2] = [Kind::Bulk, Kind::Tail];

impl Kind {
    const fn of(feature: Feature) -> Self {
        match feature {
            Feature::Throughput => Self::Traffic,
            Feature::ErrorRatio | Feature::LatencyP50 => Self::Bulk,
            Feature::LatencyP99 => Self::Tail,
        }
    }
}

/// Makes every explanation name the service at the end of its chain.
fn follow_to_roots(explained: &mut BTreeMap<String, Explanation>) {
    let next: BTreeMap<String, String> =
        explained.iter().map(|(name, found)| (name.clone(), found.root.clone())).collect();
    for (name, explanation) in explained.iter_mut() {
        let mut hops = 0;
        while let Some(root) = next.get(&explanation.root)
            && root != name
            && hops < next.len()
        {
            explanation.root.clone_from(root);
            hops += 1;
        }
    }
}

fn decades(service: &ServiceVerdict, kinds: &[Kind]) -> f64 {
    rarest(service, kinds, |verdict| verdict.fault_p)
}

fn point_decades(service: &ServiceVerdict, kinds: &[Kind]) -> f64 {
    rarest(service, kinds, |verdict| verdict.point_p)
}

/// Decades of the rarest feature of some kinds; among many one is bound to be rare (Bonferroni over
/// all features of faults, or over those of traffic).
fn rarest(service: &ServiceVerdict, kinds: &[Kind], p: impl Fn(&Verdict) -> f64) -> f64 {
    let of = |verdict: &&Verdict| kinds.contains(&Kind::of(verdict.feature));
    let is_traffic = kinds.contains(&Kind::Traffic);
    let alike = |v: &&Verdict| (Kind::of(v.feature) == Kind::Traffic) == is_traffic;
    let features = service.verdicts.iter().filter(alike).count().max(1);
    let most =
        service.verdicts.iter().filter(of).map(|verdict| -p(verdict).log10()).fold(0.0, f64::max);
    (most - as_f64(features as u64).log10()).max(0.0)
}

/// The features that speak for a fault, most unusual first.
fn contributions(service: &ServiceVerdict) -> Vec<Contribution> {
    let mut found: Vec<Contribution> = service
        .verdicts
        .iter()
        .filter(|verdict| verdict.fault_deviation > 0.0)
        .map(|verdict| Contribution {
            service: service.service.clone(),
            pod: verdict.pod.clone(),
            feature: verdict.feature,
            value: verdict.value,
            expected: verdict.expected,
            deviation: verdict.deviation,
            decades: -verdict.fault_p.log10(),
        })
        .collect();
    let rank = |c: &Contribution| {
        (Kind::of(c.feature) != Kind::Traffic && c.decades >= DRIFT, c.deviation.abs())
    };
    found.sort_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    found
}

fn worst(contributions: &[Contribution]) -> f64 {
    contributions.iter().map(|c| c.deviation.abs()).fold(0.0, f64::max)
}

fn severity(affected: f64) -> Severity {
    if affected >= CRITICAL_SHARE { Severity::Critical } else { Severity::Warning }
}

fn keep_samples(kept: &mut Vec<Sample>, newer: &[Sample]) {
    if !newer.is_empty() {
        *kept = newer.iter().take(SAMPLES_MAX).cloned().collect();
    }
}

/// An id that a replay of the same rows gives again: the start, then a hash (FNV-1a) of both.
fn incident_id(service: &str, started_ns: i64) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in service.bytes().chain(started_ns.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{:010x}{:010x}", started_ns / 1_000_000_000, hash >> 24)
}

#[cfg(test)]
mod tests;
