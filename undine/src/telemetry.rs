//! What Undine says about itself: log lines, and traces and metrics where an endpoint is configured.

use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use undine_api::http::{Metric, MetricKind, MetricReader};

/// How long the receiver may take to answer.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(5);

/// Ends the export of traces and metrics when it is dropped.
#[derive(Debug)]
pub(crate) struct Telemetry {
    endpoint: Option<String>,
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
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
    Ok(Telemetry { endpoint: otlp_endpoint.map(str::to_owned), traces, metrics: None })
}

impl Telemetry {
    /// Begins to send what `/metrics` shows, once a minute unless `OTEL_METRIC_EXPORT_INTERVAL` says
    /// otherwise, if there is an endpoint.
    ///
    /// # Errors
    /// Where the endpoint cannot be used.
    pub(crate) fn export_metrics(&mut self, reader: &MetricReader) -> Result<()> {
        if let Some(endpoint) = &self.endpoint {
            self.metrics = Some(metric_provider(endpoint, reader)?);
        }
        Ok(())
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.metrics.take().map(|metrics| metrics.shutdown()) {
            tracing::warn!(%error, "cannot send the last metrics");
        }
        if let Some(Err(error)) = self.traces.take().map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "cannot send the last traces");
        }
    }
}

fn resource() -> Resource {
    Resource::builder().with_service_name("undine").build()
}

fn trace_provider(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIME_MAX)
        .build()
        .with_context(|| format!("cannot send traces to '{endpoint}'; write http://HOST:4317"))?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

fn metric_provider(endpoint: &str, reader: &MetricReader) -> Result<SdkMeterProvider> {
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIME_MAX)
        .build()
        .with_context(|| format!("cannot send metrics to '{endpoint}'; write http://HOST:4317"))?;
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(exporter)
        .with_resource(resource())
        .build();
    let meter = provider.meter("undine");
    for metric in reader.read() {
        observe(&meter, &metric, reader.clone());
    }
    Ok(provider)
}

/// Makes an instrument that reads the metric again whenever it is exported.
fn observe(meter: &Meter, metric: &Metric, reader: MetricReader) {
    let name = metric.name;
    let report = move |instrument: &dyn AsyncInstrument<f64>| {
        let metrics = reader.read();
        for sample in metrics.iter().filter(|metric| metric.name == name).flat_map(|m| &m.samples) {
            let labels: Vec<_> = sample
                .labels
                .iter()
                .map(|(label, value)| KeyValue::new(*label, value.clone()))
                .collect();
            instrument.observe(sample.value, &labels);
        }
    };
    match metric.kind {
        MetricKind::Counter => {
            meter
                .f64_observable_counter(name)
                .with_description(metric.help)
                .with_callback(report)
                .build();
        }
        MetricKind::Gauge => {
            meter
                .f64_observable_gauge(name)
                .with_description(metric.help)
                .with_callback(report)
                .build();
        }
    }
}
