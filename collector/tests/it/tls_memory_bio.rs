//! Programs that move the ciphertext themselves, so that their TLS library never touches a socket.

use undine_collector::Cgroup;

use super::kernel::alone;
use super::tls_scene::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, count_lines, http_rows, http_rows_of,
    run_probed,
};

/// Serves HTTP/1.1 and HTTP/2, writes what it answered to a file, and answers `/of/N` with N bytes.
const NODE_SERVER: &str = r#"
const fs = require("fs"), http2 = require("http2");
const [certificate, key, log, port] = process.argv.slice(1);
const record = fs.openSync(log, "a");
const options = {cert: fs.readFileSync(certificate), key: fs.readFileSync(key), allowHTTP1: true};
http2.createSecureServer(options, (request, response) => {
  const size = Number(request.url.split("/").pop());
  fs.writeSync(record, `${request.method} ${request.url} 200 ${size}\n`);
  response.writeHead(200, {"Content-Length": size});
  response.end("x".repeat(size));
}).listen(Number(port), "127.0.0.1");
"#;

/// Asks on four connections at once, of which each is used often, and then many things at once on
/// one.
const NODE_CLIENT: &str = r#"
const https = require("https"), http2 = require("http2");
const [port, factor] = process.argv.slice(1);
const agent = new https.Agent({keepAlive: true, maxSockets: 4, rejectUnauthorized: false});
const ask = (path) => new Promise((done, fail) => {
  https.get({host: "127.0.0.1", port, path, agent}, (response) => {
    response.on("data", () => {}).on("end", done);
  }).on("error", fail);
});
const askAtOnce = async (paths) => {
  const session = http2.connect(`https://127.0.0.1:${port}`, {rejectUnauthorized: false});
  await Promise.all(paths.map((path) => new Promise((done, fail) => {
    session.request({":path": path}).on("data", () => {}).on("end", done).on("error", fail).end();
  })));
  session.close();
};
process.stdin.once("data", async () => {
  const numbers = [...Array(100).keys()];
  await Promise.all(numbers.map((number) => ask(`/of/node/${number * number * factor}`)));
  await askAtOnce(numbers.map((number) => `/of/http2/${number * number * factor + 1}`));
  agent.destroy();
  process.exit(0);
});
"#;

/// As [`NODE_SERVER`], of HTTP/1.1 only.
const ASYNCIO_SERVER: &str = r#"
import asyncio, ssl, sys
certificate, key, log, port = sys.argv[1:]
record = open(log, "w", buffering=1)
async def answer(reader, writer):
    while line := await reader.readline():
        method, path, _ = line.decode().split()
        while (await reader.readline()) != b"\r\n":
            pass
        size = int(path.rsplit("/", 1)[1])
        print(method, path, 200, size, file=record)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await writer.drain()
    writer.close()
async def serve():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(answer, "127.0.0.1", int(port), ssl=context)
    await server.serve_forever()
asyncio.run(serve())
"#;

