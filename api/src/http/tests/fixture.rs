//! A server over a real engine and store, without a socket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents, INCIDENTS, Incident, Incidents};
use undine_schema::{Append, Clock, Frame, ManualClock, TimeNs, Upid};
use undine_store::Store;

use crate::http::metrics::MetricReader;
use crate::http::{Check, Config, Inputs, Metric, Shared, Status, TableRows, router};
use crate::memory_store::MemoryStore;
use crate::metrics::ComponentMetrics;
use crate::{otlp_export, otlp_ingest};

/// Largest body that the fixture's server takes.
pub(super) const BODY_BYTES_MAX: usize = 4096;
const NOW: TimeNs = TimeNs::new(1_795_236_763_123_456_789);

/// What a client was told.
pub(super) struct Told {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Told {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(super) fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

pub(super) struct Fixture {
    store: Store,
    shared: Arc<Shared>,
    router: Router,
    status: Arc<TestStatus>,
    _dir: TempDir,
}

impl Fixture {
    /// A server that has seen `requests` requests, a second apart, the last of them failed.
    pub(super) fn with_requests(requests: usize) -> Self {
        Self::new(requests, |_config| {})
    }

    /// A server with other limits that has seen three requests.
    pub(super) fn with_limits(change: impl FnOnce(&mut Config)) -> Self {
        Self::new(3, change)
    }

    fn new(requests: usize, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
        let store = store(dir.path(), &clock);
        put_requests(&store, requests);
        let status = Arc::new(TestStatus { failing: Mutex::default(), store: store.clone() });
        let exports = otlp_export::Config {
            request_bytes_max: 1 << 20,
            connections_max: 4,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            compression: otlp_export::Compression::None,
            ca_file: None,
        };
        let components = ComponentMetrics { otlp: None, webhooks: Vec::new(), exports: Vec::new() };
        let inputs = Inputs {
            engine: engine(&store, &clock),
            exports: Arc::new(exports.build().unwrap()),
            clock,
            status: Arc::<TestStatus>::clone(&status),
            metrics: Arc::new(components),
        };
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            allowed_hosts: Vec::new(),
            body_bytes_max: BODY_BYTES_MAX,
            answer_bytes_max: 1 << 20,
            queries_max: 2,
            connections_max: 8,
            request_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
        };
        change(&mut config);
        let metrics = MetricReader::new(&inputs);
        let shared = Shared::new(&config, inputs, metrics);
        let router = router(Arc::clone(&shared));
        Self { store, shared, router, status, _dir: dir }
    }

    pub(super) async fn get(&self, address: &str) -> Told {
        self.send(Method::GET, address, "", &[]).await
    }

    pub(super) async fn post(&self, address: &str, kind: &str, body: &str) -> Told {
        self.send(Method::POST, address, body, &[("content-type", kind)]).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        address: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Told {
        let mut request = Request::builder().method(method).uri(address);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:7117");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Told { status: parts.status, headers: parts.headers, body }
    }

    pub(super) async fn metrics(&self) -> String {
        self.get("/metrics").await.text()
    }

    /// The moment `seconds` after the first of everything.
    #[expect(clippy::unused_self, reason = "the fixture is whose time it is")]
    pub(super) fn time_ns(&self, seconds: i64) -> i64 {
        NOW.get() - 60_000_000_000 + seconds * 1_000_000_000
    }

    pub(super) fn first_time_ns(&self) -> i64 {
        self.time_ns(0)
    }

    pub(super) fn put_incident(&self, incident_id: &str, state: &str, seconds: i64) {
        let time = TimeNs::new(self.time_ns(seconds));
        let mut rows = Incidents::new(1);
        rows.push(&Incident {
            time_: time,
            incident_id,
            state,
            service: "cart",
            severity: "critical",
            started_at: TimeNs::new(self.time_ns(0)),
            ended_at: if state == "resolved" { time } else { TimeNs::ZERO },
            feature: "latency_p99",
            contributions: "[{\"feature\":\"latency_p99\",\"share\":1.0}]",
            samples: "[]",
            ..Incident::default()
        });
        drop(self.store.append(Frame::captured(&INCIDENTS, rows.finish())).unwrap());
    }

    pub(super) fn fail_check(&self, name: &'static str, detail: &str) {
        let check = Check { name, ok: false, detail: detail.to_owned() };
        *self.status.failing.lock().unwrap() = Some(check);
    }

    /// Takes the place of every query that could run.
    pub(super) fn occupy(&self) -> SemaphorePermit<'_> {
        self.shared.queries.try_acquire_many(2).unwrap()
    }

