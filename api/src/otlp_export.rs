//! Sends what scripts export to OTLP/gRPC receivers.
//!
//! ```text
//! Export ── pack ──► Shipment: requests of a bounded size ── send_rest ──► receiver
//!                      └ an acknowledged request leaves it, so a retry sends only the rest
//! ```

mod split;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use self::split::{Cut, batches};
use crate::delivery::with_causes;

/// Where an export goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`; a scheme in front, `http://` or `https://`, decides instead of `insecure`.
    pub url: String,
    /// Sent as metadata with every request; values are never logged.
    pub headers: Vec<(String, String)>,
    /// Plain text instead of TLS.
    pub insecure: bool,
    /// How long one request may take; zero takes the configured default.
    pub timeout: Duration,
}

/// What one run of a script sends to one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Export {
    /// Where it goes, none where the script leaves that to its plugin.
    pub endpoint: Option<Endpoint>,
    /// Metrics by resource.
    pub metrics: Vec<ResourceMetrics>,
    /// Spans by resource.
    pub spans: Vec<ResourceSpans>,
}

/// How requests are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, which every receiver understands.
    None,
    /// By gzip; a receiver without it answers `UNIMPLEMENTED`.
    Gzip,
}

/// How exports are sent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest encoded request in bytes; receivers commonly refuse more than 4 MiB.
    pub request_bytes_max: usize,
    /// Connections that are kept; the one that was idle longest makes room for another endpoint.
    pub connections_max: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a request may take where its endpoint does not say.
    pub request_timeout: Duration,
    /// How requests are compressed.
    pub compression: Compression,
    /// A file of PEM certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Why exports cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The certificates cannot be read.
    #[error("cannot read the certificates in {path}; check otlp export's ca_file")]
    CaFile {
        /// The configured file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A limit of zero would refuse everything.
    #[error("OTLP export limit {name} is 0; set it to at least 1")]
    ZeroLimit {
        /// The name of the limit.
        name: &'static str,
    },
}

/// Why an export was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Neither the script nor its plugin names an endpoint.
    #[error(
        "the export has no endpoint; give px.otel.Data an endpoint, or the plugin a default one"
    )]
    NoEndpoint,
    /// The endpoint is not an address.
    #[error("{url:?} is not an OTLP endpoint: {reason}; write host:port, as in localhost:4317")]
    Url {
        /// The text that was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A header cannot be sent over gRPC.
    #[error("header {name:?} for {target} cannot be sent: its name or value is not plain ASCII")]
    Header {
        /// The header's name; its value may be secret.
        name: String,
        /// Where it should have gone.
        target: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS for {target}; set insecure=True where the receiver has none")]
    Tls {
        /// Where it should have gone.
        target: String,
        /// What failed.
        #[source]
        cause: tonic::transport::Error,
    },
    /// The receiver, or the way to it, failed.
    #[error("{target} did not take the export: {} ({})", status.message(), status.code())]
    Receiver {
        /// Where it went.
        target: String,
        /// What came back.
        status: Box<Status>,
    },
}

/// What can be done about a failed export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Try again, after what the receiver asked for where it asked.
    Retry(Option<Duration>),
    /// Someone has to change something first.
    Change,
}

impl ExportError {
    /// What can be done about it, by OTLP's table of retryable codes.
    pub fn remedy(&self) -> Remedy {
        let Self::Receiver { status, .. } = self else { return Remedy::Change };
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        match status.code() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => Remedy::Retry(asked),
            Code::ResourceExhausted if asked.is_some() => Remedy::Retry(asked),
            _ => Remedy::Change,
        }
    }

    /// The gRPC status code, 0 where no request was made.
    pub fn grpc_code(&self) -> i64 {
        match self {
            Self::Receiver { status, .. } => i64::from(i32::from(status.code())),
            _ => 0,
        }
    }
}

/// What a receiver acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Data points that it was sent.
    pub points: u64,
    /// Spans that it was sent.
    pub spans: u64,
    /// Those of the points that it rejected as invalid, which must not be sent again.
    pub rejected_points: u64,
    /// Those of the spans that it rejected as invalid, which must not be sent again.
    pub rejected_spans: u64,
    /// What it said about them, empty where it said nothing.
    pub message: String,
}

impl Sent {
    /// Points and spans that it was sent.
    pub const fn items(&self) -> u64 {
        self.points + self.spans
    }

    /// Points and spans that it rejected.
    pub const fn rejected(&self) -> u64 {
        self.rejected_points + self.rejected_spans
    }
}

