//! From the configuration file to each component's own settings.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use undine_api::delivery::RetryPolicy;
use undine_api::export_scheduler::{self, ExportScript};
use undine_api::otlp_export::{self, Compression, ExportSink};
use undine_api::webhook::{self, Format, LinkLocal, Secret};
use undine_api::{http, otlp_ingest};
use undine_collector::{
    Handle, Mode, Object, Pace, Placing, Programs, Redaction, Scope, ScopeDefault, ScopeGuard,
    SourceConfig, Target, Tls, profiler, recording,
};
use undine_query::Engine;
use undine_schema::trace::Tracer;
use undine_schema::{Clock, SystemClock, tables};
use undine_store::{Bucket, BucketConfig, Eviction, HotBudget, OnDamage, Store};

use crate::config::{
    self, ByteSize, Capture, Evict, Export, Hooks, HotTable, Plugins, Profiler, RawConfig, Webhook,
    WebhookFormat,
};

const MIB: usize = 1024 * 1024;
/// How long a receiver of exports may take to answer.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(5);

/// The node's name: as configured, otherwise the host's.
pub(super) fn node(config: &RawConfig) -> Result<String> {
    if !config.node.is_empty() {
        return Ok(config.node.clone());
    }
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the host's name; set node")?;
    Ok(name.trim().to_owned())
}

fn retention(rule: &config::Retention) -> undine_store::Retention {
    undine_store::Retention {
        table: rule.table.clone(),
        tier: rule.tier.clone(),
        age_max: rule.age_max,
        bytes_max: rule.size_max.map(|size| size.as_usize() as u64),
    }
}

pub(super) fn store(
    config: &RawConfig,
    node: &str,
    clock: &Arc<dyn Clock>,
) -> Result<undine_store::Config> {
    let raw_for = Some(config.store.raw_for).filter(|keep| !keep.is_zero());
    let merge_rate = Some(config.store.merge_rate_max.as_usize() as u64).filter(|&rate| rate > 0);
    Ok(undine_store::Config {
        dir: config.data_dir.clone(),
        node: node.to_owned(),
        tables: tables::ALL.to_vec(),
        // The model's requests, and what is sent to webhooks.
        followed: vec![&tables::HTTP_EVENTS, &tables::INCIDENTS],
        hot_bytes_max: config.store.hot_size_max.as_usize(),
        hot_budgets: config.store.hot_tables.iter().map(hot_budget).collect(),
        hot_pinned_bytes_max: config.store.hot_pinned_size_max.as_usize(),
        log_queue_bytes_max: 64 * MIB,
        log_sync_interval: config.store.log_sync_interval,
        commit_interval: Duration::from_millis(10),
        seal_interval: config.store.seal_interval,
        tiers: config.store.tiers.clone(),
        raw_for,
        retention: config.store.retention.iter().map(retention).collect(),
        groups_per_window_max: 10_000,
        segments_max: 64,
        merge_bytes_per_second_max: merge_rate,
        deleted_files_for: Duration::from_hours(24),
        bucket: bucket(&config.store)?,
        on_damage: if config.store.strict { OnDamage::Refuse } else { OnDamage::SetAside },
        clock: Arc::clone(clock),
    })
}

/// Where segments go, where a bucket is configured.
fn bucket(store: &config::Store) -> Result<Option<BucketConfig>> {
    if store.bucket.is_empty() {
        return Ok(None);
    }
    Ok(Some(BucketConfig {
        bucket: Arc::new(Bucket::open(&store.bucket)?),
        spool_bytes_max: store.spool_size_max.as_usize() as u64,
        cache_bytes_max: store.cache_size_max.as_usize() as u64,
        upload_interval: store.upload_interval,
        deleted_files_for: Duration::from_hours(7 * 24),
    }))
}

