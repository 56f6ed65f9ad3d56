//! Takes traces and metrics over OTLP/gRPC.
//!
//! ```text
//! client ── Export ──► size and concurrency limits ──► rows ──► Append (one frame) ──► durable ──► answer
//!                                                       └ refused items ──► partial_success, data_loss
//! ```
//!
//! A request is answered once its rows are on the disk, so what a client was told is accepted is
//! there; an identical retry is acknowledged without being stored again. Logs are not taken. What a
//! span or point carries that has no column (events, links, exemplars) is counted as lost.

mod attributes;
mod metrics;
mod refused;
mod spans;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::limit::GlobalConcurrencyLimitLayer;
use undine_schema::tables::{DATA_LOSS, DataLoss, DataLosses, OTEL_METRICS, OTEL_SPANS};
use undine_schema::{
    Append, AppendError, Clock, Durability, Frame, Part, RetryKey, TableDef, TimeNs,
};

use self::refused::{Refusal, Refused};

/// Where OTLP is taken and how much of it at once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// Largest request after decompression, in bytes; a larger one is refused.
    pub request_bytes_max: usize,
    /// Most bytes of text that the rows of one request may hold; items beyond are refused.
    pub text_bytes_max: usize,
    /// Requests that are decoded and stored at the same time; more of them wait.
    pub concurrent_requests_max: usize,
    /// Streams that one connection may hold open.
    pub connection_streams_max: u32,
    /// How long one request may take from its headers to its answer.
    pub request_timeout: Duration,
}

/// Why OTLP cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address is not free or not ours.
    #[error(
        "cannot listen for OTLP on {listen}; choose another address or stop the program that uses it"
    )]
    Listen {
        /// The configured address.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A limit of zero would refuse everything.
    #[error("OTLP limit {name} is 0, which would refuse every request; set it to at least 1")]
    ZeroLimit {
        /// The name of the limit.
        name: &'static str,
    },
}

/// Why the server ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The listener cannot be handed to the runtime.
    #[error("cannot use the OTLP listener")]
    Listener(#[source] std::io::Error),
    /// The server failed.
    #[error("the OTLP server failed")]
    Serve(#[source] tonic::transport::Error),
}

/// What was taken and refused so far.
#[derive(Debug, Default)]
pub struct Stats {
    requests: AtomicU64,
    accepted_rows: AtomicU64,
    refused_rows: AtomicU64,
    pushed_back_requests: AtomicU64,
}

impl Stats {
    /// Requests that reached the mapping.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Rows that are durable and acknowledged, retries included.
    pub fn accepted_rows(&self) -> u64 {
        self.accepted_rows.load(Ordering::Relaxed)
    }

    /// Spans and data points that were refused as invalid.
    pub fn refused_rows(&self) -> u64 {
        self.refused_rows.load(Ordering::Relaxed)
    }

    /// Requests that were told to come back later.
    pub fn pushed_back_requests(&self) -> u64 {
        self.pushed_back_requests.load(Ordering::Relaxed)
    }
}

/// Rows of one request, and what of it could not become a row.
struct Mapped {
    rows: Option<RecordBatch>,
    refused: Refused,
    /// Parts of accepted items that no column holds: a span's events and links, exemplars.
    left_out: usize,
}

impl Mapped {
    /// What `data_loss` is told of the request, none where nothing was lost.
    fn loss(&self, table: &TableDef, at: TimeNs) -> Option<RecordBatch> {
        let mut rows = DataLosses::new(2);
        let lost =
            DataLoss { time_: at, source_table: table.name, stage: "otlp", ..DataLoss::default() };
        if self.refused.total() > 0 {
            let items = self.refused.total_signed();
            let detail = &self.refused.to_string();
            rows.push(&DataLoss {
                reason: "invalid",
                rows_min: items,
                rows_max: items,
                detail,
                ..lost
            });
        }
        if self.left_out > 0 {
            let detail = &format!("{} span events, links or exemplars", self.left_out);
            rows.push(&DataLoss { reason: "no_column", detail, ..lost });
        }
        (!rows.is_empty()).then(|| rows.finish())
    }
}

/// A positive time that fits a signed 64-bit number of nanoseconds.
fn time(unix_nano: u64) -> Result<TimeNs, Refusal> {
    match i64::try_from(unix_nano) {
        Ok(0) | Err(_) => Err(Refusal::Time),
        Ok(ns) => Ok(TimeNs::new(ns)),
    }
}

impl Config {
    /// Checks the limits and binds the address.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(
        self,
        append: Arc<dyn Append>,
        clock: Arc<dyn Clock>,
    ) -> Result<OtlpIngest, BuildError> {
        for (name, limit) in [
            ("request_bytes_max", self.request_bytes_max),
            ("text_bytes_max", self.text_bytes_max),
            ("concurrent_requests_max", self.concurrent_requests_max),
            ("connection_streams_max", self.connection_streams_max as usize),
        ] {
            if limit == 0 {
                return Err(BuildError::ZeroLimit { name });
            }
        }
        let (listener, address) = listen(self.listen)
            .map_err(|cause| BuildError::Listen { listen: self.listen, cause })?;
        let taker = Taker {
            append,
            clock,
            text_bytes_max: self.text_bytes_max,
            stats: Arc::new(Stats::default()),
        };
        Ok(OtlpIngest { config: self, listener, address, taker })
    }
}

fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The OTLP/gRPC server.
#[derive(Debug)]
pub struct OtlpIngest {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    taker: Taker,
}

impl OtlpIngest {
    /// The address that clients connect to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was taken and refused so far.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.taker.stats)
    }

    /// Serves until `shutdown` fires, then finishes the requests that are under way.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let listener =
            tokio::net::TcpListener::from_std(self.listener).map_err(RunError::Listener)?;
        let traces = TraceServiceServer::new(self.taker.clone())
            .max_decoding_message_size(self.config.request_bytes_max)
            .accept_compressed(CompressionEncoding::Gzip);
        let metrics = MetricsServiceServer::new(self.taker)
            .max_decoding_message_size(self.config.request_bytes_max)
            .accept_compressed(CompressionEncoding::Gzip);
        tonic::transport::Server::builder()
            .timeout(self.config.request_timeout)
            .max_concurrent_streams(self.config.connection_streams_max)
            .layer(GlobalConcurrencyLimitLayer::new(self.config.concurrent_requests_max))
            .add_service(traces)
            .add_service(metrics)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                shutdown.cancelled_owned(),
            )
            .await
            .map_err(RunError::Serve)
    }
}

/// Turns a request into a frame and waits until it is durable.
#[derive(Clone, Debug)]
struct Taker {
    append: Arc<dyn Append>,
    clock: Arc<dyn Clock>,
    text_bytes_max: usize,
    stats: Arc<Stats>,
}

impl Taker {
    async fn take<R: Message + 'static>(
        &self,
        table: &'static TableDef,
        request: R,
        map: fn(&R, usize) -> Mapped,
    ) -> Result<Refused, Status> {
        self.stats.requests.fetch_add(1, Ordering::Relaxed);
        let text_bytes_max = self.text_bytes_max;
        let work = move || (map(&request, text_bytes_max), retry_key(table, &request));
        let (mapped, retry_key) = tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(%error, table = table.name, "mapping an OTLP request panicked");
            Status::internal("the request could not be mapped to rows")
        })?;
        let loss = mapped.loss(table, self.clock.now());
        let Mapped { rows, refused, .. } = mapped;
        self.stats.refused_rows.fetch_add(refused.total(), Ordering::Relaxed);
        let row_count = rows.as_ref().map_or(0, RecordBatch::num_rows) as u64;
        let rows = rows.map(|rows| Part { table, rows });
        let loss = loss.map(|rows| Part { table: &DATA_LOSS, rows });
        let parts: Vec<Part> = rows.into_iter().chain(loss).collect();
        if parts.is_empty() {
            return Ok(refused);
        }
        let frame = Frame { parts, durability: Durability::Commit, retry_key: Some(retry_key) };
        let pending = self.append.append(frame).map_err(|error| self.push_back(&error))?;
        pending.durable().await.map_err(|error| self.push_back(&error))?;
        self.stats.accepted_rows.fetch_add(row_count, Ordering::Relaxed);
        Ok(refused)
    }

    /// The answer to a request that was not stored.
    fn push_back(&self, error: &AppendError) -> Status {
        self.stats.pushed_back_requests.fetch_add(1, Ordering::Relaxed);
        match error {
            AppendError::Full { retry_after } => come_back(
                Code::ResourceExhausted,
                "the store is full; nothing of the request was kept",
                *retry_after,
            ),
            AppendError::Stopping => {
                come_back(Code::Unavailable, "the store is stopping", Duration::from_secs(5))
            }
            AppendError::Log(_) => {
                tracing::error!(%error, "an OTLP request was refused");
                come_back(
                    Code::Unavailable,
                    "the store cannot write its log; its operator must act",
                    Duration::from_secs(30),
                )
            }
            AppendError::Schema { .. } => {
                tracing::error!(%error, "an OTLP request was refused");
                Status::internal("the rows of the request do not fit their table")
            }
        }
    }
}

/// Tells the request apart from every other, so that only an identical one counts as its retry.
fn retry_key(table: &TableDef, request: &impl Message) -> RetryKey {
    let mut hash = Sha256::new();
    hash.update(table.name);
    hash.update([0]);
    hash.update(request.encode_to_vec());
    RetryKey(hash.finalize().into())
}

/// A refusal that OTLP clients retry after `delay`.
fn come_back(code: Code, message: &str, delay: Duration) -> Status {
    let mut metadata = MetadataMap::new();
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    metadata.insert("retry-after", seconds.into());
    let details = ErrorDetails::with_retry_info(Some(delay));
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let refused = self.take(&OTEL_SPANS, request.into_inner(), spans::rows).await?;
        let partial_success = (refused.total() > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: refused.total_signed(),
            error_message: refused.to_string(),
        });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl MetricsService for Taker {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let refused = self.take(&OTEL_METRICS, request.into_inner(), metrics::rows).await?;
        let partial_success = (refused.total() > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points: refused.total_signed(),
            error_message: refused.to_string(),
        });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

#[cfg(test)]
mod tests;
