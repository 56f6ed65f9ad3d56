//! A place that is watched from before its first byte, and the tables that this gave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine::appliance::{bare_collector, cgroup_source};
use undine_collector::{
    Cgroup, Handle, Hooks, Placing, SourceConfig, Stats, Tls, profiler, recording,
};
use undine_schema::{Append, Feed, Seq, tables};
use undine_store::Store;
use undine_testbed::Wire;

use crate::stage::RunningStore;

/// Rows that are read from the store at a time.
const READ_ROWS: usize = 10_000;
/// Bytes of rows that the store keeps in memory, which no scenario reaches.
const HOT_BYTES_MAX: usize = 1 << 30;

/// How a place is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Bytes of the kernel's ring.
    pub(crate) ring_bytes: u32,
    /// Most bytes that are kept of a text.
    pub(crate) text_bytes_max: usize,
    /// Most connections at a time.
    pub(crate) connections_max: u32,
    /// How long rows are gathered.
    pub(crate) flush_interval: Duration,
    /// Which hooks; `None` takes the best.
    pub(crate) hooks: Option<Hooks>,
    /// Whether TLS libraries are probed.
    pub(crate) tls: Tls,
    /// How to profile, if at all.
    pub(crate) profiler: Option<profiler::Config>,
    /// Where to record the kernel's messages.
    pub(crate) recording: Option<PathBuf>,
}

impl Watch {
    /// With room for everything.
    pub(crate) fn roomy() -> Self {
        Self {
            ring_bytes: 128 << 20,
            text_bytes_max: 16 * 1024,
            connections_max: 128 * 1024,
            flush_interval: Duration::from_millis(200),
            hooks: None,
            tls: Tls::Leave,
            profiler: None,
            recording: None,
        }
    }

    /// The same of programs that talk over `wire`.
    pub(crate) fn over(wire: Wire) -> Self {
        let tls = if wire == Wire::Tls { Tls::Read(Placing::Best) } else { Tls::Leave };
        Self { tls, ..Self::roomy() }
    }

    /// The collector's configuration for `cgroup`.
    pub(crate) fn config(&self, cgroup: &Cgroup) -> undine_collector::Config {
        let mut source = cgroup_source(cgroup.path(), self.ring_bytes);
        if let SourceConfig::Kernel { hooks, tls, .. } = &mut source {
            (*hooks, *tls) = (self.hooks, self.tls);
        }
        undine_collector::Config {
            connections_max: self.connections_max,
            body_bytes_max: self.text_bytes_max,
            flush_interval: self.flush_interval,
            profiler: self.profiler.clone(),
            recording: self.recording.clone().map(recording::Config::full),
            ..bare_collector(source)
        }
    }

    /// Watches `cgroup` while `act` does something, and gives what was seen and what `act` says.
    pub(crate) fn during<T>(
        self,
        cgroup: &Cgroup,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<(Seen, T)> {
        self.through(cgroup, |store| store, || Ok(()), |_| act())
    }

    /// The same, where rows go to the store by the way that `gate` makes of it, and `unread` is
    /// done before the collector begins to read.
    pub(crate) fn through<T>(
        self,
        cgroup: &Cgroup,
        gate: impl FnOnce(Arc<dyn Append>) -> Arc<dyn Append>,
        unread: impl FnOnce() -> Result<()>,
        act: impl FnOnce(&Watched<'_>) -> Result<T>,
    ) -> Result<(Seen, T)> {
        observe(self.config(cgroup), gate, unread, act)
    }
}

/// Runs a collector of this configuration while `act` does something; see [`Watch::through`].
pub(crate) fn observe<T>(
    config: undine_collector::Config,
    gate: impl FnOnce(Arc<dyn Append>) -> Arc<dyn Append>,
    unread: impl FnOnce() -> Result<()>,
    act: impl FnOnce(&Watched<'_>) -> Result<T>,
) -> Result<(Seen, T)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let running = {
        let _entered = runtime.enter();
        RunningStore::open(&dir.path().join("data"), HOT_BYTES_MAX)?
    };
    let append = gate(Arc::new(running.store.clone()));
    let collector = config.build(append)?;
    let handle = collector.handle();
    unread()?;
    let shutdown = CancellationToken::new();
    let mut capture = JoinSet::new();
    capture.spawn_on(collector.run(shutdown.clone()), runtime.handle());
    let watched = Watched { handle, runtime: &runtime, store: &running.store };
    let said = act(&watched);
    let stats = watched.drain();
    shutdown.cancel();
    let ended = runtime.block_on(capture.join_next()).context("the collector was not run")?;
    ended.context("the collector's task panicked")??;
    let seen = Seen { stats: stats?, tables: read_all(&runtime, &running.store)? };
    runtime.block_on(running.close());
    Ok((seen, said?))
}

/// A collector that runs.
#[derive(Debug)]
pub(crate) struct Watched<'r> {
    pub(crate) handle: Handle,
    pub(crate) runtime: &'r Runtime,
    pub(crate) store: &'r Store,
}

impl Watched<'_> {
    /// Waits until everything that happened is read and decided.
    pub(crate) fn drain(&self) -> Result<Stats> {
        Ok(self.runtime.block_on(self.handle.drain())?)
    }
}

