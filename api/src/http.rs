//! The HTTP API and the page.
//!
//! ```text
//! connection ── guard (Host, Origin) ── time limit ── route ──► Engine ──► JSON, NDJSON, CSV, Arrow
//!                                                       └ page, probes, metrics      └ exports ──► OTLP
//! ```
//!
//! Every failure is a problem document. `/api/v1/query*` is left to Prometheus clients.

pub(crate) mod problem;
mod metrics;
mod guard;
mod server;
mod cells;
mod format;
mod answer;
mod pxl;
mod catalog;
mod incidents;
mod probes;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use undine_query::Engine;
use undine_schema::Clock;

pub use self::metrics::{Metric, MetricKind, MetricReader, Sample};
pub use self::probes::{Check, Status, TableRows};

use self::guard::Guard;
use self::metrics::{Refusal, Route};
use self::problem::Problem;
use self::server::Server;
use crate::metrics::ComponentMetrics;
use crate::otlp_export::ExportSink;
use crate::ui;

/// How long a question waits for others to end; as many can wait as connections are open.
const ADMIT_WAIT: Duration = Duration::from_secs(1);

/// Where the HTTP server listens and how much it does at once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// Host names under which the server is reached, beside addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// Largest request body in bytes.
    pub body_bytes_max: usize,
    /// Largest answer in bytes, before it is sent.
    pub answer_bytes_max: usize,
    /// Questions to the engine that run at the same time; more wait a second and are then told to
    /// come back.
    pub queries_max: usize,
    /// Connections that are open at the same time; more wait to be accepted.
    pub connections_max: usize,
    /// How long a request may take from its head to its answer's head.
    pub request_timeout: Duration,
    /// How long a connection may take to send a request's head, or stay idle.
    pub header_timeout: Duration,
    /// How long requests in flight may take to end once the server stops.
    pub drain_timeout: Duration,
}

/// What the HTTP server asks and shows.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    /// Answers scripts and SQL.
    pub(crate) engine: Engine,
    /// Sends what scripts export.
    pub(crate) exports: Arc<ExportSink>,
    /// The time, for answers.
    pub(crate) clock: Arc<dyn Clock>,
    /// How the appliance is.
    pub(crate) status: Arc<dyn Status>,
    /// What the other parts of this crate count.
    pub(crate) metrics: Arc<ComponentMetrics>,
}

/// Why the HTTP server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address is not free or not ours.
    #[error(
        "cannot listen for HTTP on {listen}; stop the program that uses it or choose another address"
    )]
    Listen {
        /// The configured address.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A limit of zero lets nothing through.
    #[error("the HTTP limit {name} is 0, so no request could be answered; set at least 1")]
    ZeroLimit {
        /// The field of [`Config`].
        name: &'static str,
    },
}

/// The HTTP server, bound and not serving yet.
#[derive(Debug)]
pub(crate) struct Http {
    server: Server,
    local_addr: SocketAddr,
    metrics: MetricReader,
}

impl Config {
    /// Binds the address and lays out the routes.
    ///
    /// # Errors
    /// When the address cannot be had or a limit is zero.
    pub(crate) fn build(self, inputs: Inputs) -> Result<Http, BuildError> {
        for (name, limit) in [
            ("body_bytes_max", self.body_bytes_max),
            ("answer_bytes_max", self.answer_bytes_max),
            ("queries_max", self.queries_max),
            ("connections_max", self.connections_max),
        ] {
            if limit == 0 {
                return Err(BuildError::ZeroLimit { name });
            }
        }
        let listen = self.listen;
        let refused = |cause| BuildError::Listen { listen, cause };
        let listener = TcpListener::bind(listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        let metrics = MetricReader::new(&inputs);
        let server = Server {
            listener,
            router: router(Shared::new(&self, inputs, metrics.clone())),
            metrics: Arc::clone(&metrics.http),
            connections_max: self.connections_max,
            header_timeout: self.header_timeout,
            drain_timeout: self.drain_timeout,
        };
        Ok(Http { server, local_addr, metrics })
    }
}

impl Http {
    /// Where the server listens.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Reads every metric that `/metrics` shows.
    pub(crate) fn metrics(&self) -> MetricReader {
        self.metrics.clone()
    }

