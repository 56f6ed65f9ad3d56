/* Says something inside TLS on connections that end, by another thread, while a call of the library is
   under way on them.

   tls_ending serve HOW CERTIFICATE KEY LOG PORT
   tls_ending ask HOW PORT

   A server answers for ever; it writes a line to LOG for each request before it answers. A client
   waits for a line, asks on ROUNDS connections, one after the other, and ends. HOW is what happens
   when the server has sent its answer, or the client has received it, before the call returns:

   stays   nothing
   ends    the socket is shut down, or closed so that nothing of it is left, in turn
   hangs   of a client only: it is closed when the request is sent, the first one after another, and
           the call never returns; says so

   With GNUTLS it uses GnuTLS and not OpenSSL; with SEND2 or RANGE too, others of its functions. Both
   libraries are declared here, so that their headers are not needed. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROUNDS = 10, APPLICATION_DATA = 23, HEAD = 5 };

/* The connection of this thread, whose socket is -1 once it is closed. */
static int sock, is_server, round_number;
static enum { STAYS, ENDS, HANGS } how;
/* Whether the next record of application data is the last, and in which call it is. */
static int is_last, sends;
/* Bytes that are missing of a record of application data, whose head was received. */
static size_t missing;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void *end_socket(void *nothing) {
  struct linger at_once = {1, 0};
  if (how == ENDS && round_number % 2) {
    shutdown(sock, SHUT_RDWR);
    return nothing;
  }
  /* Nothing of the connection is left once it is closed. */
  setsockopt(sock, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(sock);
  sock = -1;
  return nothing;
}

/* The last record has moved, and the call has not returned. */
static void moved_last(void) {
  pthread_t other;
  is_last = 0;
  if (how == STAYS) return;
  if (pthread_create(&other, NULL, end_socket, NULL)) die("pthread_create");
  pthread_join(other, NULL);
  if (how == HANGS) {
    puts("inside");
    fflush(stdout);
    for (;;) pause();
  }
}

static void has_sent(const void *bytes, size_t len) {
  (void)len;
  if (is_last && sends && *(const unsigned char *)bytes == APPLICATION_DATA) moved_last();
}

static void has_received(const void *bytes, size_t len) {
  const unsigned char *head = bytes;
  if (missing == 0 && len == HEAD && head[0] == APPLICATION_DATA) {
    missing = head[3] << 8 | head[4];
    return;
  }
  if (missing == 0) return;
  missing -= len;
  if (is_last && !sends && missing == 0) moved_last();
}

#ifdef GNUTLS
int gnutls_init(void **, unsigned), gnutls_handshake(void *);
int gnutls_priority_set_direct(void *, const char *, const char **);
int gnutls_credentials_set(void *, int, void *);
int gnutls_certificate_allocate_credentials(void **);
int gnutls_certificate_set_x509_key_file(void *, const char *, const char *, int);
ssize_t gnutls_record_send(void *, const void *, size_t), gnutls_record_recv(void *, void *, size_t);
void gnutls_deinit(void *);
void gnutls_transport_set_push_function(void *, ssize_t (*)(void *, const void *, size_t));
void gnutls_transport_set_pull_function(void *, ssize_t (*)(void *, void *, size_t));

static void *credentials;

static ssize_t push(void *to, const void *bytes, size_t len) {
  (void)to;
  ssize_t sent = send(sock, bytes, len, MSG_NOSIGNAL);
  if (sent > 0) has_sent(bytes, sent);
  return sent;
}

static ssize_t pull(void *from, void *bytes, size_t len) {
  (void)from;
  ssize_t received = recv(sock, bytes, len, 0);
  if (received > 0) has_received(bytes, received);
  return received;
}

static void prepare(const char *certificate, const char *key) {
  if (gnutls_certificate_allocate_credentials(&credentials)) exit(2);
  if (key && gnutls_certificate_set_x509_key_file(credentials, certificate, key, 1)) exit(3);
}

/* Ranges of lengths are only taken where a length can be hidden, in TLS 1.2 with CBC alone. */
#ifdef RANGE
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC"
#else
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.2"
#endif

static void *handshake(void) {
  void *session;
  if (gnutls_init(&session, is_server ? 1 : 2)) exit(4);
  if (gnutls_priority_set_direct(session, PRIORITY, NULL)) exit(11);
  gnutls_credentials_set(session, 1, credentials);
  gnutls_transport_set_push_function(session, push);
  gnutls_transport_set_pull_function(session, pull);
  if (gnutls_handshake(session)) exit(5);
  return session;
}

#ifdef SEND2
ssize_t gnutls_record_send2(void *, const void *, size_t, size_t, unsigned);
#elif defined RANGE
ssize_t gnutls_record_send_range(void *, const void *, size_t, const size_t *);
#endif
ssize_t gnutls_record_recv_seq(void *, void *, size_t, unsigned char *);

static long tls_write(void *session, const char *bytes, size_t len) {
#ifdef SEND2
  return gnutls_record_send2(session, bytes, len, 0, 0);
#elif defined RANGE
  size_t range[] = {len, len};
  return gnutls_record_send_range(session, bytes, len, range);
#else
  return gnutls_record_send(session, bytes, len);
#endif
}

static long tls_read(void *session, char *bytes, size_t len) {
#if defined SEND2 || defined RANGE
  unsigned char sequence[8];
  return gnutls_record_recv_seq(session, bytes, len, sequence);
#else
  return gnutls_record_recv(session, bytes, len);
#endif
}

static void tls_free(void *session) { gnutls_deinit(session); }
#else
typedef long callback(void *, int, const char *, size_t, int, long, int, size_t *);
void *TLS_method(void), *SSL_CTX_new(const void *), *SSL_new(void *), *SSL_get_rbio(const void *);
int SSL_CTX_use_certificate_file(void *, const char *, int);
int SSL_CTX_use_PrivateKey_file(void *, const char *, int);
long SSL_CTX_ctrl(void *, int, long, void *);
int SSL_set_fd(void *, int), SSL_connect(void *), SSL_accept(void *);
int SSL_read(void *, void *, int), SSL_write(void *, const void *, int);
void SSL_free(void *), BIO_set_callback_ex(void *, callback *);

enum { BIO_READ_RETURNS = 0x82, BIO_WRITE_RETURNS = 0x83, SET_MAX_VERSION = 124, TLS_1_2 = 0x303 };

static void *context;

static long operated(void *bio, int operation, const char *bytes, size_t len, int a, long b,
                     int result, size_t *done) {
  (void)bio, (void)len, (void)a, (void)b;
  if (result > 0 && operation == BIO_WRITE_RETURNS) has_sent(bytes, *done);
  if (result > 0 && operation == BIO_READ_RETURNS) has_received(bytes, *done);
  return result;
}

static void prepare(const char *certificate, const char *key) {
  context = SSL_CTX_new(TLS_method());
  SSL_CTX_ctrl(context, SET_MAX_VERSION, TLS_1_2, NULL);
  if (!key) return;
  if (SSL_CTX_use_certificate_file(context, certificate, 1) != 1) exit(2);
  if (SSL_CTX_use_PrivateKey_file(context, key, 1) != 1) exit(3);
}

static void *handshake(void) {
  void *session = SSL_new(context);
  SSL_set_fd(session, sock);
  BIO_set_callback_ex(SSL_get_rbio(session), operated);
  if ((is_server ? SSL_accept : SSL_connect)(session) != 1) exit(5);
  return session;
}

static long tls_write(void *session, const char *bytes, size_t len) {
  return SSL_write(session, bytes, len);
}

static long tls_read(void *session, char *bytes, size_t len) {
  return SSL_read(session, bytes, len);
}

static void tls_free(void *session) { SSL_free(session); }
#endif

static void finish(void *session) {
  tls_free(session);
  if (sock >= 0) close(sock);
}

static void ask(struct sockaddr_in address) {
  char request[100], answer[1000];
  sock = socket(AF_INET, SOCK_STREAM, 0);
  missing = 0;
  if (connect(sock, (struct sockaddr *)&address, sizeof address)) die("connect");
  void *session = handshake();
  sends = how == HANGS;
  for (int number = 0; number <= sends; number++) {
    is_last = number == sends;
    int len = sprintf(request, "GET /of/%d/%d HTTP/1.1\r\nHost: a\r\n\r\n", round_number, number);
    if (tls_write(session, request, len) != len) exit(6);
    long read = tls_read(session, answer, sizeof answer);
    if (how == ENDS && read <= 0) exit(7);
  }
  finish(session);
}

static void answer(FILE *log) {
  static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  char request[1000], path[100];
  long len;
  missing = is_last = 0;
  sends = 1;
  void *session = handshake();
  while ((len = tls_read(session, request, sizeof request - 1)) > 0) {
    request[len] = 0;
    if (sscanf(request, "GET %99s", path) != 1) exit(8);
    fprintf(log, "GET %s 200 2\n", path);
    is_last = 1;
    if (tls_write(session, ANSWER, sizeof ANSWER - 1) != sizeof ANSWER - 1) exit(9);
    if (how == ENDS) break;
  }
  finish(session);
}

int main(int count, char **args) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  int on = 1, end;
  if (count != 7 && count != 4) exit(10);
  is_server = count == 7;
  how = !strcmp(args[2], "ends") ? ENDS : !strcmp(args[2], "hangs") ? HANGS : STAYS;
  address.sin_port = htons(atoi(args[count - 1]));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  prepare(args[3], is_server ? args[4] : NULL);
  if (!is_server) {
    getchar();
    for (; round_number < ROUNDS; round_number++) ask(address);
    return 0;
  }
  FILE *log = fopen(args[5], "w");
  if (!log) die(args[5]);
  setlinebuf(log);
  end = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(end, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(end, (struct sockaddr *)&address, sizeof address) || listen(end, 16)) die("bind");
  for (;; round_number++) {
    if ((sock = accept(end, NULL, NULL)) < 0) die("accept");
    answer(log);
  }
}
