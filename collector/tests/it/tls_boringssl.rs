//! `BoringSSL`, whose functions are called as OpenSSL's and whose objects are laid out otherwise.

use std::fs;
use std::path::Path;
use std::process::Command;

use undine_collector::Cgroup;

use super::kernel::alone;
use super::place::{skip, succeed};
use super::tls_scene::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, count_lines, http_rows_of, run_probed,
};

/// Asks on a socket that the library has, or moves the ciphertext itself.
const CLIENT: &str = r#"
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int descriptor, moves_itself;
static SSL *ssl;

static void fail(const char *what) { perror(what); exit(1); }

/* Moves what waits to be sent, and reads where the library wants more. */
static void move(int result) {
  char bytes[20000];
  int error = SSL_get_error(ssl, result), length;
  if (!moves_itself) { if (result <= 0) fail("TLS"); return; }
  while ((length = BIO_read(SSL_get_wbio(ssl), bytes, sizeof bytes)) > 0)
    if (write(descriptor, bytes, length) != length) fail("write");
  if (result > 0) return;
  if (error != SSL_ERROR_WANT_READ) fail("TLS");
  if ((length = read(descriptor, bytes, sizeof bytes)) <= 0) fail("read");
  BIO_write(SSL_get_rbio(ssl), bytes, length);
}

int main(int count, char **arguments) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
  char text[20000];
  int result, length;
  if (count != 3 || !fgets(text, sizeof text, stdin)) fail("arguments");
  moves_itself = !strcmp(arguments[2], "memory");
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  descriptor = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(descriptor, (struct sockaddr *)&to, sizeof to)) fail("connect");
  ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
  if (moves_itself) SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  else SSL_set_fd(ssl, descriptor);
  if (moves_itself) BIO_set_mem_eof_return(SSL_get_rbio(ssl), -1);
  SSL_set_connect_state(ssl);
  do { move(result = SSL_do_handshake(ssl)); } while (result <= 0);
  for (int number = 0; number < 50; number++) {
    length = sprintf(text, "GET /of/%s/%d HTTP/1.1\r\nHost: a\r\n\r\n", arguments[2], number);
    do { move(result = SSL_write(ssl, text, length)); } while (result <= 0);
    char *body = NULL;
    for (length = 0; !body || length < body + 4 - text + atoi(strstr(text, "Length:") + 7);) {
      do { move(result = SSL_read(ssl, text + length, sizeof text - 1 - length)); } while (result <= 0);
      text[length += result] = 0;
      body = strstr(text, "\r\n\r\n");
    }
  }
  SSL_free(ssl);
  close(descriptor);
  return 0;
}
"#;

/// Where Debian's Android tools have it.
const INCLUDE: &str = "/usr/include/android";
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu/android";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boringssl_is_read_with_and_without_a_socket_of_its_own() {
    let _alone = alone().await;
    if !can_run(&["nginx", "gcc"]) {
        return;
    }
    if !Path::new(INCLUDE).join("openssl/ssl.h").exists() {
        skip("BoringSSL is not installed");
        return;
    }
    let scene = Scene::new("undine-tls-boringssl");
    for library in ["libssl.so.0", "libcrypto.so.0"] {
        let to = scene.path("lib").join(library);
        fs::copy(Path::new(LIBRARIES).join(library), to).unwrap();
    }
    fs::write(scene.path("client.c"), CLIENT).unwrap();
    let mut compile = Command::new("gcc");
    compile.args(["-I", INCLUDE, "-L", LIBRARIES, "-o"]).arg(scene.path("client"));
    compile.arg(scene.path("client.c")).args(["-lssl", "-lcrypto"]);
    succeed(compile.arg(format!("-Wl,-rpath-link,{LIBRARIES}")));
    let elsewhere = Cgroup::create("undine-tls-boring-server").unwrap();
    let nginx = scene.nginx_in(&elsewhere);
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, memory| {
            for mode in ["socket", "memory"] {
                let mut command = scene.command(&scene.text("client"));
                run_probed(command.args([PORT, mode]), memory, "libssl.so.0");
            }
        })
        .await;
    let truth = count_lines(&nginx.stop().unwrap());
    assert_eq!(http_rows_of("1", &["0"], &memory), truth);
    assert_eq!(truth.values().sum::<usize>(), 100);
    check_nothing_is_lost(&memory, &stats);
}
