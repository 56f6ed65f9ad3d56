//! A conversation as the kernel tells of it, given to the whole pipeline.
//!
//! What must hold once everything is over:
//! * every byte is accounted for: those that came are counted, those that did not are in `data_loss`
//!   with their reason, and `conn_stats` has the sum of both;
//! * there are no more rows than there were bytes for requests, and a request is a row of one end
//!   only, unless its protocol says otherwise;
//! * bounds are in order, and nothing is left: no connection, no request that waits.

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use undine_collector::event::{Body, Event, Flow};
use undine_collector::loss::KernelTotals;
use undine_collector::pipeline::{Pipeline, Settings};
use undine_collector::process::FactSource;
use undine_collector::protocol::ProtocolCode;
use undine_collector::{Mode, Redaction};
use undine_ebpf::{
    ConnInfo, ConnTotals, EGRESS, FLAG_CONTINUED, FLAG_TRUNCATED, Header, INGRESS, Kind,
    PAYLOAD_BYTES_MAX,
};
use undine_schema::TimeNs;

use crate::script::{BYTES_MAX, Captured, Script, Side, Step};
use crate::talk::{BODY_BYTES_MAX, PAUSE_NS};

/// The server's end and the client's end, as connections are numbered.
const ENDS: [(u64, Side); 2] = [(1, Side::Server), (2, Side::Client)];

/// A pipeline for inputs that nobody should trust.
pub(crate) fn pipeline(redacts: bool) -> Pipeline {
    let bodies = if redacts { Mode::Redacted } else { Mode::Pii };
    Pipeline::new(Settings {
        node: "knot".to_owned(),
        asid: 1,
        redaction: Redaction { headers: Mode::Pii, bodies },
        body_bytes_max: BODY_BYTES_MAX,
        service_rules: Vec::new(),
        conn_stats_interval: Duration::from_secs(1),
        connections_max: 64,
        facts: FactSource::Recorded(HashMap::new()),
    })
}