fn hot_budget(table: &HotTable) -> HotBudget {
    HotBudget {
        table: table.table.clone(),
        share_percent: table.share,
        bytes_max: table.size_max.map(ByteSize::as_usize),
        eviction: table.evict.map(|evict| match evict {
            Evict::Oldest => Eviction::Oldest,
            Evict::SealedOnly => Eviction::SealedOnly,
        }),
    }
}

pub(super) fn query(
    config: &RawConfig,
    store: &Store,
    node: &str,
    clock: &Arc<dyn Clock>,
    tracer: Option<Arc<dyn Tracer>>,
) -> undine_query::Config {
    undine_query::Config {
        store: store.clone(),
        clock: Arc::clone(clock),
        node: node.to_owned(),
        cluster: node.to_owned(),
        profiler_period: (config.profiler.frequency_hz > 0)
            .then(|| Duration::from_secs(1) / config.profiler.frequency_hz),
        memory_bytes_max: config.query.memory_size_max.as_usize(),
        timeout: config.query.timeout,
        runs_max: 8,
        rows_max: config.query.rows_max,
        script_bytes_max: MIB,
        depth_max: 64,
        nodes_max: 10_000,
        partitions: config.query.threads,
        tracer,
    }
}

/// A store in `dir` with the default settings.
///
/// # Errors
/// Where the defaults cannot be used.
pub fn store_by_default(dir: &Path, clock: &Arc<dyn Clock>) -> Result<undine_store::Config> {
    let config = config::load(None, Vec::new())?;
    Ok(undine_store::Config { dir: dir.to_owned(), ..store(&config, "node", clock)? })
}

/// An engine over `store` with the default limits.
///
/// # Errors
/// Where the defaults cannot be used.
pub fn engine(store: &Store, node: &str) -> Result<Engine> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(query(&config::load(None, Vec::new())?, store, node, &clock, None).build()?)
}

/// A run of a script as it is.
pub fn question(script: &str) -> undine_query::Request {
    undine_query::Request {
        script: script.to_owned(),
        functions: Vec::new(),
        plugin: None,
        plugin_endpoint: None,
        strict: false,
    }
}

pub(super) fn model(config: &RawConfig) -> undine_ml::Config {
    undine_ml::Config {
        window: config.model.window,
        lateness: Duration::from_secs(1),
        warmup_windows: 12,
        memory_windows: 120,
        open_decades: 5.0,
        resolve_windows: 4,
        relearn_after: Duration::from_mins(30),
        latency_resolution: Duration::from_millis(1),
        silence: undine_ml::Silence::AnomalyOnly,
        entities_max: 1000,
        edges_max: 4000,
        state_path: Some(config.data_dir.join("model.json")),
        state_interval: Duration::from_mins(1),
    }
}

pub(super) fn collector(
    config: &RawConfig,
    node: &str,
    clock: &Arc<dyn Clock>,
) -> Result<undine_collector::Config> {
    let capture = &config.capture;
    Ok(undine_collector::Config {
        source: source(capture)?,
        node: node.to_owned(),
        asid: 1,
        connections_max: 128 * 1024,
        body_bytes_max: capture.body_size_max.as_usize(),
        redaction: Redaction { headers: capture.headers, bodies: capture.bodies },
        service_rules: capture.services.clone(),
        conn_stats_interval: capture.conn_stats_interval,
        flush_interval: Duration::from_millis(200),
        profiler: profiler(config),
        recording: recording(capture),
        programs: if capture.trace_programs { Programs::Run } else { Programs::Refuse },
        clock: Arc::clone(clock),
    })
}

fn recording(capture: &Capture) -> Option<recording::Config> {
    let (path, content) = (capture.recording.clone(), capture.recording_content);
    (!path.as_os_str().is_empty()).then_some(recording::Config { path, content })
}

fn profiler(config: &RawConfig) -> Option<profiler::Config> {
    let Profiler { frequency_hz, interval } = config.profiler;
    (frequency_hz > 0).then_some(profiler::Config {
        frequency_hz,
        interval,
        kernel_stacks_max: None,
    })
}

