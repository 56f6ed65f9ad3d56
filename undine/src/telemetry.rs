//! What Undine says about itself: log lines, and traces where an endpoint is configured.

use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Ends the export of traces when it is dropped.
#[derive(Debug)]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Begins to log to standard error, and to send traces to `otlp_endpoint` if there is one.
///
/// # Errors
/// Where the filter or the endpoint cannot be used.
pub(crate) fn start(filter: &str, otlp_endpoint: Option<&str>) -> Result<Telemetry> {
    let filter: Targets = filter.parse().with_context(|| {
        format!("telemetry.log is '{filter}', which is not a log filter; write \"info\"")
    })?;
    let traces = otlp_endpoint.map(trace_provider).transpose()?;
    let layer = traces
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("undine")));
    tracing_subscriber::registry()
        .with(filter)
        .with(fmt::layer().with_writer(std::io::stderr))
        .with(layer)
        .try_init()
        .context("logging was set up before")?;
    Ok(Telemetry { traces })
}

fn trace_provider(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(5))
        .build()
        .with_context(|| format!("cannot send traces to '{endpoint}'; write http://HOST:4317"))?;
    let resource = Resource::builder().with_service_name("undine").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.take().map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "cannot send the last traces");
        }
    }
}
