//! What programs in Go say inside TLS, of which no library in C knows.

use std::collections::BTreeMap;

use undine_testbed::compile_go;

use super::kernel::alone;
use super::place::wait_until;
use super::tls_scene::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, http_rows, run_probed, wait_for_probe,
};

/// Serves HTTP/1.1 and HTTP/2, writes what it answered to a file, and answers `/of/N` with N bytes.
pub(crate) const SERVER: &str = r#"
package main

import (
	"bytes"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func main() {
	certificate, key, record, port := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	file, err := os.OpenFile(record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	answer := func(response http.ResponseWriter, request *http.Request) {
		path := request.URL.Path
		size, _ := strconv.Atoi(path[strings.LastIndex(path, "/")+1:])
		fmt.Fprintf(file, "%s %s 200 %d\n", request.Method, path, size)
		response.Header().Set("Content-Length", strconv.Itoa(size))
		response.Write(bytes.Repeat([]byte("x"), size))
	}
	server := http.Server{Addr: "127.0.0.1:" + port, Handler: http.HandlerFunc(answer)}
	log.Fatal(server.ListenAndServeTLS(certificate, key))
}
"#;

/// Asks in eight goroutines at once over HTTP/1.1, then over HTTP/2.
const CLIENT: &str = r#"
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
)

func ask(client *http.Client, url string) {
	response, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	if _, err = io.Copy(io.Discard, response.Body); err != nil {
		log.Fatal(err)
	}
	response.Body.Close()
}

func main() {
	bufio.NewReader(os.Stdin).ReadString('\n')
	for _, protocol := range []string{"http1", "http2"} {
		transport := &http.Transport{
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
			MaxIdleConnsPerHost: 8,
			ForceAttemptHTTP2:   protocol == "http2",
		}
		if protocol == "http1" {
			transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		client := &http.Client{Transport: transport}
		var all sync.WaitGroup
		for first := 0; first < 8; first++ {
			all.Add(1)
			go func(first int) {
				defer all.Done()
				for number := 0; number < 25; number++ {
					ask(client, fmt.Sprintf("https://127.0.0.1:%s/of/%s/%d/%d",
						os.Args[1], protocol, first, number*number*90))
				}
			}(first)
		}
		all.Wait()
		client.CloseIdleConnections()
	}
}
"#;

/// Builds a program in the scene.
pub(crate) fn build(scene: &Scene, name: &str, source: &str, flags: &[&str]) -> String {
    compile_go(source, flags, &scene.path(name)).unwrap();
    scene.text(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_is_read_as_server_and_as_client() {
    let _alone = alone().await;
    if !can_run(&["go", "gcc", "curl"]) {
        return;
    }
    let scene = Scene::new("undine-tls-go");
    // Most programs in Go that are installed have no symbols.
    let server = build(&scene, "go-server", SERVER, &["-ldflags", "-s -w"]);
    let client = build(&scene, "go-client", CLIENT, &[]);
    // Before the collector; its clients come after.
    let _server = scene.serve(&mut scene.command(&server));
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            run_probed(scene.command(&client).arg(PORT), memory, "go-client");
            scene.run("curl", &["-sk", "--http1.1", &Scene::url("/of/curl/[1-100]")]);
            let parallel = ["-sk", "--http2", "--parallel", "--parallel-max", "8"];
            scene.run("curl", &[&parallel[..], &[&Scene::url("/of/curl2/[1-100]")]].concat());
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 600);
    check_nothing_is_lost(&memory, &stats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_server_that_starts_later_is_read() {
    let _alone = alone().await;
    if !can_run(&["go", "gcc", "curl"]) {
        return;
    }
    let scene = Scene::new("undine-tls-go-later");
    let server = build(&scene, "go-server", SERVER, &[]);
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            let _server = scene.serve(&mut scene.command(&server));
            wait_for_probe(memory, "go-server");
            scene.run("curl", &["-sk", "--http1.1", &Scene::url("/of/curl/[1-100]")]);
            scene.run("curl", &["-sk", "--http2", &Scene::url("/of/curl2/[1-100]")]);
            // The server may still be in the call by which it sent the last answer, and then is ended.
            let rows = || memory.rows("http_events", &["req_path"]).len();
            wait_until("the last answer to be a row", || rows() == 200);
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 200);
    check_nothing_is_lost(&memory, &stats);
}

/// Says something on ten connections, each of which ends before the call that says it returns; half of
/// the calls never do. Ends itself while it waits in a call on another connection.
const ENDING_CLIENT: &str = r#"
package main

import (
	"bufio"
	"crypto/tls"
	"log"
	"net"
	"os"
)

type ending struct {
	*net.TCPConn
	ends, panics bool
	reads        int
	waits        chan bool
}

func (conn *ending) Write(bytes []byte) (int, error) {
	length, err := conn.TCPConn.Write(bytes)
	if conn.ends {
		conn.Close()
	}
	if conn.panics {
		panic("after the end")
	}
	return length, err
}

func (conn *ending) Read(bytes []byte) (int, error) {
	if conn.waits != nil {
		conn.reads++
		if conn.reads == 2 {
			conn.waits <- true
			select {}
		}
		// The head of a record.
		bytes = bytes[:5]
	}
	return conn.TCPConn.Read(bytes)
}

func connect() (*ending, *tls.Conn) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	wrapped := &ending{TCPConn: conn.(*net.TCPConn)}
	// Nothing of the connection is left once it is closed.
	wrapped.SetLinger(0)
	client := tls.Client(wrapped, &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		log.Fatal(err)
	}
	return wrapped, client
}

func say(client *tls.Conn) {
	defer func() { recover() }()
	if _, err := client.Write([]byte("GET /of/1 HTTP/1.0\r\n\r\n")); err != nil {
		log.Fatal(err)
	}
}

func main() {
	bufio.NewReader(os.Stdin).ReadString('\n')
	for round := 0; round < 10; round++ {
		conn, client := connect()
		conn.ends, conn.panics = true, round%2 == 0
		say(client)
	}
	conn, client := connect()
	say(client)
	conn.waits = make(chan bool)
	go client.Read(make([]byte, 1))
	<-conn.waits
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_go_program_says_on_a_connection_that_ends_meanwhile_is_bound() {
    let _alone = alone().await;
    if !can_run(&["go", "gcc"]) {
        return;
    }
    let scene = Scene::new("undine-tls-go-ending");
    let server = build(&scene, "go-server", SERVER, &[]);
    let client = build(&scene, "go-client", ENDING_CLIENT, &[]);
    let server = scene.serve(&mut scene.command(&server));
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, memory| {
            run_probed(scene.command(&client).arg(PORT), memory, "go-client");
            drop(server);
        })
        .await;
    assert!(stats.pipeline.tls_operations >= 5, "{stats:?}");
    check_nothing_is_lost(&memory, &stats);
    // Each has come to its end.
    assert_eq!(stats.pipeline.connections, 0, "{stats:?}");
}

/// Takes what a client says and ends the connection without a word.
const SILENT_SERVER: &str = r#"
package main

import (
	"crypto/tls"
	"log"
	"os"
)

const shakesFirst = true

func main() {
	certificate, key, record, port := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		log.Fatal(err)
	}
	file, err := os.OpenFile(record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:"+port, &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		if shakesFirst {
			conn.(*tls.Conn).Handshake()
		}
		bytes := make([]byte, 100)
		length, _ := conn.Read(bytes)
		file.WriteString(string(bytes[:length]) + "\n")
		conn.Close()
	}
}
"#;

/// Says something on ten connections together with the end of the handshake, and waits for the end.
const HASTY_CLIENT: &str = r#"
package main

import (
	"bufio"
	"crypto/tls"
	"log"
	"net"
	"os"
)

type hasty struct {
	net.Conn
	writes int
	held   []byte
}

func (conn *hasty) Write(bytes []byte) (int, error) {
	conn.writes++
	conn.held = append(conn.held, bytes...)
	if conn.writes == 2 {
		return len(bytes), nil
	}
	_, err := conn.Conn.Write(conn.held)
	conn.held = nil
	return len(bytes), err
}

func main() {
	bufio.NewReader(os.Stdin).ReadString('\n')
	for round := 0; round < 10; round++ {
		conn, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
		if err != nil {
			log.Fatal(err)
		}
		client := tls.Client(&hasty{Conn: conn}, &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err != nil {
			log.Fatal(err)
		}
		if _, err := client.Write([]byte("anyone?")); err != nil {
			log.Fatal(err)
		}
		if length, err := client.Read(make([]byte, 1)); err == nil {
			log.Fatal(length)
		}
		client.Close()
	}
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_with_a_handshake_is_bound_though_nothing_follows() {
    let _alone = alone().await;
    if !can_run(&["go", "gcc"]) {
        return;
    }
    // Whether the call that receives also shakes hands, which is a row either way.
    for (name, shakes) in [("undine-tls-go-hasty", "= true"), ("undine-tls-go-lazy", "= false")] {
        let scene = Scene::new(name);
        let source = SILENT_SERVER.replace("= true", shakes);
        let server = build(&scene, "go-server", &source, &[]);
        let client = build(&scene, "go-client", HASTY_CLIENT, &[]);
        let _server = scene.serve(&mut scene.command(&server));
        let (memory, stats, truth) = scene
            .watch(RING_BYTES, |scene, memory| {
                run_probed(scene.command(&client).arg(PORT), memory, "go-client");
                scene.access_log()
            })
            .await;
        assert_eq!(truth, BTreeMap::from([("anyone?".to_owned(), 10)]));
        // At both ends.
        assert_eq!(stats.pipeline.tls_operations, 20, "{stats:?}");
        assert_eq!(stats.rows.tls_events, 10, "{stats:?}");
        check_nothing_is_lost(&memory, &stats);
    }
}
