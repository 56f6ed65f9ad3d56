//! An OTLP receiver for tests: a real gRPC server that remembers what it got.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::Endpoint;

/// How the receiver answers one request; with `Accept` once it was told nothing more.
#[derive(Debug)]
pub(crate) enum Answer {
    Accept,
    Reject(i64),
    Refuse(Status),
    /// Takes the request and never answers.
    Hang,
}

#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    acknowledged: Arc<watch::Sender<Vec<ExportMetricsServiceRequest>>>,
    pub(crate) traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    metadata: Arc<watch::Sender<Vec<MetadataMap>>>,
    server: Option<Arc<JoinSet<Result<(), tonic::transport::Error>>>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut receiver = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::default(),
            acknowledged: Arc::new(watch::Sender::default()),
            traces: Arc::default(),
            metadata: Arc::new(watch::Sender::default()),
            server: None,
        };
        let metrics = MetricsServiceServer::new(receiver.clone());
        let traces = TraceServiceServer::new(receiver.clone());
        let mut server = JoinSet::new();
        server.spawn(
            tonic::transport::Server::builder()
                .add_service(metrics.accept_compressed(CompressionEncoding::Gzip))
                .add_service(traces.accept_compressed(CompressionEncoding::Gzip))
                .serve_with_incoming(TcpIncoming::from(listener)),
        );
        receiver.server = Some(Arc::new(server));
        receiver
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.address.to_string(),
            headers: Vec::new(),
            insecure: true,
            timeout: Duration::from_secs(5),
        }
    }

    /// Answers the next requests like this.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// Integer values of all acknowledged points, in order.
    pub(crate) fn values(&self) -> Vec<i64> {
        values(&self.acknowledged.borrow())
    }

    /// Waits until `points` points were acknowledged.
    pub(crate) async fn got(&self, points: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        acknowledged.wait_for(|requests| values(requests).len() >= points).await.unwrap();
    }

    /// Waits until `requests` requests came in, answered or not, and gives their metadata.
    pub(crate) async fn asked(&self, requests: usize) -> Vec<MetadataMap> {
        let mut metadata = self.metadata.subscribe();
        metadata.wait_for(|all| all.len() >= requests).await.unwrap().clone()
    }

    async fn next_answer(&self, metadata: &MetadataMap) -> Result<i64, Status> {
        let answer = self.answers.lock().unwrap().pop_front();
        self.metadata.send_modify(|all| all.push(metadata.clone()));
        match answer {
            None | Some(Answer::Accept) => Ok(0),
            Some(Answer::Reject(items)) => Ok(items),
            Some(Answer::Refuse(status)) => Err(status),
            Some(Answer::Hang) => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let rejected_data_points = self.next_answer(request.metadata()).await?;
        self.acknowledged.send_modify(|requests| requests.push(request.into_inner()));
        let partial_success = (rejected_data_points > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points,
            error_message: "too old".to_owned(),
        });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.next_answer(request.metadata()).await?;
        self.traces.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// One resource with one gauge with a point for each value.
pub(crate) fn gauge(values: impl IntoIterator<Item = i64>) -> ResourceMetrics {
    let data_points = values.into_iter().map(|value| NumberDataPoint {
        time_unix_nano: 1,
        value: Some(Value::AsInt(value)),
        ..NumberDataPoint::default()
    });
    let metric = Metric {
        name: "windows".to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: data_points.collect() })),
        ..Metric::default()
    };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }
}

fn values(requests: &[ExportMetricsServiceRequest]) -> Vec<i64> {
    let resources = requests.iter().flat_map(|request| &request.resource_metrics);
    let metrics = resources.flat_map(|resource| &resource.scope_metrics).flat_map(|s| &s.metrics);
    let points = metrics.flat_map(|metric| match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.as_slice(),
        _ => &[],
    });
    points
        .map(|point| match point.value {
            Some(Value::AsInt(value)) => value,
            _ => panic!("a point without an integer"),
        })
        .collect()
}
