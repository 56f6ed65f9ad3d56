//! Messages as the kernel sends them, on their way into a recording without contents.

use std::net::Ipv4Addr;

use undine_ebpf::{ConnInfo, ConnTotals, EGRESS, Kind, TlsInfo};

use super::*;

const CONN: u64 = 7;

/// What is recorded of some messages, in order.
#[derive(Default)]
struct Recorded {
    masking: Masking,
    pos: HashMap<(u64, u8), u64>,
    at: u64,
}

impl Recorded {
    fn put(&mut self, conn: u64, kind: Kind, direction: u8, len: usize, body: Body<'_>) {
        self.at += 1;
        let pos = self.pos.entry((conn, direction)).or_default();
        let captured = if let Body::Data { payload, .. } = &body { payload.len() } else { 0 };
        let header = Header {
            kind: kind as u8,
            conn,
            direction,
            pos: *pos,
            len: u32::try_from(len).unwrap(),
            captured: u32::try_from(captured).unwrap(),
            time_mono_ns: self.at,
            ..Header::default()
        };
        *pos += len as u64;
        let mut bytes = Vec::new();
        Event { header, body }.encode(&mut bytes);
        self.masking.message(&bytes);
    }

    /// Bytes that a client sends, seen at the server's end, and how many more were not captured.
    fn asks(&mut self, payload: &str, missing: usize) {
        let body = Body::Data { flow: Flow::Ingress, payload: payload.as_bytes() };
        self.put(CONN, Kind::Data, 0, payload.len() + missing, body);
    }

    fn answers(&mut self, payload: &str, missing: usize) {
        let body = Body::Data { flow: Flow::Egress, payload: payload.as_bytes() };
        self.put(CONN, Kind::Data, EGRESS, payload.len() + missing, body);
    }

    /// What may be recorded by now: payloads, and how long the messages say they are.
    fn next(&mut self) -> Vec<(String, u32)> {
        let mut recorded = Vec::new();
        while let Some((_, bytes)) = self.masking.take_next() {
            let event = Event::decode(&bytes).unwrap();
            recorded.push(match event.body {
                Body::Data { payload, .. } => {
                    assert_eq!(
                        event.uncaptured().is_some(),
                        event.header.captured < event.header.len
                    );
                    (payload.escape_ascii().to_string(), event.header.len)
                }
                body => (format!("{body:?}").split('(').next().unwrap_or_default().to_owned(), 0),
            });
        }
        recorded
    }
}

fn text(text: &str, len: u32) -> (String, u32) {
    (text.to_owned(), len)
}

#[test]
fn a_message_waits_until_it_is_known_what_its_bytes_are() {
    let mut recorded = Recorded::default();
    recorded.asks("GET /ann HT", 0);
    assert_eq!(recorded.next(), []);
    recorded.asks("TP/1.1\r\n\r\n", 0);
    assert_eq!(recorded.next(), [text("GET /xxx HT", 11), text("TP/1.1\\r\\n\\r\\n", 10)]);
}

#[test]
fn bytes_that_were_not_captured_change_nothing_where_they_are_content() {
    let mut recorded = Recorded::default();
    recorded.asks("GET / HTTP/1.1\r\n\r\n", 0);
    recorded.answers("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", 7);
    recorded.asks("GET /ann HTTP/1.1\r\n\r\n", 0);
    let answer = text("HTTP/1.1 200 xx\\r\\nContent-Length: 9\\r\\n\\r\\nxx", 47);
    assert_eq!(
        recorded.next(),
        [text("GET / HTTP/1.1\\r\\n\\r\\n", 18), answer, text("GET /xxx HTTP/1.1\\r\\n\\r\\n", 21),]
    );
}

#[test]
fn what_cannot_be_told_apart_is_left_out_and_counted() {
    let mut recorded = Recorded::default();
    recorded.asks("my own protocol: secret\r\n", 0);
    assert_eq!(recorded.next(), [text("", 25)]);
    assert_eq!(recorded.masking.left_out_bytes(), 25);
    // Nor what follows a hole in structure.
    let mut recorded = Recorded::default();
    recorded.asks("GET / HTTP/1.1\r\nHost", 9);
    recorded.asks("GET / HTTP/1.1\r\n\r\n", 0);
    assert_eq!(recorded.next(), [text("", 29), text("", 18)]);
}