/// What reads the host's statistics; `None` where there is nothing to read, or it is not to be.
pub(super) fn host(
    config: &RawConfig,
    node: &str,
    clock: &Arc<dyn Clock>,
    collector: &Handle,
) -> Option<undine_collector::host::Config> {
    let host = &config.host;
    let is_read = !host.interval.is_zero() && collector.control().is_some();
    is_read.then(|| undine_collector::host::Config {
        collector: collector.clone(),
        interval: host.interval,
        processes_max: host.processes_max,
        cgroups_max: host.cgroups_max,
        service_rules: config.capture.services.clone(),
        node: node.to_owned(),
        clock: Arc::clone(clock),
    })
}

fn source(capture: &Capture) -> Result<SourceConfig> {
    if !capture.replay.as_os_str().is_empty() {
        return Ok(SourceConfig::Replay { path: capture.replay.clone(), pace: Pace::RealTime });
    }
    let targets = |texts: &[String]| {
        texts.iter().map(|text| text.parse()).collect::<Result<Vec<Target>, _>>()
    };
    let include = targets(&capture.targets).context("capture.targets")?;
    let default =
        if include.is_empty() { ScopeDefault::WholeHost } else { ScopeDefault::TargetsOnly };
    let exclude = targets(&capture.exclude).context("capture.exclude")?;
    let guard = if config::scope_is_required() { ScopeGuard::Required } else { ScopeGuard::Open };
    let ring_bytes = u32::try_from(capture.ring_size.as_usize()).with_context(|| {
        format!("capture.ring_size is {}; write at most \"512MiB\"", capture.ring_size)
    })?;
    let hooks = match capture.hooks {
        Hooks::Auto => None,
        Hooks::SocketLength => Some(undine_collector::Hooks::SocketLength),
        Hooks::SocketFunctions => Some(undine_collector::Hooks::SocketFunctions),
        Hooks::SysExit => Some(undine_collector::Hooks::SysExit),
    };
    let scope = Scope { default, include, exclude };
    let tls = if capture.tls { Tls::Read(Placing::Best) } else { Tls::Leave };
    let object = Object::Fitting;
    Ok(SourceConfig::Kernel { scope, guard, hooks, ring_bytes, object, tls })
}

/// The kernel, of which only one cgroup is watched.
pub fn cgroup_source(cgroup: &Path, ring_bytes: u32) -> SourceConfig {
    let include = vec![Target::Cgroup(cgroup.to_path_buf())];
    let scope = Scope { default: ScopeDefault::TargetsOnly, include, exclude: Vec::new() };
    let (guard, object) = (ScopeGuard::Required, Object::Fitting);
    let tls = Tls::Leave;
    SourceConfig::Kernel { scope, guard, hooks: None, ring_bytes, object, tls }
}

/// A collector that keeps bodies and headers as they are.
pub fn bare_collector(source: SourceConfig) -> undine_collector::Config {
    undine_collector::Config {
        source,
        node: "evals".to_owned(),
        asid: 1,
        connections_max: 128 * 1024,
        body_bytes_max: 16 * 1024,
        redaction: Redaction { headers: Mode::Full, bodies: Mode::Full },
        service_rules: Vec::new(),
        conn_stats_interval: Duration::from_secs(1),
        flush_interval: Duration::from_millis(200),
        profiler: None,
        recording: None,
        programs: Programs::Refuse,
        clock: Arc::new(SystemClock),
    }
}

