//! The sink against a real receiver.

use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span};
use tonic_types::ErrorDetails;

use super::receiver::{Answer, Receiver, gauge};
use super::*;

fn config() -> Config {
    Config {
        request_bytes_max: 1024 * 1024,
        connections_max: 8,
        connect_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(5),
        compression: Compression::None,
        ca_file: None,
    }
}

fn export(endpoint: Endpoint, metrics: Vec<ResourceMetrics>) -> Export {
    Export { endpoint: Some(endpoint), metrics, ..Export::default() }
}

#[tokio::test]
async fn points_and_spans_arrive_with_the_endpoints_headers() {
    let receiver = Receiver::start().await;
    let endpoint =
        Endpoint { headers: vec![("Api-Key".to_owned(), "k1".to_owned())], ..receiver.endpoint() };
    let scope_spans = vec![ScopeSpans { spans: vec![Span::default()], ..ScopeSpans::default() }];
    let spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    for compression in [Compression::None, Compression::Gzip] {
        let sink = Config { compression, ..config() }.build().unwrap();
        let export =
            Export { spans: spans.clone(), ..export(endpoint.clone(), vec![gauge(1..=3)]) };
        let sent = sink.send(&export).await.unwrap();
        assert_eq!((sent.points, sent.spans, sent.rejected()), (3, 1, 0));
    }
    assert_eq!(receiver.values(), [1, 2, 3, 1, 2, 3]);
    assert_eq!(receiver.traces.lock().unwrap().len(), 2);
    let metadata = receiver.asked(4).await;
    assert_eq!(metadata.len(), 4);
    for metadata in &metadata {
        assert_eq!(metadata.get("api-key").unwrap(), "k1");
    }
    assert_eq!(metadata[2].get("grpc-encoding").unwrap(), "gzip");
}

#[tokio::test]
async fn after_a_failure_only_what_was_not_acknowledged_is_sent_again() {
    let receiver = Receiver::start().await;
    let sink = Config { request_bytes_max: 100, ..config() }.build().unwrap();
    let export = export(receiver.endpoint(), vec![gauge(1..=20)]);
    let mut shipment = sink.pack(export, None).unwrap();
    receiver.answer([
        Answer::Accept,
        Answer::Reject(2),
        Answer::Refuse(Status::unavailable("busy")),
        Answer::Accept,
    ]);
    let error = sink.send_rest(&mut shipment).await.unwrap_err();
    assert_eq!((error.remedy(), error.grpc_code()), (Remedy::Retry(None), 14));
    assert!(shipment.rest_items() > 0 && shipment.rest_items() < 20);
    sink.send_rest(&mut shipment).await.unwrap();
    assert_eq!(receiver.values(), (1..=20).collect::<Vec<_>>());
    let sent = shipment.sent();
    assert_eq!((sent.points, sent.rejected_points, &*sent.message), (20, 2, "too old"));
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_in_time_or_is_not_there_may_be_tried_again() {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Hang]);
    let sink = config().build().unwrap();
    let slow = Endpoint { timeout: Duration::from_millis(50), ..receiver.endpoint() };
    let error = sink.send(&export(slow, vec![gauge([1])])).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry(None), "{error}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Endpoint { url: free.to_string(), ..receiver.endpoint() };
    let error = sink.send(&export(nobody, vec![gauge([1])])).await.unwrap_err();
    assert_eq!((error.remedy(), error.grpc_code()), (Remedy::Retry(None), 14), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

#[tokio::test]
async fn a_receivers_refusal_says_whether_to_try_again() {
    let receiver = Receiver::start().await;
    let sink = config().build().unwrap();
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(7)));
    let exhausted = Code::ResourceExhausted;
    let cases = [
        (
            Status::with_error_details(exhausted, "full", details),
            Remedy::Retry(Some(Duration::from_secs(7))),
        ),
        (Status::resource_exhausted("too large"), Remedy::Change),
        (Status::unauthenticated("who?"), Remedy::Change),
        (Status::aborted("again"), Remedy::Retry(None)),
    ];
    for (status, remedy) in cases {
        receiver.answer([Answer::Refuse(status)]);
        let export = export(receiver.endpoint(), vec![gauge([1])]);
        assert_eq!(sink.send(&export).await.unwrap_err().remedy(), remedy);
    }
}

#[tokio::test]
async fn tls_is_the_default_and_a_receiver_without_it_is_an_error() {
    let receiver = Receiver::start().await;
    let sink = config().build().unwrap();
    let secure = Endpoint { insecure: false, ..receiver.endpoint() };
    sink.send(&export(secure, vec![gauge([1])])).await.unwrap_err();
    assert_eq!(receiver.values(), Vec::<i64>::new());
}

#[tokio::test]
async fn connections_are_kept_and_bounded() {
    let sink = Config { connections_max: 2, ..config() }.build().unwrap();
    let mut receivers = Vec::new();
    for _ in 0..3 {
        receivers.push(Receiver::start().await);
    }
    for receiver in receivers.iter().chain(&receivers) {
        sink.send(&export(receiver.endpoint(), vec![gauge([1])])).await.unwrap();
        assert!(sink.channels.lock().unwrap().len() <= 2);
    }
    for receiver in &receivers {
        assert_eq!(receiver.values(), [1, 1]);
    }
}

#[test]
fn a_wrong_endpoint_is_named_without_its_secrets() {
    let sink = config().build().unwrap();
    let endpoint = |url: &str| Endpoint {
        url: url.to_owned(),
        headers: Vec::new(),
        insecure: true,
        timeout: Duration::ZERO,
    };
    let error = |endpoint: Option<Endpoint>| {
        let export = Export { endpoint, ..Export::default() };
        sink.pack(export, None).unwrap_err().to_string()
    };
    let headers = vec![("bad header".to_owned(), "secret".to_owned())];
    let shown = [
        error(None),
        error(Some(endpoint(""))),
        error(Some(endpoint("ftp://host:1"))),
        error(Some(endpoint("host:port:1"))),
        error(Some(endpoint("me:secret@host:1"))),
        error(Some(Endpoint { headers, ..endpoint("host:1") })),
    ];
    assert!(!shown.concat().contains("secret"));
    expect_test::expect![[r#"
        the export has no endpoint; give px.otel.Data an endpoint, or the plugin a default one
        "" is not an OTLP endpoint: empty string; write host:port, as in localhost:4317
        "ftp://host:1" is not an OTLP endpoint: ftp is not a scheme of gRPC; write host:port, as in localhost:4317
        "host:port:1" is not an OTLP endpoint: invalid authority; write host:port, as in localhost:4317
        "…@…" is not an OTLP endpoint: it holds credentials, which belong into headers; write host:port, as in localhost:4317
        header "bad header" for http://host:1 cannot be sent: its name or value is not plain ASCII"#]].assert_eq(&shown.join("\n"));
    let packed = sink.pack(Export::default(), Some(&endpoint("http://host:4317/"))).unwrap();
    assert_eq!((packed.target(), packed.timeout), ("http://host:4317", config().request_timeout));
}
