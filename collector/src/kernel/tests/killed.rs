//! What is left of a process that was killed while it was in a call of its TLS library, on a connection
//! that was gone already.

use std::path::Path;

use undine_ebpf::{PLAINTEXT, load::TlsKey};
use undine_testbed::{
    Place, Scene, Server, WITHOUT_C, Wire, compile, compile_go, missing, skip, wait_until,
};

use super::super::{ConnectionState, programs::Plain};
use super::*;
use crate::tls::{library::Library, placement::Placing};

const PORT: u16 = 8443;
/// What is said, and answered, before the call in which the process is killed.
const REQUEST: &str = "GET /of/0/0 HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Asks, and asks again on the same connection, which it closes before the second call that writes
/// returns. Neither does that call return.
const CLIENT: &str = r#"
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"
)

type ending struct {
	*net.TCPConn
	ends bool
}

func (conn *ending) Write(bytes []byte) (int, error) {
	length, err := conn.TCPConn.Write(bytes)
	if conn.ends {
		conn.Close()
		fmt.Println("inside")
		io.Copy(io.Discard, os.Stdin)
	}
	return length, err
}

func main() {
	fmt.Scanln()
	conn, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	wrapped := &ending{TCPConn: conn.(*net.TCPConn)}
	// Nothing of the connection is left once it is closed.
	wrapped.SetLinger(0)
	client := tls.Client(wrapped, &tls.Config{InsecureSkipVerify: true})
	request := []byte("GET /of/0/0 HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := client.Write(request); err != nil {
		log.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1000)); err != nil {
		log.Fatal(err)
	}
	wrapped.ends = true
	client.Write(request)
}
"#;

/// A server that is not watched, and a client that is and whose calls are seen.
struct Stage {
    kernel: KernelSource,
    client: Child,
    _server: Server,
    _places: [Place; 2],
    _folder: tempfile::TempDir,
}

