//! The appliance: every component, built, connected, run and drained.
//!
//! ```text
//! host ─┐                              host statistics, collector, model, API and the store's own work
//! collector ──► store ◄── model        each run until their token fires; they are stopped in this
//!                 ▲                    order, so that nothing that is still to come finds its reader
//!              engine ◄── API          gone
//! ```

mod settings;
mod spare_memory;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_api::Api;
use undine_api::http::MetricReader;
use undine_collector::host::Host;
use undine_collector::{Collector, Handle};
use undine_ml::Model;
use undine_query::Engine;
use undine_schema::{Append, Clock, Feed, SystemClock};
use undine_store::{Store, TableStats};

use crate::config::RawConfig;
use status::ApplianceStatus;

pub use settings::{
    bare_collector, cgroup_source, engine, export_sink, question, store_by_default,
};
pub use spare_memory::give_back_memory;

/// How long all components together may take to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);

/// All components, connected and silent.
#[derive(Debug)]
pub struct Appliance {
    host: Option<Host>,
    collector: Option<Collector>,
    model: Option<Model>,
    api: Api,
    store: Store,
    handles: Handles,
}

/// What may be asked of a running appliance from within its process.
#[derive(Clone, Debug)]
pub struct Handles {
    /// The store.
    pub store: Store,
    /// The query engine.
    pub engine: Engine,
    /// Where the page and the HTTP API are.
    pub http: SocketAddr,
    /// Reads what `/metrics` shows.
    pub metrics: MetricReader,
    collector: Option<Handle>,
    model: Option<Arc<undine_ml::Stats>>,
}

impl Handles {
    /// Waits until everything that happened before the call is a row that readers see.
    ///
    /// # Errors
    /// Where the collector has ended.
    pub async fn drain(&self) -> Result<()> {
        if let Some(collector) = &self.collector {
            collector.drain().await.context("cannot drain the collector")?;
        }
        Ok(())
    }

    /// What the store holds of a table; zeroes for a table that it does not keep.
    pub fn table(&self, name: &str) -> TableStats {
        self.store.stats().tables.into_iter().find(|table| table.table == name).unwrap_or_default()
    }

    /// Socket operations in scope that did not reach the collector.
    pub fn operations_lost(&self) -> u64 {
        self.collector.as_ref().map_or(0, |collector| collector.stats().kernel.dropped_operations)
    }

    /// Whether a recording was replayed to its end.
    pub fn replay_ended(&self) -> bool {
        self.collector.as_ref().is_some_and(|collector| collector.stats().ended)
    }

    /// Rows of `http_events` that the model has read.
    pub fn rows_seen_by_model(&self) -> u64 {
        self.model.as_ref().map_or(0, |model| model.snapshot().rows_seen)
    }
}

impl Appliance {
    /// Builds every component, so that whatever is wrong is known before anything has begun.
    ///
    /// # Errors
    /// Names the component, what it could not use and what to do.
    pub(crate) async fn build(config: RawConfig) -> Result<Self> {
        // Reading the log back and loading kernel programs hold the thread for a while.
        tokio::task::spawn_blocking(move || Self::build_all(&config))
            .await
            .context("building panicked")?
    }