/// Asks on eight connections at once, of which each is used often.
const ASYNCIO_CLIENT: &str = r#"
import asyncio, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
async def ask(first):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]), ssl=context)
    for number in range(25):
        size = int(sys.argv[2]) * number * number
        writer.write(f"GET /of/asyncio/{first}/{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        await reader.readexactly(int(length[0].split(b":")[1]))
    writer.close()
async def ask_all():
    await asyncio.gather(*[ask(first) for first in range(8)])
sys.stdin.readline()
asyncio.run(ask_all())
"#;

const PYTHON: &str = "/usr/bin/python3";

/// Makes a private copy of Node, since it may have its TLS library in itself.
fn copy_node(scene: &Scene) {
    let found = scene.place.run("sh", &["-c", "command -v node"]);
    let real = std::fs::canonicalize(found.trim()).unwrap();
    std::fs::copy(real, scene.path("node")).unwrap();
}

/// What of Node is probed: its own library, or Debian's.
fn probed_of_node(scene: &Scene) -> &'static str {
    let node = scene.path("node");
    let libraries = scene.place.run("ldd", &[&node.display().to_string()]);
    if libraries.contains("libssl.so.3") { "libssl.so.3" } else { "node" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_is_read_as_server_and_as_client() {
    let _alone = alone().await;
    if !can_run(&["node", "curl", "ldd"]) {
        return;
    }
    let scene = Scene::new("undine-tls-node");
    copy_node(&scene);
    let node = scene.text("node");
    // Before the collector; its clients come after.
    let _server = scene.serve(scene.command(&node).args(["-e", NODE_SERVER]));
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            let mut command = scene.command(&node);
            let client = command.args(["-e", NODE_CLIENT, PORT, "11"]);
            run_probed(client, memory, probed_of_node(scene));
            scene.run("curl", &["-sk", "--http1.1", &Scene::url("/of/curl/[1-100]")]);
            let parallel = ["-sk", "--http2", "--parallel", "--parallel-max", "8"];
            scene.run("curl", &[&parallel[..], &[&Scene::url("/of/curl2/[1-100]")]].concat());
            scene.access_log()
        })
        .await;
    // Node ends many streams of HTTP/2 by a reset, which the quality says.
    assert_eq!(http_rows_of("2", &["0", "4"], &memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 400);
    check_nothing_is_lost(&memory, &stats);
    // Of Node's own client all, of curl whatever came after its library was probed.
    assert!(stats.pipeline.rows_of_other_end >= 200 + stats.rows.tls_events, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_asyncio_is_read_as_server_and_as_client() {
    let _alone = alone().await;
    if !can_run(&[PYTHON]) {
        return;
    }
    let scene = Scene::new("undine-tls-asyncio");
    let _server = scene.serve(scene.command(PYTHON).args(["-c", ASYNCIO_SERVER]));
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            let mut command = scene.command(PYTHON);
            let client = command.args(["-c", ASYNCIO_CLIENT, PORT, "90"]);
            run_probed(client, memory, "libssl.so.3");
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 200);
    check_nothing_is_lost(&memory, &stats);
    assert_eq!(stats.pipeline.rows_of_other_end, 200 + stats.rows.tls_events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_move_the_ciphertext_are_read_where_the_server_is_not_watched() {
    let _alone = alone().await;
    if !can_run(&["nginx", "node", "ldd", PYTHON]) {
        return;
    }
    let scene = Scene::new("undine-tls-bio-clients");
    copy_node(&scene);
    let elsewhere = Cgroup::create("undine-tls-bio-server").unwrap();
    let nginx = scene.nginx_in(&elsewhere);
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, memory| {
            let mut command = scene.command(&scene.text("node"));
            let client = command.args(["-e", NODE_CLIENT, PORT, "1"]);
            run_probed(client, memory, probed_of_node(scene));
            let mut command = scene.command(PYTHON);
            let client = command.args(["-c", ASYNCIO_CLIENT, PORT, "1"]);
            run_probed(client, memory, "libssl.so.3");
        })
        .await;
    let truth = count_lines(&nginx.stop().unwrap());
    assert_eq!(http_rows_of("1", &["0"], &memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 400);
    check_nothing_is_lost(&memory, &stats);
}

/// Serves and asks in one process.
const NODE_BOTH: &str = r#"
const fs = require("fs"), https = require("https");
const [certificate, key, log] = process.argv.slice(1);
const record = fs.openSync(log, "a");
const options = {cert: fs.readFileSync(certificate), key: fs.readFileSync(key)};
const server = https.createServer(options, (request, response) => {
  fs.writeSync(record, `${request.method} ${request.url} 200 3\n`);
  response.writeHead(200, {"Content-Length": 3});
  response.end("yes");
});
const agent = new https.Agent({keepAlive: true, maxSockets: 3, rejectUnauthorized: false});
const ask = (number) => new Promise((done, fail) => {
  const {port} = server.address();
  https.get({host: "127.0.0.1", port, path: `/both/${number}`, agent}, (response) => {
    response.on("data", () => {}).on("end", done);
  }).on("error", fail);
});
process.stdin.once("data", () => server.listen(0, "127.0.0.1", async () => {
  await Promise.all([...Array(60).keys()].map(ask));
  agent.destroy();
  server.close(() => process.exit(0));
}));
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_in_one_process_are_told_apart() {
    let _alone = alone().await;
    if !can_run(&["node", "ldd"]) {
        return;
    }
    let scene = Scene::new("undine-tls-node-both");
    copy_node(&scene);
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            let mut command = scene.command(&scene.text("node"));
            command.args(["-e", NODE_BOTH]).arg(scene.bed().certificate());
            let command = command.arg(scene.bed().key()).arg(scene.path("access"));
            run_probed(command, memory, probed_of_node(scene));
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 60);
    check_nothing_is_lost(&memory, &stats);
    assert_eq!(stats.pipeline.rows_of_other_end, 60 + stats.rows.tls_events);
}
