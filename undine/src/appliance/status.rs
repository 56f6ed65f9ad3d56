//! How the appliance is: readiness, and the metrics of every component.

use std::fmt;
use std::sync::Arc;

use undine_api::http::{Check, Metric, MetricKind, Status, TableRows};
use undine_collector::Handle;
use undine_collector::kernel::{CostSample, ProgramCost};
use undine_ml::Stats;
use undine_store::{Store, TableStats};

/// Reads every component's counters.
pub(super) struct ApplianceStatus {
    node: String,
    store: Store,
    collector: Option<Handle>,
    model: Option<Arc<Stats>>,
}

impl ApplianceStatus {
    pub(super) fn new(
        node: String,
        store: Store,
        collector: Option<Handle>,
        model: Option<Arc<Stats>>,
    ) -> Self {
        Self { node, store, collector, model }
    }

    fn store_metrics(&self) -> Vec<Metric> {
        let stats = self.store.stats();
        let of = |name, help, kind, value: fn(&TableStats) -> u64| {
            let samples = stats
                .tables
                .iter()
                .map(|table| (vec![("table", table.table.to_owned())], value(table)));
            Metric::labelled(name, help, kind, samples)
        };
        let (counter, gauge) = (MetricKind::Counter, MetricKind::Gauge);
        let mut metrics = Self::bucket_metrics(&stats);
        metrics.extend(Self::upkeep_metrics(&stats.upkeep));
        metrics.extend([
            of(
                "undine_store_appended_rows_total",
                "Rows appended since the start.",
                counter,
                |t| t.appended_rows,
            ),
            of(
                "undine_store_evicted_rows_total",
                "Rows that left memory before they were sealed.",
                counter,
                |t| t.evicted_rows,
            ),
            of(
                "undine_store_lost_rows",
                "Rows of earlier lives that were gone at the start.",
                gauge,
                |t| t.lost_rows,
            ),
            of(
                "undine_store_recovered_rows",
                "Rows that the log gave back at the start.",
                gauge,
                |t| t.recovered_rows,
            ),
            of(
                "undine_store_unsealed_rows",
                "Rows of this life that are in no tier yet.",
                gauge,
                unsealed_rows,
            ),
            of("undine_store_hot_rows", "Rows in memory.", gauge, |t| t.hot_rows),
            of("undine_store_sealed_rows", "Rows that the finest tier stands for.", gauge, |t| {
                t.sealed_rows
            }),
            of("undine_store_segments", "Files over all tiers.", gauge, |t| t.segments),
            of("undine_store_segment_bytes", "Size of those files.", gauge, |t| t.segment_bytes),
            Metric::gauge("undine_store_hot_bytes", "Bytes of rows in memory.", stats.hot_bytes),
            Metric::gauge(
                "undine_store_hot_bytes_max",
                "Bytes of rows that may be in memory.",
                stats.hot_bytes_max,
            ),
            Metric::gauge(
                "undine_store_pinned_bytes",
                "Bytes of rows that have left memory and that readers, or the log, still hold.",
                stats.pinned_bytes,
            ),
            Metric::counter(
                "undine_store_pinned_frames_total",
                "Frames that found more of these bytes than there may be.",
                stats.pinned_frames,
            ),
            Metric::gauge(
                "undine_store_log_bytes",
                "Bytes of the log's segments.",
                stats.log_bytes,
            ),
            Metric::gauge(
                "undine_store_log_queue_bytes",
                "Bytes that wait for the log.",
                stats.log_queue_bytes,
            ),
            Metric::counter(
                "undine_store_refused_frames_total",
                "Frames that were refused because the store was full.",
                stats.refused_frames,
            ),
            Metric::counter(
                "undine_store_repeated_frames_total",
                "Retries that were not stored again.",
                stats.repeated_frames,
            ),
            Metric::gauge(
                "undine_store_stopped_tables",
                "Tables that are not written since another program or node writes them.",
                stats.stopped.len() as u64,
            ),
        ]);
        metrics
    }

