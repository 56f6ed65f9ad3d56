//! What an HTTP/1 request costs from its kernel messages to columnar rows.
//!
//! Prints nanoseconds of CPU time a request, the least of several rounds: whatever else a machine does
//! only ever makes a round dearer. To compare two versions, build both and let them take turns.
//!
//! The load is that of `evals overhead`: an nginx that answers small files over connections that are
//! kept alive, watched from its own end. Messages lie in memory one after another as in the kernel's
//! ring, read soon after they were written; rows are taken as often as the reader takes them, and another
//! thread keeps the newest for a while and frees them, as a store does.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use arrow::array::RecordBatch;
use undine_collector::event::{Body, Event, Flow, ProcessKey};
use undine_collector::pipeline::{Pipeline, Settings};
use undine_collector::process::{FactSource, Facts};
use undine_collector::{Mode, Redaction};
use undine_ebpf::{BEGINNING_SEEN, ConnInfo, EGRESS, Header, Kind};
use undine_schema::{TableDef, TimeNs};

/// Requests in a round.
const REQUESTS: u64 = 65_536;
/// Rounds of which the cheapest counts, if no other number is given.
const ROUNDS: u32 = 15;
/// Requests whose messages are written before they are read.
const AT_A_TIME: u64 = 1024;
/// Connections that are kept alive.
const CONNECTIONS: u64 = 16;
/// Rows that are gathered before they are taken.
const BATCH_ROWS_MAX: usize = 8192;
/// Batches that are kept.
const KEPT_BATCHES: usize = 4;
/// Nanoseconds between two messages.
const STEP_NS: u64 = 2_000;

const SERVER: ProcessKey = ProcessKey { tgid: 4242, start_ns: 50_000_000 };

/// `http1 [PART OF A NAME [ROUNDS]]`.
fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let only = args.next();
    let rounds = args.next().map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let (store, rows) = sync_channel(KEPT_BATCHES);
    std::thread::scope(|scope| {
        scope.spawn(move || keep(&rows));
        scope.spawn(move || measure(only.as_deref(), rounds, &store));
    });
}

/// Keeps the newest batches.
fn keep(rows: &Receiver<Batches>) {
    let mut kept = VecDeque::new();
    while let Ok(batches) = rows.recv() {
        kept.push_back(batches);
        if kept.len() > KEPT_BATCHES {
            kept.pop_front();
        }
    }
}

fn measure(only: Option<&str>, rounds: u32, store: &SyncSender<Batches>) {
    let full = Redaction { headers: Mode::Full, bodies: Mode::Full };
    for (name, redaction, load) in [
        ("small file, everything kept", full, Load::file()),
        ("small file, as shipped", Redaction::STRICT, Load::file()),
        ("no body, everything kept", full, Load::empty()),
        ("a browser's headers, as shipped", Redaction::STRICT, Load::browser()),
    ] {
        if only.is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let least = (0..rounds).map(|_| round(&load, redaction, store)).min().unwrap_or_default();
        println!("{:>6} ns  {name}", least.as_nanos() / u128::from(REQUESTS));
    }
}

/// What a client asks and an nginx answers.
struct Load {
    request: String,
    response: String,
}

impl Load {
    fn file() -> Self {
        Self {
            request: "GET /file/600 HTTP/1.1\r\nHost: 127.0.0.1:18080\r\n\
                      user-agent: h2load nghttp2/1.52.0\r\n\r\n"
                .to_owned(),
            response: format!("{ANSWER}Content-Length: 600\r\n\r\n{}", "f".repeat(600)),
        }
    }

    fn empty() -> Self {
        Self {
            request: "GET /empty HTTP/1.1\r\nHost: 127.0.0.1:18080\r\n\
                      user-agent: h2load nghttp2/1.52.0\r\n\r\n"
                .to_owned(),
            response: "HTTP/1.1 204 No Content\r\nServer: nginx/1.22.1\r\n\
                       Date: Sat, 21 Nov 2026 12:00:00 GMT\r\nConnection: keep-alive\r\n\r\n"
                .to_owned(),
        }
    }