impl Config {
    /// Checks the limits and reads the certificates.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<ExportSink, BuildError> {
        for (name, limit) in [
            ("request_bytes_max", self.request_bytes_max),
            ("connections_max", self.connections_max),
        ] {
            if limit == 0 {
                return Err(BuildError::ZeroLimit { name });
            }
        }
        let certificates = match &self.ca_file {
            None => None,
            Some(path) => {
                let pem = std::fs::read(path)
                    .map_err(|cause| BuildError::CaFile { path: path.clone(), cause })?;
                Some(Certificate::from_pem(pem))
            }
        };
        Ok(ExportSink { config: self, certificates, channels: Mutex::default() })
    }
}

/// Sends exports; share it by `Arc`.
#[derive(Debug)]
pub struct ExportSink {
    config: Config,
    certificates: Option<Certificate>,
    /// Most recently used last.
    channels: Mutex<VecDeque<(String, Channel)>>,
}

/// An export on its way: what is not acknowledged yet.
#[derive(Debug)]
pub struct Shipment {
    target: String,
    metadata: MetadataMap,
    timeout: Duration,
    rest: VecDeque<Piece>,
    sent: Sent,
}

#[derive(Debug)]
enum Piece {
    Metrics(ExportMetricsServiceRequest, u64),
    Spans(ExportTraceServiceRequest, u64),
}

impl Shipment {
    /// Where it goes, without credentials.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What was acknowledged so far.
    pub const fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Points and spans that are not acknowledged yet.
    pub fn rest_items(&self) -> u64 {
        self.rest
            .iter()
            .map(|piece| match piece {
                Piece::Metrics(_, items) | Piece::Spans(_, items) => *items,
            })
            .sum()
    }
}

impl ExportSink {
    /// Sends `export` to its endpoint, once.
    ///
    /// # Errors
    /// See [`ExportError`]; part of the export may have been acknowledged.
    pub async fn send(&self, export: &Export) -> Result<Sent, ExportError> {
        let mut shipment = self.pack(export.clone(), None)?;
        self.send_rest(&mut shipment).await?;
        Ok(shipment.sent)
    }

    /// Cuts `export` into requests to its endpoint, or to `fallback` where it names none.
    ///
    /// # Errors
    /// When there is no usable endpoint.
    pub fn pack(
        &self,
        export: Export,
        fallback: Option<&Endpoint>,
    ) -> Result<Shipment, ExportError> {
        let endpoint = export.endpoint.as_ref().or(fallback).ok_or(ExportError::NoEndpoint)?;
        let target = target(endpoint)?;
        let metadata = metadata(endpoint, &target)?;
        let timeout = match endpoint.timeout {
            Duration::ZERO => self.config.request_timeout,
            timeout => timeout,
        };
        let bytes_max = self.config.request_bytes_max;
        let metrics = batches(export.metrics, bytes_max).into_iter().map(|resource_metrics| {
            let items = count(&resource_metrics);
            Piece::Metrics(ExportMetricsServiceRequest { resource_metrics }, items)
        });
        let spans = batches(export.spans, bytes_max).into_iter().map(|resource_spans| {
            let items = count(&resource_spans);
            Piece::Spans(ExportTraceServiceRequest { resource_spans }, items)
        });
        let rest = metrics.chain(spans).collect();
        Ok(Shipment { target, metadata, timeout, rest, sent: Sent::default() })
    }

    /// Sends what is left of `shipment`, request by request, until one fails.
    ///
    /// # Errors
    /// See [`ExportError`]; what was acknowledged has left the shipment.
    pub async fn send_rest(&self, shipment: &mut Shipment) -> Result<(), ExportError> {
        while let Some(piece) = shipment.rest.front() {
            let channel = self.channel(&shipment.target)?;
            let answer = self.deliver(channel, piece, &shipment.metadata, shipment.timeout).await;
            let (rejected, message) = answer.map_err(|status| {
                let status = Box::new(status);
                ExportError::Receiver { target: shipment.target.clone(), status }
            })?;
            let rejected = u64::try_from(rejected).unwrap_or(0);
            match piece {
                Piece::Metrics(_, items) => {
                    shipment.sent.points += items;
                    shipment.sent.rejected_points += rejected;
                }
                Piece::Spans(_, items) => {
                    shipment.sent.spans += items;
                    shipment.sent.rejected_spans += rejected;
                }
            }
            if !message.is_empty() {
                shipment.sent.message = message;
            }
            shipment.rest.pop_front();
        }
        Ok(())
    }

