//! Parts of the appliance, as the scenarios put them together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use undine_query::Engine;
use undine_schema::{Append, AppendError, Frame, Pending, SystemClock, tables};
use undine_store::Store;

/// Widths of the summaries that are kept by default.
pub(crate) fn tiers() -> Vec<Duration> {
    [10, 60, 3600, 86_400].map(Duration::from_secs).to_vec()
}

/// A store that seals only when it is told to.
pub(crate) fn store(dir: &Path, hot_bytes_max: usize) -> Result<Store> {
    store_config(dir, hot_bytes_max).build().context("cannot open the store")
}

/// Settings of such a store.
pub(crate) fn store_config(dir: &Path, hot_bytes_max: usize) -> undine_store::Config {
    undine_store::Config {
        dir: dir.to_path_buf(),
        node: "evals".to_owned(),
        tables: tables::ALL.to_vec(),
        followed: vec![&tables::HTTP_EVENTS, &tables::INCIDENTS],
        hot_bytes_max,
        hot_budgets: Vec::new(),
        hot_pinned_bytes_max: 64 << 20,
        log_queue_bytes_max: 256 << 20,
        log_sync_interval: Duration::from_millis(200),
        commit_interval: Duration::from_millis(10),
        seal_interval: Duration::from_hours(1),
        tiers: vec![Duration::from_secs(10), Duration::from_mins(1)],
        raw_for: None,
        retention: Vec::new(),
        groups_per_window_max: 10_000,
        segments_max: 64,
        merge_bytes_per_second_max: None,
        deleted_files_for: Duration::from_hours(24),
        bucket: None,
        on_damage: undine_store::OnDamage::SetAside,
        clock: Arc::new(SystemClock),
    }
}

/// Appends as soon as the log has room.
pub(crate) fn append(store: &Store, frame: &Frame) -> Result<Pending> {
    loop {
        match store.append(frame.clone()) {
            // The log is behind; a source would keep its rows too.
            Err(AppendError::Full { retry_after }) => std::thread::sleep(retry_after),
            answer => return Ok(answer?),
        }
    }
}

/// A running store; what it runs on ends with it.
#[derive(Debug)]
pub(crate) struct RunningStore {
    pub(crate) store: Store,
    shutdown: CancellationToken,
    task: tokio::task::JoinSet<()>,
}

impl RunningStore {
    /// Opens and runs a store.
    pub(crate) fn open(dir: &Path, hot_bytes_max: usize) -> Result<Self> {
        Ok(Self::run(store(dir, hot_bytes_max)?))
    }

    /// Runs a store that is open.
    pub(crate) fn run(store: Store) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::task::JoinSet::from_iter([store.clone().run(shutdown.clone())]);
        Self { store, shutdown, task }
    }

    /// Stops as the appliance does, so that everything is on disk.
    pub(crate) async fn close(self) {
        self.shutdown.cancel();
        self.task.join_all().await;
    }
}

/// An engine over a store, with limits that no scenario reaches.
pub(crate) fn engine(store: &Store) -> Result<Engine> {
    undine::appliance::engine(store, "evals").context("cannot build the engine")
}

/// Settings of an engine that may use both of our cores, with limits that no scenario reaches.
pub(crate) fn engine_config(store: &Store) -> undine_query::Config {
    undine_query::Config {
        store: store.clone(),
        clock: Arc::new(SystemClock),
        node: "evals".to_owned(),
        cluster: "evals".to_owned(),
        profiler_period: None,
        memory_bytes_max: 8 << 30,
        timeout: Duration::from_mins(5),
        runs_max: 1,
        rows_max: 1_000_000,
        script_bytes_max: 1 << 20,
        depth_max: 64,
        nodes_max: 10_000,
        partitions: 2,
        tracer: None,
    }
}
