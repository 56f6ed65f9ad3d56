//! The engine: one object that runs scripts.

mod compile;
mod run;
mod needs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::catalog::memory::MemoryCatalogProviderList;
use datafusion::common::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::sync::Semaphore;
use tracing::Instrument;
use undine_schema::trace::{TraceError, Tracer};
use undine_schema::{Clock, tables};
use undine_store::Store;

#[cfg(test)]
pub(crate) use self::compile::COMPILER_STACK_BYTES;
pub(crate) use self::run::{answer_schema, is_partial};

use self::compile::{compile, compile_elsewhere, on_large_stack};
use self::needs::{lists_tables, needs_processes, trace_environment};
use self::run::{Run, explanation};
use crate::answer::Answer;
use crate::diagnostics::{Diagnostic, Diagnostics, Range};
use crate::eval::{self, FunctionCall, Mutation, PluginWindow, Program, Sink, Surroundings};
use crate::footers::Footers;
use crate::functions::environment::{self, Environment, Process};
use crate::grouping;
use crate::otel::{self, Endpoint, Export};
use crate::parse::Limits;
use crate::plan::{Fault, Moment, Origin, Planner, bare, has_older, horizon};
use crate::provider::Sources;
use crate::scripts::{self, BuiltIn};
use crate::span::Span;

/// Processes that scripts can look up by upid.
const PROCESSES_MAX: usize = 1_000_000;

/// Settings of an engine. [`build`](Self::build) checks them.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the rows are.
    pub store: Store,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Name of this node: `px._exec_hostname()`.
    pub node: String,
    /// Name of what this node is part of: `px.vizier_name()`, and by it `px.vizier_id()`.
    pub cluster: String,
    /// Time between two samples of a CPU, if it is profiled: `px.GetProfilerSamplingPeriodMS()`.
    pub profiler_period: Option<Duration>,
    /// Bytes that all runs together may hold in memory.
    pub memory_bytes_max: usize,
    /// How long one run may take.
    pub timeout: Duration,
    /// Runs at a time; more wait.
    pub runs_max: usize,
    /// Rows of one result unless the script says otherwise.
    pub rows_max: usize,
    /// Bytes of one script.
    pub script_bytes_max: usize,
    /// Levels of nesting in a script.
    pub depth_max: usize,
    /// Relations that one script may build.
    pub nodes_max: usize,
    /// Threads that one run may keep busy. With 1, rows stay in the order of their arrival.
    pub partitions: usize,
    /// Who traces functions for scripts; without one, such scripts are refused.
    pub tracer: Option<Arc<dyn Tracer>>,
}

/// Why an engine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A setting is out of its bounds.
    #[error("query setting {key} is {value}: {remedy}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// The engine below cannot be set up.
    #[error("cannot set up the query engine")]
    Runtime(#[source] Box<DataFusionError>),
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The script's text.
    pub script: String,
    /// Functions to call after the script itself was evaluated. If there are any, what the script
    /// displays by itself is left out.
    pub functions: Vec<FunctionCall>,
    /// The window of a scheduled run.
    pub plugin: Option<PluginWindow>,
    /// Where exports without an endpoint of their own go.
    pub plugin_endpoint: Option<Endpoint>,
    /// Whether an answer over fewer rows than asked for is an error instead of a note.
    pub strict: bool,
}

/// Why there is no answer.
#[expect(clippy::error_impl_error, reason = "callers name it `query::Error`")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The script is wrong; shows each mistake under its line.
    #[error("{0}")]
    Script(Diagnostics),
    /// The SQL is wrong.
    #[error("cannot run the SQL: {0}")]
    Sql(String),
    /// The run took too long.
    #[error("the run took longer than {0:?}; ask for a shorter range or fewer columns")]
    Timeout(Duration),
    /// The run needs more memory than there is.
    #[error(
        "the run needs more than the {bytes_max} bytes of memory that queries may use; ask for a shorter range or fewer columns"
    )]
    Memory {
        /// The limit over all runs.
        bytes_max: usize,
        /// The cause.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The run failed though the script is right.
    #[error("the run failed")]
    Run(#[source] Box<DataFusionError>),
    /// The compiler's thread could not be started or died.
    #[error("the script could not be compiled")]
    Compiler,
}

/// Runs scripts. Clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    /// What every run's session begins as: to put one together takes longer than a small question.
    session: SessionState,
    footers: Arc<Footers>,
    runs: Semaphore,
    since: i64,
    /// Of the machine; to count them reads files.
    cpus: i64,
}

