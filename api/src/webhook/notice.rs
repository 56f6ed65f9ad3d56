//! One change of an incident, as a receiver is told of it.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use serde::{Deserialize, Serialize};
use undine_schema::{Seq, Slice};

/// Labels by name, sorted.
pub(super) type Labels = BTreeMap<String, String>;

/// One row of `incidents`, and the labels under which it is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// The row's place, which never repeats on a node.
    pub(super) seq: u64,
    pub(super) changed_at: i64,
    pub(super) incident_id: String,
    pub(super) state: String,
    pub(super) service: String,
    pub(super) pod: String,
    pub(super) severity: String,
    pub(super) started_at: i64,
    pub(super) ended_at: i64,
    pub(super) feature: String,
    /// None where it is not a finite number, which JSON cannot hold.
    pub(super) value: Option<f64>,
    pub(super) expected: Option<f64>,
    pub(super) score: Option<f64>,
    /// JSON text, as the table has it.
    pub(super) contributions: String,
    /// JSON text, as the table has it.
    pub(super) samples: String,
    pub(super) summary: String,
    pub(super) pxl: String,
    /// What the alert is known by; a resolution has those of the last firing.
    pub(super) labels: Labels,
    /// The labels it was known by before this change, where they are others: that alert ends.
    pub(super) replaced: Option<Labels>,
}

impl Notice {
    /// The changes that a slice of `incidents` holds, in order, with the labels of each row alone.
    ///
    /// # Panics
    /// When the slice is not of `incidents`.
    pub(super) fn of(slice: &Slice) -> Vec<Self> {
        let columns = Columns(&slice.rows);
        (0..slice.rows.num_rows())
            .map(|row| {
                let seq = Seq::from_raw(slice.seqs.first.raw() + row as u64);
                columns.notice(row, seq).labelled()
            })
            .collect()
    }

    fn labelled(mut self) -> Self {
        let alertname = match self.feature.as_str() {
            feature if feature.starts_with("latency") => "LatencyAnomaly",
            feature if feature.starts_with("error") => "ErrorAnomaly",
            feature if feature.starts_with("throughput") => "ThroughputAnomaly",
            _ => "ServiceAnomaly",
        };
        let namespace = self.pod.split_once('/').map_or("", |(namespace, _)| namespace);
        let labels = [
            ("alertname", alertname),
            ("service", &*self.service),
            ("severity", &*self.severity),
            ("pod", &*self.pod),
            ("namespace", namespace),
        ];
        // An empty label is the same as none to those who match on labels.
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
        self.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        self
    }

    pub(super) fn is_resolved(&self) -> bool {
        self.state == "resolved"
    }

    /// The key by which a receiver can tell a repetition, safe as an HTTP header.
    ///
    /// Without dots, since Standard Webhooks joins what it signs by dots.
    pub(super) fn key(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let id = self.incident_id.chars().map(plain);
        let state = self.state.chars().map(plain);
        id.chain(['-']).chain(state).chain(['-']).collect::<String>() + &format!("{:x}", self.seq)
    }
}

/// Which alert each open incident is known as, so that later changes speak of the same one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct OpenAlerts(BTreeMap<String, Labels>);

/// Incidents whose labels are remembered; the one with the smallest id makes room for another.
const OPEN_ALERTS_MAX: usize = 10_000;

impl OpenAlerts {
    /// Fits `notice` to what was told of its incident before, and remembers what it tells.
    pub(super) fn follow(&mut self, notice: &mut Notice) {
        if notice.is_resolved() {
            if let Some(known) = self.0.remove(&notice.incident_id) {
                notice.labels = known;
            }
            return;
        }
        let known = self.0.insert(notice.incident_id.clone(), notice.labels.clone());
        notice.replaced = known.filter(|known| *known != notice.labels);
        if self.0.len() > OPEN_ALERTS_MAX {
            self.0.pop_first();
        }
    }
}

/// Rows of `incidents`, cell by cell.
struct Columns<'a>(&'a RecordBatch);

