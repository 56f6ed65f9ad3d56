//! What a program says inside TLS on a connection that another thread ends while the program is in a
//! call of its library: the call returns when its connection is gone, and only then it is known how
//! much it moved.

use undine_collector::Cgroup;
use undine_testbed::compile;

use super::kernel::alone;
use super::place::skip;
use super::tls_scene::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, http_rows_of, run_probed,
};

/// A library that the program is built with.
struct Library {
    name: &'static str,
    file: &'static str,
    flags: &'static [&'static str],
}

const GNUTLS: &str = "libgnutls.so.30";

const LIBRARIES: [Library; 4] = [
    Library {
        name: "openssl",
        file: "libssl.so.3",
        flags: &["-l:libssl.so.3", "-l:libcrypto.so.3"],
    },
    Library { name: "gnutls", file: GNUTLS, flags: &["-DGNUTLS", "-l:libgnutls.so.30"] },
    // The functions beside the usual ones.
    Library {
        name: "gnutls-send2",
        file: GNUTLS,
        flags: &["-DGNUTLS", "-DSEND2", "-l:libgnutls.so.30"],
    },
    Library {
        name: "gnutls-range",
        file: GNUTLS,
        flags: &["-DGNUTLS", "-DRANGE", "-l:libgnutls.so.30"],
    },
];

/// Requests of a client, each on a connection of its own.
const REQUESTS: usize = 10;

/// Builds the program, or says why not.
fn build(scene: &Scene, library: &Library) -> Option<String> {
    if !scene.path("lib").join(library.file).exists() {
        skip(&format!("{} is not installed", library.file));
        return None;
    }
    let mut flags = vec!["-pthread", "-Wl,--no-as-needed"];
    flags.extend(library.flags);
    let program = compile("tls_ending", &flags, &scene.path("")).unwrap();
    Some(program.display().to_string())
}

/// Runs a server and a client of which one ends its connections, and only that one is watched, as
/// `role`.
async fn check(library: &Library, serve: &str, ask: &str, role: &str) {
    let scene = Scene::new(&format!("undine-tls-ending-{}-{role}", library.name));
    let Some(program) = build(&scene, library) else { return };
    let elsewhere = Cgroup::create("undine-tls-ending-peer").unwrap();
    let (of_server, of_client) = if role == "2" {
        (&scene.place.cgroup, &elsewhere)
    } else {
        (&elsewhere, &scene.place.cgroup)
    };
    let mut server = scene.bed().command_in(of_server, &program);
    // Before the collector.
    let _server = scene.serve(server.args(["serve", serve]));
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            let mut client = scene.bed().command_in(of_client, &program);
            run_probed(client.args(["ask", ask, PORT]), memory, library.file);
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows_of(role, &["0"], &memory), truth);
    assert_eq!(truth.values().sum::<usize>(), REQUESTS);
    // One call for the request and one for its answer.
    assert_eq!(stats.pipeline.tls_operations, 2 * REQUESTS as u64, "{stats:?}");
    check_nothing_is_lost(&memory, &stats);
    // Each has come to its end, of the connections and of what they carried.
    assert_eq!(stats.pipeline.connections, 0, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_another_thread_ends_the_connection_is_bound() {
    let _alone = alone().await;
    if !can_run(&["cc"]) {
        return;
    }
    for library in &LIBRARIES {
        check(library, "ends", "stays", "2").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_while_another_thread_ends_the_connection_is_bound() {
    let _alone = alone().await;
    if !can_run(&["cc"]) {
        return;
    }
    for library in &LIBRARIES {
        check(library, "stays", "ends", "1").await;
    }
}
