//! What programs say inside TLS, through the hooks that run inside what moves bytes.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

use undine_collector::Hooks;
use undine_collector::kernel::{Outcome, ProbeReport, probe_report};

use super::has;
use crate::it::kernel::{alone, may_load};
use crate::it::place::are_installed;
use crate::it::tls_scene::{
    PORT, RING_BYTES, Scene, check_nothing_is_lost, count_lines, http_rows,
};

/// Connections to nginx, and requests on each.
const LOAD: (usize, usize) = (5, 20);

/// Asks nginx on one connection and reads what it answers.
fn ask(scene: &Scene, connection: usize, requests: usize) {
    let mut command = scene.command("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{PORT}"), "-quiet"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    for request in 0..requests {
        let end = if request + 1 == requests { "Connection: close\r\n" } else { "" };
        let path = format!("/of/{connection}/{request}");
        write!(input, "GET {path} HTTP/1.1\r\nHost: h\r\n{end}\r\n").unwrap();
    }
    drop(input);
    let said = client.wait_with_output().unwrap().stdout;
    let answers = String::from_utf8_lossy(&said).matches("HTTP/1.1 200 OK").count();
    assert_eq!(answers, requests, "{}", String::from_utf8_lossy(&said));
}

/// Whether this kernel lacks what the programs for TLS call (`bpf_loop`).
fn is_too_old() -> bool {
    let reports = probe_report().unwrap();
    let is_missing = |report: &ProbeReport| {
        report.probe == "tls_enter" && matches!(report.outcome, Outcome::Missing(_))
    };
    reports.iter().any(is_missing)
}

async fn what_nginx_logs_inside_tls_is_what_is_seen(wanted: Hooks) {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["nginx", "openssl", "nsenter"]) || !has(wanted) {
        return;
    }
    let scene = Scene::new("undine-hooks-tls");
    let nginx = scene.nginx();
    let (connections, requests) = LOAD;
    let (memory, stats, ()) = scene
        .watch_through(Some(wanted), RING_BYTES, |scene, _| {
            (0..connections).for_each(|connection| ask(scene, connection, requests));
        })
        .await;
    let rows = http_rows(&memory);
    let all = connections * requests;
    if is_too_old() {
        println!("skipped: before Linux 5.17 no TLS is read");
        // It says so, and nothing else suffers: the handshakes are rows.
        assert_eq!(rows, BTreeMap::new());
        assert_eq!(memory.rows("tls_events", &["time_"]).len(), connections);
        let probes = memory.rows("probe_status", &["tracepoint", "error"]);
        let why = probes.iter().find(|row| row[0] == "uprobe:tls_enter").map(|row| &row[1]);
        assert!(why.is_some_and(|why| why.contains("needs Linux 5.17")), "{probes:?}");
        return;
    }
    println!("{} rows of {all} requests inside TLS through {wanted}", rows.len());
    assert_eq!(rows, count_lines(&nginx.stop().unwrap()));
    assert_eq!(rows.values().sum::<usize>(), all);
    check_nothing_is_lost(&memory, &stats);
    // The clients' ends were seen too, and each row is kept once.
    assert!(stats.pipeline.rows_of_other_end >= all as u64, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_inside_tls_are_rows_through_the_sockets_tracepoints() {
    what_nginx_logs_inside_tls_is_what_is_seen(Hooks::SocketLength).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_inside_tls_are_rows_through_the_sockets_functions() {
    what_nginx_logs_inside_tls_is_what_is_seen(Hooks::SocketFunctions).await;
}
