//! What programs in Rust say inside TLS through rustls.

use std::fs;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig};
use rustls::{ServerConnection, SignatureScheme, StreamOwned};
use undine_collector::Cgroup;

use super::kernel::alone;
use super::place::{Program, succeed, wait_until};
use super::tls_scene::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, count_lines, http_rows, http_rows_of,
    wait_for_probe,
};

/// Connections of the client, and requests on each.
const LOAD: (usize, usize) = (6, 25);
/// The test binary's private copy, so that no other test meets a probe.
const NAME: &str = "rustls-program";

/// What a started program runs: `serve CERTIFICATE KEY LOG` or `ask WORD FACTOR`, each on [`PORT`].
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    println!("\nready");
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().split(' ').collect::<Vec<_>>()[..] {
            ["serve", certificate, key, log] => serve(certificate, key, log),
            ["ask", word, factor] => {
                ask(word, factor.parse().unwrap());
                println!("\nasked");
            }
            _ => return,
        }
    }
}

/// Logs `/of/N` and answers it with N bytes, each connection in a thread of its own.
fn serve(certificate: &str, key: &str, log: &str) {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let log = fs::File::options().create(true).append(true).open(log).unwrap();
    let listener = TcpListener::bind(format!("127.0.0.1:{PORT}")).unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            let log = log.try_clone().unwrap();
            std::thread::spawn(move || {
                for _ in 0..3 {
                    let Some(head) = head_of(&mut stream) else { return };
                    if head.contains("/moves/") {
                        std::thread::spawn(move || go_on(stream, Some(head), &log));
                        return;
                    }
                    answer(&mut stream, &head, &log);
                }
                std::thread::spawn(move || go_on(stream, None, &log));
            });
        }
    });
}

/// The rest of a connection, at another place of memory; what it is to answer first may have been read.
fn go_on(stream: StreamOwned<ServerConnection, TcpStream>, head: Option<String>, log: &fs::File) {
    let mut stream = Box::new(stream);
    if let Some(head) = head {
        answer(&mut stream, &head, log);
    }
    while let Some(head) = head_of(&mut stream) {
        answer(&mut stream, &head, log);
    }
}

fn answer(stream: &mut impl Write, head: &str, mut log: &fs::File) {
    let path = head.split(' ').nth(1).unwrap();
    let size: usize = path.rsplit('/').next().unwrap().parse().unwrap();
    log.write_all(format!("GET {path} 200 {size}\n").as_bytes()).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
    let body = vec![b'x'; size];
    // In pieces, as servers do; a call may take a part of them only.
    let mut pieces = [IoSlice::new(head.as_bytes()), IoSlice::new(&body)];
    let mut pieces = &mut pieces[..];
    while !pieces.is_empty() {
        let written = stream.write_vectored(pieces).unwrap();
        IoSlice::advance_slices(&mut pieces, written);
    }
    stream.flush().unwrap();
}

