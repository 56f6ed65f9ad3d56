//! The server against real clients.

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics,
};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use undine_schema::SystemClock;

use super::*;
use crate::memory_store::MemoryStore;

fn config() -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        request_bytes_max: 64 * 1024,
        text_bytes_max: 1024 * 1024,
        concurrent_requests_max: 4,
        connection_streams_max: 100,
        request_timeout: Duration::from_secs(5),
    }
}

/// A server over a store in memory.
struct Running {
    store: Arc<MemoryStore>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), RunError>>,
    channel: Channel,
}

impl Running {
    async fn start() -> Self {
        let store = MemoryStore::new();
        let append: Arc<dyn Append> = Arc::<MemoryStore>::clone(&store);
        let ingest = config().build(append, Arc::new(SystemClock)).unwrap();
        let url = format!("http://{}", ingest.address());
        let (stats, shutdown) = (ingest.stats(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(ingest.run(shutdown.clone()));
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        Self { store, stats, shutdown, tasks, channel }
    }

    fn traces(&self) -> TraceServiceClient<Channel> {
        TraceServiceClient::new(self.channel.clone()).send_compressed(CompressionEncoding::Gzip)
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

fn span(number: u8) -> Span {
    Span {
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        name: format!("span {number}"),
        start_time_unix_nano: 10,
        end_time_unix_nano: 20,
        ..Span::default()
    }
}

fn trace_request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

#[tokio::test]
async fn spans_and_points_of_real_clients_are_rows_once_they_are_answered() {
    let server = Running::start().await;
    let answer = server.traces().export(trace_request(vec![span(1), span(2)])).await.unwrap();
    assert_eq!(answer.into_inner().partial_success, None);
    assert_eq!(server.store.texts(&OTEL_SPANS, "name"), ["span 1", "span 2"]);

    let point = NumberDataPoint {
        time_unix_nano: 1,
        value: Some(Value::AsInt(3)),
        ..NumberDataPoint::default()
    };
    let metric = Metric {
        name: "queue".to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
        ..Metric::default()
    };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    let mut metrics = MetricsServiceClient::new(server.channel.clone());
    metrics.export(ExportMetricsServiceRequest { resource_metrics }).await.unwrap();
    assert_eq!(server.store.texts(&OTEL_METRICS, "name"), ["queue"]);
    assert_eq!((server.stats.requests(), server.stats.accepted_rows()), (2, 3));
    server.stop().await;
}

#[tokio::test]
async fn invalid_spans_are_told_to_the_sender_and_counted_as_lost() {
    let server = Running::start().await;
    let spoilt = Span { trace_id: vec![1], ..span(1) };
    let detailed = Span { events: vec![Event::default()], ..span(2) };
    let answer = server.traces().export(trace_request(vec![spoilt, detailed])).await.unwrap();
    let partial = answer.into_inner().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 1);
    assert_eq!(partial.error_message, "refused 1 without a valid 16-byte trace id");
    assert_eq!(server.store.texts(&OTEL_SPANS, "name"), ["span 2"]);
    assert_eq!(server.store.texts(&DATA_LOSS, "source_table"), ["otel_spans"; 2]);
    assert_eq!(server.store.texts(&DATA_LOSS, "reason"), ["invalid", "no_column"]);
    assert_eq!(server.store.ints(&DATA_LOSS, "rows_min"), [1, 0]);
    server.stop().await;
}

#[tokio::test]
async fn a_full_store_asks_the_sender_to_come_back_and_a_retry_is_stored_once() {
    let server = Running::start().await;
    server.store.refuse_next(AppendError::Full { retry_after: Duration::from_millis(1_500) });
    let request = trace_request(vec![span(1)]);
    let status = server.traces().export(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let asked = status.get_details_retry_info().unwrap().retry_delay;
    assert_eq!(asked, Some(Duration::from_millis(1_500)));
    assert_eq!(status.metadata().get("retry-after").unwrap(), "2");
    assert_eq!(server.store.rows(&OTEL_SPANS).num_rows(), 0);

    for _ in 0..3 {
        server.traces().export(request.clone()).await.unwrap();
    }
    assert_eq!(server.store.rows(&OTEL_SPANS).num_rows(), 1);
    assert_eq!(server.stats.pushed_back_requests(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_request_whose_commit_fails_is_not_acknowledged() {
    let server = Running::start().await;
    let disk_full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    server.store.fail_next_commit(AppendError::Log(Arc::new(disk_full)));
    let status = server.traces().export(trace_request(vec![span(1)])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(server.stats.accepted_rows(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_request_over_the_size_limit_is_refused_also_when_it_is_small_on_the_wire() {
    let server = Running::start().await;
    let large = Span { name: "x".repeat(100_000), ..span(1) };
    let status = server.traces().export(trace_request(vec![large])).await.unwrap_err();
    assert!(status.message().contains("65536"), "{status:?}");
    assert_eq!(server.store.rows(&OTEL_SPANS).num_rows(), 0);
    server.stop().await;
}

#[tokio::test]
async fn more_requests_than_are_taken_at_once_wait_and_are_all_answered() {
    let server = Running::start().await;
    let mut requests = JoinSet::new();
    for number in 1..=40 {
        let mut client = server.traces();
        requests.spawn(async move { client.export(trace_request(vec![span(number)])).await });
    }
    while let Some(answer) = requests.join_next().await {
        answer.unwrap().unwrap();
    }
    assert_eq!(server.store.rows(&OTEL_SPANS).num_rows(), 40);
    server.stop().await;
}

#[test]
fn a_taken_port_is_named_and_a_limit_of_zero_refused() {
    let store = MemoryStore::new();
    let build = |config: Config| {
        let append: Arc<dyn Append> = Arc::<MemoryStore>::clone(&store);
        config.build(append, Arc::new(SystemClock))
    };
    let first = build(config()).unwrap();
    let error = build(Config { listen: first.address(), ..config() }).unwrap_err();
    assert!(error.to_string().contains(&first.address().to_string()), "{error}");
    let error = build(Config { request_bytes_max: 0, ..config() }).unwrap_err();
    assert!(error.to_string().contains("request_bytes_max"), "{error}");
}
