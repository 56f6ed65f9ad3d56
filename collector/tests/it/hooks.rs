//! Each way to see the bytes of sockets, with each build of the programs: every request is a row.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::collector::Stats;
use undine_collector::kernel::{Outcome, probe_report};
use undine_collector::{Config, Hooks, Object, SourceConfig};

use super::http::Program;
use super::kernel::{alone, check_pairs, config, may_load};
use super::memory::Memory;
use super::place::Place;

/// A server and a client of our own, not told anything yet.
pub(crate) struct Pair {
    pub(crate) server: Program,
    pub(crate) client: Program,
}

/// Runs `act` on a server and a client in `place` while `config` watches, and gives what was seen
/// and counted.
pub(crate) async fn observed(
    place: &Place,
    config: Config,
    act: impl FnOnce(&mut Pair),
) -> (Arc<Memory>, Stats) {
    let mut pair = Pair { server: Program::start(place), client: Program::start(place) };
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config.build(append).unwrap();
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = JoinSet::from_iter([Box::pin(collector.run(shutdown.clone()))]);
    tokio::task::block_in_place(|| act(&mut pair));
    let stats = handle.drain().await.unwrap();
    assert!(stats.drained, "{stats:?}");
    assert_eq!(stats.kernel.dropped, 0, "{stats:?}");
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
    (memory, stats)
}

/// Whether this kernel has what `hooks` need; says so where not.
fn has(hooks: Hooks) -> bool {
    let reports = probe_report().unwrap();
    let missing = reports.iter().any(|report| {
        report.probe == "sock_send_length" && matches!(report.outcome, Outcome::Missing(_))
    });
    if missing && hooks == Hooks::SocketLength {
        println!("skipped: this kernel has no tracepoint sock_send_length");
        return false;
    }
    true
}

async fn every_request_is_a_row(wanted: Hooks, build: Object) {
    let _alone = alone().await;
    if !may_load() || !has(wanted) {
        return;
    }
    let place = Place::new("undine-hooks");
    let mut config = config(&place.cgroup, 4 << 20, None);
    if let SourceConfig::Kernel { hooks, object, .. } = &mut config.source {
        (*hooks, *object) = (Some(wanted), build);
    }
    let (memory, stats) = observed(&place, config, |pair| {
        pair.server.tell("serve");
        let port = pair.server.hear("port");
        pair.client.tell(&format!("load {port} 4 50"));
        pair.client.hear("loaded");
    })
    .await;
    assert_eq!((check_pairs(&memory), stats.missing_rows.max), (200, 0), "{stats:?}");
    let losses = memory.rows("data_loss", &["reason", "rows_max", "bytes"]);
    assert_eq!(losses, Vec::<Vec<String>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_through_the_sockets_tracepoints() {
    every_request_is_a_row(Hooks::SocketLength, Object::Fitting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_through_the_end_of_system_calls() {
    every_request_is_a_row(Hooks::SysExit, Object::Fitting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_through_the_programs_for_older_kernels() {
    every_request_is_a_row(Hooks::SysExit, Object::Before5_17).await;
}
