//! Alive, ready, metrics: what machines ask. None of it says anything about anyone's requests.

use std::fmt::Debug;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::AppState;
use super::metrics::{Metric, render};

/// One thing that must work for the appliance to be ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is checked: `store`, `kernel`, …
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// How it is, or what to do about it.
    pub detail: String,
}

/// How much of a table is kept where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableRows {
    /// Rows in memory.
    pub hot: u64,
    /// Rows that summaries or raw segments hold.
    pub sealed: u64,
    /// Rows that left memory.
    pub evicted: u64,
    /// Bytes in memory.
    pub bytes: u64,
}

/// How the appliance is; the binary, which knows every component, tells.
///
/// Every method returns within a millisecond or so: it reads counters and asks nobody.
pub trait Status: Debug + Send + Sync {
    /// The node's name.
    fn node(&self) -> String;
    /// What readiness depends on.
    fn checks(&self) -> Vec<Check>;
    /// Metrics of all components but this crate's HTTP server.
    fn metrics(&self) -> Vec<Metric>;
    /// What is kept of the table called `table`; none where it is not kept.
    fn rows(&self, table: &str) -> Option<TableRows>;
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    version: &'static str,
    node: String,
    checks: Vec<Check>,
}

/// That the server answers at all.
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether everything works: 200 or 503, with `?verbose` as JSON.
pub(crate) async fn ready(State(shared): AppState, RawQuery(query): RawQuery) -> Response {
    let checks = shared.status.checks();
    let failing: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
    let status = if failing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let is_verbose = query.is_some_and(|query| {
        query.split('&').any(|pair| pair.split('=').next() == Some("verbose"))
    });
    if is_verbose {
        let readiness = Readiness {
            status: if failing.is_empty() { "ready" } else { "not_ready" },
            version: env!("CARGO_PKG_VERSION"),
            node: shared.status.node(),
            checks,
        };
        return (status, Json(readiness)).into_response();
    }
    let mut text = String::new();
    for check in failing {
        text.extend([check.name, ": ", &check.detail, "\n"]);
    }
    (status, if text.is_empty() { "ok\n".to_owned() } else { text }).into_response()
}

/// Every metric in Prometheus' text form.
pub(crate) async fn metrics(State(shared): AppState) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, render(&shared.metrics.read())).into_response()
}
