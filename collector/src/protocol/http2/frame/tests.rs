use super::super::talk::{ACK, END_HEADERS, END_STREAM, Ends, data, frame, settings};
use super::*;
use proptest::prelude::*;

fn probes(bytes: &[u8]) -> (Probe, Probe) {
    (probe_request(bytes), probe_response(bytes))
}

fn client_run() -> Vec<u8> {
    let mut ends = Ends::new();
    let window = frame(8, 0, 0, &[0, 0, 1, 0]);
    [window, frame(4, ACK, 0, &[]), ends.get(1, "/a", END_STREAM)].concat()
}

fn server_run() -> Vec<u8> {
    let mut ends = Ends::new();
    [settings(&[(3, 100)]), ends.ok(1, "/a", 0), data(1, b"hi", END_STREAM)].concat()
}

#[test]
fn a_client_is_known_by_its_preface_and_nothing_less() {
    for length in 0..PREFACE.len() {
        assert_eq!(probe_request(&PREFACE[..length]), Probe::Maybe, "{length} bytes");
    }
    assert_eq!(probes(PREFACE), (Probe::Yes, Probe::No));
}

#[test]
fn from_the_middle_three_frames_and_a_first_header_tell_who_sends() {
    assert_eq!(probes(&client_run()), (Probe::Yes, Probe::No));
    assert_eq!(probes(&server_run()), (Probe::No, Probe::Yes));
    for run in [client_run(), server_run()] {
        let third = run.len() - 20;
        for length in 1..third {
            assert_eq!(probes(&run[..length]), (Probe::Maybe, Probe::Maybe), "{length} bytes");
        }
    }
}

#[test]
fn frames_that_cannot_follow_each_other_are_no_run() {
    let mut ends = Ends::new();
    let head = ends.get(1, "/a", END_STREAM);
    let unended = [&head[..4], &[0], &head[5..]].concat();
    for bad in [
        frame(9, END_HEADERS, 1, b"x"),
        [unended.clone(), data(1, b"x", 0)].concat(),
        [unended, frame(9, END_HEADERS, 3, b"x")].concat(),
        data(0, b"x", 0),
        data(1, b"x", 0x40),
        frame(4, ACK, 0, &[0; 6]),
        frame(6, 0, 0, &[0; 7]),
        frame(0x55, 0, 0, &[0; 7]),
        frame(0, 0, 0x8000_0001, b"x"),
        data(1, &vec![0; 16 * 1024 + 1], 0),
    ] {
        assert_eq!(probes(&bad), (Probe::No, Probe::No), "{:x?}", &bad[..9]);
        assert!(!resumes(&bad));
    }
}

#[test]
fn other_protocols_are_not_taken_for_frames() {
    for other in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"HTTP/1.1 200 OK\r\n",
        b"PRI * HTTP/1.1\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x17\x03\x03\x00\x20",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"\x00\x00\x00\x2f\x00\x12\x00\x04\x00\x00\x00\x01",
        b"\x4a\x00\x00\x00\x0a8.0.36\x00",
    ] {
        assert_eq!(probes(other), (Probe::No, Probe::No), "{}", other.escape_ascii());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_not_taken_for_frames(bytes in proptest::collection::vec(any::<u8>(), 9..200)) {
        prop_assert_ne!(probe_request(&bytes), Probe::Yes);
        prop_assert_ne!(probe_response(&bytes), Probe::Yes);
    }

    #[test]
    fn text_is_never_even_a_maybe(text in "[ -OQ-~\\r\\n][ -~\\r\\n]{0,60}") {
        prop_assert_eq!(probes(text.as_bytes()), (Probe::No, Probe::No));
        prop_assert!(!resumes(text.as_bytes()));
    }

    #[test]
    fn tls_records_are_never_even_a_maybe(
        kind in 0x14_u8..0x18,
        minor in 0_u8..5,
        rest in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let record = [&[kind, 3, minor][..], &rest].concat();
        prop_assert_eq!(probes(&record), (Probe::No, Probe::No));
    }
}
