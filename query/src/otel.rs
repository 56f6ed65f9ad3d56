//! What a script exports, as OTLP messages.
//!
//! One resource a row: upstream sends it so, and a row is what a resource's attributes are taken
//! from. A resource attribute that names services may hold a JSON list of them; the row is then
//! sent once for each (for each combination, where there are several such attributes).

mod messages;

use std::time::Duration;

pub(crate) use messages::build;

use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;

/// Where to send what is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port, without a scheme; OTLP over gRPC.
    pub url: String,
    /// Sent with each request as metadata.
    pub headers: Vec<(String, String)>,
    /// Whether to do without TLS.
    pub insecure: bool,
    /// How long a request may take.
    pub timeout: Duration,
}

/// What one `px.export` makes of its rows.
#[derive(Clone, Debug)]
pub struct Export {
    /// Where the script, or else the plugin, wants it sent.
    pub endpoint: Option<Endpoint>,
    /// One for each row and replicated resource, if metrics were asked for.
    pub metrics: Vec<ResourceMetrics>,
    /// One for each row and replicated resource, if spans were asked for.
    pub spans: Vec<ResourceSpans>,
    /// Rows that were exported.
    pub rows: usize,
    /// What to know about the rows.
    pub notes: Vec<crate::answer::Note>,
}

/// Where the value of an attribute comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Column(String),
    Text(String),
}

pub(crate) type Attributes = Vec<(String, Source)>;

/// One metric or span of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Signal {
    Gauge {
        name: String,
        description: String,
        unit: Option<String>,
        value: String,
        attributes: Attributes,
    },
    Summary {
        name: String,
        description: String,
        unit: Option<String>,
        count: String,
        sum: String,
        quantiles: Vec<(f64, String)>,
        attributes: Attributes,
    },
    Span {
        name: Source,
        start: String,
        end: String,
        trace_id: Option<String>,
        span_id: Option<String>,
        parent_span_id: Option<String>,
        kind: i32,
        attributes: Attributes,
    },
}

/// What to make of each row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExportSpec {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) resource: Attributes,
    pub(crate) signals: Vec<(Signal, crate::diagnostics::Range)>,
}
