//! HTTP/2 as nghttpd and its clients speak it, on the real kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use undine_collector::Collector;
use undine_testbed::nghttpd::{Nghttpd, PORT};
use undine_testbed::{Scene, Wire};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, are_installed};
use super::watch::running_while;

/// The files that the server has, and their bytes.
const FILES: [(&str, usize); 5] =
    [("none", 0), ("one", 1), ("some", 1234), ("frame", 16_384), ("large", 50_000)];

/// What `program` prints when it asks for `paths`.
fn ask(place: &Place, program: &str, args: &[&str], paths: &[&str]) -> String {
    let urls: Vec<_> = paths.iter().map(|path| format!("http://127.0.0.1:{PORT}/{path}")).collect();
    let urls = urls.iter().map(String::as_str);
    let args: Vec<_> = args.iter().copied().chain(urls).collect();
    tokio::task::block_in_place(|| place.run(program, &args))
}

/// The number before `word` in the line of h2load's report that counts requests.
fn counted(report: &str, word: &str) -> usize {
    let line = report.lines().find(|line| line.starts_with("requests:")).unwrap();
    let count = line["requests:".len()..].split(", ").find_map(|part| part.strip_suffix(word));
    count.unwrap().trim().parse().unwrap()
}

/// How many rows there are of each kind, after checking what all have in common.
fn rows(memory: &Memory) -> BTreeMap<String, usize> {
    let columns = [
        "major_version",
        "trace_role",
        "quality",
        "content_type",
        "req_headers",
        "req_method",
        "req_path",
        "req_body_size",
        "resp_status",
        "resp_body_size",
        "latency",
    ];
    let mut rows = BTreeMap::new();
    for row in memory.rows("http_events", &columns) {
        assert_eq!(row[..4], ["2", "2", "0", "0"], "{row:?}");
        assert!(row[4].contains("\":authority\":\"127.0.0.1:8080\""), "{row:?}");
        // A promise and its response may be sent at once, and no client asked for it.
        let is_promised = !row[4].contains("\"user-agent\"");
        assert!(is_promised || row[10].parse::<u64>().unwrap() > 0, "{row:?}");
        *rows.entry(row[5..10].join(" ")).or_default() += 1;
    }
    rows
}

/// A server of files in a place of its own, and the collector that watches it from before its first
/// byte.
struct Stage {
    place: Place,
    _folder: tempfile::TempDir,
    server: Nghttpd,
    memory: Arc<Memory>,
    collector: Collector,
}

/// Sets it; `None` where that cannot be.
fn stage(ring_bytes: u32) -> Option<Stage> {
    if !may_load() || !are_installed(&["nghttpd", "nghttp", "h2load"]) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new("undine-http2");
    let scene = Scene { place: &place, folder: folder.path(), wire: Wire::Plain };
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config(&place.cgroup, ring_bytes, None).build(append).unwrap();
    let server = Nghttpd::start(&scene, &FILES, &["--push=/one=/some"]).unwrap();
    Some(Stage { place, _folder: folder, server, memory, collector })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_to_nghttpd_is_a_row_and_nothing_is_lost() {
    let _alone = alone().await;
    let Some(Stage { place, _folder, server, memory, collector }) = stage(64 << 20) else { return };
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = collector.run(shutdown.clone());
    let test = async {
        let paths = FILES.map(|(name, _)| name);
        let report = ask(&place, "h2load", &["-n", "2000", "-c", "4", "-m", "10"], &paths);
        assert_eq!(counted(&report, "done"), 2000, "{report}");
        assert_eq!(counted(&report, "succeeded"), 2000, "{report}");
        let stats = handle.drain().await.unwrap();
        assert!(stats.drained, "{stats:?}");
        assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
        let get = |(name, bytes): (&str, usize)| format!("GET /{name} 0 200 {bytes}");
        assert_eq!(rows(&memory), FILES.map(|file| (get(file), 400)).into());

        // One after the other, to a path that is not there, with a body, and with a promise.
        let upload = format!("--data={}", server.file("large"));
        ask(&place, "nghttp", &["-n"], &["some", "missing"]);
        ask(&place, "nghttp", &["-n", &upload], &["some"]);
        ask(&place, "nghttp", &["-n"], &["one"]);
        let stats = handle.drain().await.unwrap();
        assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
        assert_eq!(stats.pipeline.in_flight, 0, "{stats:?}");
        let rows = rows(&memory);
        assert_eq!(rows.values().sum::<usize>(), 2000 + 5, "{rows:?}");
        assert_eq!(rows["POST /some 50000 200 1234"], 1);
        assert_eq!(rows["GET /some 0 200 1234"], 400 + 2);
        assert_eq!(rows["GET /one 0 200 1"], 400 + 1);
        assert!(rows.keys().any(|row| row.starts_with("GET /missing 0 404 ")), "{rows:?}");
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(running, test);
    result.unwrap();
    drop((server, place));
    let losses = memory.rows("data_loss", &["reason", "rows_max", "bytes"]);
    assert_eq!(losses, Vec::<Vec<String>>::new());
    let protocols = memory.rows("conn_stats", &["protocol", "trace_role"]);
    assert!(protocols.contains(&vec!["2".to_owned(), "2".to_owned()]), "{protocols:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_that_is_too_small_loses_rows_of_nghttpd_within_bounds_and_pairs_none_wrong() {
    let _alone = alone().await;
    let Some(Stage { place, _folder, server, memory, collector }) = stage(1 << 20) else { return };
    let paths = FILES.map(|(name, _)| name);
    let load = || {
        let args = ["-n", "2000", "-c", "4", "-m", "10"];
        let report = ask(&place, "h2load", &args, &paths);
        assert_eq!(counted(&report, "done"), 2000, "{report}");
    };
    // Nobody reads yet, so the ring fills.
    load();
    let (stats, ()) = running_while(collector, load).await;
    assert!(stats.kernel.dropped > 0, "{stats:?}");
    drop((server, place));
    let columns = ["req_path", "resp_body_size", "resp_status", "quality"];
    let rows = memory.rows("http_events", &columns);
    for row in &rows {
        let [path, size, status, quality] = &row[..] else { unreachable!() };
        let is_unknown = quality.parse::<u8>().unwrap() & 8 != 0;
        let file = FILES.iter().find(|(name, _)| path.strip_prefix('/') == Some(name));
        let is_right = file.is_some_and(|(_, bytes)| bytes.to_string() == *size);
        assert!(is_right || (is_unknown && path == "?"), "{row:?}");
        assert!(status == "200" || (is_unknown && status == "0"), "{row:?}");
    }
    let missing = (2 * 2000 - rows.len()) as u64;
    let (min, max) = (memory.sum("data_loss", "rows_min"), memory.sum("data_loss", "rows_max"));
    println!("missing {missing} in {min}..={max}, {} messages dropped", stats.kernel.dropped);
    assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}");
    assert!(stats.missing_rows.min <= missing && missing <= stats.missing_rows.max, "{stats:?}");
}
