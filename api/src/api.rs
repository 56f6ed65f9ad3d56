//! Everything through which the world talks to Undine, as one component.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_query::Engine;
use undine_schema::{Append, Clock, Feed};

use crate::export_scheduler::{
    self, ExportScheduler, ExportScript, RunScript, ScriptError, Window,
};
use crate::http::{self, Http, MetricReader, Status};
use crate::metrics::ComponentMetrics;
use crate::otlp_export::{self, Export};
use crate::otlp_ingest::{self, OtlpIngest};
use crate::webhook::{self, Webhooks};

/// What is listened on and sent to.
#[derive(Clone, Debug)]
pub struct Config {
    /// The HTTP API and the page.
    pub http: http::Config,
    /// OTLP that is taken; none to take none.
    pub otlp: Option<otlp_ingest::Config>,
    /// How exports are sent.
    pub otlp_export: otlp_export::Config,
    /// Scripts that export on a schedule.
    pub exports: export_scheduler::Config,
    /// Who is told about incidents.
    pub webhooks: webhook::Config,
}

/// What the API is connected to.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Answers scripts and SQL.
    pub engine: Engine,
    /// Takes rows.
    pub append: Arc<dyn Append>,
    /// Gives rows in order.
    pub feed: Arc<dyn Feed>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How the appliance is.
    pub status: Arc<dyn Status>,
}

/// Why the API cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The HTTP server.
    #[error(transparent)]
    Http(#[from] http::BuildError),
    /// OTLP that is taken.
    #[error(transparent)]
    Otlp(#[from] otlp_ingest::BuildError),
    /// OTLP that is sent.
    #[error(transparent)]
    OtlpExport(#[from] otlp_export::BuildError),
    /// Scheduled exports.
    #[error(transparent)]
    Exports(#[from] export_scheduler::BuildError),
    /// Webhooks.
    #[error(transparent)]
    Webhooks(#[from] webhook::BuildError),
}

/// Why the API ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// OTLP can no longer be taken.
    #[error("the OTLP server ended")]
    Otlp(#[from] otlp_ingest::RunError),
    /// A part panicked or returned early.
    #[error("the {part} ended before undine was told to stop")]
    Ended {
        /// The part's name.
        part: &'static str,
        /// The panic, where there was one.
        #[source]
        cause: Option<tokio::task::JoinError>,
    },
}

/// All of the API, bound and not serving yet.
#[derive(Debug)]
pub struct Api {
    http: Http,
    otlp: Option<OtlpIngest>,
    exports: ExportScheduler,
    webhooks: Webhooks,
}

impl Config {
    /// Checks everything and binds all addresses.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self, inputs: Inputs) -> Result<Api, BuildError> {
        let Inputs { engine, append, feed, clock, status } = inputs;
        let sink = Arc::new(self.otlp_export.build()?);
        let runner: Arc<dyn RunScript> = Arc::new(EngineRuns(engine.clone()));
        let otlp = self
            .otlp
            .map(|otlp| otlp.build(Arc::clone(&append), Arc::clone(&clock)))
            .transpose()?;
        let webhooks = self.webhooks.build(&feed, Arc::clone(&append), Arc::clone(&clock))?;
        let exports = self.exports.build(&runner, &sink, append, Arc::clone(&clock))?;
        let metrics = Arc::new(ComponentMetrics {
            otlp: otlp.as_ref().map(OtlpIngest::stats),
            webhooks: webhooks.stats(),
            exports: exports.stats(),
        });
        let http =
            self.http.build(http::Inputs { engine, exports: sink, clock, status, metrics })?;
        Ok(Api { http, otlp, exports, webhooks })
    }
}

impl Api {
    /// Where the HTTP API and the page are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// Reads every metric of the process, as `/metrics` shows them.
    pub fn metrics(&self) -> MetricReader {
        self.http.metrics()
    }

    /// Where OTLP is taken, if it is.
    pub fn otlp_addr(&self) -> Option<SocketAddr> {
        self.otlp.as_ref().map(OtlpIngest::address)
    }

    /// Serves until `shutdown` fires and every part has drained.
    ///
    /// # Errors
    /// When a part ends by itself; the others are then drained too.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let stop = shutdown.child_token();
        let mut parts: JoinSet<Result<(), RunError>> = JoinSet::new();
        let mut names = HashMap::new();
        let mut spawn = |name: &'static str, part: BoxFuture<'static, Result<(), RunError>>| {
            names.insert(parts.spawn(part).id(), name);
        };
        let told_to_stop = stop.clone();
        let http = self.http.run(stop.clone()).map(move |()| {
            let early = RunError::Ended { part: "HTTP server", cause: None };
            if told_to_stop.is_cancelled() { Ok(()) } else { Err(early) }
        });
        spawn("HTTP server", http.boxed());
        // These two end by themselves where there is nothing to export and nobody to tell.
        spawn("export scheduler", self.exports.run(stop.clone()).map(Ok).boxed());
        spawn("webhook sender", self.webhooks.run(stop.clone()).map(Ok).boxed());
        if let Some(otlp) = self.otlp {
            let run = otlp.run(stop.clone()).map(|ended| ended.map_err(RunError::Otlp));
            spawn("OTLP server", run.boxed());
        }
        let mut outcome = Ok(());
        while let Some(ended) = parts.join_next().await {
            let failure = match ended {
                Ok(ended) => ended.err(),
                Err(cause) => {
                    let part = names.get(&cause.id()).copied().unwrap_or("API");
                    Some(RunError::Ended { part, cause: Some(cause) })
                }
            };
            if let Some(error) = failure {
                stop.cancel();
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }
}

/// Runs scheduled scripts on the engine.
#[derive(Debug)]
struct EngineRuns(Engine);

impl RunScript for EngineRuns {
    fn run<'a>(
        &'a self,
        script: &'a ExportScript,
        window: Window,
    ) -> BoxFuture<'a, Result<Vec<Export>, ScriptError>> {
        let request = undine_query::Request {
            script: script.script.clone(),
            functions: Vec::new(),
            plugin: Some(undine_query::PluginWindow { start: window.start, end: window.last() }),
            plugin_endpoint: script.endpoint.clone().map(|endpoint| {
                let otlp_export::Endpoint { url, headers, insecure, timeout } = endpoint;
                undine_query::Endpoint { url, headers, insecure, timeout }
            }),
            strict: false,
        };
        async move {
            let answer = self.0.run(request).await?;
            Ok(answer.exports.into_iter().map(Export::from).collect())
        }
        .boxed()
    }
}

impl From<undine_query::Export> for Export {
    fn from(export: undine_query::Export) -> Self {
        let undine_query::Export { endpoint, metrics, spans, .. } = export;
        let endpoint = endpoint.map(|endpoint| {
            let undine_query::Endpoint { url, headers, insecure, timeout } = endpoint;
            otlp_export::Endpoint { url, headers, insecure, timeout }
        });
        Self { endpoint, metrics, spans }
    }
}
