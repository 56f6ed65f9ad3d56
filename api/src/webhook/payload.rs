//! What is posted: a notice in the words of its receiver.

mod alertmanager;
mod slack;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::notice::Notice;

/// The form in which a receiver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Alertmanager's webhook, version 4, with the evidence in an extra object.
    Alertmanager,
    /// One flat JSON object per change.
    Json,
    /// Slack's incoming webhook.
    Slack,
}

/// What a payload says beside its notice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller<'a> {
    /// The receiver's name.
    pub(super) receiver: &'a str,
    /// Where Undine's own page is, without a slash at the end.
    pub(super) external_url: &'a str,
}

/// The JSON body for `notice`; the same notice always gives the same bytes.
pub(super) fn render(format: Format, notice: &Notice, teller: Teller<'_>) -> Vec<u8> {
    let body = match format {
        Format::Alertmanager => alertmanager::message(notice, teller),
        Format::Json => flat(notice, teller),
        Format::Slack => slack::message(notice, teller),
    };
    body.to_string().into_bytes()
}

fn flat(notice: &Notice, teller: Teller<'_>) -> Value {
    json!({
        "schema": "undine.incident.v1",
        "key": notice.key(),
        "receiver": teller.receiver,
        "state": notice.state,
        "changed_at": rfc3339(notice.changed_at),
        "labels": notice.labels,
        "summary": notice.summary,
        "insight": insight(notice, teller),
    })
}

/// The evidence: what, where, since when, how far from normal, what contributes, samples, and the
/// script that shows it.
fn insight(notice: &Notice, teller: Teller<'_>) -> Value {
    json!({
        "schema": "undine.insight.v1",
        "id": notice.incident_id,
        "state": notice.state,
        "kind": notice.feature,
        "entity": {"service": notice.service, "pod": notice.pod},
        "onset": rfc3339(notice.started_at),
        "changed": rfc3339(notice.changed_at),
        "ended": ended(notice),
        "severity": notice.severity,
        "observed": {"feature": notice.feature, "value": notice.value},
        "expected": {"value": notice.expected},
        "ratio": ratio(notice),
        "score": notice.score,
        "contributors": embedded(&notice.contributions),
        "samples": embedded(&notice.samples),
        "links": {"incident": link(notice, teller)},
        "reproduce": {"pxl": notice.pxl},
    })
}

/// The page that shows the incident.
fn link(notice: &Notice, teller: Teller<'_>) -> String {
    format!("{}/#/incidents/{}", teller.external_url, notice.incident_id)
}

fn ended(notice: &Notice) -> Option<String> {
    notice.is_resolved().then(|| rfc3339(notice.ended_at))
}

fn ratio(notice: &Notice) -> Option<f64> {
    let (value, expected) = notice.value.zip(notice.expected)?;
    let ratio = value / expected;
    ratio.is_finite().then_some(ratio)
}

/// JSON text as JSON; what is none stays text.
fn embedded(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_not_json| Value::String(text.to_owned()))
}

/// One sentence with the numbers.
fn description(notice: &Notice) -> String {
    let amount = |value| amount(&notice.feature, value);
    format!(
        "{} of {} is {}, expected {}; score {}; since {}",
        notice.feature,
        notice.service,
        amount(notice.value),
        amount(notice.expected),
        notice.score.map_or_else(unknown, significant),
        rfc3339(notice.started_at),
    )
}

