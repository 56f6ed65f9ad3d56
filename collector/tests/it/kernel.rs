//! On the real kernel, with processes of the test's own as the only ones in scope.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use undine_collector::{
    Cgroup, Collector, Config, Mode, Object, Programs, Redaction, Scope, ScopeDefault, ScopeGuard,
    SourceConfig, Target, Tls, recording,
};
use undine_schema::SystemClock;

use super::http;
use super::memory::Memory;
use super::place::{Place, Program, skip};
use super::watch::{running_while, seen_while};

/// Kernel tests run one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Waits until no other kernel test runs.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// Whether this process may load kernel programs; says so where it may not.
pub(crate) fn may_load() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let root = status
        .lines()
        .any(|line| line.starts_with("CapEff:") && !line.ends_with("0000000000000000"));
    if !root {
        skip("loading kernel programs needs root");
    }
    root
}

pub(crate) fn config(cgroup: &Cgroup, ring_bytes: u32, recording: Option<PathBuf>) -> Config {
    Config {
        source: SourceConfig::Kernel {
            scope: Scope {
                default: ScopeDefault::TargetsOnly,
                include: vec![Target::Cgroup(cgroup.path().to_path_buf())],
                exclude: Vec::new(),
            },
            guard: ScopeGuard::Required,
            hooks: None,
            ring_bytes,
            object: Object::Fitting,
            tls: Tls::Leave,
        },
        node: "knot".to_owned(),
        asid: 1,
        connections_max: 4096,
        body_bytes_max: 64,
        redaction: Redaction { headers: Mode::Full, bodies: Mode::Full },
        service_rules: Vec::new(),
        conn_stats_interval: Duration::from_secs(1),
        flush_interval: Duration::from_millis(100),
        profiler: None,
        recording: recording.map(recording::Config::full),
        programs: Programs::Run,
        clock: Arc::new(SystemClock),
    }
}

/// A server and a client in a cgroup and a network of their own, watched from before their first
/// byte.
struct Scene {
    place: Place,
    server: Program,
    client: Program,
    port: String,
    memory: Arc<Memory>,
    collector: Collector,
}

fn scene(ring_bytes: u32, recording: Option<PathBuf>) -> Scene {
    let place = Place::new("undine-it");
    let (mut server, client) = (http::start(&place), http::start(&place));
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config(&place.cgroup, ring_bytes, recording).build(append).unwrap();
    server.tell("serve");
    let port = server.hear("port");
    Scene { place, server, client, port, memory, collector }
}

