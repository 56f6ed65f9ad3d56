//! What the demo found, and whether what Undine says agrees with what the services say.

use std::collections::BTreeMap;

use serde::Serialize;

/// Where the rows came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Capture {
    /// The running kernel.
    Ebpf,
    /// A recording.
    Replay,
}

/// The final report. A step that was not reached is `None`, never true.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) capture: Capture,
    /// Requests that each service recorded itself.
    pub(crate) requests_sent: Option<BTreeMap<String, u64>>,
    /// Rows of `http_events` by service.
    pub(crate) rows_captured: BTreeMap<String, u64>,
    /// Socket operations in scope that did not reach the collector.
    pub(crate) ops_lost: u64,
    /// What `data_loss` says is missing at least and at most.
    pub(crate) rows_missing_min: u64,
    pub(crate) rows_missing_max: u64,
    pub(crate) rows_seen_by_model: u64,
    pub(crate) hot_rows: u64,
    pub(crate) sealed_rows: u64,
    pub(crate) first_row_after_s: Option<f64>,
    pub(crate) incidents_before_fault: Option<u64>,
    pub(crate) incident_after_s: Option<f64>,
    pub(crate) webhook_after_s: Option<f64>,
    pub(crate) blamed: Option<Vec<String>>,
    pub(crate) resolved: Option<bool>,
    pub(crate) webhooks_received: u64,
    pub(crate) otlp_points_received: u64,
    /// Whether a query over memory and Parquet counts what the services recorded.
    pub(crate) tiers_agree: Option<bool>,
    pub(crate) control: bool,
    pub(crate) agreed: bool,
    /// Why not, in words; empty where it agreed.
    pub(crate) disagreements: Vec<String>,
}

impl Report {
    /// Compares everything and fills in `agreed`. A step that was not reached is not a disagreement,
    /// but what was reached must hold.
    pub(crate) fn conclude(mut self, faulty: &str) -> Self {
        let mut wrong = Vec::new();
        if self.ops_lost > 0 && self.rows_missing_max == 0 {
            wrong.push(format!(
                "{} operations were lost and data_loss does not say so",
                self.ops_lost
            ));
        }
        self.compare_rows(&mut wrong);
        let rows: u64 = self.rows_captured.values().sum();
        if self.rows_seen_by_model != rows {
            wrong.push(format!("the model saw {} of {rows} rows", self.rows_seen_by_model));
        }
        if self.sealed_rows == 0 {
            wrong.push("nothing was sealed".to_owned());
        }
        if self.tiers_agree == Some(false) {
            wrong.push(
                "a query over both tiers does not count what the services recorded".to_owned(),
            );
        }
        if self.incidents_before_fault.is_some_and(|incidents| incidents > 0) {
            wrong.push("there was an incident where there was no fault".to_owned());
        }
        if !self.control {
            if self.blamed.as_ref().is_some_and(|blamed| blamed != &[faulty.to_owned()]) {
                wrong.push(format!(
                    "blamed {:?} instead of {faulty}",
                    self.blamed.as_deref().unwrap_or_default()
                ));
            }
            if self.resolved == Some(false) {
                wrong.push("the incident was not resolved after the fault was lifted".to_owned());
            }
        }
        self.agreed = wrong.is_empty();
        self.disagreements = wrong;
        self
    }

    fn compare_rows(&self, wrong: &mut Vec<String>) {
        let Some(requests_sent) = &self.requests_sent else { return };
        let mut missing = 0;
        for (service, sent) in requests_sent {
            let rows = self.rows_captured.get(service).copied().unwrap_or(0);
            if rows > *sent {
                wrong.push(format!("{service}: {rows} rows for {sent} requests"));
            }
            missing += sent.saturating_sub(rows);
        }
        if missing < self.rows_missing_min || missing > self.rows_missing_max {
            wrong.push(format!(
                "{missing} rows are missing, and data_loss says {} to {}",
                self.rows_missing_min, self.rows_missing_max
            ));
        }
        for service in self.rows_captured.keys() {
            if !requests_sent.contains_key(service) {
                wrong.push(format!("rows of a service '{service}' that was not started"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let counts: BTreeMap<_, _> =
            [("orders".to_owned(), 10), ("inventory".to_owned(), 10)].into();
        Report {
            capture: Capture::Ebpf,
            requests_sent: Some(counts.clone()),
            rows_captured: counts,
            ops_lost: 0,
            rows_missing_min: 0,
            rows_missing_max: 0,
            rows_seen_by_model: 20,
            hot_rows: 5,
            sealed_rows: 15,
            first_row_after_s: Some(0.5),
            incidents_before_fault: Some(0),
            incident_after_s: Some(7.0),
            webhook_after_s: Some(0.1),
            blamed: Some(vec!["inventory".to_owned()]),
            resolved: Some(true),
            webhooks_received: 2,
            otlp_points_received: 30,
            tiers_agree: Some(true),
            control: false,
            agreed: false,
            disagreements: Vec::new(),
        }
    }

    fn disagreement(change: impl FnOnce(&mut Report)) -> String {
        let mut report = good();
        change(&mut report);
        let report = report.conclude("inventory");
        assert!(!report.agreed);
        report.disagreements.join("; ")
    }

    #[test]
    fn a_run_in_which_everything_was_seen_agrees() {
        assert!(good().conclude("inventory").agreed);
    }

    #[test]
    fn a_row_that_is_missing_must_be_accounted_for() {
        let lost = |report: &mut Report| {
            report.rows_captured.insert("orders".to_owned(), 9);
            report.rows_seen_by_model = 19;
        };
        assert_eq!(disagreement(lost), "1 rows are missing, and data_loss says 0 to 0");
        let mut report = good();
        lost(&mut report);
        report.ops_lost = 1;
        report.rows_missing_max = 3;
        assert!(report.conclude("inventory").agreed);
    }

    #[test]
    fn a_row_too_many_is_never_excused() {
        let invented = |report: &mut Report| {
            report.rows_captured.insert("orders".to_owned(), 11);
            report.rows_seen_by_model = 21;
            report.rows_missing_max = 100;
        };
        assert_eq!(disagreement(invented), "orders: 11 rows for 10 requests");
    }

    #[test]
    fn blaming_the_caller_too_is_wrong() {
        let both = |report: &mut Report| {
            report.blamed = Some(vec!["inventory".to_owned(), "orders".to_owned()]);
        };
        assert!(disagreement(both).starts_with("blamed"));
    }
}
