//! The shape of a configuration file; what each setting means stands in `default.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use undine_collector::recording::Content;
use undine_collector::{Mode, ServiceRule};

use super::ByteSize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub(crate) node: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) server: Server,
    pub(crate) otlp: Otlp,
    pub(crate) capture: Capture,
    pub(crate) host: Host,
    pub(crate) profiler: Profiler,
    pub(crate) store: Store,
    pub(crate) query: Query,
    pub(crate) model: Model,
    #[serde(default)]
    pub(crate) webhook: Vec<Webhook>,
    #[serde(default)]
    pub(crate) export: Vec<Export>,
    pub(crate) plugins: Plugins,
    pub(crate) telemetry: Telemetry,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) allowed_hosts: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Otlp {
    #[serde(deserialize_with = "address_or_empty")]
    pub(crate) listen: Option<SocketAddr>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the file")]
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capture {
    pub(crate) enabled: bool,
    pub(crate) targets: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) hooks: Hooks,
    pub(crate) tls: bool,
    pub(crate) trace_functions: bool,
    pub(crate) trace_programs: bool,
    pub(crate) ring_size: ByteSize,
    pub(crate) body_size_max: ByteSize,
    pub(crate) headers: Mode,
    pub(crate) bodies: Mode,
    #[serde(deserialize_with = "duration")]
    pub(crate) conn_stats_interval: Duration,
    pub(crate) services: Vec<ServiceRule>,
    pub(crate) recording: PathBuf,
    pub(crate) recording_content: Content,
    pub(crate) replay: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hooks {
    Auto,
    SocketLength,
    SocketFunctions,
    SysExit,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
    pub(crate) processes_max: usize,
    pub(crate) cgroups_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiler {
    pub(crate) frequency_hz: u32,
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) hot_size_max: ByteSize,
    pub(crate) hot_tables: Vec<HotTable>,
    pub(crate) hot_pinned_size_max: ByteSize,
    #[serde(deserialize_with = "duration")]
    pub(crate) log_sync_interval: Duration,
    #[serde(deserialize_with = "duration")]
    pub(crate) seal_interval: Duration,
    #[serde(deserialize_with = "durations")]
    pub(crate) tiers: Vec<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) raw_for: Duration,
    #[serde(default)]
    pub(crate) retention: Vec<Retention>,
    /// Bytes a second; zero for no limit.
    pub(crate) merge_rate_max: ByteSize,
    /// Empty for none.
    pub(crate) bucket: String,
    #[serde(deserialize_with = "duration")]
    pub(crate) upload_interval: Duration,
    pub(crate) spool_size_max: ByteSize,
    pub(crate) cache_size_max: ByteSize,
    pub(crate) strict: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    #[serde(default)]
    pub(crate) table: Option<String>,
    #[serde(default)]
    pub(crate) tier: Option<String>,
    #[serde(default, deserialize_with = "duration_if_there")]
    pub(crate) age_max: Option<Duration>,
    #[serde(default)]
    pub(crate) size_max: Option<ByteSize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HotTable {
    pub(crate) table: String,
    pub(crate) share: Option<u8>,
    pub(crate) size_max: Option<ByteSize>,
    pub(crate) evict: Option<Evict>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Evict {
    Oldest,
    SealedOnly,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    pub(crate) memory_size_max: ByteSize,
    pub(crate) threads: usize,
    #[serde(deserialize_with = "duration")]
    pub(crate) timeout: Duration,
    pub(crate) rows_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    pub(crate) enabled: bool,
    #[serde(deserialize_with = "duration")]
    pub(crate) window: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    pub(crate) url: String,
    #[serde(default = "alertmanager")]
    pub(crate) format: WebhookFormat,
    #[serde(default)]
    pub(crate) secret_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WebhookFormat {
    Alertmanager,
    Json,
    Slack,
}

fn alertmanager() -> WebhookFormat {
    WebhookFormat::Alertmanager
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) script: PathBuf,
    #[serde(deserialize_with = "duration")]
    pub(crate) frequency: Duration,
    pub(crate) endpoint: String,
    #[serde(default)]
    pub(crate) insecure: bool,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plugins {
    pub(crate) dir: PathBuf,
    pub(crate) endpoint: String,
    pub(crate) insecure: bool,
    pub(crate) headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Telemetry {
    pub(crate) otlp_endpoint: String,
    pub(crate) log: String,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn duration_if_there<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(|text| parse_duration(text).map_err(de::Error::custom))
        .collect()
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("'{text}' is not a duration ({error}); write one such as \"10s\""))
}

fn address_or_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_not_an_address| {
        de::Error::custom(format!(
            "'{text}' is not an address; write one such as \"127.0.0.1:4317\""
        ))
    })
}