    /// Serves until `shutdown` fires and requests in flight have ended.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        self.server.run(shutdown).await;
    }
}

/// What every request may need.
#[derive(Debug)]
struct Shared {
    engine: Engine,
    exports: Arc<ExportSink>,
    clock: Arc<dyn Clock>,
    status: Arc<dyn Status>,
    metrics: MetricReader,
    guard: Guard,
    queries: Semaphore,
    body_bytes_max: usize,
    answer_bytes_max: usize,
    request_timeout: Duration,
}

impl Shared {
    fn new(config: &Config, inputs: Inputs, metrics: MetricReader) -> Arc<Self> {
        let Inputs { engine, exports, clock, status, metrics: _ } = inputs;
        let allowed_hosts =
            config.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Arc::new(Self {
            engine,
            exports,
            clock,
            status,
            metrics,
            guard: Guard { allowed_hosts },
            queries: Semaphore::new(config.queries_max),
            body_bytes_max: config.body_bytes_max,
            answer_bytes_max: config.answer_bytes_max,
            request_timeout: config.request_timeout,
        })
    }

    /// Lets a question through to the engine, or tells its sender to come back.
    async fn admit(&self) -> Result<SemaphorePermit<'_>, Problem> {
        if let Ok(Ok(permit)) = tokio::time::timeout(ADMIT_WAIT, self.queries.acquire()).await {
            return Ok(permit);
        }
        self.metrics.http.refused(Refusal::Queries);
        Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_queries",
            "as many queries are running as may run at the same time",
        )
        .hint("try again in a second")
        .retry_after(Duration::from_secs(1)))
    }
}

type AppState = State<Arc<Shared>>;

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/v1/pxl:run", post(pxl::run))
        .route("/api/v1/pxl:check", post(pxl::check))
        .route("/api/v1/sql", post(pxl::sql))
        .route("/api/v1/tables", get(catalog::tables))
        .route("/api/v1/scripts", get(catalog::scripts))
        .route("/api/v1/openapi.json", get(catalog::openapi))
        .route("/api/v1/incidents", get(incidents::list))
        .route("/healthz", get(probes::alive))
        .route("/livez", get(probes::alive))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/", get(ui::page))
        .route("/assets/{name}", get(ui::asset))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), watch))
        .with_state(shared)
}

async fn not_found(request: Request) -> Problem {
    let detail = format!("there is nothing at {}", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
        .hint("/api/v1/openapi.json lists what there is")
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        .hint("/api/v1/openapi.json lists which methods there are")
}

/// Guards, times and counts every request, and sets the headers that every answer has.
async fn watch(State(shared): AppState, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = Route::of(request.uri().path());
    let guarded = shared.guard.check(request.method(), request.uri().path(), request.headers());
    let mut response = match guarded {
        Err((refusal, problem)) => {
            shared.metrics.http.refused(refusal);
            problem.into_response()
        }
        Ok(()) => answer(&shared, route, request, next).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    shared.metrics.http.answered(route, response.status(), began.elapsed());
    response
}

/// Lets a request through to its route, for as long as it may take.
async fn answer(shared: &Shared, route: Route, request: Request, next: Next) -> Response {
    let span = tracing::info_span!("http request", otel.kind = "server", ?route);
    match tokio::time::timeout(shared.request_timeout, next.run(request).instrument(span)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            shared.metrics.http.refused(Refusal::Timeout);
            timed_out(shared.request_timeout).into_response()
        }
    }
}

fn timed_out(after: Duration) -> Problem {
    let detail = format!("the request took longer than {after:?} and was stopped");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
        .hint("ask for a shorter range or fewer groups, or raise query.timeout")
}