/// Reads a request's or a response's head; `None` where the connection has ended.
fn head_of(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Takes any certificate: tests make their own.
#[derive(Debug)]
struct Any(CryptoProvider);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Asks on several connections, all of which stay open to the end, and then from several threads.
///
/// Each handshake, and each first request, happens where the one before did; then the connection is moved
/// and another one takes its place.
fn ask(word: &str, factor: usize) {
    let provider = ring::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    let config = Arc::new(config);
    let (connections, requests) = LOAD;
    let mut open = Vec::new();
    for first in 0..connections {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let socket = TcpStream::connect(format!("127.0.0.1:{PORT}")).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        request(&mut stream, &format!("/of/{word}/{first}/0"));
        open.push(stream);
    }
    for number in 1..requests / 2 {
        for (first, stream) in open.iter_mut().enumerate() {
            request(stream, &format!("/of/{word}/{first}/{}", factor * number * number));
        }
    }
    let threads = open.into_iter().enumerate().map(|(first, mut stream)| {
        let word = word.to_owned();
        std::thread::spawn(move || {
            for number in requests / 2..requests {
                request(&mut stream, &format!("/of/{word}/{first}/{}", factor * number * number));
            }
            // The last one ends as it should, the others as many programs do.
            if first == 0 {
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
}

fn request(stream: &mut StreamOwned<ClientConnection, TcpStream>, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let head = head_of(stream).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = BufReader::new(stream.take(length.parse().unwrap()));
    std::io::copy(&mut body, &mut std::io::sink()).unwrap();
}

/// Starts the program from a private copy of this binary.
fn start(scene: &Scene, cgroup: Option<&Cgroup>) -> Program {
    let copy = scene.path(NAME);
    if !copy.exists() {
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    }
    let command = match cgroup {
        None => scene.place.command(&copy),
        Some(cgroup) => scene.place.command_in(cgroup, &copy),
    };
    Program::start_test(command, "it::tls_rustls::program")
}

pub(crate) fn start_server(scene: &Scene) -> Program {
    let mut server = start(scene, None);
    let (bed, log) = (scene.bed(), scene.text("access"));
    server.tell(&format!("serve {} {} {log}", bed.certificate(), bed.key()));
    scene.place.wait_until_listening(PORT.parse().unwrap());
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rustls_is_read_as_server_and_as_client() {
    let _alone = alone().await;
    if !can_run(&["curl"]) {
        return;
    }
    let scene = Scene::new("undine-tls-rustls");
    // Both are there before the collector, their connections are not.
    let _server = start_server(&scene);
    let mut client = start(&scene, None);
    let (connections, requests) = LOAD;
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, _| {
            client.tell("ask rustls 90");
            client.hear("asked");
            scene.run("curl", &["-sk", "--http1.1", &Scene::url("/of/curl/[1-50]")]);
            let tls12 = ["-sk", "--http1.1", "--tls-max", "1.2"];
            scene.run("curl", &[&tls12[..], &[&Scene::url("/of/curl12/[1-50]")]].concat());
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.values().sum::<usize>(), connections * requests + 100);
    check_nothing_is_lost(&memory, &stats);
    let own = (connections * requests) as u64;
    assert!(stats.pipeline.rows_of_other_end >= own, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_moved_before_it_answers_goes_on() {
    let _alone = alone().await;
    if !can_run(&["curl"]) {
        return;
    }
    let scene = Scene::new("undine-tls-rustls-moved");
    // Of the client nothing is read.
    let elsewhere = Cgroup::create("undine-tls-rustls-curl").unwrap();
    let _server = start_server(&scene);
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, _| {
            let paths = ["/of/1", "/moves/2", "/of/3", "/of/4"].map(Scene::url);
            let mut command = scene.place.command_in(&elsewhere, "curl");
            succeed(command.args(["-sk", "--http1.1"]).args(paths));
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.len(), 4);
    check_nothing_is_lost(&memory, &stats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_rustls_is_read_where_the_server_is_not_watched() {
    let _alone = alone().await;
    if !can_run(&["nginx"]) {
        return;
    }
    let scene = Scene::new("undine-tls-rustls-client");
    let elsewhere = Cgroup::create("undine-tls-rustls-server").unwrap();
    let nginx = scene.nginx_in(&elsewhere);
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, memory| {
            let mut client = start(scene, None);
            wait_for_probe(memory, NAME);
            client.tell("ask nginx 0");
            client.hear("asked");
        })
        .await;
    let truth = count_lines(&nginx.stop().unwrap());
    assert_eq!(http_rows_of("1", &["0"], &memory), truth);
    assert_eq!(truth.values().sum::<usize>(), LOAD.0 * LOAD.1);
    check_nothing_is_lost(&memory, &stats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_rustls_and_without_symbols_is_named() {
    let _alone = alone().await;
    if !can_run(&["strip"]) {
        return;
    }
    let scene = Scene::new("undine-tls-rustls-stripped");
    let exe = std::env::current_exe().unwrap();
    succeed(Command::new("strip").arg("-o").arg(scene.path(NAME)).arg(exe).stderr(Stdio::null()));
    let _program = start(&scene, None);
    let (memory, _, ()) = scene
        .watch(RING_BYTES, |_, memory| {
            let refused = || {
                let rows =
                    memory.rows("probe_status", &["source_connector", "tracepoint", "error"]);
                rows.into_iter().find(|row| row[0] == "tls" && row[1].ends_with(NAME))
            };
            wait_until("the program to be looked at", || refused().is_some());
        })
        .await;
    let rows = memory.rows("probe_status", &["tracepoint", "error"]);
    let row = rows.iter().find(|row| row[0].ends_with(NAME)).unwrap();
    assert!(row[1].contains("rustls 0.23.") && row[1].contains("strip = false"), "{row:?}");
}