    fn build_all(config: &RawConfig) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let node = settings::node(config)?;
        let store = settings::store(config, &node, &clock)?.build()?;
        let append: Arc<dyn Append> = Arc::new(store.clone());
        let feed: Arc<dyn Feed> = Arc::new(store.clone());
        let model = config
            .model
            .enabled
            .then(|| {
                settings::model(config).build(
                    Arc::clone(&feed),
                    Arc::clone(&append),
                    Arc::clone(&clock),
                )
            })
            .transpose()?;
        let collector = config
            .capture
            .enabled
            .then(|| {
                anyhow::Ok(settings::collector(config, &node, &clock)?.build(Arc::clone(&append))?)
            })
            .transpose()?;
        let handle = collector.as_ref().map(Collector::handle);
        let may_trace = config.capture.trace_functions;
        let tracer = handle.as_ref().filter(|_| may_trace).and_then(Handle::tracer);
        let engine = settings::query(config, &store, &node, &clock, tracer).build()?;
        let host = handle
            .as_ref()
            .and_then(|collector| settings::host(config, &node, &clock, collector))
            .map(|host| host.build(Arc::clone(&append)))
            .transpose()?;
        let model_stats = model.as_ref().map(Model::stats);
        let status = ApplianceStatus::new(node, store.clone(), handle.clone(), model_stats.clone());
        let inputs = undine_api::Inputs {
            engine: engine.clone(),
            append,
            feed,
            clock,
            status: Arc::new(status),
        };
        let api = settings::api(config)?.build(inputs)?;
        let handles = Handles {
            store: store.clone(),
            engine,
            http: api.http_addr(),
            metrics: api.metrics(),
            collector: handle,
            model: model_stats,
        };
        Ok(Self { host, collector, model, api, store, handles })
    }

    /// A hand on what is about to run.
    pub fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// Runs until `shutdown` fires and everything is drained.
    ///
    /// # Errors
    /// When a component ends by itself, or is not done stopping in time; both are named.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let mut stages = Vec::new();
        if let Some(host) = self.host {
            stages.push(Stage::start("host statistics", |stop| async {
                host.run(stop).await.map_err(Into::into)
            }));
        }
        if let Some(collector) = self.collector {
            stages.push(Stage::start("collector", |stop| async {
                collector.run(stop).await.map_err(Into::into)
            }));
        }
        if let Some(model) = self.model {
            stages.push(Stage::start("model", |stop| async {
                model.run(stop).await;
                Ok(())
            }));
        }
        stages.push(Stage::start("API", |stop| async {
            self.api.run(stop).await.map_err(Into::into)
        }));
        stages.push(Stage::start("store", |stop| async {
            self.store.run(stop).await;
            Ok(())
        }));
        stages.push(Stage::start("memory", spare_memory::give_back_until));
        let early = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            early = first_to_end(&mut stages) => early,
        };
        early.and(stop_all(stages).await)
    }
}

/// A running component with a token of its own.
struct Stage {
    name: &'static str,
    stop: CancellationToken,
    task: JoinSet<Result<()>>,
}

impl Stage {
    fn start<F>(name: &'static str, run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = JoinSet::from_iter([run(stop.clone())]);
        Self { name, stop, task }
    }

    /// Waits for the component's end, which is an error if nobody told it to stop.
    async fn ended(&mut self) -> Result<()> {
        match self.task.join_next().await {
            None => std::future::pending().await,
            Some(Ok(Ok(()))) if self.stop.is_cancelled() => Ok(()),
            Some(Ok(Ok(()))) => bail!("the {} ended by itself", self.name),
            Some(Ok(Err(error))) => Err(error.context(format!("the {} failed", self.name))),
            Some(Err(panic)) => {
                Err(anyhow::Error::new(panic).context(format!("the {} panicked", self.name)))
            }
        }
    }
}

async fn first_to_end(stages: &mut [Stage]) -> Result<()> {
    let ends = stages.iter_mut().map(|stage| Box::pin(stage.ended()));
    futures::future::select_all(ends).await.0
}

/// Stops one component after the other, all under one deadline.
async fn stop_all(stages: Vec<Stage>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + STOP_TIME_MAX;
    let mut outcome = Ok(());
    for mut stage in stages {
        stage.stop.cancel();
        if stage.task.is_empty() {
            continue;
        }
        let ended = match tokio::time::timeout_at(deadline, stage.ended()).await {
            Ok(ended) => ended,
            Err(_late) => {
                Err(anyhow::anyhow!("the {} did not stop within {STOP_TIME_MAX:?}", stage.name))
            }
        };
        if let Err(error) = &ended {
            tracing::error!(component = stage.name, error = %format!("{error:#}"), "did not stop cleanly");
        }
        outcome = outcome.and(ended);
    }
    outcome
}