#[test]
fn what_is_not_decided_in_time_is_left_out_and_the_rest_is_told_apart_all_the_same() {
    let mut recorded = Recorded::default();
    recorded.asks("GET / HTTP/1.1\r\n\r\nGET /ann", 0);
    assert_eq!(recorded.next(), []);
    recorded.at += HELD_NS_MAX + 1;
    recorded.asks(" HTTP/1.1\r\n\r\n", 0);
    assert_eq!(
        recorded.next(),
        [text("GET / HTTP/1.1\\r\\n\\r\\n", 26), text(" HTTP/1.1\\r\\n\\r\\n", 13)]
    );
}

#[test]
fn the_end_of_a_connection_is_recorded_in_its_turn() {
    let mut recorded = Recorded::default();
    recorded.asks("GET /ann", 0);
    recorded.put(CONN, Kind::Close, 0, 0, Body::Close(ConnTotals::default()));
    assert_eq!(recorded.next(), [text("", 8), text("Close", 0)]);
    recorded.asks("GET /ann", 0);
    recorded.masking.settle();
    assert_eq!(recorded.next(), [text("", 8)]);
}

#[test]
fn what_waits_is_bounded() {
    let mut recorded = Recorded::default();
    let start = "GET /".to_owned() + &"a".repeat(4000);
    for conn in 1..10_000 {
        let body = Body::Data { flow: Flow::Ingress, payload: start.as_bytes() };
        recorded.put(conn, Kind::Data, 0, start.len(), body);
        recorded.next();
    }
    let waits = 10_000 * 4005 - recorded.masking.left_out_bytes();
    assert!(waits <= HELD_BYTES_MAX as u64, "{waits}");
}

#[test]
fn a_plaintext_goes_on_with_what_was_said_before_tls() {
    let greeting = "\x2c\0\0\0\x0a8.0.33\0\x01\0\0\0secrets!\0\x7f\x7f\x21\x02\0\x7f\x01\x15\0\0\0\0\0\0\0\0\0\0salt\0";
    let login = format!("\x20\0\0\x01\x05\x7e\x0a\0{}", "\0".repeat(28));
    let mut recorded = Recorded::default();
    recorded.answers(greeting, 0);
    recorded.asks(&login, 0);
    let inside = format!("\x25\0\0\x02\x05\x7e\x0a\0{}ann\0x", "\0".repeat(28));
    let plaintext = PLAINTEXT | 9;
    let body = Body::Data { flow: Flow::Ingress, payload: inside.as_bytes() };
    recorded.put(plaintext, Kind::Data, 0, inside.len(), body);
    recorded.put(
        plaintext,
        Kind::Tls,
        0,
        0,
        Body::Tls(TlsInfo { carrier: CONN, ..TlsInfo::default() }),
    );
    let all = recorded.next();
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all[0].0.contains("8.0.33\\x00") && all[0].0.contains("xxxxxxxx"), "{all:?}");
    assert!(all[2].0.ends_with("\\x00xxx\\x00x"), "{all:?}");
}

#[test]
fn no_address_of_the_network_is_recorded() {
    let mut recorded = Recorded::default();
    let mut info = ConnInfo { family: 2, local_port: 80, ..ConnInfo::default() };
    info.local_addr[..4].copy_from_slice(&[10, 1, 2, 3]);
    info.remote_addr[..4].copy_from_slice(&[10, 1, 2, 4]);
    recorded.put(CONN, Kind::Open, 0, 0, Body::Open(info));
    let (_, bytes) = recorded.masking.take_next().unwrap();
    let Body::Open(masked) = Event::decode(&bytes).unwrap().body else { panic!("{bytes:?}") };
    let address = |bytes: [u8; 16]| Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]);
    assert_eq!(address(masked.local_addr), Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(address(masked.remote_addr), Ipv4Addr::new(192, 0, 2, 2));
    assert_eq!(masked.local_port, 80);
}
