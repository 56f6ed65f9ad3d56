//! A place that is watched from before its first byte, and that loses nothing.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::kernel::config;
use super::memory::Memory;
use super::place::Place;

/// More than any of these tests has in the ring at a time.
const RING_BYTES: u32 = 32 << 20;

/// Runs `act` in a place of its own and gives what was seen, and what `act` says. Of texts so many
/// bytes are kept. That bytes of them are cut costs no row.
pub(crate) async fn watched<T>(
    name: &str,
    text_bytes_max: usize,
    act: impl FnOnce(&Place) -> T,
) -> (Arc<Memory>, T) {
    let place = Place::new(name);
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let mut config = config(&place.cgroup, RING_BYTES, None);
    config.body_bytes_max = text_bytes_max;
    let collector = config.build(append).unwrap();
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = JoinSet::from_iter([Box::pin(collector.run(shutdown.clone()))]);
    let said = tokio::task::block_in_place(|| act(&place));
    let stats = handle.drain().await.unwrap();
    assert!(stats.drained, "{stats:?}");
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
    let lost = memory.rows("data_loss", &["reason", "rows_max", "bytes"]);
    assert!(lost.iter().all(|row| row[1] == "0"), "{lost:?}");
    (memory, said)
}
