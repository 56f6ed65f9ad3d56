//! What it costs to look whether an operation of an opaque connection starts with a request.
//!
//! Prints nanoseconds a look, the least of several rounds, for payloads that no protocol sends.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::hint::black_box;
use std::time::Instant;

use undine_collector::protocol::request_starts;

/// Looks in a round.
const LOOKS: u32 = 20_000;
/// Rounds of which the fastest counts.
const ROUNDS: u32 = 9;

fn main() {
    for (name, payload) in payloads() {
        assert_eq!(request_starts(&payload), None, "{name} is a request");
        let round = || {
            let began = Instant::now();
            for _ in 0..LOOKS {
                black_box(request_starts(black_box(&payload)));
            }
            began.elapsed().as_nanos() / u128::from(LOOKS)
        };
        let least = (0..ROUNDS).map(|_| round()).min().unwrap_or_default();
        println!("{least:>6} ns  {name}, {} bytes", payload.len());
    }
}

/// What goes over connections that are opaque.
fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    let noise = |bytes: usize| -> Vec<u8> {
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some(state.to_be_bytes()[0])
        };
        (0..bytes).scan(7, |state, _| next(state)).collect()
    };
    let record = |kind: u8, bytes: u16| {
        let head = [kind, 3, 3, bytes.to_be_bytes()[0], bytes.to_be_bytes()[1]];
        [&head[..], &noise(bytes.into())].concat()
    };
    let spaceless: Vec<u8> = noise(16 * 1024).iter().map(|byte| byte | 0x80).collect();
    let base64: Vec<u8> = noise(16 * 1024).iter().map(|byte| b'A' + byte % 26).collect();
    let ssh = [&[0, 0, 0, 44][..], &noise(48)].concat();
    vec![
        ("TLS application data", record(0x17, 100)),
        ("TLS application data", record(0x17, 16 * 1024)),
        ("noise", noise(1400)),
        ("noise without blanks", spaceless),
        ("an SSH packet", ssh),
        ("capitals", base64),
        ("a log line", b"2026-01-01T00:00:00Z INFO something has happened somewhere\n".repeat(20)),
        ("zeros", vec![0; 4096]),
    ]
}
