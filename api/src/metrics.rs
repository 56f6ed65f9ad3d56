//! The metrics of everything in this crate but the HTTP server.

use std::sync::Arc;

use crate::export_scheduler::ScriptStats;
use crate::http::{Metric, MetricKind};
use crate::otlp_ingest;
use crate::webhook::ReceiverStats;

/// Where the parts count.
#[derive(Debug)]
pub(crate) struct ComponentMetrics {
    pub(crate) otlp: Option<Arc<otlp_ingest::Stats>>,
    pub(crate) webhooks: Vec<(String, Arc<ReceiverStats>)>,
    pub(crate) exports: Vec<(String, Arc<ScriptStats>)>,
}

impl ComponentMetrics {
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        if let Some(stats) = &self.otlp {
            metrics.extend(otlp(stats));
        }
        metrics.extend(self.webhook_metrics());
        metrics.extend(self.export_metrics());
        metrics
    }

    fn webhook_metrics(&self) -> [Metric; 6] {
        use MetricKind::{Counter, Gauge};
        let of = |name, help, kind, value: fn(&ReceiverStats) -> u64| {
            let samples = self
                .webhooks
                .iter()
                .map(|(receiver, stats)| (vec![("receiver", receiver.clone())], value(stats)));
            Metric::labelled(name, help, kind, samples)
        };
        [
            of(
                "undine_webhook_pending_deliveries",
                "Deliveries that wait, by receiver.",
                Gauge,
                ReceiverStats::pending,
            ),
            of(
                "undine_webhook_deliveries_total",
                "Deliveries that were acknowledged.",
                Counter,
                ReceiverStats::delivered,
            ),
            of(
                "undine_webhook_failed_attempts_total",
                "Attempts that failed and are repeated.",
                Counter,
                ReceiverStats::failed_attempts,
            ),
            of(
                "undine_webhook_dead_deliveries_total",
                "Deliveries that were set aside.",
                Counter,
                ReceiverStats::dead,
            ),
            of(
                "undine_webhook_missed_rows_total",
                "Rows of incidents that were evicted before they were read.",
                Counter,
                ReceiverStats::missed_rows,
            ),
            of(
                "undine_webhook_disabled_receivers",
                "1 for a receiver that answered that it is gone for good.",
                Gauge,
                |stats| u64::from(stats.is_disabled()),
            ),
        ]
    }

    fn export_metrics(&self) -> [Metric; 6] {
        use MetricKind::{Counter, Gauge};
        let of = |name, help, kind, value: fn(&ScriptStats) -> u64| {
            let samples = self
                .exports
                .iter()
                .map(|(script, stats)| (vec![("script", script.clone())], value(stats)));
            Metric::labelled(name, help, kind, samples)
        };
        [
            of(
                "undine_export_covered_seconds",
                "Unix time before which everything was exported or given up.",
                Gauge,
                |stats| u64::try_from(stats.covered_to().get() / 1_000_000_000).unwrap_or(0),
            ),
            of(
                "undine_export_windows_total",
                "Windows that were acknowledged, by script.",
                Counter,
                ScriptStats::windows,
            ),
            of(
                "undine_export_skipped_windows_total",
                "Times that windows were given up.",
                Counter,
                ScriptStats::skipped_windows,
            ),
            of(
                "undine_export_failed_attempts_total",
                "Runs and requests that failed.",
                Counter,
                ScriptStats::failed_attempts,
            ),
            of(
                "undine_export_items_total",
                "Points and spans that were sent and acknowledged.",
                Counter,
                ScriptStats::items,
            ),
            of(
                "undine_export_rejected_items_total",
                "Points and spans that a receiver rejected as invalid.",
                Counter,
                ScriptStats::rejected_items,
            ),
        ]
    }
}

fn otlp(stats: &otlp_ingest::Stats) -> [Metric; 4] {
    [
        Metric::counter(
            "undine_otlp_requests_total",
            "OTLP requests that were taken.",
            stats.requests(),
        ),
        Metric::counter(
            "undine_otlp_accepted_rows_total",
            "Rows that OTLP requests gave.",
            stats.accepted_rows(),
        ),
        Metric::counter(
            "undine_otlp_refused_rows_total",
            "Spans and points that could not become a row.",
            stats.refused_rows(),
        ),
        Metric::counter(
            "undine_otlp_pushed_back_requests_total",
            "Requests that were told to come back since the store was full.",
            stats.pushed_back_requests(),
        ),
    ]
}
