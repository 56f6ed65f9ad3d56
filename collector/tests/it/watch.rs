//! A place that is watched while something happens.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::{Collector, Config, Stats};

use super::kernel::config;
use super::memory::Memory;
use super::place::Place;

/// More than any of these tests has in the ring at a time.
const RING_BYTES: u32 = 32 << 20;

/// Runs `act` in a place of its own, of which nothing may be lost, and gives what was seen, and what
/// `act` says. Of texts so many bytes are kept. That bytes of them are cut costs no row.
pub(crate) async fn watched<T>(
    name: &str,
    text_bytes_max: usize,
    act: impl FnOnce(&Place) -> T,
) -> (Arc<Memory>, T) {
    let place = Place::new(name);
    let config =
        Config { body_bytes_max: text_bytes_max, ..config(&place.cgroup, RING_BYTES, None) };
    let (memory, stats, said) = seen_while(config, |_| act(&place)).await;
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
    let lost = memory.rows("data_loss", &["reason", "rows_max", "bytes"]);
    assert!(lost.iter().all(|row| row[1] == "0"), "{lost:?}");
    (memory, said)
}

/// Runs `act` while `config` watches, and gives what was seen and counted, and what `act` says.
pub(crate) async fn seen_while<T>(
    config: Config,
    act: impl FnOnce(&Memory) -> T,
) -> (Arc<Memory>, Stats, T) {
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config.build(append).unwrap();
    let (stats, said) = running_while(collector, || act(&memory)).await;
    (memory, stats, said)
}

/// Runs a collector while `act` does something, and gives what it counted, and what `act` says.
pub(crate) async fn running_while<T>(collector: Collector, act: impl FnOnce() -> T) -> (Stats, T) {
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = JoinSet::from_iter([Box::pin(collector.run(shutdown.clone()))]);
    let said = tokio::task::block_in_place(act);
    let stats = handle.drain().await.unwrap();
    assert!(stats.drained, "{stats:?}");
    assert_eq!(stats.consumed, stats.emitted(), "{stats:?}");
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
    (stats, said)
}
