//! What programs in Go say inside TLS, of which no library in C knows.

use std::fs;
use std::process::Stdio;

use super::kernel::alone;
use super::place::succeed;
use super::tls::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, http_rows, run_probed, wait_for_probe,
};

/// Serves HTTP/1.1 and HTTP/2, writes what it answered to a file, and answers `/of/N` with N bytes.
const SERVER: &str = r#"
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
fn build(scene: &Scene, name: &str, source: &str, flags: &[&str]) -> String {
    let folder = scene.path(&format!("{name}-source"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("main.go"), source).unwrap();
    let mut command = std::process::Command::new("go");
    command.env("GOCACHE", scene.path("go-cache")).env("GO111MODULE", "off");
    command.current_dir(&folder).stderr(Stdio::inherit());
    succeed(command.arg("build").args(flags).args(["-o", &scene.text(name), "main.go"]));
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
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 200);
    check_nothing_is_lost(&memory, &stats);
}