    fn upkeep_metrics(upkeep: &undine_store::Upkeep) -> [Metric; 8] {
        [
            Metric::counter("undine_store_seals_total", "Seals of all tables.", upkeep.seals),
            Metric::counter(
                "undine_store_failed_seals_total",
                "Seals that failed for a table or more; the next tries again.",
                upkeep.failed_seals,
            ),
            Metric::counter(
                "undine_store_failed_tidies_total",
                "Times that merging and expiring failed.",
                upkeep.failed_tidies,
            ),
            Metric::counter(
                "undine_store_merged_segments_total",
                "Segments that were merged into others.",
                upkeep.merged_segments,
            ),
            Metric::counter(
                "undine_store_expired_rows_total",
                "Rows and states that were older than they are kept, or too many.",
                upkeep.expired_rows,
            ),
            Metric::counter(
                "undine_store_deleted_files_total",
                "Files that no version needed any more.",
                upkeep.deleted_files,
            ),
            Metric::counter(
                "undine_store_merge_io_bytes_total",
                "Bytes that merges of segments read and wrote.",
                upkeep.merge_io_bytes,
            ),
            Metric::counter(
                "undine_store_merge_io_waited_milliseconds_total",
                "How long merges waited for store.merge_rate_max.",
                u64::try_from(upkeep.merge_io_waited.as_millis()).unwrap_or(u64::MAX),
            ),
        ]
    }

    fn bucket_metrics(stats: &undine_store::Stats) -> Vec<Metric> {
        let Some(bucket) = &stats.bucket else { return Vec::new() };
        vec![
            Metric::gauge(
                "undine_store_spooled_bytes",
                "Bytes of files that wait for the bucket.",
                bucket.spooled_bytes,
            ),
            Metric::gauge(
                "undine_store_spool_bytes_max",
                "Bytes of such files at which nothing more is sealed.",
                bucket.spool_bytes_max,
            ),
            Metric::counter(
                "undine_store_refused_seals_total",
                "Seals of a table that were put off because the spool was full.",
                bucket.refused_seals,
            ),
            Metric::counter(
                "undine_store_uploaded_bytes_total",
                "Bytes of files that went to the bucket.",
                bucket.uploaded_bytes,
            ),
            Metric::counter(
                "undine_store_failed_uploads_total",
                "Uploads that failed; what they were to take waits.",
                bucket.failed_uploads,
            ),
            Metric::gauge(
                "undine_store_cache_bytes",
                "Bytes of local copies of the bucket's files.",
                bucket.cache.bytes,
            ),
            Metric::counter(
                "undine_store_cache_hits_total",
                "Reads of files that had a local copy.",
                bucket.cache.hits,
            ),
            Metric::counter(
                "undine_store_cache_misses_total",
                "Files that were fetched from the bucket to be kept.",
                bucket.cache.misses,
            ),
            Metric::counter(
                "undine_store_cache_evictions_total",
                "Local copies that made room for others.",
                bucket.cache.evictions,
            ),
        ]
    }

    fn model_metrics(model: &Stats) -> [Metric; 6] {
        let stats = model.snapshot();
        [
            Metric::counter(
                "undine_model_seen_rows_total",
                "Rows of http_events that the model read.",
                stats.rows_seen,
            ),
            Metric::counter(
                "undine_model_missed_rows_total",
                "Rows that were gone before the model read them.",
                stats.rows_missed,
            ),
            Metric::counter(
                "undine_model_windows_total",
                "Windows that were judged.",
                stats.windows,
            ),
            Metric::counter(
                "undine_model_incidents_total",
                "Incidents that were opened.",
                stats.incidents_opened,
            ),
            Metric::gauge(
                "undine_model_open_incidents",
                "Incidents that are open.",
                stats.incidents_open,
            ),
            Metric::gauge(
                "undine_model_services",
                "Services that have a baseline or are getting one.",
                stats.services,
            ),
        ]
    }
}