/// A feature's value in the unit that people use: latencies are nanoseconds in the table, ratios
/// lie between 0 and 1, throughput is a number per second.
fn amount(feature: &str, value: Option<f64>) -> String {
    let Some(value) = value else { return unknown() };
    match feature {
        _ if feature.starts_with("latency") => format!("{} ms", significant(value / 1e6)),
        _ if feature.ends_with("ratio") => format!("{} %", significant(value * 100.0)),
        _ if feature.starts_with("throughput") => format!("{}/s", significant(value)),
        _ => significant(value),
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// A number with about as many digits as people read.
fn significant(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude {
        _ if magnitude >= 1_000.0 || magnitude == 0.0 => format!("{value:.0}"),
        _ if magnitude >= 1.0 => format!("{value:.2}"),
        _ if magnitude >= 0.000_1 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

/// A point in time for people and programs, in UTC.
fn rfc3339(ns: i64) -> String {
    let timestamp = Timestamp::from_nanosecond(i128::from(ns));
    timestamp.map_or_else(|_out_of_range| ns.to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::webhook::notice::OpenAlerts;

    pub(super) fn notice() -> Notice {
        let labels = serde_json::json!({
            "alertname": "LatencyAnomaly", "service": "cart", "severity": "critical",
        });
        Notice {
            seq: 7,
            changed_at: 1_763_720_090_000_000_000,
            incident_id: "01JC".to_owned(),
            state: "open".to_owned(),
            service: "cart".to_owned(),
            pod: String::new(),
            severity: "critical".to_owned(),
            started_at: 1_763_720_060_500_000_000,
            ended_at: 0,
            feature: "latency_p99".to_owned(),
            value: Some(412_000_000.0),
            expected: Some(98_000_000.0),
            score: Some(0.9991),
            contributions: r#"[{"feature":"latency_p99","share":0.93}]"#.to_owned(),
            samples: r#"[{"path":"/cart"}]"#.to_owned(),
            summary: "p99 latency of cart is 412 ms, 4.2× its usual 98 ms".to_owned(),
            pxl: "import px\n".to_owned(),
            labels: serde_json::from_value(labels).unwrap(),
            replaced: None,
        }
    }

    pub(super) fn shown(format: Format, notice: &Notice) -> String {
        let teller = Teller { receiver: "ops", external_url: "http://127.0.0.1:7117" };
        let value: Value = serde_json::from_slice(&render(format, notice, teller)).unwrap();
        serde_json::to_string_pretty(&value).unwrap()
    }

    #[test]
    fn plain_json_holds_everything() {
        expect_test::expect![[r#"
            {
              "schema": "undine.incident.v1",
              "key": "01JC-open-7",
              "receiver": "ops",
              "state": "open",
              "changed_at": "2025-11-21T10:14:50Z",
              "labels": {
                "alertname": "LatencyAnomaly",
                "service": "cart",
                "severity": "critical"
              },
              "summary": "p99 latency of cart is 412 ms, 4.2× its usual 98 ms",
              "insight": {
                "schema": "undine.insight.v1",
                "id": "01JC",
                "state": "open",
                "kind": "latency_p99",
                "entity": {
                  "service": "cart",
                  "pod": ""
                },
                "onset": "2025-11-21T10:14:20.5Z",
                "changed": "2025-11-21T10:14:50Z",
                "ended": null,
                "severity": "critical",
                "observed": {
                  "feature": "latency_p99",
                  "value": 412000000.0
                },
                "expected": {
                  "value": 98000000.0
                },
                "ratio": 4.204081632653061,
                "score": 0.9991,
                "contributors": [
                  {
                    "feature": "latency_p99",
                    "share": 0.93
                  }
                ],
                "samples": [
                  {
                    "path": "/cart"
                  }
                ],
                "links": {
                  "incident": "http://127.0.0.1:7117/#/incidents/01JC"
                },
                "reproduce": {
                  "pxl": "import px\n"
                }
              }
            }"#]]
        .assert_eq(&shown(Format::Json, &notice()));
    }

    #[test]
    fn the_same_notice_gives_the_same_bytes_after_it_was_stored() {
        let first = notice();
        let stored = serde_json::to_vec(&first).unwrap();
        let again: Notice = serde_json::from_slice(&stored).unwrap();
        for format in [Format::Alertmanager, Format::Json, Format::Slack] {
            assert_eq!(shown(format, &first), shown(format, &again));
        }
        let mut open = OpenAlerts::default();
        let mut followed = first.clone();
        open.follow(&mut followed);
        assert_eq!(followed, first);
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 412_345.678, 98.765, 0.999_12, 0.000_001].map(significant);
        assert_eq!(shown, ["0", "412346", "98.77", "0.9991", "1.000e-6"]);
    }
}