impl Config {
    /// Checks the settings and builds the engine.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Engine, BuildError> {
        for (key, value) in [
            ("memory_bytes_max", self.memory_bytes_max),
            ("runs_max", self.runs_max),
            ("rows_max", self.rows_max),
            ("script_bytes_max", self.script_bytes_max),
            ("depth_max", self.depth_max),
            ("nodes_max", self.nodes_max),
            ("partitions", self.partitions),
        ] {
            if value == 0 {
                let value = value.to_string();
                return Err(BuildError::Setting { key, value, remedy: "it must be at least 1" });
            }
        }
        if self.depth_max > 200 {
            let value = self.depth_max.to_string();
            let remedy = "it must be at most 200";
            return Err(BuildError::Setting { key: "depth_max", value, remedy });
        }
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(self.memory_bytes_max)))
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
            )
            .build_arc()
            .map_err(|error| BuildError::Runtime(Box::new(error)))?;
        let session = session(self.partitions, runtime);
        let (runs, since) = (Semaphore::new(self.runs_max), self.clock.now().get());
        let footers = Arc::default();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpus = i64::try_from(cpus).unwrap_or(1);
        Ok(Engine { inner: Arc::new(Inner { config: self, session, footers, runs, since, cpus }) })
    }
}

/// A session without tables, with everything that runs use.
fn session(partitions: usize, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    options.execution.parquet.schema_force_view_types = false;
    options.execution.parquet.pushdown_filters = true;
    // Segments come in as many parts as there are cores, cut between rows and not between row groups.
    options.optimizer.repartition_file_scans = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.enable_ident_normalization = false;
    // Tables have many columns and questions use few: the others go first, so that no other rule
    // walks through them. What it does not see before subqueries are joins is left for its turn.
    let mut rules = Optimizer::new().rules;
    let after = rules.iter().rposition(|rule| rule.name().starts_with("decorrelate"));
    rules.insert(after.map_or(0, |at| at + 1), Arc::new(OptimizeProjections::new()));
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(grouping::physical_rules())
        .build()
}