/// Rows of all tables, in the order in which they were written.
#[derive(Debug, Default)]
pub(crate) struct Tables(HashMap<&'static str, Vec<RecordBatch>>);

impl Tables {
    /// Takes the rows that a pipeline has written.
    pub(crate) fn take(&mut self, pipeline: &mut Pipeline) {
        for (table, batch) in pipeline.take_rows(TimeNs::new(7)) {
            assert_eq!(batch.schema(), table.arrow_schema());
            self.0.entry(table.name).or_default().push(batch);
        }
    }

    /// How many rows a table has.
    fn count(&self, table: &str) -> u64 {
        self.0.get(table).into_iter().flatten().map(|batch| batch.num_rows() as u64).sum()
    }

    /// The values of a column; what is true is 1.
    fn numbers(&self, table: &str, column: &str) -> Vec<u64> {
        let batches = self.0.get(table).into_iter().flatten();
        let values = batches.flat_map(|batch| {
            let array = batch.column_by_name(column).expect("the column is there");
            let array = cast(array, &DataType::Int64).expect("its values are numbers or truths");
            let array: &Int64Array = array.as_primitive();
            let values = array.values().to_vec();
            values.into_iter().map(|value| u64::try_from(value).expect("it is not negative"))
        });
        values.collect()
    }

    /// The texts of a column.
    fn texts(&self, table: &str, column: &str) -> Vec<String> {
        let batches = self.0.get(table).into_iter().flatten();
        let values = batches.flat_map(|batch| {
            let array =
                batch.column_by_name(column).and_then(|array| array.as_any().downcast_ref());
            let array: &StringArray = array.expect("the column is there and of texts");
            (0..array.len()).map(|row| array.value(row).to_owned())
        });
        values.collect()
    }
}

/// What was sent, and what of it the kernel had no room for.
#[derive(Debug)]
struct Machine {
    pipeline: Pipeline,
    now: u64,
    seq: u64,
    messages: u64,
    delivered: u64,
    truncated: u64,
    totals: [ConnTotals; 2],
    kernel: KernelTotals,
    /// A message that comes after the next one.
    late: Option<Vec<u8>>,
}

/// Checks what the pipeline makes of a script.
pub(crate) fn check_script(script: &Script<'_>) {
    let mut machine = Machine {
        pipeline: pipeline(script.redacts()),
        now: 1_000_000_000,
        seq: 0,
        messages: 0,
        delivered: 0,
        truncated: 0,
        totals: [ConnTotals::default(); 2],
        kernel: KernelTotals::default(),
        late: None,
    };
    let watched = match (script.observes_both_ends(), script.requests()) {
        (true, _) => 0..2,
        (false, Flow::Ingress) => 0..1,
        (false, Flow::Egress) => 1..2,
    };
    for end in watched.clone() {
        machine.open(end, script.is_joined_midway());
    }
    for step in &script.steps {
        machine.step(step, watched.clone());
        if machine.kernel.operation_bytes > BYTES_MAX as u64 {
            break;
        }
    }
    machine.flush();
    for end in watched {
        machine.close(end);
    }
    machine.check_end();
}

impl Machine {
    fn header(&mut self, kind: Kind, end: usize) -> Header {
        self.seq += 1;
        let conn = ENDS[end].0;
        Header {
            kind: kind as u8,
            cpu_seq: self.seq,
            time_mono_ns: self.now,
            conn,
            tgid: u32::try_from(conn).unwrap_or(0),
            process_start_ns: 5,
            ..Header::default()
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.messages += 1;
        self.pipeline.message(bytes).expect("it was encoded by us");
    }

    fn open(&mut self, end: usize, midway: bool) {
        let header = self.header(Kind::Open, end);
        let role = match ENDS[end].1 {
            _ if midway => 0,
            Side::Client => 1,
            Side::Server => 2,
        };
        let (local_port, remote_port) = if end == 0 { (80, 4001) } else { (4001, 80) };
        let addr = [127; 16];
        let info = ConnInfo {
            netns: 1,
            local_addr: addr,
            remote_addr: addr,
            local_port,
            remote_port,
            family: 2,
            role,
            protocol: 6,
            ..ConnInfo::default()
        };
        let mut bytes = Vec::new();
        Event { header, body: Body::Open(info) }.encode(&mut bytes);
        self.send(&bytes);
    }

    /// A step at every end that is watched: the one that sends first.
    fn step(&mut self, step: &Step<'_>, watched: std::ops::Range<usize>) {
        if !step.continued {
            self.now += if step.paused { PAUSE_NS } else { 1000 };
        }
        let mut ends: Vec<usize> = watched.collect();
        if step.side == Side::Client {
            ends.reverse();
        }
        for end in ends {
            let mut continued = step.continued;
            let pieces = step.bytes.chunks(PAYLOAD_BYTES_MAX);
            let last = pieces.len().saturating_sub(1);
            for (index, payload) in pieces.enumerate() {
                let missing = if index == last { step.missing } else { 0 };
                self.data(end, step, payload, missing, continued);
                continued = true;
            }
            if step.bytes.is_empty() && step.missing > 0 {
                self.data(end, step, &[], step.missing, continued);
            }
        }
    }

    fn data(&mut self, end: usize, step: &Step<'_>, payload: &[u8], missing: u64, continued: bool) {
        let flow = if step.side == ENDS[end].1 { Flow::Egress } else { Flow::Ingress };
        let len = payload.len() as u64 + missing;
        let header = self.header(Kind::Data, end);
        let direction = &mut self.totals[end].directions[flow.index()];
        let header = Header {
            flags: if continued { FLAG_CONTINUED } else { 0 }
                | if missing > 0 { FLAG_TRUNCATED } else { 0 },
            direction: if flow == Flow::Egress { EGRESS } else { INGRESS },
            pos: direction.bytes,
            len: u32::try_from(len).expect("a step is no longer than that"),
            captured: u32::try_from(payload.len()).expect("nor its payload"),
            ..header
        };
        direction.operations += u64::from(!continued);
        direction.bytes += len;
        self.kernel.attempts += 1;
        self.kernel.operations += u64::from(!continued);
        self.kernel.operation_bytes += len;
        if step.captured == Captured::None {
            direction.dropped_messages += 1;
            direction.dropped_bytes += len;
            self.kernel.dropped += 1;
            self.kernel.dropped_bytes += len;
            self.kernel.dropped_operations += u64::from(!continued);
            return;
        }
        direction.captured_bytes += payload.len() as u64;
        direction.truncated_bytes += missing;
        self.delivered += len;
        self.truncated += missing;
        let mut bytes = Vec::new();
        Event { header, body: Body::Data { flow, payload } }.encode(&mut bytes);
        let before = self.late.take();
        if step.late && before.is_none() {
            self.late = Some(bytes);
            return;
        }
        self.send(&bytes);
        if let Some(before) = before {
            self.send(&before);
        }
    }

    fn flush(&mut self) {
        if let Some(late) = self.late.take() {
            self.send(&late);
        }
    }

    fn close(&mut self, end: usize) {
        self.now += 1000;
        let header = self.header(Kind::Close, end);
        let mut bytes = Vec::new();
        Event { header, body: Body::Close(self.totals[end]) }.encode(&mut bytes);
        self.send(&bytes);
    }

    fn check_end(mut self) {
        let mut tables = Tables::default();
        self.pipeline.kernel(self.kernel);
        self.pipeline.advance(self.now + 1_000_000_000);
        self.pipeline.settle();
        self.pipeline.write_losses(TimeNs::new(7), true);
        tables.take(&mut self.pipeline);
        let counts = self.pipeline.counts();
        assert_eq!((counts.messages, counts.decode_errors), (self.messages, 0), "{counts:?}");
        assert_eq!(counts.bytes, self.delivered, "{counts:?}");
        assert_eq!((counts.connections, counts.in_flight), (0, 0), "{counts:?}");
        self.check_losses(&tables);
        check_traffic(&tables, &self.totals);
        self.check_rows(&tables);
    }

    /// Every missing byte is in `data_loss`, once and with its reason.
    fn check_losses(&self, tables: &Tables) {
        let reasons = tables.texts("data_loss", "reason");
        let bytes = tables.numbers("data_loss", "bytes");
        let of = |reason: &str| -> u64 {
            reasons.iter().zip(&bytes).filter(|(r, _)| *r == reason).map(|(_, bytes)| bytes).sum()
        };
        assert_eq!(of("ring_full"), self.kernel.dropped_bytes, "lost bytes");
        assert_eq!(of("truncated"), self.truncated, "truncated bytes");
        let rows_min = tables.numbers("data_loss", "rows_min");
        let rows_max = tables.numbers("data_loss", "rows_max");
        for (index, (min, max)) in rows_min.iter().zip(&rows_max).enumerate() {
            assert!(min <= max, "{} rows: {min} to {max}", reasons[index]);
        }
        let missing = self.pipeline.missing_rows();
        assert!(missing.min <= missing.max, "{missing:?}");
    }

    /// A row needs the bytes of its request, and each is kept by one end.
    fn check_rows(&self, tables: &Tables) {
        let sum = |end: &ConnTotals| end.directions.iter().map(|direction| direction.bytes).sum();
        let bytes: [u64; 2] = [sum(&self.totals[0]), sum(&self.totals[1])];
        // A table of two protocols is asked about twice, for the shorter request of both.
        let mut bytes_min: HashMap<&str, (u64, bool)> = HashMap::new();
        for code in ProtocolCode::all() {
            let entry = bytes_min.entry(code.table()).or_insert((u64::MAX, false));
            entry.0 = entry.0.min(code.request_bytes_min());
            entry.1 |= code.both_ends_keep();
        }
        for (table, (bytes_min, both_ends_keep)) in bytes_min {
            let bytes = if both_ends_keep { bytes[0] + bytes[1] } else { bytes[0].max(bytes[1]) };
            let rows = tables.count(table);
            assert!(rows <= bytes / bytes_min, "{rows} rows of {table} in {bytes} bytes");
        }
    }
}

/// The last counters of every account add up to what was sent and received.
fn check_traffic(tables: &Tables, totals: &[ConnTotals; 2]) {
    // Each end has an account of its own: only one of them has the peer's port.
    let columns = ["remote_port", "trace_role", "protocol", "ssl", "bytes_recv", "bytes_sent"];
    let numbers = columns.iter().map(|column| tables.numbers("conn_stats", column));
    let [ports, roles, protocols, ssl, received, sent]: [Vec<u64>; 6] =
        numbers.collect::<Vec<_>>().try_into().expect("as many as there are columns");
    let mut last = HashMap::new();
    for row in 0..ports.len() {
        let account = (ports[row], roles[row], protocols[row], ssl[row]);
        last.insert(account, [received[row], sent[row]]);
    }
    for direction in 0..2 {
        let counted: u64 = last.values().map(|bytes| bytes[direction]).sum();
        let moved: u64 = totals.iter().map(|end| end.directions[direction].bytes).sum();
        assert_eq!(counted, moved, "bytes in direction {direction} in conn_stats");
    }
}
