//! Every method that a client and a real AMQP server exchanged is a row.

use std::collections::BTreeMap;

use undine_testbed::brokers::{self, RABBITMQ, RABBITMQ_PORT};

use super::kernel::{alone, may_load};
use super::place::{are_installed, python_with};
use super::watch::watched;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/amqp.py");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_of_an_amqp_client_and_its_server_is_a_row() {
    let _alone = alone().await;
    let Some(python) = python_with(&["pika"]) else { return };
    if !may_load() || !are_installed(&[RABBITMQ]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (memory, said) = watched("undine-amqp", 64, |place| {
        let _server = brokers::rabbitmq(place, dir.path()).unwrap();
        place.run(&python, &[CLIENT, &RABBITMQ_PORT.to_string()])
    })
    .await;
    let mut methods = BTreeMap::new();
    for line in said.lines() {
        let (ids, count) = line.rsplit_once(' ').unwrap();
        methods.insert(ids.to_owned(), count.parse::<u64>().unwrap());
    }
    let mut rows = BTreeMap::new();
    let ids = ["req_class_id", "req_method_id", "resp_class_id", "resp_method_id"];
    for row in memory.rows("amqp_events", &ids) {
        *rows.entry(row.join(" ")).or_default() += 1;
    }
    println!("{} rows {rows:?}", rows.values().sum::<u64>());
    assert_eq!(rows, methods);
    let columns = ["trace_role", "frame_type", "quality", "latency"];
    for row in memory.rows("amqp_events", &[ids.as_slice(), &columns].concat()) {
        assert_eq!(row[4..7], ["2", "1", "0"], "{row:?}");
        assert_eq!(row[0] == "0" || row[2] == "0", row[7] == "0", "{row:?}");
    }
    let texts =
        memory.rows("amqp_events", &["channel", "req_msg", "resp_msg", "req_size", "failed"]);
    let published = r#"{"exchange":"logs","routing_key":"level.7","body_size":7}"#;
    let long = r#"{"exchange":"","routing_key":"work","body_size":150000}"#;
    for (channel, req_msg, resp_msg, failed) in [
        ("1", published, "", "0"),
        ("2", long, "", "0"),
        ("2", "", r#"{"reply_code":312,"reply_text":"NO_ROUTE""#, "1"),
        ("3", r#"{"queue":"missing","passive":true}"#, r#"{"reply_code":404,"#, "1"),
        ("1", r#"{"queue":"work"}"#, r#"{"queue":"work","message_count":0,"#, "0"),
        ("0", r#"{"virtual_host":"/"}"#, "", "0"),
    ] {
        let is_it = |row: &Vec<String>| {
            row[0] == channel
                && row[1] == req_msg
                && row[2].starts_with(resp_msg)
                && row[4] == failed
        };
        assert!(texts.iter().any(is_it), "{channel} {req_msg} {resp_msg}");
    }
    assert!(!texts.iter().any(|row| row[1].contains("guest") || row[2].contains("guest")));
}