/// Rows of a table that only memory and the log hold, as far as this life appended them.
fn unsealed_rows(table: &TableStats) -> u64 {
    let sealed = table.sealed_to.incarnation() == table.newest.incarnation();
    let sealed_to = if sealed { table.sealed_to.counter() } else { 0 };
    table.newest.counter().saturating_sub(sealed_to)
}

fn capture_check(collector: &Handle) -> Check {
    let stats = collector.stats();
    let detail = format!(
        "{} operations seen, {} lost",
        stats.kernel.operations, stats.kernel.dropped_operations
    );
    Check { name: "capture", ok: true, detail }
}

fn collector_metrics(collector: &Handle) -> [Metric; 9] {
    let stats = collector.stats();
    let kernel = stats.kernel;
    [
        Metric::counter(
            "undine_collector_attempted_messages_total",
            "Messages that the kernel was to send.",
            kernel.attempts,
        ),
        Metric::counter(
            "undine_collector_dropped_messages_total",
            "Messages for which the ring had no room.",
            kernel.dropped,
        ),
        Metric::counter(
            "undine_collector_dropped_bytes_total",
            "Stream bytes of those messages.",
            kernel.dropped_bytes,
        ),
        Metric::counter(
            "undine_collector_operations_total",
            "Socket operations in scope that moved bytes.",
            kernel.operations,
        ),
        Metric::counter(
            "undine_collector_lost_operations_total",
            "Operations of which nothing reached the ring.",
            kernel.dropped_operations,
        ),
        Metric::counter(
            "undine_collector_consumed_messages_total",
            "Messages that were read.",
            stats.consumed,
        ),
        Metric::counter(
            "undine_collector_http_rows_total",
            "Rows of http_events that were written.",
            stats.rows.http_events,
        ),
        Metric::counter(
            "undine_collector_refused_rows_total",
            "Rows that the store did not take.",
            stats.refused_rows,
        ),
        Metric::gauge(
            "undine_collector_connections",
            "Connections that are open.",
            stats.pipeline.connections,
        ),
    ]
}

/// What the kernel programs cost in the last sample; nothing before the first.
fn cost_metrics(collector: &Handle) -> [Metric; 3] {
    let sample = collector.cost();
    let of = |name, help, value: fn(&CostSample, &ProgramCost) -> u64| {
        let samples = sample
            .programs
            .iter()
            .map(|(program, cost)| (vec![("program", program.clone())], value(&sample, cost)));
        Metric::labelled(name, help, MetricKind::Gauge, samples)
    };
    [
        of(
            "undine_probe_runs_per_second",
            "Runs of a kernel program, in one second of about thirty.",
            CostSample::runs_per_second,
        ),
        of("undine_probe_run_nanoseconds", "Mean length of those runs.", |_, cost| cost.run_ns()),
        of("undine_probe_cpu_ppm", "Millionths of one CPU that they took.", CostSample::cpu_ppm),
    ]
}

impl fmt::Debug for ApplianceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplianceStatus").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Status for ApplianceStatus {
    fn node(&self) -> String {
        self.node.clone()
    }

    fn checks(&self) -> Vec<Check> {
        let rows: u64 = self.store.stats().tables.iter().map(|table| table.hot_rows).sum();
        let mut checks =
            vec![Check { name: "store", ok: true, detail: format!("{rows} rows in memory") }];
        checks.extend(self.collector.as_ref().map(capture_check));
        checks
    }

    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.store_metrics();
        metrics.extend(self.model.iter().flat_map(|model| Self::model_metrics(model)));
        metrics.extend(self.collector.iter().flat_map(collector_metrics));
        metrics.extend(self.collector.iter().flat_map(cost_metrics));
        metrics
    }

    fn rows(&self, table: &str) -> Option<TableRows> {
        let stats = self.store.stats().tables.into_iter().find(|stats| stats.table == table)?;
        Some(TableRows {
            hot: stats.hot_rows,
            sealed: stats.sealed_rows,
            evicted: stats.evicted_rows,
            bytes: stats.hot_bytes,
        })
    }
}
