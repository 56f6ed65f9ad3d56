//! What `/metrics` shows: the appliance's metrics and this server's own, as Prometheus text.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;

use super::{Inputs, Status};
use crate::metrics::ComponentMetrics;

/// Whether a value only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows while the process lives; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One value of a metric, told apart from the others by its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Label names and values; the values are of a closed set.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// One metric with all its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// `undine_<component>_<noun>_<unit>_total`; without `_total` for a gauge.
    pub name: &'static str,
    /// One sentence without line breaks.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// Its values.
    pub samples: Vec<Sample>,
}

impl Metric {
    /// A counter with a single value.
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::labelled(name, help, MetricKind::Counter, [(Vec::new(), value)])
    }

    /// A gauge with a single value.
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::labelled(name, help, MetricKind::Gauge, [(Vec::new(), value)])
    }

    /// A metric with one value for each set of labels.
    pub fn labelled(
        name: &'static str,
        help: &'static str,
        kind: MetricKind,
        samples: impl IntoIterator<Item = (Vec<(&'static str, String)>, u64)>,
    ) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
        let samples = samples
            .into_iter()
            .map(|(labels, value)| Sample { labels, value: value as f64 })
            .collect();
        Self { name, help, kind, samples }
    }
}

/// Reads every metric of the process: the appliance's and this crate's.
#[derive(Clone, Debug)]
pub struct MetricReader {
    status: Arc<dyn Status>,
    components: Arc<ComponentMetrics>,
    pub(super) http: Arc<HttpMetrics>,
}

impl MetricReader {
    /// A reader whose own counters are at zero.
    pub(super) fn new(inputs: &Inputs) -> Self {
        Self {
            status: Arc::clone(&inputs.status),
            components: Arc::clone(&inputs.metrics),
            http: Arc::default(),
        }
    }

    /// Every metric as it is now, each name once.
    pub fn read(&self) -> Vec<Metric> {
        let mut metrics = self.status.metrics();
        metrics.extend(self.components.metrics());
        metrics.extend(self.http.metrics());
        metrics.push(Metric::labelled(
            "undine_build_info",
            "Which build this is; always 1.",
            MetricKind::Gauge,
            [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)],
        ));
        metrics
    }
}

/// Writes metrics in Prometheus' text form, version 0.0.4.
pub(crate) fn render(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for metric in metrics {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let Metric { name, help, .. } = metric;
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
            .expect("writing to a string cannot fail");
        for sample in &metric.samples {
            text.push_str(name);
            for (at, (label, value)) in sample.labels.iter().enumerate() {
                text.push(if at == 0 { '{' } else { ',' });
                let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', "\\n");
                write!(text, "{label}=\"{value}\"").expect("writing to a string cannot fail");
            }
            text.push_str(if sample.labels.is_empty() { " " } else { "} " });
            writeln!(text, "{}", sample.value).expect("writing to a string cannot fail");
        }
    }
    text
}

macro_rules! closed_label {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($variant),+ }
        impl $name {
            const ALL: &[Self] = &[$(Self::$variant),+];
            const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

closed_label! {
    /// What a request was for.
    Route {
        Page "page",
        Pxl "pxl",
        Sql "sql",
        Catalog "catalog",
        Incidents "incidents",
        Probe "probe",
        Metrics "metrics",
        Other "other",
    }
}

impl Route {
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/" => Self::Page,
            "/api/v1/pxl:run" | "/api/v1/pxl:check" => Self::Pxl,
            "/api/v1/sql" => Self::Sql,
            "/api/v1/tables" | "/api/v1/scripts" | "/api/v1/openapi.json" => Self::Catalog,
            "/api/v1/incidents" => Self::Incidents,
            "/healthz" | "/livez" | "/readyz" => Self::Probe,
            "/metrics" => Self::Metrics,
            _ if path.starts_with("/assets/") => Self::Page,
            _ => Self::Other,
        }
    }
}

closed_label! {
    /// Which limit or rule turned a request away.
    Refusal {
        Host "host",
        Origin "origin",
        BodySize "body_size",
        AnswerSize "answer_size",
        Queries "queries",
        Timeout "timeout",
        Connections "connections",
    }
}