    fn browser() -> Self {
        Self {
            request: "GET /shop/products/81723?color=blue&size=42 HTTP/1.1\r\n\
                      Host: shop.example.org\r\nConnection: keep-alive\r\n\
                      Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n\
                      User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like \
                      Gecko) Chrome/128.0.0.0 Safari/537.36\r\n\
                      Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
                      Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n\
                      Sec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
                      Referer: https://shop.example.org/shop/products\r\n\
                      Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\n\
                      Cookie: session=0123456789abcdef0123456789abcdef; seen=1\r\n\r\n"
                .to_owned(),
            response: format!("{ANSWER}Content-Length: 2000\r\n\r\n{}", "<p>".repeat(2000 / 3 + 1))
                [..ANSWER.len() + "Content-Length: 2000\r\n\r\n".len() + 2000]
                .to_owned(),
        }
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\n\
                      Date: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\n\
                      Last-Modified: Sat, 21 Nov 2026 11:00:00 GMT\r\nConnection: keep-alive\r\n\
                      ETag: \"6740c0ef-258\"\r\nAccept-Ranges: bytes\r\n";

/// Messages as the kernel writes them.
struct Ring {
    bytes: Vec<u8>,
    message: Vec<u8>,
    now: u64,
    positions: [u64; 2],
}

impl Ring {
    fn new() -> Self {
        Self { bytes: Vec::new(), message: Vec::new(), now: 1_000_000_000, positions: [0; 2] }
    }

    /// A request with its response on each connection, so many times that [`AT_A_TIME`] are.
    fn requests(&mut self, load: &Load) {
        for _ in 0..AT_A_TIME / CONNECTIONS {
            for conn in 1..=CONNECTIONS {
                for (flow, text) in [(Flow::Ingress, &load.request), (Flow::Egress, &load.response)]
                {
                    self.data(conn, flow, self.positions[flow.index()], text.as_bytes());
                }
            }
            self.positions[Flow::Ingress.index()] += load.request.len() as u64;
            self.positions[Flow::Egress.index()] += load.response.len() as u64;
        }
    }

    fn open(&mut self, conn: u64) {
        let mut info = ConnInfo {
            netns: 1,
            local_port: 18080,
            remote_port: 40_000 + u16::try_from(conn).unwrap_or_default(),
            family: 2,
            role: 2,
            ..ConnInfo::default()
        };
        info.local_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        info.remote_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        let header = Header { beginning: BEGINNING_SEEN, ..self.header(Kind::Open, conn) };
        self.put(&Event { header, body: Body::Open(info) });
    }

    fn data(&mut self, conn: u64, flow: Flow, pos: u64, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let direction = if flow == Flow::Egress { EGRESS } else { 0 };
        let header = Header { direction, pos, len, captured: len, ..self.header(Kind::Data, conn) };
        self.put(&Event { header, body: Body::Data { flow, payload } });
    }

    fn header(&mut self, kind: Kind, conn: u64) -> Header {
        self.now += STEP_NS;
        Header {
            kind: kind as u8,
            beginning: BEGINNING_SEEN,
            time_mono_ns: self.now,
            conn,
            tgid: SERVER.tgid,
            process_start_ns: SERVER.start_ns,
            ..Header::default()
        }
    }

    fn put(&mut self, event: &Event<'_>) {
        self.message.clear();
        event.encode(&mut self.message);
        self.bytes.extend_from_slice(&self.message.len().to_ne_bytes());
        self.bytes.extend_from_slice(&self.message);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }
}

/// Takes the messages of [`REQUESTS`] requests; CPU time that it took.
fn round(load: &Load, redaction: Redaction, store: &SyncSender<Batches>) -> Duration {
    let facts = Facts { exe: "/usr/sbin/nginx".to_owned(), ..Facts::default() };
    let mut pipeline = Pipeline::new(Settings {
        node: "bench".to_owned(),
        asid: 1,
        redaction,
        body_bytes_max: 16 * 1024,
        service_rules: Vec::new(),
        conn_stats_interval: Duration::from_secs(1),
        connections_max: 128 * 1024,
        facts: FactSource::Recorded(HashMap::from([(SERVER, facts)])),
    });
    let mut ring = Ring::new();
    (1..=CONNECTIONS).for_each(|conn| ring.open(conn));
    let (mut rows, mut took) = (0, Duration::ZERO);
    for _ in 0..REQUESTS / AT_A_TIME {
        ring.requests(load);
        let before = cpu_time();
        let mut rest = ring.bytes.as_slice();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = usize::from_ne_bytes(*length);
            pipeline.message(&after[..length]).expect("a message of ours");
            rest = &after[length.next_multiple_of(8)..];
            if pipeline.rows_waiting() >= BATCH_ROWS_MAX {
                rows += take(&mut pipeline, store);
            }
        }
        took += cpu_time().saturating_sub(before);
        ring.bytes.clear();
    }
    rows += take(&mut pipeline, store);
    assert_eq!(rows, REQUESTS, "every request is a row");
    took
}

type Batches = Vec<(&'static TableDef, RecordBatch)>;

/// Takes the rows that wait, as the reader does; how many of them are requests.
fn take(pipeline: &mut Pipeline, store: &SyncSender<Batches>) -> u64 {
    let batches = black_box(pipeline.take_rows(TimeNs::new(7)));
    let requests = batches.iter().filter(|(table, _)| table.name == "http_events");
    let rows = requests.map(|(_, rows)| rows.num_rows() as u64).sum();
    store.send(batches).expect("the store runs as long as this");
    rows
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    let nanos = text.split_ascii_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds come first"))
}
