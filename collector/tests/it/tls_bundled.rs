//! TLS libraries that packages bring with them: OpenSSL 1.1 as a file of its own, and `BoringSSL` linked into a
//! module that is called otherwise.

use std::fs;
use std::path::Path;
use std::process::Command;

use undine_collector::Cgroup;
use undine_testbed::postgres::Postgres;

use super::kernel::alone;
use super::place::{python_with, succeed};
use super::postgres::{logged, programs};
use super::tls_scene::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, count, count_lines, http_rows_of,
    run_probed,
};

/// Prints the folder in which the package that is its argument is.
const FOLDER: &str = "import importlib.util, os, sys; print(os.path.dirname(os.path.dirname(importlib.util.find_spec(sys.argv[1]).origin)))";

/// Copies folders of a package into the scene, so that nothing else maps their files; a variable of Python's
/// that makes it take them from there.
fn own_copy(
    scene: &Scene,
    python: &str,
    package: &str,
    folders: &[&str],
) -> (&'static str, String) {
    let from = scene.run(python, &["-c", FOLDER, package]);
    let copies = scene.path("packages");
    fs::create_dir(&copies).unwrap();
    for folder in folders {
        succeed(Command::new("cp").arg("-r").arg(Path::new(from.trim()).join(folder)).arg(&copies));
    }
    ("PYTHONPATH", copies.display().to_string())
}

const PSYCOPG2: &str = r#"
import psycopg2, sys
sys.stdin.readline()
for first in range(2):
    connection = psycopg2.connect("sslmode=require")
    connection.autocommit = True
    with connection.cursor() as cursor:
        for number in range(50):
            cursor.execute(f"select {first}, {number}, repeat('x', {number * number * 20})")
            cursor.fetchall()
    connection.close()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_1_1_is_read_at_the_clients_end() {
    let _alone = alone().await;
    if !can_run(&["setpriv"]) {
        return;
    }
    let (Some(programs), Some(python)) = (programs(), python_with(&["psycopg2"])) else { return };
    let scene = Scene::new("undine-tls-openssl-1-1");
    let package = ["psycopg2", "psycopg2_binary.libs"];
    let (variable, copy) = own_copy(&scene, &python, package[0], &package);
    let library = fs::read_dir(Path::new(&copy).join(package[1])).unwrap();
    let mut names = library.map(|file| file.unwrap().file_name().into_string().unwrap());
    let library = names.find(|name| name.starts_with("libssl")).unwrap();
    assert!(library.ends_with(".so.1.1"), "{library}");
    let server = Postgres::start(scene.bed(), &programs, &["log_statement=all"]).unwrap();
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |_, memory| {
            let mut client = server.command(&python);
            client.env(variable, &copy).args(["-c", PSYCOPG2]);
            run_probed(&mut client, memory, &library);
        })
        .await;
    let (statements, _) = logged(&server.stop().unwrap());
    let truth = count(statements.into_iter().map(|statement| statement.request));
    assert_eq!(truth.values().sum::<usize>(), 100);
    let rows = memory.rows("pgsql_events", &["encrypted", "req_cmd", "req"]);
    let rows = count(rows.iter().filter(|row| row[1] == "Query").map(|row| {
        assert_eq!(row[0], "true", "{row:?}");
        row[2].clone()
    }));
    assert_eq!(rows, truth);
    // OpenSSL 3 at the server's end gave them once, 1.1 at the client's end once more.
    assert!(stats.pipeline.rows_of_other_end >= 100, "{stats:?}");
    check_nothing_is_lost(&memory, &stats);
}

const CURL_CFFI: &str = r#"
import sys
from curl_cffi import CurlHttpVersion, Session
sys.stdin.readline()
for version, name in ((CurlHttpVersion.V1_1, "one"), (CurlHttpVersion.V2TLS, "two")):
    with Session(verify=False, http_version=version) as session:
        for number in range(50):
            assert session.get(f"https://127.0.0.1:{sys.argv[1]}/of/{name}/{number}").status_code == 200
        session.get(f"https://127.0.0.1:{sys.argv[1]}/400000")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boringssl_within_another_library_is_read() {
    let _alone = alone().await;
    if !can_run(&["nginx"]) {
        return;
    }
    let Some(python) = python_with(&["curl_cffi"]) else { return };
    let scene = Scene::new("undine-tls-linked");
    let (variable, copy) = own_copy(&scene, &python, "curl_cffi", &["curl_cffi"]);
    // There is OpenSSL, which is not to be read here.
    let elsewhere = Cgroup::create("undine-tls-linked-server").unwrap();
    let nginx = scene.nginx_in(&elsewhere);
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, memory| {
            let mut client = scene.command(&python);
            client.env(variable, &copy).args(["-c", CURL_CFFI, PORT]);
            run_probed(&mut client, memory, "_wrapper.abi3.so");
        })
        .await;
    let truth = count_lines(&nginx.stop().unwrap());
    assert_eq!(http_rows_of("1", &["0"], &memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 102);
    check_nothing_is_lost(&memory, &stats);
}