/// Counts what the HTTP server does.
#[derive(Debug, Default)]
pub(crate) struct HttpMetrics {
    /// Per route: answers of class 2xx/3xx, 4xx and 5xx.
    answers: [[AtomicU64; 3]; Route::ALL.len()],
    busy_ns: [AtomicU64; Route::ALL.len()],
    refusals: [AtomicU64; Refusal::ALL.len()],
    open_connections: AtomicU64,
}

const CLASSES: [&str; 3] = ["ok", "client_error", "server_error"];

impl HttpMetrics {
    pub(crate) fn answered(&self, route: Route, status: StatusCode, took: Duration) {
        let class =
            if status.is_server_error() { 2 } else { usize::from(status.is_client_error()) };
        self.answers[route as usize][class].fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.busy_ns[route as usize].fetch_add(took, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        self.refusals[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn connected(&self) -> Connected<'_> {
        self.open_connections.fetch_add(1, Ordering::Relaxed);
        Connected(self)
    }

    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let route = |route: &Route| ("route", route.text().to_owned());
        let answers = Route::ALL.iter().flat_map(|r| {
            CLASSES.iter().enumerate().map(move |(at, class)| {
                let labels = vec![route(r), ("class", (*class).to_owned())];
                (labels, self.answers[*r as usize][at].load(Ordering::Relaxed))
            })
        });
        let busy = Route::ALL.iter().map(|r| {
            (vec![route(r)], self.busy_ns[*r as usize].load(Ordering::Relaxed) / 1_000_000)
        });
        let refusals = Refusal::ALL.iter().map(|refusal| {
            let labels = vec![("reason", refusal.text().to_owned())];
            (labels, self.refusals[*refusal as usize].load(Ordering::Relaxed))
        });
        vec![
            Metric::labelled(
                "undine_api_answers_total",
                "HTTP requests answered, by route and class of status.",
                MetricKind::Counter,
                answers,
            ),
            Metric::labelled(
                "undine_api_busy_milliseconds_total",
                "Time spent between a request's head and its answer's head.",
                MetricKind::Counter,
                busy,
            ),
            Metric::labelled(
                "undine_api_refusals_total",
                "Times that a limit or rule turned a request or connection away.",
                MetricKind::Counter,
                refusals,
            ),
            Metric::gauge(
                "undine_api_open_connections",
                "HTTP connections that are open.",
                self.open_connections.load(Ordering::Relaxed),
            ),
        ]
    }
}

/// An open connection, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Connected<'a>(&'a HttpMetrics);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_as_prometheus_reads_them() {
        let labels = vec![("table", "a\"b\\c\nd".to_owned())];
        let metrics = [
            Metric::counter("undine_store_rows_total", "Rows.", 7),
            Metric::labelled("undine_store_hot_bytes", "Bytes.", MetricKind::Gauge, [(labels, 5)]),
        ];
        assert_eq!(
            render(&metrics),
            "# HELP undine_store_rows_total Rows.\n\
             # TYPE undine_store_rows_total counter\n\
             undine_store_rows_total 7\n\
             # HELP undine_store_hot_bytes Bytes.\n\
             # TYPE undine_store_hot_bytes gauge\n\
             undine_store_hot_bytes{table=\"a\\\"b\\\\c\\nd\"} 5\n"
        );
    }

    #[test]
    fn an_answer_counts_under_its_route_and_class_only() {
        let metrics = HttpMetrics::default();
        metrics.answered(Route::Sql, StatusCode::BAD_REQUEST, Duration::from_millis(3));
        let counted: Vec<_> = metrics
            .metrics()
            .into_iter()
            .flat_map(|metric| metric.samples)
            .filter(|sample| sample.value > 0.0)
            .collect();
        assert_eq!(counted.len(), 2, "{counted:?}");
        assert_eq!(counted[0].labels[0].1, "sql");
        assert_eq!(counted[0].labels[1].1, "client_error");
        assert_eq!(counted[1].value.to_bits(), 3f64.to_bits());
    }
}
