//! Rows are what real Kafka clients did with real brokers.

use std::collections::BTreeMap;

use undine_testbed::Server;

use super::kernel::{alone, may_load};
use super::memory::Memory;
use super::place::{Place, happen_to_be_installed, python_that_happens_to_have, python_with};
use super::watch::watched;

const PORT: &str = "19092";
/// What kafka-python does: 300 records in batches to one topic, and a group that reads them all.
const CLIENT: &str = r#"
from kafka import KafkaProducer, KafkaConsumer
at = "127.0.0.1:19092"
producer = KafkaProducer(bootstrap_servers=at, client_id="teller", linger_ms=0)
for number in range(300):
    producer.send("greetings", b"hello %d" % number).get(10)
producer.close()
reader = KafkaConsumer("greetings", bootstrap_servers=at, client_id="reader", group_id="readers",
                       auto_offset_reset="earliest", consumer_timeout_ms=8000)
heard = 0
for record in reader:
    heard += 1
    if heard == 300:
        break
reader.commit()
reader.close()
print(heard)
"#;
/// What librdkafka does with its own mock broker, and how many records went each way.
const MOCK: &str = r#"
from confluent_kafka import Producer, Consumer
mock = Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1})
broker = list(mock.list_topics(timeout=10).brokers.values())[0]
at = "%s:%d" % (broker.host, broker.port)
for acks in ["all", "0"]:
    producer = Producer({"bootstrap.servers": at, "client.id": "teller-" + acks, "acks": acks,
                         "enable.idempotence": False})
    for number in range(500):
        producer.produce("greetings", b"x" * 1000)
        if number % 50 == 0:
            producer.flush()
    producer.flush()
consumer = Consumer({"bootstrap.servers": at, "client.id": "reader", "group.id": "readers",
                     "auto.offset.reset": "earliest"})
consumer.subscribe(["greetings"])
heard = 0
while heard < 1000:
    message = consumer.poll(30)
    if message is None:
        break
    heard += message.error() is None
consumer.close()
print(heard)
"#;

/// Bytes that are kept of a text.
const TEXT_BYTES_MAX: usize = 4096;

fn tansu(place: &Place) -> Server {
    let url = format!("tcp://127.0.0.1:{PORT}");
    let mut broker = place.command("tansu");
    broker.args(["broker", "--listener-url", &url, "--advertised-listener-url", &url]);
    Server::start(broker.args(["--storage-engine", "memory://tansu/"])).unwrap()
}

/// Rows by API key.
fn counted(memory: &Memory) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    for row in memory.rows("kafka_events.beta", &["req_cmd", "trace_role"]) {
        assert_eq!(row[1], "2");
        *counts.entry(row[0].parse().unwrap()).or_default() += 1;
    }
    counts
}

fn bodies(memory: &Memory, api_key: i64) -> Vec<(serde_json::Value, serde_json::Value)> {
    let rows = memory.rows("kafka_events.beta", &["req_cmd", "req_body", "resp"]);
    let of_api = rows.iter().filter(|row| row[0] == api_key.to_string());
    let json = |text: &str| serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
    of_api.map(|row| (json(&row[1]), json(&row[2]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sends_to_a_broker_are_rows() {
    let _alone = alone().await;
    let Some(python) = python_that_happens_to_have(&["kafka"]) else { return };
    if !may_load() || !happen_to_be_installed(&["tansu"]) {
        return;
    }
    let (memory, heard) = watched("undine-tansu", TEXT_BYTES_MAX, |place| {
        let _broker = tansu(place);
        let topic = ["topic", "create", "--broker", "tcp://127.0.0.1:19092", "greetings"];
        place.wait_for("tansu", &topic);
        place.run(&python, &["-c", CLIENT])
    })
    .await;
    let counts = counted(&memory);
    println!("{counts:?}, {} records read", heard.trim());
    assert_eq!(counts[&0], 300);
    for (request, response) in bodies(&memory, 0) {
        assert_eq!(request["topics"][0]["name"], "greetings");
        assert_eq!(response["topics"][0]["partitions"][0]["error_code"], 0);
    }
    assert_eq!(heard.trim(), "300");
    for api_key in [1, 3, 10, 11, 14, 18] {
        assert!(counts.contains_key(&api_key), "{api_key} in {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_librdkafka_sends_to_its_mock_broker_are_rows() {
    let _alone = alone().await;
    let Some(python) = python_with(&["confluent_kafka"]) else { return };
    if !may_load() {
        return;
    }
    let act = |place: &Place| place.run(&python, &["-c", MOCK]);
    let (memory, heard) = watched("undine-rdkafka", TEXT_BYTES_MAX, act).await;
    let counts = counted(&memory);
    println!("{counts:?}, {} records read", heard.trim());
    assert_eq!(heard.trim(), "1000");
    let produced = bodies(&memory, 0);
    let count = |acks: i64| produced.iter().filter(|(request, _)| request["acks"] == acks).count();
    assert!(count(-1) >= 10 && count(0) >= 10, "{} and {}", count(-1), count(0));
    for (request, response) in &produced {
        assert_eq!(request["topics"][0]["name"], "greetings");
        assert_eq!(response.is_null(), request["acks"] == 0);
    }
    let size = |json: &serde_json::Value| -> i64 {
        let topics = json["topics"].as_array().into_iter().flatten();
        let partitions =
            topics.flat_map(|topic| topic["partitions"].as_array().into_iter().flatten());
        partitions.filter_map(|partition| partition["message_set"]["size"].as_i64()).sum()
    };
    let sent: i64 = produced.iter().map(|(request, _)| size(request)).sum();
    let fetched: i64 = bodies(&memory, 1).iter().map(|(_, response)| size(response)).sum();
    println!("{sent} bytes of records sent, {fetched} fetched");
    assert!(sent >= 1_000_000 && fetched >= 1_000_000);
    for api_key in [1, 3, 9, 10, 11, 12, 14, 18] {
        assert!(counts.contains_key(&api_key), "{api_key} in {counts:?}");
    }
}
