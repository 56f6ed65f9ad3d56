//! Alertmanager's webhook, version 4, as its receivers know it.

use serde_json::{Map, Value, json};

use super::{Teller, description, insight, link, rfc3339};
use crate::webhook::notice::{Labels, Notice};

/// What Alertmanager writes while an alert has not ended.
const NOT_ENDED: &str = "0001-01-01T00:00:00Z";

pub(super) fn message(notice: &Notice, teller: Teller<'_>) -> Value {
    let annotations = json!({
        "summary": notice.summary,
        "description": description(notice),
        "pxl": notice.pxl,
    });
    let ends_at = if notice.is_resolved() { rfc3339(notice.ended_at) } else { NOT_ENDED.into() };
    let status = if notice.is_resolved() { "resolved" } else { "firing" };
    let mut current = alert(notice, teller, status, &notice.labels, &ends_at, &annotations);
    current.insert("insight".to_owned(), insight(notice, teller));
    let mut alerts = vec![Value::Object(current)];
    if let Some(replaced) = &notice.replaced {
        let ended = rfc3339(notice.changed_at);
        let ended = alert(notice, teller, "resolved", replaced, &ended, &annotations);
        alerts.push(Value::Object(ended));
    }
    let title = format!("[{}] {}", status.to_uppercase(), notice.summary);
    json!({
        "receiver": teller.receiver,
        "status": status,
        "alerts": alerts,
        "groupLabels": {"service": notice.service},
        "commonLabels": common_labels(notice),
        "commonAnnotations": annotations,
        "externalURL": teller.external_url,
        "version": "4",
        "groupKey": format!("{{}}:{{service={:?}}}", notice.service),
        "truncatedAlerts": 0,
        "title": title,
        "message": description(notice),
        "state": if notice.is_resolved() { "ok" } else { "alerting" },
    })
}

fn alert(
    notice: &Notice,
    teller: Teller<'_>,
    status: &str,
    labels: &Labels,
    ends_at: &str,
    annotations: &Value,
) -> Map<String, Value> {
    let members = [
        ("status", json!(status)),
        ("labels", json!(labels)),
        ("annotations", annotations.clone()),
        ("startsAt", json!(rfc3339(notice.started_at))),
        ("endsAt", json!(ends_at)),
        ("generatorURL", json!(link(notice, teller))),
        ("fingerprint", json!(format!("{:016x}", fingerprint(labels)))),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The labels that all alerts of the message share.
fn common_labels(notice: &Notice) -> Labels {
    let mut common = notice.labels.clone();
    if let Some(replaced) = &notice.replaced {
        common.retain(|name, value| replaced.get(name) == Some(value));
    }
    common
}

/// Alertmanager's name for a set of labels: FNV-1a, 64 bits, over sorted names and values.
fn fingerprint(labels: &Labels) -> u64 {
    const OFFSET: u64 = 14_695_981_039_346_656_037;
    const PRIME: u64 = 1_099_511_628_211;
    let bytes = labels
        .iter()
        .flat_map(|(name, value)| name.bytes().chain([0xff]).chain(value.bytes()).chain([0xff]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{notice, shown};
    use super::*;
    use crate::webhook::payload::Format;

    #[test]
    fn a_fingerprint_is_the_one_that_alertmanager_computes() {
        let labels = [
            ("alertname", "LatencyAnomaly"),
            ("namespace", "shop"),
            ("service", "shop/cart"),
            ("severity", "critical"),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(format!("{:016x}", fingerprint(&labels)), "43cd21e5b08dd7e0");
    }

    #[test]
    fn an_open_incident_is_a_firing_alert() {
        expect_test::expect![[r#"
            {
              "receiver": "ops",
              "status": "firing",
              "alerts": [
                {
                  "status": "firing",
                  "labels": {
                    "alertname": "LatencyAnomaly",
                    "service": "cart",
                    "severity": "critical"
                  },
                  "annotations": {
                    "summary": "p99 latency of cart is 412 ms, 4.2× its usual 98 ms",
                    "description": "latency_p99 of cart is 412.00 ms, expected 98.00 ms; score 0.9991; since 2025-11-21T10:14:20.5Z",
                    "pxl": "import px\n"
                  },
                  "startsAt": "2025-11-21T10:14:20.5Z",
                  "endsAt": "0001-01-01T00:00:00Z",
                  "generatorURL": "http://127.0.0.1:7117/#/incidents/01JC",
                  "fingerprint": "a19b0e6835a9ac4e",
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
                }
              ],
              "groupLabels": {
                "service": "cart"
              },
              "commonLabels": {
                "alertname": "LatencyAnomaly",
                "service": "cart",
                "severity": "critical"
              },
              "commonAnnotations": {
                "summary": "p99 latency of cart is 412 ms, 4.2× its usual 98 ms",
                "description": "latency_p99 of cart is 412.00 ms, expected 98.00 ms; score 0.9991; since 2025-11-21T10:14:20.5Z",
                "pxl": "import px\n"
              },
              "externalURL": "http://127.0.0.1:7117",
              "version": "4",
              "groupKey": "{}:{service=\"cart\"}",
              "truncatedAlerts": 0,
              "title": "[FIRING] p99 latency of cart is 412 ms, 4.2× its usual 98 ms",
              "message": "latency_p99 of cart is 412.00 ms, expected 98.00 ms; score 0.9991; since 2025-11-21T10:14:20.5Z",
              "state": "alerting"
            }"#]].assert_eq(&shown(Format::Alertmanager, &notice()));
    }

    #[test]
    fn a_resolved_incident_ends_the_alert_that_fired() {
        let fired: Value = serde_json::from_str(&shown(Format::Alertmanager, &notice())).unwrap();
        let resolved = Notice {
            state: "resolved".to_owned(),
            ended_at: 1_763_720_200_000_000_000,
            ..notice()
        };
        let resolved: Value =
            serde_json::from_str(&shown(Format::Alertmanager, &resolved)).unwrap();
        assert_eq!(resolved["status"], "resolved");
        assert_eq!(resolved["alerts"][0]["endsAt"], "2025-11-21T10:16:40Z");
        for same in ["fingerprint", "startsAt", "labels"] {
            assert_eq!(resolved["alerts"][0][same], fired["alerts"][0][same], "{same}");
        }
        assert_eq!(resolved["groupKey"], fired["groupKey"]);
    }

    #[test]
    fn a_change_of_labels_ends_the_alert_under_the_old_ones() {
        let mut worse = notice();
        let mut before = worse.labels.clone();
        before.insert("severity".to_owned(), "warning".to_owned());
        worse.replaced = Some(before);
        let message: Value = serde_json::from_str(&shown(Format::Alertmanager, &worse)).unwrap();
        assert_eq!(message["status"], "firing");
        assert_eq!(message["alerts"][0]["status"], "firing");
        assert_eq!(message["alerts"][1]["status"], "resolved");
        assert_eq!(message["alerts"][1]["labels"]["severity"], "warning");
        assert_eq!(message["alerts"][1]["endsAt"], "2025-11-21T10:14:50Z");
        assert_eq!(message["commonLabels"].get("severity"), None);
    }
}
