//! Kafka: the requests and responses that librdkafka logs are the rows of `kafka_events.beta`.
//!
//! Its mock broker speaks the real protocol over the loopback interface.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::{Place, Wire, python};

pub(super) const MODULES: [&str; 1] = ["confluent_kafka"];

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/kafka.py");
/// What librdkafka calls requests, with their API keys.
const APIS: [(&str, u16); 16] = [
    ("Produce", 0),
    ("Fetch", 1),
    ("ListOffsets", 2),
    ("Metadata", 3),
    ("OffsetCommit", 8),
    ("OffsetFetch", 9),
    ("FindCoordinator", 10),
    ("JoinGroup", 11),
    ("Heartbeat", 12),
    ("LeaveGroup", 13),
    ("SyncGroup", 14),
    ("ApiVersion", 18),
    ("InitProducerId", 22),
    ("OffsetForLeaderEpoch", 23),
    ("GetTelemetrySubscriptions", 71),
    ("PushTelemetry", 72),
];
/// Bytes of a response before what librdkafka counts of it: its size and its number.
const RESPONSE_HEAD_BYTES: u64 = 8;
/// What librdkafka rounds a time to.
const RESOLUTION: Resolution = Resolution(Duration::from_micros(10));
/// Rows of connections that ended before the response came.
const UNANSWERED: u64 = 4;

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let place = Place::new("undine-evals")?;
    let (seen, log) = asked
        .watch("kafka", Wire::Plain)
        .during(&place.cgroup, || place.run(&python(), &[CLIENT, &asked.requests.to_string()]))?;
    let (truth, mut unheard) = logged(&log)?;
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "client_id",
        "req_cmd",
        "req_size",
        "resp_size",
        "latency",
        "quality",
    ];
    for [port, role, client, api, sent, received, latency, quality] in
        seen.rows("kafka_events.beta", columns)?
    {
        ensure!(role == "2", "a row of role {role}");
        let request = format!("{client} {api} {sent}");
        if quality.parse::<u64>()? & UNANSWERED != 0 {
            unheard.remove(&request);
            continue;
        }
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        rows.push(&port, format!("{request} {received}"), latency);
    }
    let late = rows.pop_while(|last| {
        last.what.rsplit_once(' ').is_some_and(|(request, _)| unheard.remove(request))
    });
    report.count("kafka_answers_after_the_end", late);
    truth::compare(report, "kafka", &truth.nameless(), &rows.nameless(), RESOLUTION);
    truth::nothing_lost(report, "kafka", &seen)
}

/// Requests that librdkafka sent and does not tell to be answered, as often: they were not, or it ended
/// meanwhile.
#[derive(Default)]
struct Unheard(BTreeMap<String, u64>);

impl Unheard {
    /// Whether there was one.
    fn remove(&mut self, request: &str) -> bool {
        let left = self.0.get_mut(request).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }
}

/// Requests that were answered on each connection, in the order of the answers, from lines as
/// `…|CLIENT#producer-N| [thrd:NAME]: BROKER: Sent ProduceRequest (v10, 126 bytes @ 0, CorrId 4)` and
/// `… Received ProduceResponse (v10, 52 bytes, CorrId 4, rtt 0.07ms)`.
fn logged(log: &str) -> Result<(Conversations, Unheard)> {
    let mut truth = Conversations::default();
    let mut sent: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in log.lines() {
        let Some((head, rest)) = line.split_once("]: ") else { continue };
        let is_sent = rest.contains(": Sent ");
        if !is_sent && !rest.contains(": Received ") {
            continue;
        }
        let read = || -> Option<(String, &str, u64, String)> {
            let connection = head.split_once('#')?.1;
            let client = head.split('|').nth(3)?.split('#').next()?;
            let (name, details) = rest
                .split_once(if is_sent { ": Sent " } else { ": Received " })?
                .1
                .split_once(" (")?;
            let name = name.trim_end_matches("Request").trim_end_matches("Response");
            let (_, api) = APIS.iter().find(|(known, _)| *known == name)?;
            let bytes = details.split_once(", ")?.1.split_once(" bytes")?.0.parse().ok()?;
            let number = details.split_once("CorrId ")?.1;
            let number = number.split([',', ')']).next()?;
            Some((format!("{connection} {number}"), connection, bytes, format!("{client} {api}")))
        };
        let (key, connection, bytes, what) =
            read().with_context(|| format!("librdkafka says {line}"))?;
        if is_sent {
            sent.insert((key, what), bytes);
            continue;
        }
        let rtt = rest.split_once("rtt ").and_then(|(_, rtt)| rtt.strip_suffix("ms)"));
        let rtt: f64 = rtt.context("no rtt")?.parse()?;
        let request =
            sent.remove(&(key, what.clone())).with_context(|| format!("never sent: {line}"))?;
        let took = Duration::from_secs_f64(rtt / 1e3);
        let received = bytes + RESPONSE_HEAD_BYTES;
        truth.push(connection, format!("{what} {request} {received}"), Some(Latency::Client(took)));
    }
    let mut unheard = Unheard::default();
    for ((_, what), bytes) in sent {
        *unheard.0.entry(format!("{what} {bytes}")).or_default() += 1;
    }
    Ok((truth, unheard))
}
