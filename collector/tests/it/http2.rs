//! HTTP/2 as nghttpd and its clients speak it, on the real kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use undine_collector::Collector;
use undine_testbed::Server;

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, are_installed};
use super::watch::running_while;

/// The server has a network of its own, so it may have any port.
const PORT: u16 = 8080;
/// The files that it serves, and their bytes.
const FILES: [(&str, usize); 5] =
    [("/none", 0), ("/one", 1), ("/some", 1234), ("/frame", 16_384), ("/large", 50_000)];

/// Starts a server of `files` and waits until it listens.
fn serve(place: &Place, files: &Path) -> Server {
    let mut command = place.command("nghttpd");
    command.args(["--no-tls", "--address=127.0.0.1", "--push=/one=/some", "--htdocs"]);
    place.serve(command.arg(files).arg(PORT.to_string()), PORT)
}

/// What `program` prints when it asks for `paths`.
fn ask(place: &Place, program: &str, args: &[&str], paths: &[&str]) -> String {
    let urls: Vec<_> = paths.iter().map(|path| format!("http://127.0.0.1:{PORT}{path}")).collect();
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

/// Files, a server of them in a place of its own, and the collector that watches it from before
/// its first byte; `None` where that cannot be.
struct Scene {
    files: tempfile::TempDir,
    place: Place,
    server: Server,
    memory: Arc<Memory>,
    collector: Collector,
}

fn scene(ring_bytes: u32) -> Option<Scene> {
    if !may_load() || !are_installed(&["nghttpd", "nghttp", "h2load"]) {
        return None;
    }
    let files = tempfile::tempdir().unwrap();
    for (path, bytes) in FILES {
        fs::write(files.path().join(&path[1..]), vec![b'.'; bytes]).unwrap();
    }
    let place = Place::new("undine-http2");
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config(&place.cgroup, ring_bytes, None).build(append).unwrap();
    let server = serve(&place, files.path());
    Some(Scene { files, place, server, memory, collector })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_to_nghttpd_is_a_row_and_nothing_is_lost() {
    let _alone = alone().await;
    let Some(Scene { files, place, server, memory, collector }) = scene(64 << 20) else { return };
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = collector.run(shutdown.clone());
    let test = async {
        let paths = FILES.map(|(path, _)| path);
        let report = ask(&place, "h2load", &["-n", "2000", "-c", "4", "-m", "10"], &paths);
        assert_eq!(counted(&report, "done"), 2000, "{report}");
        assert_eq!(counted(&report, "succeeded"), 2000, "{report}");
        let stats = handle.drain().await.unwrap();
        assert!(stats.drained, "{stats:?}");
        assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
        let get = |(path, bytes): (&str, usize)| format!("GET {path} 0 200 {bytes}");
        assert_eq!(rows(&memory), FILES.map(|file| (get(file), 400)).into());

        // One after the other, to a path that is not there, with a body, and with a promise.
        let upload = files.path().join("large");
        let upload = format!("--data={}", upload.display());
        ask(&place, "nghttp", &["-n"], &["/some", "/missing"]);
        ask(&place, "nghttp", &["-n", &upload], &["/some"]);
        ask(&place, "nghttp", &["-n"], &["/one"]);
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
    let Some(Scene { files, place, server, memory, collector }) = scene(1 << 20) else { return };
    let paths = FILES.map(|(path, _)| path);
    let load = || {
        let args = ["-n", "2000", "-c", "4", "-m", "10"];
        let report = ask(&place, "h2load", &args, &paths);
        assert_eq!(counted(&report, "done"), 2000, "{report}");
    };
    // Nobody reads yet, so the ring fills.
    load();
    let (stats, ()) = running_while(collector, load).await;
    assert!(stats.kernel.dropped > 0, "{stats:?}");
    drop((files, server, place));
    let columns = ["req_path", "resp_body_size", "resp_status", "quality"];
    let rows = memory.rows("http_events", &columns);
    for row in &rows {
        let [path, size, status, quality] = &row[..] else { unreachable!() };
        let is_unknown = quality.parse::<u8>().unwrap() & 8 != 0;
        let is_right = FILES.iter().any(|(file, bytes)| file == path && bytes.to_string() == *size);
        assert!(is_right || (is_unknown && path == "?"), "{row:?}");
        assert!(status == "200" || (is_unknown && status == "0"), "{row:?}");
    }
    let missing = (2 * 2000 - rows.len()) as u64;
    let (min, max) = (memory.sum("data_loss", "rows_min"), memory.sum("data_loss", "rows_max"));
    println!("missing {missing} in {min}..={max}, {} messages dropped", stats.kernel.dropped);
    assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}");
    assert!(stats.missing_rows.min <= missing && missing <= stats.missing_rows.max, "{stats:?}");
}
