// Asks for what a list says, one after the other on one connection inside TLS.
//
// A line of the list is `ID METHOD PATH BODY_SIZE`. Of each request it prints the id and how many
// nanoseconds it took.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	version, address := os.Args[1], os.Args[2]
	list, err := os.Open(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2:  version == "2",
		DisableCompression: true,
	}}
	out := bufio.NewWriter(os.Stdout)
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		var id, method, path string
		var size int
		if _, err := fmt.Sscan(lines.Text(), &id, &method, &path, &size); err != nil {
			log.Fatal(err)
		}
		var body io.Reader
		if method == "POST" {
			body = strings.NewReader(strings.Repeat("u", size))
		}
		request, err := http.NewRequest(method, "https://"+address+path, body)
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("X-Request-Id", id)
		began := time.Now()
		answer, err := client.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			log.Fatal(err)
		}
		took := time.Since(began)
		answer.Body.Close()
		if echoed := answer.Header.Get("X-Request-Id"); echoed != id {
			log.Fatalf("%s was answered for %s", lines.Text(), echoed)
		}
		fmt.Fprintln(out, id, took.Nanoseconds())
	}
	out.Flush()
}