impl Columns<'_> {
    fn column(&self, name: &str) -> &dyn Array {
        self.0.column_by_name(name).expect("the feed gives every column of the table")
    }

    fn text(&self, name: &str, row: usize) -> String {
        self.column(name).as_string::<i32>().value(row).to_owned()
    }

    fn int(&self, name: &str, row: usize) -> i64 {
        self.column(name).as_primitive::<Int64Type>().value(row)
    }

    fn float(&self, name: &str, row: usize) -> Option<f64> {
        let value = self.column(name).as_primitive::<Float64Type>().value(row);
        value.is_finite().then_some(value)
    }

    fn notice(&self, row: usize, seq: Seq) -> Notice {
        Notice {
            seq: seq.raw(),
            changed_at: self.int("time_", row),
            incident_id: self.text("incident_id", row),
            state: self.text("state", row),
            service: self.text("service", row),
            pod: self.text("pod", row),
            severity: self.text("severity", row),
            started_at: self.int("started_at", row),
            ended_at: self.int("ended_at", row),
            feature: self.text("feature", row),
            value: self.float("value", row),
            expected: self.float("expected", row),
            score: self.float("score", row),
            contributions: self.text("contributions", row),
            samples: self.text("samples", row),
            summary: self.text("summary", row),
            pxl: self.text("pxl", row),
            labels: Labels::new(),
            replaced: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use undine_schema::tables::{Incident, Incidents};
    use undine_schema::{Incarnation, SeqRange, TimeNs};

    use super::*;

    fn notices(incidents: &[Incident<'_>]) -> Vec<Notice> {
        let mut rows = Incidents::new(incidents.len());
        for incident in incidents {
            rows.push(incident);
        }
        let first = Seq::new(Incarnation::new(1), 7);
        Notice::of(&Slice { seqs: SeqRange::new(first, incidents.len()), rows: rows.finish() })
    }

    fn incident(state: &'static str, feature: &'static str) -> Incident<'static> {
        Incident {
            time_: TimeNs::new(5),
            incident_id: "01J.x",
            state,
            service: "cart",
            pod: "shop/cart-1",
            severity: "warning",
            feature,
            value: f64::NAN,
            ..Incident::default()
        }
    }

    #[test]
    fn a_row_becomes_a_notice_with_labels_and_a_key_of_its_own() {
        let notices = notices(&[incident("open", "latency_p99"), incident("resolved", "x")]);
        assert_eq!(
            notices.iter().map(Notice::key).collect::<Vec<_>>(),
            ["01J_x-open-1000000000007", "01J_x-resolved-1000000000008"]
        );
        expect_test::expect![[
            r#"{"alertname": "LatencyAnomaly", "namespace": "shop", "pod": "shop/cart-1", "service": "cart", "severity": "warning"}"#
        ]]
        .assert_eq(&format!("{:?}", notices[0].labels));
        assert_eq!(notices[0].value, None);
    }

    #[test]
    fn an_alert_keeps_its_labels_until_it_is_resolved_and_a_new_set_ends_the_old() {
        let mut open = OpenAlerts::default();
        let told = ["latency_p99", "latency_p50", "error_ratio"];
        let mut notices = notices(&[
            incident("open", told[0]),
            incident("update", told[1]),
            incident("update", told[2]),
            incident("resolved", told[0]),
        ]);
        for notice in &mut notices {
            open.follow(notice);
        }
        let names: Vec<_> = notices.iter().map(|notice| &*notice.labels["alertname"]).collect();
        assert_eq!(names, ["LatencyAnomaly", "LatencyAnomaly", "ErrorAnomaly", "ErrorAnomaly"]);
        let ended: Vec<_> = notices
            .iter()
            .map(|notice| notice.replaced.as_ref().map(|labels| &*labels["alertname"]))
            .collect();
        assert_eq!(ended, [None, None, Some("LatencyAnomaly"), None]);
        assert_eq!(open, OpenAlerts::default());
    }
}
