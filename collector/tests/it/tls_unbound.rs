//! A program whose TLS library is in one process and whose sockets are in another, between which only
//! pipes are: nothing says which connection carries which plaintext.

use std::fs;

use undine_collector::Cgroup;

use super::kernel::alone;
use super::tls_scene::{PORT, RING_BYTES, Scene, can_run, count, wait_for_probe};

const PYTHON: &str = "/usr/bin/python3";

/// Takes ciphertext from a pipe, answers each request, logs it, and gives ciphertext to another.
const LIBRARY: &str = r#"
import ssl, struct, sys
certificate, key, log = sys.argv[1:]
record = open(log, "w", buffering=1)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
def frames():
    while len(head := sys.stdin.buffer.read(4)) == 4:
        size, = struct.unpack("I", head)
        if not size:
            return
        yield sys.stdin.buffer.read(size)
    sys.exit(0)
while True:
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, sent, server_side=True)
    asked, is_shaken = b"", False
    for frame in frames():
        received.write(frame)
        try:
            if not is_shaken:
                tls.do_handshake()
                is_shaken = True
            while more := tls.read(65536):
                asked += more
        except ssl.SSLWantReadError:
            pass
        while b"\r\n\r\n" in asked:
            head, asked = asked.split(b"\r\n\r\n", 1)
            path = head.split()[1].decode()
            size = int(path.rsplit("/", 1)[1])
            print("GET", path, 200, size, file=record)
            tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        answer = sent.read()
        sys.stdout.buffer.write(struct.pack("I", len(answer)) + answer)
        sys.stdout.buffer.flush()
"#;

/// Has the sockets, one connection after another, and knows nothing of TLS.
const RELAY: &str = r#"
import os, socket, struct, subprocess, sys
certificate, key, log, port = sys.argv[1:]
library = os.path.join(os.path.dirname(__file__), "library.py")
command = [sys.executable, library, certificate, key, log]
library = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def say(frame):
    library.stdin.write(struct.pack("I", len(frame)) + frame)
    library.stdin.flush()
server = socket.create_server(("127.0.0.1", int(port)))
while True:
    connection, _ = server.accept()
    while received := connection.recv(65536):
        say(received)
        size, = struct.unpack("I", library.stdout.read(4))
        connection.sendall(library.stdout.read(size))
    say(b"")
    connection.close()
"#;

/// Asks on three connections, one after another.
const CLIENT: &str = r#"
import http.client, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for first in range(3):
    client = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=context)
    for number in range(20):
        client.request("GET", f"/of/{first}/{number * number * 10}")
        assert len(client.getresponse().read()) == number * number * 10
    client.close()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_connection_can_be_found_for_is_kept_and_flagged() {
    let _alone = alone().await;
    if !can_run(&[PYTHON]) {
        return;
    }
    let scene = Scene::new("undine-tls-unbound");
    for (name, script) in [("library.py", LIBRARY), ("relay.py", RELAY)] {
        fs::write(scene.path(name), script).unwrap();
    }
    let elsewhere = Cgroup::create("undine-tls-unbound-client").unwrap();
    let _server = scene.serve(scene.command(PYTHON).arg(scene.path("relay.py")));
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            wait_for_probe(memory, "libssl.so.3");
            let mut client = scene.bed().command_in(&elsewhere, PYTHON);
            let status = client.args(["-c", CLIENT, PORT]).status().unwrap();
            assert!(status.success(), "the client ended with {status}");
            scene.access_log()
        })
        .await;
    let columns =
        ["encrypted", "trace_role", "quality", "remote_addr", "remote_port", "local_port"];
    let asked = ["req_method", "req_path", "resp_status", "resp_body_size"];
    let rows = memory.rows("http_events", &[&columns[..], &asked[..]].concat());
    let rows = count(rows.iter().map(|row| {
        assert_eq!(row[..6], ["true", "2", "16", "-", "0", "0"], "{row:?}");
        row[6..].join(" ")
    }));
    assert_eq!(rows, truth);
    assert_eq!(truth.values().sum::<usize>(), 60);
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
    assert_eq!(stats.pipeline.tls_unbound, 3, "{stats:?}");
    // The connections are those of the process that has the sockets.
    let connections = memory.rows("conn_stats", &["upid", "ssl"]);
    assert!(!connections.is_empty(), "the relay's connections are watched");
}
