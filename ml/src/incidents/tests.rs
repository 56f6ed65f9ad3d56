//! The state machine on hand-made verdicts.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the numbers of a simulation are small"
)]

use super::*;

const SECOND: i64 = 1_000_000_000;

const RULES: Rules = Rules {
    open_decades: 5.0,
    open_windows: 2,
    resolve_windows: 3,
    silence: Silence::Incident,
    relearn_ns: 600 * SECOND,
};

fn verdict(feature: Feature, deviation: f64, p: f64) -> Verdict {
    Verdict {
        feature,
        pod: String::new(),
        value: 2.0,
        expected: 1.0,
        deviation,
        p,
        fault_p: p,
        point_p: p,
        fault_deviation: deviation,
        requests: 100,
    }
}

fn service(name: &str, verdicts: Vec<Verdict>, affected: f64) -> ServiceVerdict {
    ServiceVerdict { service: name.to_owned(), verdicts, affected, ..ServiceVerdict::default() }
}

/// Steps windows of 5 s in each of which the latency of `api` has the given p.
fn turns(incidents: &mut Incidents, from: i64, ps: &[f64]) -> Vec<(usize, Turn)> {
    let mut turns = Vec::new();
    for (at, &p) in ps.iter().enumerate() {
        let start = TimeNs::new((from + at as i64) * 5 * SECOND);
        let end = TimeNs::new(start.get() + 5 * SECOND);
        let deviation = if p < 0.01 { 8.0 } else { 0.5 };
        let services = [service("api", vec![verdict(Feature::LatencyP50, deviation, p)], 0.1)];
        let (changes, _) = incidents.step(&RULES, (start, end), &services, &Blame::default());
        turns.extend(changes.iter().map(|change| (at, change.turn)));
    }
    turns
}

#[test]
fn one_window_never_opens_an_incident_two_rare_ones_do() {
    let quiet = 0.5;
    assert_eq!(turns(&mut Incidents::default(), 0, &[quiet, 1e-9, quiet, quiet]), []);
    assert_eq!(turns(&mut Incidents::default(), 0, &[quiet, 1e-5, 1e-5]), [(2, Turn::Opened)]);
    assert_eq!(turns(&mut Incidents::default(), 0, &[1e-3, quiet, 1e-3, 1e-4]), []);
}

#[test]
fn an_incident_ends_only_after_quiet_windows_in_a_row() {
    let (bad, quiet) = (1e-6, 0.5);
    let ps = [bad, bad, quiet, quiet, bad, quiet, quiet, quiet, quiet];
    assert_eq!(turns(&mut Incidents::default(), 0, &ps), [(1, Turn::Opened), (7, Turn::Resolved)]);
}

#[test]
fn what_lasts_too_long_is_accepted_as_normal() {
    let told = turns(&mut Incidents::default(), 0, &[1e-6; 125]);
    assert_eq!(told, [(1, Turn::Opened), (119, Turn::Accepted), (121, Turn::Opened)]);
}

#[test]
fn an_incident_that_grows_is_updated_a_few_times_and_may_become_critical() {
    let mut incidents = Incidents::default();
    let mut told = Vec::new();
    for at in 0..40 {
        let (start, end) = (TimeNs::new(at * 5 * SECOND), TimeNs::new((at + 1) * 5 * SECOND));
        let deviation = 8.0 * 1.6_f64.powi(at as i32);
        let affected = if at < 5 { 0.1 } else { 0.6 };
        let services =
            [service("api", vec![verdict(Feature::LatencyP50, deviation, 1e-9)], affected)];
        let (changes, _) = incidents.step(&RULES, (start, end), &services, &Blame::default());
        told.extend(changes.into_iter().map(|change| (change.turn, change.incident.severity)));
    }
    assert_eq!(told[0], (Turn::Opened, Severity::Warning));
    assert_eq!(told.len(), 1 + UPDATES_MAX as usize);
    assert_eq!(told[8], (Turn::Updated, Severity::Critical));
}

#[test]
fn missing_traffic_needs_five_windows_and_can_be_ignored() {
    let mut rules = RULES;
    for (silence, expected) in [(Silence::Incident, Some(4)), (Silence::AnomalyOnly, None)] {
        rules.silence = silence;
        let mut incidents = Incidents::default();
        let mut opened = None;
        for at in 0..10 {
            let span = (TimeNs::new(at * 5 * SECOND), TimeNs::new((at + 1) * 5 * SECOND));
            let services = [service("api", vec![verdict(Feature::Throughput, -20.0, 1e-9)], 0.0)];
            let (changes, _) = incidents.step(&rules, span, &services, &Blame::default());
            if let Some(Turn::Opened) = changes.first().map(|change| change.turn) {
                opened.get_or_insert(at);
            }
        }
        assert_eq!(opened, expected, "{silence:?}");
    }
}

#[test]
fn many_pods_need_a_rarer_one() {
    let pods: Vec<Verdict> = (0..100)
        .map(|pod| Verdict {
            pod: format!("pod-{pod}"),
            ..verdict(Feature::LatencyP50, 4.0, if pod == 7 { 1e-4 } else { 0.5 })
        })
        .collect();
    assert!((decades(&service("api", pods, 0.0), &FAULT) - 2.0).abs() < 1e-9);
}

#[test]
fn an_id_is_the_same_when_the_rows_are_replayed() {
    assert_eq!(
        incident_id("api", 1_800_000_000 * SECOND),
        incident_id("api", 1_800_000_000 * SECOND)
    );
    assert_ne!(incident_id("api", 0), incident_id("apis", 0));
}