impl Engine {
    /// The scripts that come with Undine.
    pub fn scripts() -> &'static [BuiltIn] {
        scripts::ALL
    }

    /// The script that comes with Undine under `name`.
    pub fn script(name: &str) -> Option<&'static BuiltIn> {
        scripts::ALL.iter().find(|script| script.name == name)
    }

    /// Everything that is wrong with `script`, without running it. It is checked as a scheduled
    /// script that may export.
    pub fn check(&self, script: &str) -> Diagnostics {
        let now = self.inner.config.clock.now();
        let surroundings = Surroundings {
            plugin: Some(PluginWindow { start: now, end: now }),
            has_plugin_endpoint: true,
            ..self.surroundings(&Request::default())
        };
        let (source, rows_max) = (script.to_owned(), self.inner.config.rows_max);
        let compiled = on_large_stack(move || compile(&source, &surroundings, rows_max));
        match compiled {
            Some(Err(diagnostics)) => diagnostics,
            Some(Ok(_)) | None => Diagnostics::new(script, Vec::new()),
        }
    }

    /// Runs a script.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(&self, request: Request) -> Result<Answer, Error> {
        let timeout = self.inner.config.timeout;
        let run = self.run_untimed(request).instrument(tracing::info_span!("pxl run"));
        match tokio::time::timeout(timeout, run).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Error::Timeout(timeout)),
        }
    }

    async fn run_untimed(&self, request: Request) -> Result<Answer, Error> {
        let _running = self.inner.runs.acquire().await.map_err(|_closed| Error::Compiler)?;
        let surroundings = self.surroundings(&request);
        let now = surroundings.now;
        let (source, rows_max) = (request.script.clone(), self.inner.config.rows_max);
        let (mut program, mut pragmas) =
            compile_elsewhere(source.clone(), surroundings, rows_max).await?;
        if !program.mutations.is_empty() {
            self.mutate(&request.script, std::mem::take(&mut program.mutations)).await?;
        }
        if program.awaits_tables {
            // Now its tables are there.
            let surroundings =
                Surroundings { now, is_deployed: true, ..self.surroundings(&request) };
            (program, pragmas) = compile_elsewhere(source, surroundings, rows_max).await?;
        }
        let moment = Moment { now, since: self.inner.since, strict: request.strict };
        let mut run = Run {
            engine: self,
            source: &request.script,
            rows_max: pragmas.rows_max,
            planner: self.planner(moment, &program).await?,
            explained: pragmas.explain.then(Vec::new),
        };
        let roots: Vec<_> = program.sinks.iter().map(|sink| Arc::clone(sink.relation())).collect();
        let shared = run.planner.share(&roots).await;
        shared.map_err(|fault| run.error(fault))?;
        let mut answer = Answer::default();
        for sink in &program.sinks {
            match sink {
                Sink::Table { name, relation } => {
                    answer.tables.push(run.table(name.clone(), relation).await?);
                }
                Sink::Export { relation, spec } => {
                    let table = run.table(String::new(), relation).await?;
                    let rows = table.rows();
                    let messages = otel::build(spec, relation, &table.batches);
                    let endpoint =
                        spec.endpoint.clone().or_else(|| request.plugin_endpoint.clone());
                    answer.exports.push(Export {
                        endpoint,
                        metrics: messages.metrics,
                        spans: messages.spans,
                        rows,
                        notes: table.notes,
                    });
                }
            }
        }
        if let Some(explained) = run.explained.take() {
            answer.tables.push(explanation(&explained).map_err(|error| run.error(error.into()))?);
        }
        Ok(answer)
    }

    /// Deploys tracepoints, and ends them, in the order of the script.
    async fn mutate(&self, source: &str, mutations: Vec<Mutation>) -> Result<(), Error> {
        let tracer = self.inner.config.tracer.clone();
        // It reads files and waits for the kernel.
        let made = tokio::task::spawn_blocking(move || {
            let make = |mutation: Mutation| match (&tracer, mutation) {
                (None, Mutation::Upsert(_, range) | Mutation::Delete(_, range)) => {
                    let message = "functions cannot be traced here";
                    Err(Diagnostic::new(range, message, "nothing is captured by this engine").help(
                        "run it where `undine up` captures and `capture.trace_functions` is set",
                    ))
                }
                (Some(tracer), Mutation::Upsert(tracepoint, range)) => {
                    let instead = eval::tables_instead(&tracepoint.subject);
                    tracer.upsert(tracepoint).map_err(|error| refusal(error, instead, range))
                }
                (Some(tracer), Mutation::Delete(name, range)) => {
                    tracer.delete(&name).map_err(|error| refusal(error, None, range))
                }
            };
            mutations.into_iter().filter_map(|mutation| make(mutation).err()).collect::<Vec<_>>()
        });
        match made.await {
            Ok(refused) if refused.is_empty() => Ok(()),
            Ok(refused) => Err(Error::Script(Diagnostics::new(source, refused))),
            Err(_panicked) => Err(Error::Compiler),
        }
    }

    fn surroundings(&self, request: &Request) -> Surroundings {
        let config = &self.inner.config;
        Surroundings {
            now: config.clock.now().get(),
            plugin: request.plugin,
            has_plugin_endpoint: request.plugin_endpoint.is_some(),
            functions: request.functions.clone(),
            parse_limits: Limits {
                script_bytes_max: config.script_bytes_max,
                depth_max: config.depth_max,
            },
            nodes_max: config.nodes_max,
            traces: config.tracer.as_ref().map(|tracer| tracer.tables()).unwrap_or_default(),
            is_deployed: false,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    /// A session of its own for one run.
    pub(crate) fn session(&self) -> SessionContext {
        let mut state = self.inner.session.clone();
        state.register_catalog_list(Arc::new(MemoryCatalogProviderList::new()));
        SessionContext::new_with_state(state)
    }

    pub(crate) fn sources(&self) -> Sources {
        Sources::new(self.inner.config.store.clone(), Arc::clone(&self.inner.footers))
    }

    fn environment(&self) -> Environment {
        let config = &self.inner.config;
        Environment {
            node: config.node.clone(),
            cluster: config.cluster.clone(),
            cpus: self.inner.cpus,
            profiler_period_ms: config
                .profiler_period
                .map(|period| i64::try_from(period.as_millis()).unwrap_or(i64::MAX)),
            tables: Vec::new(),
            processes: HashMap::new(),
            pods: HashMap::new(),
            traces: HashMap::new(),
            trace_columns: Vec::new(),
            tracepoints: Vec::new(),
        }
    }

    async fn planner(&self, moment: Moment, program: &Program) -> Result<Planner, Error> {
        let mut environment = self.environment();
        if program.sinks.iter().any(|sink| needs_processes(sink.relation())) {
            environment.processes = self.processes(moment).await?;
            environment.pods = environment::pods(&environment.processes);
        }
        if program.sinks.iter().any(|sink| lists_tables(sink.relation())) {
            environment.tables = self.inner.config.store.stats().tables;
        }
        if let Some(tracer) = &self.inner.config.tracer {
            trace_environment(&mut environment, tracer.as_ref(), program);
        }
        let environment = Arc::new(environment);
        Ok(Planner::new(self.session(), self.sources(), environment, moment))
    }

    pub(crate) fn plain_planner(&self, context: SessionContext, moment: Moment) -> Planner {
        Planner::new(context, self.sources(), Arc::new(self.environment()), moment)
    }

    /// What is known of each process, the newest version of it.
    async fn processes(&self, moment: Moment) -> Result<HashMap<[u8; 16], Process>, Error> {
        let mut planner = self.plain_planner(self.session(), moment);
        let snapshot = planner.snapshot(&tables::PROCESSES);
        let since = horizon(&snapshot);
        let from = if has_older(&snapshot, since) { since } else { i64::MIN };
        let everything = Span { from, ..Span::ALL };
        let mut origin = Origin::default();
        let fields =
            ["cmdline", "service", "pod", "namespace", "node", "container", "container_id"];
        let collected = async {
            let rows = planner.rows_in(&tables::PROCESSES, &snapshot, everything, &mut origin)?;
            let columns = ["time_", "upid"].into_iter().chain(fields).map(bare);
            let plan = LogicalPlanBuilder::from(rows).project(columns)?.build()?;
            planner.execute(plan).await
        };
        let batches = collected.await.map_err(|fault| self.run_error(fault))?;
        let mut processes: HashMap<[u8; 16], (i64, Process)> = HashMap::new();
        for batch in &batches {
            let times = batch.column(0).as_primitive::<Int64Type>();
            let upids = batch.column(1).as_fixed_size_binary();
            for row in 0..batch.num_rows() {
                let Ok(upid) = <[u8; 16]>::try_from(upids.value(row)) else { continue };
                let time = times.value(row);
                let known = processes.get(&upid);
                let newer = known.is_none_or(|(before, _)| *before <= time);
                if !newer || (known.is_none() && processes.len() == PROCESSES_MAX) {
                    continue;
                }
                let text =
                    |at: usize| batch.column(at + 2).as_string::<i32>().value(row).to_owned();
                let process = Process {
                    cmdline: text(0),
                    service: text(1),
                    pod: text(2),
                    namespace: text(3),
                    node: text(4),
                    container: text(5),
                    container_id: text(6),
                };
                processes.insert(upid, (time, process));
            }
        }
        Ok(processes.into_iter().map(|(upid, (_, process))| (upid, process)).collect())
    }

    pub(crate) fn run_error(&self, fault: Fault) -> Error {
        match fault {
            Fault::Script(diagnostic) => Error::Script(Diagnostics::new("", vec![diagnostic])),
            Fault::Engine(error) => match error.find_root() {
                DataFusionError::ResourcesExhausted(_) => Error::Memory {
                    bytes_max: self.inner.config.memory_bytes_max,
                    source: Box::new(error),
                },
                _ => Error::Run(Box::new(error)),
            },
        }
    }
}

/// Why a tracer refused, and what to do: read the tables that hold the same `instead`, if any do.
fn refusal(error: TraceError, instead: Option<&str>, range: Range) -> Diagnostic {
    let tables = instead.map(|tables| format!("Undine keeps this all the time: read {tables}"));
    let help = [Some(error.help).filter(|help| !help.is_empty()), tables];
    let help: Vec<_> = help.into_iter().flatten().collect();
    let help = (!help.is_empty()).then(|| help.join("; "));
    Diagnostic::new(range, error.reason, "refused").maybe_help(help)
}
