//! Buckets of real servers, which `cargo xtask test buckets` installs and then runs this with; those that
//! `cargo xtask full buckets-refused` builds are run by that alone.
//!
//! A server is started on a port of its own and ended with its test. The client takes its endpoint from
//! the environment, so it runs in a process of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use undine_store::inspect::Dialect;
use undine_store::{Bucket, BucketError, BuildError, Config};

use super::bucket::Node;
use super::{fleet, interop};

const CHILD: &str = "it::servers::a_child_that_keeps_a_store_in_a_bucket";
const WRITER: &str = "it::servers::a_child_that_writes_views_of_two_nodes";
const READER: &str = "it::servers::a_child_that_may_not_read_a_bucket";

/// The only one that s3rver takes.
const KEY: [&str; 2] = ["S3RVER", "S3RVER"];
/// One in the form that garage asks for.
const GARAGE_KEY: [&str; 2] = [
    "GK0123456789abcdef01234567",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
];

/// Makes a container as the emulator's well-known account, which no library of ours can.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
account = "devstoreaccount1"
key = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/undine\nrestype:container"
signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(f"{sys.argv[1]}/{account}/undine?restype=container", method="PUT", headers={
    "x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{signature}"})
assert urllib.request.urlopen(request).status == 201
"#;

/// Moto one request at a time. Its own `moto_server` answers several at once, and then lets two of sixteen
/// writers make one file now and then on a busy machine, which the probe is right to refuse.
const MOTO: &str = r#"
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
application = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=False)
"#;