/// Checks that every row is a request that was sent, once, with its own response.
pub(crate) fn check_pairs(memory: &Memory) -> usize {
    let columns = [
        "req_path",
        "resp_headers",
        "trace_role",
        "resp_body_size",
        "resp_status",
        "req_body_size",
        "req_method",
    ];
    let rows = memory.rows("http_events", &columns);
    let mut seen = HashSet::new();
    for row in &rows {
        let [path, headers, role, size, status, sent, method] = &row[..] else { unreachable!() };
        assert!(seen.insert(path.clone()), "{path} is stored twice");
        assert!(
            headers.contains(&format!("\"X-Path\":\"{path}\"")),
            "{path} is paired with {headers}"
        );
        assert_eq!(role, "2");
        assert_eq!(path.rsplit('/').next().unwrap(), size);
        let bytes: usize = size.parse().unwrap();
        assert_eq!(status, if bytes % 5 == 4 { "404" } else { "200" });
        assert_eq!(sent, if method == "POST" { "5" } else { "0" });
    }
    rows.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_and_nothing_is_lost() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let Scene { place, server, mut client, port, memory, collector } = scene(4 << 20, None);
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = collector.run(shutdown.clone());
    let test = async {
        client.tell(&format!("load {port} 8 500"));
        tokio::task::block_in_place(|| client.hear("loaded"));
        let stats = handle.drain().await.unwrap();
        assert!(stats.drained, "{stats:?}");
        assert_eq!(stats.kernel.dropped, 0);
        assert_eq!(stats.consumed, stats.emitted());
        assert_eq!(check_pairs(&memory), 4000);
        // Connections that live for one request.
        for _ in 0..40 {
            client.tell(&format!("load {port} 1 1"));
            tokio::task::block_in_place(|| client.hear("loaded"));
        }
        let stats = handle.drain().await.unwrap();
        assert_eq!(memory.rows("http_events", &["req_path"]).len(), 4040);
        assert_eq!(stats.pipeline.rows_of_other_end, 4040);
        assert_eq!(stats.missing_rows.max, 0, "{stats:?}");
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(running, test);
    result.unwrap();
    drop((server, place));
    let losses = memory.rows("data_loss", &["reason", "rows_max", "bytes"]);
    assert_eq!(losses, Vec::<Vec<String>>::new());
    let stats = memory
        .rows("conn_stats", &["trace_role", "protocol", "bytes_sent", "bytes_recv", "conn_open"]);
    let last = |role: &str| {
        let rows: Vec<_> = stats.iter().filter(|row| row[0] == role && row[1] == "1").collect();
        rows.last().map(|row| row[2..].to_vec()).unwrap()
    };
    let (client, server) = (last("1"), last("2"));
    assert_eq!(
        (&client[0], &client[1]),
        (&server[1], &server[0]),
        "what one end sends the other receives"
    );
    assert_eq!((client[2].as_str(), server[2].as_str()), ("48", "48"));
    assert!(!memory.rows("probe_status", &["tracepoint"]).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_that_were_under_way_are_joined() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-midway");
    let (mut server, mut client) = (http::start(&place), http::start(&place));
    server.tell("serve");
    let port = server.hear("port");
    client.tell(&format!("hammer {port} 4"));
    server.hear("first");
    let (memory, stats, _) = seen_while(config(&place.cgroup, 32 << 20, None), |_| {
        // So few that they find room in the ring, however slowly it is read.
        client.tell("end 4000");
        client.hear("loaded")
    })
    .await;
    assert_eq!(stats.kernel.dropped, 0);
    let rows = check_pairs(&memory) as u64;
    // Both ends send and receive once for each request.
    let requests = stats.kernel.operations / 4;
    println!("{rows} rows of {requests} requests");
    // On each connection one request was under way, and one is not trusted.
    assert!(rows + 3 * 4 >= requests, "{rows} rows of {requests} requests");
    // Of what was under way on a connection up to three of its four operations were seen, which are no
    // request.
    let whole = (stats.kernel.operations - 3 * 4) / 4;
    assert!(stats.missing_rows.max >= whole.saturating_sub(rows), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_that_is_too_small_loses_rows_within_bounds_and_never_pairs_wrong() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let Scene { place, server, mut client, port, memory, collector } = scene(64 * 1024, None);
    // Nobody reads yet, so the ring fills.
    client.tell(&format!("load {port} 4 300"));
    tokio::task::block_in_place(|| client.hear("loaded"));
    let (stats, _) = running_while(collector, || {
        client.tell(&format!("load {port} 16 600"));
        client.hear("loaded")
    })
    .await;
    assert!(stats.kernel.dropped > 0);
    drop((server, place));
    // The paths of the two rounds overlap, so pairs are checked by their headers only.
    let rows = memory.rows("http_events", &["req_path", "resp_headers"]);
    for row in &rows {
        assert!(row[1].contains(&format!("\"X-Path\":\"{}\"", row[0])), "{row:?}");
    }
    let missing = (4 * 300 + 16 * 600 - rows.len()) as u64;
    let (min, max) = (memory.sum("data_loss", "rows_min"), memory.sum("data_loss", "rows_max"));
    println!("missing {missing} in {min}..={max}, {} messages dropped", stats.kernel.dropped);
    assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}");
    assert!(stats.missing_rows.min <= missing && missing <= stats.missing_rows.max, "{stats:?}");
    let sum = |reason: &str, column: &str| -> u64 {
        let rows = memory.rows("data_loss", &["stage", "reason", column]);
        let own = rows.iter().filter(|row| row[0] == "kernel" && row[1] == reason);
        own.map(|row| row[2].parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sum("ring_full", "operations"), stats.kernel.dropped_operations);
    assert_eq!(sum("ring_full", "bytes"), stats.kernel.dropped_bytes);
    // Before it was full, operations were cut.
    let shed: u64 = stats.kernel.shed_operations.iter().sum();
    assert!(shed > 0);
    assert_eq!(sum("ring_filling", "operations"), shed);
    assert_eq!(sum("ring_filling", "bytes"), stats.kernel.shed_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_of_the_kernel_replays_to_the_same_rows() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("capture.undine");
    let Scene { place, server, mut client, port, memory, collector } =
        scene(4 << 20, Some(path.clone()));
    let act = || {
        client.tell(&format!("load {port} 4 50"));
        client.hear("loaded")
    };
    running_while(collector, act).await;
    drop((server, place));
    let columns = ["req_path", "resp_headers", "latency", "service", "remote_service", "resp_body"];
    let captured = memory.rows("http_events", &columns);
    assert_eq!(captured.len(), 200);
    let replayed = Box::pin(super::replay::replay(&path)).await;
    assert_eq!(replayed.rows("http_events", &columns), captured);
}