    /// Sends one request and gives back how many items were rejected, and why.
    async fn deliver(
        &self,
        channel: Channel,
        piece: &Piece,
        metadata: &MetadataMap,
        timeout: Duration,
    ) -> Result<(i64, String), Status> {
        let gzip = self.config.compression == Compression::Gzip;
        match piece {
            Piece::Metrics(message, _) => {
                let mut client = MetricsServiceClient::new(channel);
                if gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                let request = request(message.clone(), metadata, timeout);
                let answer = in_time(timeout, client.export(request)).await?.into_inner();
                let partial = answer.partial_success.unwrap_or_default();
                Ok((partial.rejected_data_points, partial.error_message))
            }
            Piece::Spans(message, _) => {
                let mut client = TraceServiceClient::new(channel);
                if gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                let request = request(message.clone(), metadata, timeout);
                let answer = in_time(timeout, client.export(request)).await?.into_inner();
                let partial = answer.partial_success.unwrap_or_default();
                Ok((partial.rejected_spans, partial.error_message))
            }
        }
    }

    /// The connection to `target`, kept from an earlier request or made by the next one.
    fn channel(&self, target: &str) -> Result<Channel, ExportError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let known = channels.iter().position(|(known, _)| known == target);
        if let Some(entry) = known.and_then(|position| channels.remove(position)) {
            let channel = entry.1.clone();
            channels.push_back(entry);
            return Ok(channel);
        }
        let channel = self.connect(target)?;
        while channels.len() >= self.config.connections_max {
            channels.pop_front();
        }
        channels.push_back((target.to_owned(), channel.clone()));
        Ok(channel)
    }

    fn connect(&self, target: &str) -> Result<Channel, ExportError> {
        let tls_error = |cause| ExportError::Tls { target: target.to_owned(), cause };
        let mut endpoint = tonic::transport::Endpoint::from_shared(target.to_owned())
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(|error| ExportError::Url {
                url: target.to_owned(),
                reason: with_causes(&error),
            })?
            .connect_timeout(self.config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        if target.starts_with("https://") {
            let tls = ClientTlsConfig::new()
                .with_native_roots()
                .ca_certificates(self.certificates.clone());
            endpoint = endpoint.tls_config(tls).map_err(tls_error)?;
        }
        Ok(endpoint.connect_lazy())
    }
}

const USER_AGENT: &str = concat!("undine/", env!("CARGO_PKG_VERSION"));

fn count<T: Cut>(batch: &[T]) -> u64 {
    batch.iter().map(Cut::items).sum::<usize>() as u64
}

fn request<T>(message: T, metadata: &MetadataMap, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata.clone();
    request.set_timeout(timeout);
    request
}

/// Ends a request that its connection does not end by itself.
async fn in_time<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_elapsed| {
        let seconds = timeout.as_secs_f32();
        Err(Status::deadline_exceeded(format!("no answer within {seconds} s")))
    })
}

/// `scheme://host:port` of an endpoint.
fn target(endpoint: &Endpoint) -> Result<String, ExportError> {
    let wrong =
        |reason: &str| ExportError::Url { url: endpoint.url.clone(), reason: reason.to_owned() };
    let (scheme, rest) = match endpoint.url.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => return Err(wrong(&format!("{scheme} is not a scheme of gRPC"))),
        None if endpoint.insecure => ("http", endpoint.url.as_str()),
        None => ("https", endpoint.url.as_str()),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        let reason = "it holds credentials, which belong into headers".to_owned();
        return Err(ExportError::Url { url: "…@…".to_owned(), reason });
    }
    let parsed: tonic::codegen::http::uri::Authority =
        authority.parse().map_err(|error| wrong(&with_causes(&error)))?;
    if parsed.host().is_empty() {
        return Err(wrong("it names no host"));
    }
    Ok(format!("{scheme}://{authority}"))
}

fn metadata(endpoint: &Endpoint, target: &str) -> Result<MetadataMap, ExportError> {
    let mut metadata = MetadataMap::new();
    for (name, value) in &endpoint.headers {
        let wrong = || ExportError::Header { name: name.clone(), target: target.to_owned() };
        let key = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes())
            .map_err(|_invalid_key| wrong())?;
        let mut value =
            AsciiMetadataValue::try_from(value.as_str()).map_err(|_invalid_value| wrong())?;
        value.set_sensitive(true);
        metadata.insert(key, value);
    }
    Ok(metadata)
}

#[cfg(test)]
pub(crate) mod receiver;
#[cfg(test)]
mod tests;