/// A server that ends with its test.
struct Server {
    child: Child,
    address: String,
    dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Where the servers are installed.
fn installed(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bucket-test").join(program);
    assert!(path.exists(), "cargo xtask test buckets or full buckets-refused installs {program}");
    path
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Server {
    /// Starts a program that is told a free port of this machine and a folder of its own.
    fn start(program: &str, tell: impl Fn(&mut Command, &str, &Path)) -> Self {
        let free = free_port();
        let dir = TempDir::new().unwrap();
        let mut command = Command::new(installed(program));
        tell(&mut command, &free.port().to_string(), dir.path());
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(dir.path().join("stderr")).unwrap()))
            .spawn()
            .unwrap();
        let mut server = Self { child, address: free.to_string(), dir };
        let deadline = Instant::now() + Duration::from_mins(3);
        // None of them says when it listens, so it is asked until it answers.
        while TcpStream::connect(free).is_err() {
            let ended = server.child.try_wait().unwrap();
            let said = || fs::read_to_string(server.dir.path().join("stderr")).unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{program}: {}", said());
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs a child with these variables.
    fn client(&self, child: &str, bucket: &str, variables: &[(&str, &str)]) -> Output {
        fs::write(self.dir.path().join("bucket"), bucket).unwrap();
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", child, "--ignored", "--nocapture", "--test-threads=1"])
            .current_dir(self.dir.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    fn s3_client(&self, child: &str, [key, secret]: [&str; 2]) -> Output {
        self.client(
            child,
            "s3://undine/some/prefix",
            &[
                ("AWS_ENDPOINT", &self.url()),
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", key),
                ("AWS_SECRET_ACCESS_KEY", secret),
            ],
        )
    }
}

/// Moto with a bucket in it.
fn moto(program: &str) -> Server {
    let server = Server::start("moto/bin/python", |command, port, _| {
        command.args(["-c", program, port]);
    });
    let made = Command::new("curl")
        .args(["-sfo", "/dev/null", "-X", "PUT", &format!("{}/undine", server.url())])
        .status();
    assert!(made.unwrap().success());
    server
}

/// Why a child would not go on.
fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let refused = text.lines().find(|line| line.starts_with("refused: "));
    refused.unwrap_or_else(|| panic!("it says why: {text}")).to_owned()
}

fn assert_unsafe(output: &Output) {
    let refused = refused(output);
    assert!(!output.status.success());
    assert!(refused.contains("s3://undine/some/prefix"), "{refused}");
    assert!(refused.contains("writers made the same file at once"), "{refused}");
    println!("{refused}");
}

fn assert_passed(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
    println!("{stdout}");
}

#[test]
#[ignore = "needs servers that cargo xtask test buckets installs"]
fn a_store_lives_in_a_bucket_of_moto() {
    assert_passed(&moto(MOTO).s3_client(CHILD, KEY));
}

#[test]
#[ignore = "needs servers that cargo xtask test buckets installs"]
fn a_bucket_that_may_not_be_read_is_named_with_what_to_allow() {
    // It asks nobody who he is until the bucket is made, and nobody is known to it.
    let strict = format!("import os\nos.environ['INITIAL_NO_AUTH_ACTION_COUNT'] = '1'\n{MOTO}");
    let refused = refused(&moto(&strict).s3_client(READER, KEY));
    assert!(refused.contains("bucket s3://undine/some/prefix may not be read"), "{refused}");
    assert!(refused.contains("s3:ListBucket"), "{refused}");
}

#[test]
#[ignore = "needs servers that cargo xtask test buckets installs"]
fn a_store_lives_in_a_container_of_azurite() {
    let server = Server::start("node_modules/.bin/azurite-blob", |command, port, _| {
        command.args(["--blobHost", "127.0.0.1", "--blobPort", port, "--inMemoryPersistence"]);
        command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
    });
    let python = installed("moto/bin/python");
    let made = Command::new(python).args(["-c", MAKE_CONTAINER, &server.url()]).status();
    assert!(made.unwrap().success());
    assert_passed(&server.client(
        CHILD,
        "az://undine/some/prefix",
        &[
            ("AZURE_STORAGE_USE_EMULATOR", "true"),
            ("AZURITE_BLOB_STORAGE_URL", &server.url()),
            ("AZURE_ALLOW_HTTP", "true"),
        ],
    ));
}

#[test]
#[ignore = "needs servers that cargo xtask test buckets installs"]
fn a_bucket_of_s3rver_is_refused_since_its_creates_overwrite() {
    let server = Server::start("node_modules/.bin/s3rver", |command, port, dir| {
        command.args(["-a", "127.0.0.1", "-p", port, "--configure-bucket", "undine", "-d"]);
        command.arg(dir.join("files"));
    });
    assert_unsafe(&server.s3_client(CHILD, KEY));
}

#[test]
#[ignore = "needs engines that cargo xtask full buckets-fleet installs"]
fn other_engines_read_the_views_of_all_nodes_from_a_bucket_of_moto() {
    let server = moto(MOTO);
    assert_passed(&server.s3_client(WRITER, KEY));
    let [key, secret] = KEY;
    let secret = format!(
        "LOAD httpfs; CREATE SECRET (TYPE s3, KEY_ID '{key}', SECRET '{secret}', REGION 'us-east-1', \
         ENDPOINT '{}', URL_STYLE 'path', USE_SSL false);",
        server.address
    );
    let questions = [
        "SELECT node, count(*), sum(id) FROM \"notes.Beta\" GROUP BY node ORDER BY node",
        "SELECT node, sum(rows), sum(size_sum) FROM requests__1m GROUP BY node ORDER BY node",
    ]
    .map(|sql| json!({ "sql": sql }));
    let expected = json!([["node two", 2, 30], ["node-1", 3, 6]]);
    for (engine, before) in [("duckdb", &*secret), ("chdb", "")] {
        let views = fs::read_to_string(server.dir.path().join(engine)).unwrap();
        let mut python = Command::new(installed("engines/bin/python"));
        python.env("AWS_ACCESS_KEY_ID", KEY[0]).env("AWS_SECRET_ACCESS_KEY", KEY[1]);
        let answers =
            interop::ask_with(&mut python, engine, &format!("{before}\n{views}"), &questions);
        for answer in answers {
            assert_eq!(interop::integers(&answer), expected, "{engine}");
        }
    }
}

#[test]
#[ignore = "needs servers that cargo xtask full buckets-refused builds"]
fn s3s_fs_is_refused_since_writers_that_race_overwrite() {
    let server = Server::start("bin/s3s-fs", |command, port, dir| {
        let files = dir.join("files");
        fs::create_dir_all(files.join("undine")).unwrap();
        let [key, secret] = KEY;
        command.args(["--host", "127.0.0.1", "--port", port]);
        command.args(["--access-key", key, "--secret-key", secret]).arg(files);
    });
    assert_unsafe(&server.s3_client(CHILD, KEY));
}

#[test]
#[ignore = "needs servers that cargo xtask full buckets-refused builds"]
fn garage_is_refused_since_it_ignores_the_condition() {
    let server = Server::start("bin/garage", |command, port, dir| {
        let [key, secret] = GARAGE_KEY;
        let rpc = free_port();
        let settings = format!(
            "metadata_dir = 'meta'\ndata_dir = 'data'\ndb_engine = 'sqlite'\nreplication_factor = 1\n\
             rpc_bind_addr = '{rpc}'\nrpc_public_addr = '{rpc}'\nrpc_secret = '{secret}'\n\
             [s3_api]\ns3_region = 'us-east-1'\napi_bind_addr = '127.0.0.1:{port}'\n"
        );
        fs::write(dir.join("garage.toml"), settings).unwrap();
        command.args(["-c", "garage.toml", "server", "--single-node", "--default-bucket"]);
        command.env("GARAGE_DEFAULT_BUCKET", "undine");
        command.env("GARAGE_DEFAULT_ACCESS_KEY", key).env("GARAGE_DEFAULT_SECRET_KEY", secret);
    });
    assert_unsafe(&server.s3_client(CHILD, GARAGE_KEY));
}

#[test]
#[ignore = "is run by its parents, in a process of its own"]
fn a_child_that_keeps_a_store_in_a_bucket() {
    let url = fs::read_to_string("bucket").unwrap();
    let bucket = Arc::new(Bucket::open(&url).unwrap());
    let start = Instant::now();
    let say = |what: &str| println!("{what} after {:?}", start.elapsed());
    let first = Node::at(Arc::clone(&bucket), "node-1");
    let store = match (Config { hot_bytes_max: 1 << 30, ..first.config() }).build() {
        Err(error @ BuildError::Bucket(BucketError::Unsafe { .. })) => {
            println!("\nrefused: {error}");
            panic!("the bucket is unsafe");
        }
        built => built.unwrap(),
    };
    say("probed");
    first.append(&store, &[1, 2, 3]);
    first.seal(&store).unwrap();
    let segments: u64 = store.stats().tables.iter().map(|table| table.segments).sum();
    assert!(segments > 1, "rows and summaries of several widths were sealed");
    assert_eq!(first.upload(&store).unwrap(), segments);
    say("uploaded small segments");
    // Numbers that do not compress, for a segment that goes up in parts.
    let mut state = 7_u64;
    let mut ids: Vec<_> = (0..1_200_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.rotate_left(17).cast_signed() >> 1
        })
        .collect();
    for batch in ids.chunks(100_000) {
        first.append_notes(&store, batch);
    }
    first.seal(&store).unwrap();
    say("sealed a large segment");
    assert_eq!(first.upload(&store).unwrap(), 1);
    say("uploaded it");
    let stats = store.stats().bucket.unwrap();
    assert!(stats.uploaded_bytes > 8 << 20, "a segment is large enough for parts: {stats:?}");
    ids.extend([1, 2, 3]);
    ids.sort_unstable();
    drop(store);
    let second = Node::at(Arc::clone(&bucket), "node-1");
    let store = second.start();
    assert!(second.ids(&store) == ids, "another disk reads the same rows from the bucket");
    say("read everything back on another disk");
    let cache = store.stats().bucket.unwrap().cache;
    assert!(cache.bypasses > 0 && cache.misses > 0, "{cache:?}");
    drop(store);
    let other = Node::at(bucket, "node two");
    let store = other.start();
    fleet::upload(&other, &store, &[10, 20]);
    fleet::check(&url, &[("node-1", ids.len() as u64), ("node two", 2)]);
    say("read all nodes from outside");
    let missing = url.replace("undine", "missing");
    let error = fleet::refusal(&missing);
    assert!(error.contains(&format!("bucket {missing} is not there")), "{error}");
    let error = fleet::refusal(&format!("{url}/elsewhere"));
    assert!(error.contains("elsewhere holds nothing of undine"), "{error}");
}

#[test]
#[ignore = "is run by its parent, in a process of its own"]
fn a_child_that_writes_views_of_two_nodes() {
    let url = fs::read_to_string("bucket").unwrap();
    let bucket = Arc::new(Bucket::open(&url).unwrap());
    for (name, ids) in [("node-1", [1, 2, 3].as_slice()), ("node two", &[10, 20])] {
        let node = Node::at(Arc::clone(&bucket), name);
        fleet::upload(&node, &node.start(), ids);
    }
    for (engine, dialect) in [("duckdb", Dialect::DuckDb), ("chdb", Dialect::ClickHouse)] {
        fs::write(engine, fleet::views(&url, dialect)).unwrap();
    }
}

#[test]
#[ignore = "is run by its parent, in a process of its own"]
fn a_child_that_may_not_read_a_bucket() {
    let url = fs::read_to_string("bucket").unwrap();
    println!("\nrefused: {}", fleet::refusal(&url));
}