pub(super) fn api(config: &RawConfig) -> Result<undine_api::Config> {
    let mut scripts = config.export.iter().map(script).collect::<Result<Vec<_>>>()?;
    scripts.extend(plugins(&config.plugins)?);
    let receivers = config.webhook.iter().map(receiver).collect::<Result<_>>()?;
    let retry =
        RetryPolicy { first_delay: Duration::from_millis(500), delay_max: Duration::from_mins(1) };
    Ok(undine_api::Config {
        http: http::Config {
            listen: config.server.listen,
            allowed_hosts: config.server.allowed_hosts.clone(),
            body_bytes_max: MIB,
            answer_bytes_max: 64 * MIB,
            queries_max: 8,
            connections_max: 256,
            request_timeout: config.query.timeout + Duration::from_secs(5),
            header_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        },
        otlp: config.otlp.listen.map(|listen| otlp_ingest::Config {
            listen,
            request_bytes_max: 16 * MIB,
            text_bytes_max: 64 * MIB,
            concurrent_requests_max: 8,
            connection_streams_max: 64,
            request_timeout: Duration::from_secs(10),
        }),
        otlp_export: otlp_export(),
        exports: export_scheduler::Config {
            scripts,
            dir: config.data_dir.join("exports"),
            lateness: Duration::from_secs(2),
            catch_up_max: Duration::from_hours(24),
            runs_max: 2,
            run_timeout: config.query.timeout,
            retry,
        },
        webhooks: webhook::Config {
            receivers,
            dir: config.data_dir.join("outbox"),
            outbox_entries_max: 10_000,
            dead_entries_max: 1000,
            retry,
            give_up_after: Duration::from_hours(24),
            external_url: format!("http://{}", config.server.listen),
        },
    })
}

fn otlp_export() -> otlp_export::Config {
    otlp_export::Config {
        request_bytes_max: 4 * MIB,
        connections_max: 16,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(10),
        compression: Compression::None,
        ca_file: None,
    }
}

/// What sends exports, with the appliance's settings.
///
/// # Errors
/// Where the system's certificates cannot be read.
pub fn export_sink() -> Result<ExportSink> {
    Ok(otlp_export().build()?)
}

fn script(export: &Export) -> Result<ExportScript> {
    let path = &export.script;
    Ok(ExportScript {
        id: identifier(&export.name),
        name: export.name.clone(),
        script: read(path).with_context(|| format!("export '{}'", export.name))?,
        frequency: export.frequency,
        endpoint: Some(otlp_export::Endpoint {
            url: export.endpoint.clone(),
            headers: export.headers.clone().into_iter().collect(),
            insecure: export.insecure,
            timeout: EXPORT_TIME_MAX,
        }),
        enabled: true,
    })
}

/// The scripts of the plugin folder.
fn plugins(plugins: &Plugins) -> Result<Vec<ExportScript>> {
    if plugins.dir.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let endpoint =
        Some(&plugins.endpoint).filter(|url| !url.is_empty()).map(|url| otlp_export::Endpoint {
            url: url.clone(),
            headers: plugins.headers.clone().into_iter().collect(),
            insecure: plugins.insecure,
            timeout: EXPORT_TIME_MAX,
        });
    let mut scripts = export_scheduler::load(&plugins.dir).context("plugins.dir")?;
    for script in &mut scripts {
        script.endpoint = script.endpoint.take().or_else(|| endpoint.clone());
    }
    Ok(scripts)
}

fn receiver(webhook: &Webhook) -> Result<webhook::Receiver> {
    let secrets = webhook
        .secret_file
        .iter()
        .map(|path| read(path).map(|text| Secret::new(text.trim())))
        .collect::<Result<_>>()
        .with_context(|| format!("webhook '{}'", webhook.name))?;
    Ok(webhook::Receiver {
        name: identifier(&webhook.name),
        url: Secret::new(webhook.url.clone()),
        format: match webhook.format {
            WebhookFormat::Alertmanager => Format::Alertmanager,
            WebhookFormat::Json => Format::Json,
            WebhookFormat::Slack => Format::Slack,
        },
        secrets,
        headers: Vec::new(),
        timeout: Duration::from_secs(10),
        link_local: LinkLocal::Refused,
    })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A name as a folder's: what is no letter or digit becomes a hyphen.
fn identifier(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}