    /// A real OTLP receiver on a free port.
    #[expect(clippy::unused_self, reason = "reads as what the fixture offers")]
    pub(super) fn receiver(&self) -> Receiver {
        let config = otlp_ingest::Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            request_bytes_max: 1 << 20,
            text_bytes_max: 1 << 20,
            concurrent_requests_max: 4,
            connection_streams_max: 16,
            request_timeout: Duration::from_secs(5),
        };
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
        let ingest = config.build(MemoryStore::new(), clock).unwrap();
        let (address, stats) = (ingest.address(), ingest.stats());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let told_to_stop = stop.clone();
        tasks.spawn(async move { ingest.run(told_to_stop).await.unwrap() });
        Receiver { address, stats, stop, tasks }
    }
}

pub(super) struct Receiver {
    pub(super) address: std::net::SocketAddr,
    stats: Arc<otlp_ingest::Stats>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Receiver {
    pub(super) fn accepted_rows(&self) -> u64 {
        self.stats.accepted_rows()
    }

    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

#[derive(Debug)]
struct TestStatus {
    failing: Mutex<Option<Check>>,
    store: Store,
}

impl Status for TestStatus {
    fn node(&self) -> String {
        "test".to_owned()
    }

    fn checks(&self) -> Vec<Check> {
        let good = Check { name: "store", ok: true, detail: "open".to_owned() };
        vec![self.failing.lock().unwrap().clone().unwrap_or(good)]
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::counter("undine_test_rows_total", "Rows of the test.", 7)]
    }

    fn rows(&self, table: &str) -> Option<TableRows> {
        let table = undine_schema::tables::find(table)?;
        let slices = self.store.snapshot(table).hot();
        let hot = slices.iter().map(|slice| slice.rows.num_rows() as u64).sum();
        Some(TableRows { hot, ..TableRows::default() })
    }
}

fn put_requests(store: &Store, requests: usize) {
    if requests == 0 {
        return;
    }
    let mut rows = HttpEvents::new(requests);
    for at in 0..requests {
        let at_ns = i64::try_from(at).unwrap() * 1_000_000_000;
        rows.push(&HttpEvent {
            time_: TimeNs::new(NOW.get() - 60_000_000_000 + at_ns),
            upid: Upid::new(1, 42, 7),
            trace_role: 2,
            req_method: "GET",
            req_path: "/cart/7",
            req_path_template: "/cart/*",
            resp_status: if at + 1 == requests { 503 } else { 200 },
            latency: 1_000_000 + at_ns / 1000,
            service: "cart",
            ..HttpEvent::default()
        });
    }
    drop(store.append(Frame::captured(&HTTP_EVENTS, rows.finish())).unwrap());
}

fn store(dir: &std::path::Path, clock: &Arc<dyn Clock>) -> Store {
    undine_store::Config {
        dir: dir.to_owned(),
        node: "test".to_owned(),
        tables: undine_schema::tables::ALL.to_vec(),
        followed: vec![&INCIDENTS],
        hot_bytes_max: 16 << 20,
        hot_budgets: Vec::new(),
        hot_pinned_bytes_max: 64 << 20,
        log_queue_bytes_max: 16 << 20,
        log_sync_interval: Duration::from_secs(1),
        commit_interval: Duration::from_millis(10),
        seal_interval: Duration::from_hours(1),
        tiers: vec![Duration::from_secs(10), Duration::from_mins(1)],
        raw_for: None,
        retention: Vec::new(),
        groups_per_window_max: 1000,
        segments_max: 100,
        merge_bytes_per_second_max: None,
        deleted_files_for: Duration::from_hours(1),
        bucket: None,
        on_damage: undine_store::OnDamage::SetAside,
        clock: Arc::clone(clock),
    }
    .build()
    .unwrap()
}

fn engine(store: &Store, clock: &Arc<dyn Clock>) -> undine_query::Engine {
    undine_query::Config {
        store: store.clone(),
        clock: Arc::clone(clock),
        node: "test".to_owned(),
        cluster: "test".to_owned(),
        profiler_period: Some(Duration::from_millis(20)),
        memory_bytes_max: 64 << 20,
        timeout: Duration::from_secs(30),
        runs_max: 4,
        rows_max: 10_000,
        script_bytes_max: 1 << 20,
        depth_max: 100,
        nodes_max: 1000,
        partitions: 1,
        tracer: None,
    }
    .build()
    .unwrap()
}
