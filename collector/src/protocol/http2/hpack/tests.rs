use super::encoder::{Encoder, Literal};
use super::*;
use proptest::prelude::*;

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Bad> {
    let mut fields = Fields::default();
    decoder.decode(block, &mut fields)?;
    let text = |part: Option<&[u8]>| {
        part.map_or("?".to_owned(), |part| String::from_utf8_lossy(part).into_owned())
    };
    Ok(fields.iter().map(|field| (text(field.name), text(field.value))).collect())
}

fn line(headers: &[(String, String)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Checks blocks that follow each other against what they say, and the table's size after each.
fn check(decoder: &mut Decoder, blocks: &[(&str, &str, usize)]) {
    for (block, expected, bytes) in blocks {
        let headers = read(decoder, &unhex(block)).unwrap();
        assert_eq!(line(&headers), *expected);
        assert_eq!(decoder.table.bytes(), *bytes, "after {expected}");
    }
}

#[test]
fn integers_are_those_of_appendix_c1() {
    for (bytes, prefix, value) in [("0a", 5, 10), ("1f9a0a", 5, 1337), ("2a", 8, 42)] {
        assert_eq!(integer(&mut &unhex(bytes)[..], prefix), Ok(value));
    }
    for bad in ["", "1f", "1fff", "1fffffffffff7f"] {
        assert_eq!(integer(&mut &unhex(bad)[..], 5), Err(Bad), "{bad}");
    }
}

#[test]
fn single_headers_are_those_of_appendix_c2() {
    let custom = "400a637573746f6d2d6b65790d637573746f6d2d686561646572";
    check(&mut Decoder::at_beginning(), &[(custom, "custom-key=custom-header", 55)]);
    check(
        &mut Decoder::at_beginning(),
        &[
            ("040c2f73616d706c652f70617468", ":path=/sample/path", 0),
            ("100870617373776f726406736563726574", "password=secret", 0),
            ("82", ":method=GET", 0),
        ],
    );
}

const REQUESTS: [&str; 3] = [
    ":method=GET :scheme=http :path=/ :authority=www.example.com",
    ":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache",
    ":method=GET :scheme=https :path=/index.html :authority=www.example.com \
     custom-key=custom-value",
];

#[test]
fn requests_are_those_of_appendix_c3_and_c4() {
    for blocks in [
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
    ] {
        let expected: Vec<_> =
            (0..3).map(|at| (blocks[at], REQUESTS[at], [57, 110, 164][at])).collect();
        check(&mut Decoder::at_beginning(), &expected);
    }
}

#[test]
fn responses_that_evict_are_those_of_appendix_c5_and_c6() {
    let first = ":status=302 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT \
                 location=https://www.example.com";
    let second = ":status=307 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT \
                  location=https://www.example.com";
    let third = ":status=200 cache-control=private date=Mon, 21 Oct 2013 20:13:22 GMT \
                 location=https://www.example.com content-encoding=gzip \
                 set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    for blocks in [
        [
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a3231\
             20474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738\
             666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d33\
             3630303b2076657273696f6e3d31",
        ],
        [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad1718\
             63c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7\
             b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
    ] {
        let mut decoder = Decoder::at_beginning();
        decoder.table.resize(256);
        let expected = [(blocks[0], first, 222), (blocks[1], second, 222), (blocks[2], third, 215)];
        check(&mut decoder, &expected);
    }
}

#[test]
fn what_the_table_does_not_hold_is_bad_where_all_of_it_was_seen() {
    for bad in ["80", "be", "7e0161", "82 3f e1 1f", "3f e2 1f", "40", "4001", "400161", "40016102"]
    {
        assert_eq!(read(&mut Decoder::at_beginning(), &unhex(bad)), Err(Bad), "{bad}");
    }
}

#[test]
fn what_was_not_seen_is_unknown_until_the_table_is_full_of_what_was() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::after_gap();
    encoder.block(&[("x", "before")]);
    let block = encoder.block(&[("x", "before"), ("x", "after"), ("x", "before")]);
    assert_eq!(line(&read(&mut decoder, &block).unwrap()), "?=? ?=after ?=?");
    // It is found again, though its name stays unknown, and so does what is behind it.
    let block = encoder.block(&[("x", "after"), ("y", "z"), ("x", "after"), ("x", "before")]);
    assert_eq!(line(&read(&mut decoder, &block).unwrap()), "?=after y=z ?=after ?=?");
    let mut block = Vec::new();
    encoder.resize(100, &mut block);
    encoder.field("long", &"v".repeat(50), Literal::Kept, &mut block);
    read(&mut decoder, &block).unwrap();
    assert_eq!(read(&mut decoder, &[0xbf]), Err(Bad), "everything is known");
    assert_eq!(read(&mut decoder, &[0xbe]).unwrap()[0].0, "long");
}

#[test]
fn a_table_may_be_as_large_as_the_reader_said_and_no_larger() {
    let mut block = Vec::new();
    Encoder::new().resize(10_000, &mut block);
    let mut decoder = Decoder::at_beginning();
    assert_eq!(read(&mut decoder, &block), Err(Bad));
    decoder.announce(Some(10_000));
    decoder.announce(None);
    assert_eq!(read(&mut decoder, &block), Ok(Vec::new()));
    decoder.announce(Some(9_999));
    for _ in 0..2 {
        decoder.acknowledge();
        assert_eq!(read(&mut decoder, &block), Ok(Vec::new()));
    }
    decoder.acknowledge();
    assert_eq!(read(&mut decoder, &block), Err(Bad));
    decoder.announce(Some(u32::MAX));
    block.clear();
    Encoder::new().resize(TABLE_BYTES_MAX + 1, &mut block);
    assert_eq!(read(&mut decoder, &block), Err(Bad));
}

#[test]
fn a_block_that_says_too_much_is_bad() {
    let mut encoder = Encoder::new();
    let long = "v".repeat(4000);
    let mut block = encoder.block(&[("x", &long)]);
    block.extend([0xbe; 15]);
    assert!(read(&mut Decoder::at_beginning(), &block).is_ok());
    block.push(0xbe);
    assert_eq!(read(&mut Decoder::at_beginning(), &block), Err(Bad));
}

#[test]
fn requests_and_responses_are_told_apart_by_their_first_header() {
    for (block, expected) in [
        ("82", Some(Side::Client)),
        ("20 3f e1 1f 83", Some(Side::Client)),
        ("4161", Some(Side::Client)),
        ("0461", Some(Side::Client)),
        ("88", Some(Side::Server)),
        ("4803333032", Some(Side::Server)),
        ("bf", None),
        ("90", None),
        ("400161", None),
        ("20", None),
        ("", None),
    ] {
        assert_eq!(sender(&unhex(block)), expected, "{block}");
    }
}

/// Headers of which many repeat, and how they are written.
fn headers() -> impl Strategy<Value = Vec<(String, String, Literal)>> {
    let literal =
        prop_oneof![Just(Literal::Kept), Just(Literal::NotKept), Just(Literal::NeverKept)];
    let name = prop_oneof![Just(":path".to_owned()), Just("via".to_owned()), "[a-c]{1,2}"];
    proptest::collection::vec((name, "[ -~]{0,3}|[a-z]{40}", literal), 0..12)
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        blocks in proptest::collection::vec((headers(), proptest::option::of(0_usize..400), any::<bool>()), 1..20),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::at_beginning());
        for (headers, resize, huffman) in blocks {
            let mut block = Vec::new();
            encoder.huffman = huffman;
            if let Some(bytes) = resize {
                encoder.resize(bytes, &mut block);
            }
            for (name, value, literal) in &headers {
                encoder.field(name, value, *literal, &mut block);
            }
            let expected: Vec<_> = headers.into_iter().map(|(name, value, _)| (name, value)).collect();
            prop_assert_eq!(read(&mut decoder, &block), Ok(expected));
        }
    }

    #[test]
    fn from_the_middle_nothing_is_said_that_is_not_so(
        blocks in proptest::collection::vec((headers(), proptest::option::of(0_usize..400)), 2..20),
        from in 0_usize..10,
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::after_gap());
        for (at, (headers, resize)) in blocks.into_iter().enumerate() {
            let mut block = Vec::new();
            if let Some(bytes) = resize {
                encoder.resize(bytes, &mut block);
            }
            for (name, value, literal) in &headers {
                encoder.field(name, value, *literal, &mut block);
            }
            if at < from {
                continue;
            }
            let got = read(&mut decoder, &block).unwrap();
            prop_assert_eq!(got.len(), headers.len());
            for ((name, value), (true_name, true_value, _)) in got.iter().zip(&headers) {
                prop_assert!(name == "?" || name == true_name);
                prop_assert!(value == "?" || value == true_value);
            }
        }
    }

    #[test]
    fn any_bytes_are_headers_or_refused_and_memory_is_bounded(
        blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
        from_middle in any::<bool>(),
    ) {
        let mut decoder = if from_middle { Decoder::after_gap() } else { Decoder::at_beginning() };
        let mut fields = Fields::default();
        for block in blocks {
            let is_read = decoder.decode(&block, &mut fields).is_ok();
            prop_assert!(is_read || !block.is_empty());
            sender(&block);
            prop_assert!(decoder.memory_bytes() + fields.memory_bytes() < 4 * FIELDS_BYTES_MAX);
        }
    }
}