/// What was seen of a place.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) stats: Stats,
    tables: Vec<(&'static str, Vec<RecordBatch>)>,
}

impl Seen {
    /// Every table with its rows.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&'static str, &[RecordBatch])> {
        self.tables.iter().map(|(name, batches)| (*name, batches.as_slice()))
    }

    /// Each row of a table as its values in `columns`, in the order in which they were written.
    pub(crate) fn rows<const N: usize>(
        &self,
        table: &str,
        columns: [&str; N],
    ) -> Result<Vec<[String; N]>> {
        let mut rows = Vec::new();
        let batches = self.tables.iter().filter(|(name, _)| *name == table);
        for batch in batches.flat_map(|(_, batches)| batches) {
            let arrays = columns
                .iter()
                .map(|name| batch.column_by_name(name).with_context(|| format!("no column {name}")))
                .collect::<Result<Vec<_>>>()?;
            for row in 0..batch.num_rows() {
                let cell = |array: &&Arc<dyn Array>| {
                    if let Some(texts) = array.as_string_opt::<i32>() {
                        return texts.value(row).to_owned();
                    }
                    match array.as_boolean_opt() {
                        Some(flags) => flags.value(row).to_string(),
                        None => array.as_primitive::<Int64Type>().value(row).to_string(),
                    }
                };
                let cells: Vec<_> = arrays.iter().map(cell).collect();
                let Ok(cells) = cells.try_into() else { continue };
                rows.push(cells);
            }
        }
        Ok(rows)
    }

    /// The sum of a column of counts over the rows that `keep` wants.
    pub(crate) fn sum<const N: usize>(
        &self,
        table: &str,
        column: &str,
        by: [&str; N],
        keep: impl Fn(&[String; N]) -> bool,
    ) -> Result<u64> {
        let keys = self.rows(table, by)?;
        let values = self.rows(table, [column])?;
        let kept = keys.iter().zip(&values).filter(|(key, _)| keep(key));
        kept.map(|(_, [value])| Ok(value.parse::<u64>()?)).sum()
    }
}

fn read_all(runtime: &Runtime, store: &Store) -> Result<Vec<(&'static str, Vec<RecordBatch>)>> {
    tables::ALL
        .iter()
        .map(|table| {
            let mut batches = Vec::new();
            let mut cursor = Seq::ZERO;
            loop {
                let progress = runtime.block_on(store.read(table, cursor, READ_ROWS))?;
                let missed = progress.missed_rows;
                ensure!(missed == 0, "{missed} rows of {} were evicted", table.name);
                if progress.slices.is_empty() {
                    return Ok((table.name, batches));
                }
                cursor = progress.cursor;
                batches.extend(progress.slices.into_iter().map(|slice| slice.rows));
            }
        })
        .collect()
}
