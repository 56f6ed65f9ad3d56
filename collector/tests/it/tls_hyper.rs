//! What a server in Rust says inside TLS that is built of hyper and tokio-rustls, as most are: a task for
//! each connection, which goes from thread to thread.

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead, Write};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::kernel::alone;
use super::place::Program;
use super::tls_scene::{PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, http_rows};

/// The test binary's private copy, so that no other test meets a probe.
const NAME: &str = "hyper-program";

/// What a started program runs: `serve CERTIFICATE KEY LOG` on [`PORT`].
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    println!("\nready");
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().split(' ').collect::<Vec<_>>()[..] {
            ["serve", certificate, key, log] => {
                let acceptor = acceptor(certificate, key);
                let log = fs::File::options().create(true).append(true).open(log).unwrap();
                std::thread::spawn(move || serve(&acceptor, log));
            }
            _ => return,
        }
    }
}

fn acceptor(certificate: &str, key: &str) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config).into()
}

/// Answers `/…/N` with N bytes once it has read the request's own, and logs it.
fn serve(acceptor: &TlsAcceptor, log: fs::File) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let log = Arc::new(log);
    runtime.block_on(async {
        let listener = TcpListener::bind(format!("127.0.0.1:{PORT}")).await.unwrap();
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            connections.spawn(converse(acceptor.clone(), socket, Arc::clone(&log)));
        }
    });
}

async fn converse(acceptor: TlsAcceptor, socket: TcpStream, log: Arc<fs::File>) {
    let stream = acceptor.accept(socket).await.unwrap();
    let service = service_fn(move |request| answer(request, Arc::clone(&log)));
    // A client may leave as it likes.
    drop(
        auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<fs::File>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let sent = request.into_body().collect().await.unwrap().to_bytes();
    // What a handler waits for; the task may go on in another thread.
    tokio::task::yield_now().await;
    let size: usize = path.rsplit('/').next().unwrap().parse().unwrap();
    let line = format!("{method} {path} 200 {}\n", size + sent.len());
    (&*log).write_all(line.as_bytes()).unwrap();
    Ok(Response::new(vec![b'x'; size + sent.len()].into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_hyper_and_tokio_rustls_is_read() {
    let _alone = alone().await;
    if !can_run(&["curl"]) {
        return;
    }
    let scene = Scene::new("undine-tls-hyper");
    let copy = scene.path(NAME);
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut server = Program::start_test(scene.place.command(&copy), "it::tls_hyper::program");
    let (bed, log) = (scene.bed(), scene.text("access"));
    server.tell(&format!("serve {} {} {log}", bed.certificate(), bed.key()));
    scene.place.wait_until_listening(PORT.parse().unwrap());
    let upload = scene.path("upload");
    fs::write(&upload, vec![b'u'; 40_000]).unwrap();
    let upload = format!("@{}", upload.display());
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, _| {
            for version in [&["--http1.1"][..], &["--http2"], &["--http1.1", "--tls-max", "1.2"]] {
                let name = version.join("");
                let curl = |arguments: &[&str], path: &str| {
                    let url = Scene::url(&format!("/{name}/{path}"));
                    scene.run("curl", &[&["-sk"], version, arguments, &[&url]].concat());
                };
                curl(&[], "one/[1-40]");
                curl(&["--parallel", "--parallel-max", "8"], "many/[1-40]00");
                curl(&["--data-binary", &upload, "-H", "Expect:"], "up/[1-5]");
                curl(&["-H", "Connection: close"], "closed/[1-20]");
                // Handshakes on the same stacks at once, while answers come from other places.
                let fresh = ["--parallel", "--parallel-max", "16", "-H", "Connection: close"];
                curl(&fresh, "fresh/[1-200]");
            }
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 3 * 305);
    check_nothing_is_lost(&memory, &stats);
}
