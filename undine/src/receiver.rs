//! The far end of demo and evals, in a process of its own: takes webhooks and OTLP, and records what
//! arrived.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::cli::DemoReceiver;
use crate::record;
use crate::workload::{end, wait_for};

/// What the receiver knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceiverRecord {
    /// Where webhooks are taken.
    pub webhook_listen: String,
    /// Where OTLP is taken.
    pub otlp_listen: String,
    /// Bodies of the webhooks that arrived, in order, with the milliseconds since the epoch at
    /// which each did.
    pub webhooks: Vec<(u64, serde_json::Value)>,
    /// Metric points that arrived.
    pub otlp_points: u64,
}

/// Webhooks that are kept; later ones are refused.
const WEBHOOKS_MAX: usize = 1000;

#[derive(Clone, Debug)]
struct Receiver {
    path: PathBuf,
    record: Arc<Mutex<ReceiverRecord>>,
}

impl Receiver {
    fn note(&self, change: impl FnOnce(&mut ReceiverRecord)) -> Result<()> {
        let mut seen = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut seen);
        let text = serde_json::to_string(&*seen)?;
        record::replace(&self.path, &text)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let points = points(request.get_ref());
        self.note(|seen| seen.otlp_points += points)
            .map_err(|error| Status::unavailable(format!("{error:#}")))?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Receives until it is terminated.
///
/// # Errors
/// Where it cannot listen or write its record.
pub(crate) async fn receive(args: DemoReceiver) -> Result<()> {
    let webhooks = TcpListener::bind("127.0.0.1:0").await?;
    let otlp = TcpListener::bind("127.0.0.1:0").await?;
    let receiver = Receiver {
        path: args.record,
        record: Arc::new(Mutex::new(ReceiverRecord {
            webhook_listen: webhooks.local_addr()?.to_string(),
            otlp_listen: otlp.local_addr()?.to_string(),
            ..ReceiverRecord::default()
        })),
    };
    receiver.note(|_| ())?;
    let http = Router::new().route("/hook", post(take_webhook)).with_state(receiver.clone());
    let grpc = tonic::transport::Server::builder()
        .add_service(MetricsServiceServer::new(receiver))
        .serve_with_incoming(TcpListenerStream::new(otlp));
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        result = axum::serve(webhooks, http) => result.context("cannot take webhooks"),
        result = grpc => result.context("cannot take OTLP"),
    }
}

async fn take_webhook(
    State(receiver): State<Receiver>,
    Json(body): Json<serde_json::Value>,
) -> axum::http::StatusCode {
    let at = undine_schema::Clock::now(&undine_schema::SystemClock).get() / 1_000_000;
    let noted = receiver.note(|seen| {
        if seen.webhooks.len() < WEBHOOKS_MAX {
            seen.webhooks.push((u64::try_from(at).unwrap_or(0), body));
        }
    });
    if noted.is_ok() {
        axum::http::StatusCode::NO_CONTENT
    } else {
        axum::http::StatusCode::SERVICE_UNAVAILABLE
    }
}

fn points(request: &ExportMetricsServiceRequest) -> u64 {
    let metrics = request
        .resource_metrics
        .iter()
        .flat_map(|resource| &resource.scope_metrics)
        .flat_map(|scope| &scope.metrics);
    metrics
        .filter_map(|metric| metric.data.as_ref())
        .map(|data| match data {
            Data::Gauge(data) => data.data_points.len(),
            Data::Sum(data) => data.data_points.len(),
            Data::Histogram(data) => data.data_points.len(),
            Data::ExponentialHistogram(data) => data.data_points.len(),
            Data::Summary(data) => data.data_points.len(),
        } as u64)
        .sum()
}

/// A receiver that runs; it is ended when this is dropped.
#[derive(Debug)]
pub struct ReceiverProcess {
    process: Child,
    record: PathBuf,
}

impl ReceiverProcess {
    /// Starts a receiver with `program`, which is a copy of `undine`, and learns where it listens.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(program: &Path, dir: &Path) -> Result<(Self, ReceiverRecord)> {
        let record = dir.join("receiver.json");
        let mut process = Command::new(program)
            .arg("demo-receiver")
            .arg("--record")
            .arg(&record)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the receiver")?;
        let known = wait_for(&mut process, "the receiver", || read(&record))?;
        Ok((Self { process, record }, known))
    }

    /// What it has recorded so far.
    pub fn record(&self) -> ReceiverRecord {
        read(&self.record).unwrap_or_default()
    }
}

impl Drop for ReceiverProcess {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn read(path: &Path) -> Option<ReceiverRecord> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}
