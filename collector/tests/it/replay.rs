//! From recordings, without a kernel.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use undine_collector::event::{Body, Event, Flow};
use undine_collector::recording::{self, Recorder, RecordingHeader};
use undine_collector::{BuildError, Config, Mode, Pace, Programs, Redaction, SourceConfig};
use undine_ebpf::{ConnInfo, EGRESS, Header, Kind};
use undine_schema::{SystemClock, TimeNs};

use super::memory::Memory;

pub(crate) fn config(path: &Path) -> Config {
    Config {
        source: SourceConfig::Replay { path: path.to_owned(), pace: Pace::Fast },
        node: "knot".to_owned(),
        asid: 1,
        connections_max: 4096,
        body_bytes_max: 64,
        redaction: Redaction { headers: Mode::Full, bodies: Mode::Full },
        service_rules: Vec::new(),
        conn_stats_interval: Duration::from_secs(1),
        flush_interval: Duration::from_millis(100),
        profiler: None,
        recording: None,
        programs: Programs::Refuse,
        clock: Arc::new(SystemClock),
    }
}

/// The rows that a recording gives.
pub(crate) async fn replay(path: &Path) -> Arc<Memory> {
    replay_as(config(path)).await
}

/// The rows that a replay gives which is set up so.
pub(crate) async fn replay_as(config: Config) -> Arc<Memory> {
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config.build(append).unwrap();
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let test = async {
        let stats = handle.drain().await.unwrap();
        assert!(stats.ended && stats.drained, "{stats:?}");
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(collector.run(shutdown.clone()), test);
    result.unwrap();
    memory
}

/// Records `count` exchanges of one connection.
fn record(path: &Path, count: u64) {
    let header = RecordingHeader { wall_minus_mono_ns: 5_000, node: "knot".to_owned() };
    let mut recorder = Recorder::create(&recording::Config::full(path), &header).unwrap();
    let mut bytes = Vec::new();
    let mut put = |header: Header, body: Body<'_>| {
        bytes.clear();
        Event { header, body }.encode(&mut bytes);
        recorder.message(&bytes).unwrap();
    };
    let base = Header { conn: 1, tgid: 7, time_mono_ns: 1_000, ..Header::default() };
    let info = ConnInfo { role: 2, family: 2, local_port: 80, netns: 1, ..ConnInfo::default() };
    put(Header { kind: Kind::Open as u8, ..base }, Body::Open(info));
    let mut pos = [0; 2];
    for n in 0..count {
        let request = format!("GET /{n} HTTP/1.1\r\n\r\n");
        let response = format!("HTTP/1.1 200 {n}\r\nContent-Length: 0\r\n\r\n");
        for (flow, text) in [(Flow::Ingress, &request), (Flow::Egress, &response)] {
            let len = u32::try_from(text.len()).unwrap();
            let header = Header {
                kind: Kind::Data as u8,
                direction: if flow == Flow::Egress { EGRESS } else { 0 },
                pos: pos[flow.index()],
                len,
                captured: len,
                time_mono_ns: 2_000 + n,
                ..base
            };
            pos[flow.index()] += u64::from(len);
            put(header, Body::Data { flow, payload: text.as_bytes() });
        }
    }
    recorder.flush().unwrap();
}

#[tokio::test]
async fn a_replay_gives_rows_with_the_times_of_the_recording() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.undine");
    record(&path, 3);
    let memory = Box::pin(replay(&path)).await;
    assert_eq!(
        memory.rows("http_events", &["time_", "req_path", "resp_message"]),
        [["7000", "/0", "0"], ["7001", "/1", "1"], ["7002", "/2", "2"]]
    );
}

#[tokio::test]
async fn a_recording_that_is_cut_gives_its_rows_and_an_error_that_names_the_offset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.undine");
    record(&path, 3);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config(&path).build(append).unwrap();
    let error = Box::pin(collector.run(CancellationToken::new())).await.unwrap_err();
    assert!(error.to_string().contains("is cut at offset"), "{error}");
    assert_eq!(memory.rows("http_events", &["req_path"]), [["/0"], ["/1"]]);
}

#[tokio::test]
async fn a_store_that_is_full_costs_no_rows_if_it_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.undine");
    record(&path, 100);
    let memory = Arc::new(Memory::default());
    memory.set_full(true);
    let append = Arc::clone(&memory);
    let collector = config(&path).build(append).unwrap();
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let test = async {
        let stats = handle.drain().await.unwrap();
        assert_eq!((stats.rows.http_events, stats.refused_rows), (100, 0));
        assert!(memory.rows("http_events", &["req_path"]).is_empty());
        memory.set_full(false);
        handle.drain().await.unwrap();
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(collector.run(shutdown.clone()), test);
    result.unwrap();
    assert_eq!(memory.rows("http_events", &["req_path"]).len(), 100);
}

#[test]
fn a_setting_out_of_bounds_is_named() {
    let mut config = config(Path::new("/nowhere"));
    config.flush_interval = Duration::from_secs(9);
    let error = config.build(Arc::new(Memory::default())).unwrap_err();
    assert!(matches!(error, BuildError::Setting { name: "flush_interval", .. }), "{error}");
    assert_eq!(TimeNs::ZERO.get(), 0);
}