impl Stage {
    /// Sets it with a client that `build` makes in a folder, of which `probed` is probed; or says why
    /// not. The client is inside its last call.
    fn set(
        programs: &[&str],
        build: impl Fn(&Path, &Path) -> Vec<String>,
        probed: &str,
    ) -> Option<Self> {
        let missing = missing(&[&["cc", "openssl", "nsenter", "unshare"][..], programs].concat());
        if !missing.is_empty() {
            skip(&format!("{missing:?} are not installed"));
            return None;
        }
        let places = ["undine-test-killed", "undine-test-killed-peer"];
        let places = places.map(|name| Place::new(name).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene { place: &places[0], folder: folder.path(), wire: Wire::Tls };
        scene.prepare().unwrap();
        let libraries = ["-Wl,--no-as-needed", "-l:libssl.so.3", "-l:libcrypto.so.3"];
        let program = compile("tls_ending", &libraries, folder.path()).unwrap();
        let mut server = scene.command_in(&places[1].cgroup, &program);
        server.args(["serve", "stays", &scene.certificate(), &scene.key(), &scene.text("log")]);
        let server = places[0].serve(server.arg(PORT.to_string()), PORT).unwrap();
        let args = build(&program, folder.path());

        let targets = vec![Target::Cgroup(places[0].cgroup.path().to_path_buf())];
        let config = Config { tls: Tls::Read(Placing::Best), ..only(targets, None, 1 << 20) };
        let kernel = config.build().unwrap();
        let probed = scene.path(probed);
        let mut library = Library::read(&probed, Placing::Best).unwrap().unwrap();
        assert_eq!(kernel.control().probe_tls(&probed, &mut library), Outcome::Attached);

        let mut client = scene.command(&args[0]);
        client.args(&args[1..]).arg(PORT.to_string());
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(client.stdin.as_mut().unwrap()).unwrap();
        let mut said = String::new();
        BufReader::new(client.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "inside\n");
        let stage = Self { kernel, client, _server: server, _places: places, _folder: folder };
        wait_until("its connection to be gone", || Ok(stage.waits_for_the_call())).unwrap();
        Some(stage)
    }

    /// Whether its connection is gone and its plaintext is not, because of the call.
    fn waits_for_the_call(&self) -> bool {
        let (tgid, control) = (self.client.id(), self.kernel.control());
        let programs = control.programs();
        let streams = programs.tls.streams.iter().map(Result::unwrap);
        let mut own = streams.filter(|(Plain(key), _)| key.tgid == tgid);
        let waits = own.next().is_some_and(|(_, Plain(stream))| {
            stream.connection.announced != 0 && stream.is_let_go != 0 && stream.calls == 1
        });
        waits && own.next().is_none()
    }

    /// How many entries the kernel's maps have of it: plaintexts, what carries them, calls of goroutines.
    fn entries(&self) -> [usize; 3] {
        let control = self.kernel.control();
        let programs = control.programs();
        let is_own = |key: &Plain<TlsKey>| key.0.tgid == self.client.id();
        let (streams, carriers) = (&programs.tls.streams, &programs.tls.carriers);
        [
            streams.keys().map(Result::unwrap).filter(is_own).count(),
            carriers.iter().map(|entry| entry.unwrap().1).filter(is_own).count(),
            programs.tls.go_calls.keys().map(Result::unwrap).filter(is_own).count(),
        ]
    }

    /// Makes its plaintext one of a process that began so many nanoseconds earlier.
    fn date_back(&self, ns: u64) {
        let control = self.kernel.control();
        let mut programs = control.programs();
        let streams = &mut programs.tls.streams;
        let mut all = streams.iter().map(Result::unwrap);
        let own = all.find(|(Plain(key), _)| key.tgid == self.client.id());
        let (key, Plain(mut stream)) = own.unwrap();
        stream.connection.process_start_ns -= ns;
        streams.insert(key, Plain(stream), 0).unwrap();
    }

    /// Kills the client.
    fn kill(&mut self) {
        self.client.kill().unwrap();
        assert_eq!(self.client.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    /// What the kernel side says of the end of plaintexts: in messages, and where there was no room.
    fn ends(&mut self) -> (Vec<ConnTotals>, Vec<ConnectionState>) {
        let mut messages = Vec::new();
        drain(&mut self.kernel, &mut messages);
        let tgid = self.client.id();
        let is_end = |message: &&Message| {
            let header = message.header;
            message.kind() == Kind::Close && header.conn & PLAINTEXT != 0 && header.tgid == tgid
        };
        let told = messages.iter().filter(is_end).map(Message::read).collect();
        let mut closed = self.kernel.control().take_closed().unwrap();
        closed.retain(|state| state.conn & PLAINTEXT != 0 && state.tgid == tgid);
        (told, closed)
    }
}

/// Checks that the request and its answer are all that is counted.
fn check_totals(totals: &ConnTotals) {
    let [received, sent] = totals.directions;
    assert_eq!((received.operations, received.bytes), (1, ANSWER.len() as u64));
    assert_eq!((sent.operations, sent.bytes), (1, REQUEST.len() as u64));
    for direction in [received, sent] {
        assert_eq!(direction.captured_bytes, direction.bytes);
    }
}

/// A folder's client in Go.
fn in_go(_: &Path, folder: &Path) -> Vec<String> {
    let client = folder.join("client");
    compile_go(CLIENT, &WITHOUT_C, &client).unwrap();
    vec![client.display().to_string()]
}

#[test]
fn what_waits_for_a_goroutine_of_a_killed_process_is_told_by_the_next_sweep() {
    let Some(_turn) = turn() else { return };
    let Some(mut stage) = Stage::set(&["go"], in_go, "client") else { return };
    let sweep = |stage: &Stage| stage.kernel.control().forget_ended_tls();
    // Not while it lives.
    sweep(&stage);
    assert_eq!(stage.entries(), [1, 1, 1]);
    stage.kill();
    // Nothing in the kernel knows which goroutines a thread of Go leaves behind.
    assert_eq!(stage.entries(), [1, 1, 1]);
    sweep(&stage);
    assert_eq!(stage.entries(), [0, 0, 0]);
    let (told, closed) = stage.ends();
    assert_eq!((told.len(), closed.len()), (0, 1), "{closed:?}");
    check_totals(&closed[0].totals);
    // Once.
    sweep(&stage);
    let (told, closed) = stage.ends();
    assert_eq!((told.len(), closed.len()), (0, 0), "{closed:?}");
}

#[test]
fn what_waits_for_a_process_is_told_though_another_has_its_number() {
    let Some(_turn) = turn() else { return };
    let Some(mut stage) = Stage::set(&["go"], in_go, "client") else { return };
    // As if it were of one that began a second before whoever has the number now.
    stage.date_back(1_000_000_000);
    assert_eq!(stage.entries(), [1, 1, 1]);
    stage.kernel.control().forget_ended_tls();
    assert_eq!(stage.entries(), [0, 0, 0]);
    let (told, closed) = stage.ends();
    assert_eq!((told.len(), closed.len()), (0, 1), "{closed:?}");
    check_totals(&closed[0].totals);
    stage.kill();
}

#[test]
fn what_waits_for_a_thread_of_a_killed_process_ends_with_the_thread() {
    let Some(_turn) = turn() else { return };
    let build = |program: &Path, _: &Path| {
        [program.to_str().unwrap(), "ask", "hangs"].map(str::to_owned).to_vec()
    };
    let Some(mut stage) = Stage::set(&[], build, "lib/libssl.so.3") else { return };
    stage.kernel.control().forget_ended_tls();
    assert_eq!(stage.entries(), [1, 1, 0]);
    stage.kill();
    assert_eq!(stage.entries(), [0, 0, 0]);
    let (told, closed) = stage.ends();
    assert_eq!((told.len(), closed.len()), (1, 0), "{closed:?}");
    check_totals(&told[0]);
}
