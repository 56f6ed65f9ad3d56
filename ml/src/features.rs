//! From rows to windows: what each service did in each stretch of time.
//!
//! ```text
//! http_events rows ─► entity (service, pod) ─► cells of an open window ─► ClosedWindow
//!                  └► edge (caller, callee) ─►
//! ```
//!
//! A row belongs to the window that holds its `time_`. A row of a server (`trace_role` 2, or 4 where
//! the role is unknown) counts for the service that answered; a client's row (`trace_role` 1), which
//! exists only where the server is not observed, counts for the peer that was called. A request has
//! failed if its status is 500 or more, or 0: the connection ended before a response was seen. A
//! status of 400 to 499 is the client's mistake and no failure.
//!
//! This file knows no clock and no model; it is told when a window is over.

use std::collections::{HashMap, VecDeque};

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use serde::{Deserialize, Serialize};
use undine_schema::TimeNs;

use crate::histogram::Histogram;

/// How many requests are kept of a window as samples, of failed and of slow ones each.
pub(crate) const SAMPLES_MAX: usize = 3;
/// Longest path that is kept with a sample, in bytes.
const SAMPLE_PATH_BYTES_MAX: usize = 200;
const ROLE_CLIENT: i64 = 1;
const MEMO_SLOTS: usize = 256;

/// A request that shows what happened in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// When its response ended, in nanoseconds since the epoch.
    pub(crate) time_ns: i64,
    /// The verb.
    pub(crate) method: String,
    /// The path without its query.
    pub(crate) path: String,
    /// The status, 0 where there was no response.
    pub(crate) status: i64,
    /// How long it took.
    pub(crate) latency_ns: i64,
}

/// Whether a name is that of a service seen here or of a peer that is only called from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Side {
    /// Its own process was traced.
    Served,
    /// Only its callers were.
    Peer,
}

/// What one pod of a service did in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cells {
    /// Requests, failed ones included.
    pub(crate) requests: u64,
    /// Failed requests.
    pub(crate) errors: u64,
    /// Sum of their latencies.
    pub(crate) latency_ns: f64,
    /// Their latencies by size.
    pub(crate) latencies: Histogram,
    /// The first failed requests.
    pub(crate) failed: Vec<Sample>,
    /// The slowest requests, slowest first.
    pub(crate) slowest: Vec<Sample>,
}

/// What one service asked of another in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calls {
    /// Requests.
    pub(crate) requests: u64,
    /// Failed ones.
    pub(crate) errors: u64,
    /// Sum of their latencies.
    pub(crate) latency_ns: f64,
}

/// A pod's part of a closed window.
#[derive(Clone, Debug)]
pub(crate) struct EntityWindow {
    pub(crate) service: String,
    pub(crate) pod: String,
    pub(crate) side: Side,
    pub(crate) cells: Cells,
}

/// A caller's and a callee's part of a closed window.
#[derive(Clone, Debug)]
pub(crate) struct EdgeWindow {
    pub(crate) caller: String,
    pub(crate) callee: String,
    pub(crate) calls: Calls,
}

/// A stretch of time that is over. Entities that were silent are not in it.
#[derive(Clone, Debug)]
pub(crate) struct ClosedWindow {
    pub(crate) start: TimeNs,
    pub(crate) end: TimeNs,
    pub(crate) entities: Vec<EntityWindow>,
    pub(crate) edges: Vec<EdgeWindow>,
}

/// What became of the rows of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// All rows of the batch.
    pub(crate) rows: u64,
    /// Of these: came after their window was closed.
    pub(crate) late: u64,
    /// Of these: lie further in the future than the clock allows.
    pub(crate) ahead: u64,
    /// Of these: their entity found no room.
    pub(crate) unmodelled: u64,
}

/// How much is kept at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Pods of services.
    pub(crate) entities_max: usize,
    /// Pairs of caller and callee.
    pub(crate) edges_max: usize,
}

/// The windows that are still open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Features {
    width_ns: i64,
    /// How many windows may be open at once.
    slots: usize,
    limits: Limits,
    entities: Vec<Entity>,
    edges: Vec<Edge>,
    /// Consecutive windows; the first has number `next`.
    open: VecDeque<OpenWindow>,
    /// The oldest window that is not closed, nothing before the first row.
    next: Option<i64>,
    /// Rows that found no room since the last window was closed.
    refused: u64,
    #[serde(skip)]
    index: Index,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entity {
    service: String,
    pod: String,
    side: Side,
    /// Requests a window, a moving mean; who has least makes room.
    volume: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Edge {
    caller: String,
    callee: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct OpenWindow {
    cells: Vec<Option<Box<Cells>>>,
    calls: Vec<Calls>,
}

/// Where names are found; derived from the entities and edges.
#[derive(Clone, Debug, Default)]
struct Index {
    entities: HashMap<String, u32>,
    edges: HashMap<String, u32>,
    memo: Vec<Memo>,
    key: String,
}

#[derive(Clone, Debug, Default)]
struct Memo {
    signatures: [Signature; 3],
    service: String,
    pod: String,
    remote: String,
    entity: u32,
    edge: Option<u32>,
}

impl Features {
    /// Windows of `width_ns`, of which a row may be late for at most `lateness_ns`.
    pub(crate) fn new(width_ns: i64, lateness_ns: i64, limits: Limits) -> Self {
        let slots = usize::try_from(lateness_ns.div_euclid(width_ns) + 2).unwrap_or(2);
        Self {
            width_ns,
            slots,
            limits,
            entities: Vec::new(),
            edges: Vec::new(),
            open: VecDeque::new(),
            next: None,
            refused: 0,
            index: Index::default(),
        }
    }

    /// Finds names again after it was loaded.
    pub(crate) fn reindex(&mut self) {
        let mut index = Index::default();
        for (at, entity) in (0_u32..).zip(&self.entities) {
            index.entities.insert(join(&entity.service, &entity.pod), at);
        }
        for (at, edge) in (0_u32..).zip(&self.edges) {
            index.edges.insert(join(&edge.caller, &edge.callee), at);
        }
        self.index = index;
    }

    /// How many pods of services are known.
    pub(crate) fn entities(&self) -> usize {
        self.entities.len()
    }

    /// Takes in a batch of `http_events`, and appends to `closed` the windows that its rows prove to
    /// be over. A row later than `latest` is counted and left out.
    ///
    /// The batch must have the table's columns; a store checks that on append.
    pub(crate) fn take(
        &mut self,
        batch: &RecordBatch,
        latest: TimeNs,
        closed: &mut Vec<ClosedWindow>,
    ) -> Taken {
        let rows = Rows::of(batch);
        let mut taken = Taken { rows: batch.num_rows() as u64, ..Taken::default() };
        for row in 0..batch.num_rows() {
            let time_ns = rows.time.value(row);
            if time_ns > latest.get() {
                taken.ahead += 1;
                continue;
            }
            let number = time_ns.div_euclid(self.width_ns);
            let next = *self.next.get_or_insert(number);
            if number < next {
                taken.late += 1;
                continue;
            }
            let slot = self.slot(number, closed);
            if !self.count(slot, &rows, row) {
                taken.unmodelled += 1;
            }
        }
        self.refused += taken.unmodelled;
        taken
    }

    /// Closes every window that ends at or before `watermark`, silent ones included.
    pub(crate) fn close_until(&mut self, watermark: TimeNs, closed: &mut Vec<ClosedWindow>) {
        while let Some(next) = self.next
            && next.saturating_add(1).saturating_mul(self.width_ns) <= watermark.get()
        {
            closed.push(self.close_oldest(next));
        }
    }

    /// Leaves out the silent windows before `time`: nobody was watching.
    pub(crate) fn skip_silence_until(&mut self, time: TimeNs, closed: &mut Vec<ClosedWindow>) {
        while let Some(next) = self.next
            && !self.open.is_empty()
            && next.saturating_add(1).saturating_mul(self.width_ns) <= time.get()
        {
            closed.push(self.close_oldest(next));
        }
        if self.open.is_empty() {
            let number = time.get().div_euclid(self.width_ns);
            self.next = self.next.map(|next| next.max(number));
        }
    }

    /// Makes room for busier entities if some were refused since the last call: forgets the least
    /// busy sixteenth but for those that `keep` holds on to. Returns who was forgotten.
    pub(crate) fn shed(&mut self, keep: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        if std::mem::take(&mut self.refused) == 0 || self.entities.len() < self.limits.entities_max
        {
            return Vec::new();
        }
        let mut by_volume: Vec<usize> =
            (0..self.entities.len()).filter(|&at| !keep(&self.entities[at].service)).collect();
        by_volume.sort_by(|&a, &b| self.entities[a].volume.total_cmp(&self.entities[b].volume));
        by_volume.truncate((self.limits.entities_max / 16).max(1));
        let mut goes = vec![false; self.entities.len()];
        for at in by_volume {
            goes[at] = true;
        }
        self.forget(&goes)
    }

    fn forget(&mut self, goes: &[bool]) -> Vec<(String, String)> {
        for window in &mut self.open {
            let mut at = 0..;
            window.cells.retain(|_| at.next().is_none_or(|at: usize| !goes[at]));
        }
        let mut gone = Vec::new();
        let mut kept = Vec::with_capacity(self.entities.len());
        for (entity, &goes) in self.entities.drain(..).zip(goes) {
            if goes {
                gone.push((entity.service, entity.pod));
            } else {
                kept.push(entity);
            }
        }
        self.entities = kept;
        self.reindex();
        gone
    }

    /// The place of window `number` among the open ones, after closing what is too old beside it.
    fn slot(&mut self, number: i64, closed: &mut Vec<ClosedWindow>) -> usize {
        loop {
            let next = self.next.unwrap_or(number);
            let ahead = usize::try_from(number - next).unwrap_or(usize::MAX);
            if ahead < self.slots {
                while self.open.len() <= ahead {
                    self.open.push_back(OpenWindow::default());
                }
                return ahead;
            }
            if self.open.is_empty() {
                let behind = i64::try_from(self.slots - 1).unwrap_or(i64::MAX);
                self.next = Some(number.saturating_sub(behind));
            } else {
                closed.push(self.close_oldest(next));
            }
        }
    }

    fn count(&mut self, slot: usize, rows: &Rows<'_>, row: usize) -> bool {
        let Some((entity, edge)) = self.find(rows, row) else { return false };
        let (status, latency_ns) = (rows.status.value(row), rows.latency.value(row).max(0));
        let failed = status >= 500 || status == 0;
        let window = &mut self.open[slot];
        if window.cells.len() <= entity {
            window.cells.resize_with(self.entities.len(), || None);
        }
        let cells = window.cells[entity].get_or_insert_default();
        cells.requests += 1;
        cells.errors += u64::from(failed);
        #[expect(clippy::cast_precision_loss, reason = "a latency stays far below 2^53 ns")]
        let latency = latency_ns as f64;
        cells.latency_ns += latency;
        cells.latencies.add(latency_ns);
        if failed && cells.failed.len() < SAMPLES_MAX {
            cells.failed.push(rows.sample(row));
        }
        if cells.slowest.last().is_none_or(|last| latency_ns > last.latency_ns)
            || cells.slowest.len() < SAMPLES_MAX
        {
            let at = cells.slowest.partition_point(|sample| sample.latency_ns >= latency_ns);
            cells.slowest.insert(at, rows.sample(row));
            cells.slowest.truncate(SAMPLES_MAX);
        }
        if let Some(edge) = edge {
            if window.calls.len() <= edge {
                window.calls.resize(self.edges.len(), Calls::default());
            }
            let calls = &mut window.calls[edge];
            calls.requests += 1;
            calls.errors += u64::from(failed);
            calls.latency_ns += latency;
        }
        true
    }

    /// The entity and the edge that a row counts for, or nothing if there is no room.
    fn find(&mut self, rows: &Rows<'_>, row: usize) -> Option<(usize, Option<usize>)> {
        let (service, pod, remote) =
            (rows.service.value(row), rows.pod.value(row), rows.remote_service.value(row));
        if rows.role.value(row) == ROLE_CLIENT {
            let peer = match remote {
                "" => {
                    format!("{}:{}", rows.remote_addr.value(row), rows.remote_port.value(row))
                }
                known => known.to_owned(),
            };
            let entity = self.entity(&peer, rows.remote_pod.value(row), Side::Peer)?;
            return Some((entity, self.edge(service, &peer)));
        }
        if self.index.memo.is_empty() {
            self.index.memo.resize(MEMO_SLOTS, Memo { entity: u32::MAX, ..Memo::default() });
        }
        let signatures = [service, pod, remote].map(Signature::of);
        let at = memo_slot(&signatures);
        let memo = &self.index.memo[at];
        if memo.entity != u32::MAX
            && memo.signatures == signatures
            && (signatures[0].is_whole() || memo.service == service)
            && (signatures[1].is_whole() || memo.pod == pod)
            && (signatures[2].is_whole() || memo.remote == remote)
        {
            return Some((memo.entity as usize, memo.edge.map(|edge| edge as usize)));
        }
        let entity = self.entity(service, pod, Side::Served)?;
        let edge = if remote.is_empty() { None } else { self.edge(remote, service) };
        self.index.memo[at] = Memo {
            signatures,
            service: service.to_owned(),
            pod: pod.to_owned(),
            remote: remote.to_owned(),
            entity: u32::try_from(entity).unwrap_or(u32::MAX),
            edge: edge.and_then(|edge| u32::try_from(edge).ok()),
        };
        Some((entity, edge))
    }

    fn entity(&mut self, service: &str, pod: &str, side: Side) -> Option<usize> {
        if let Some(at) = self.index.entity(service, pod) {
            return Some(at);
        }
        if self.entities.len() >= self.limits.entities_max {
            return None;
        }
        let at = self.entities.len();
        self.index.entities.insert(join(service, pod), u32::try_from(at).ok()?);
        let (service, pod) = (service.to_owned(), pod.to_owned());
        self.entities.push(Entity { service, pod, side, volume: 0.0 });
        Some(at)
    }

    fn edge(&mut self, caller: &str, callee: &str) -> Option<usize> {
        if caller == callee {
            return None;
        }
        if let Some(at) = self.index.edge(caller, callee) {
            return Some(at);
        }
        if self.edges.len() >= self.limits.edges_max {
            return None;
        }
        let at = self.edges.len();
        self.index.edges.insert(join(caller, callee), u32::try_from(at).ok()?);
        self.edges.push(Edge { caller: caller.to_owned(), callee: callee.to_owned() });
        Some(at)
    }

    fn close_oldest(&mut self, number: i64) -> ClosedWindow {
        self.next = Some(number + 1);
        let window = self.open.pop_front().unwrap_or_default();
        let mut entities = Vec::new();
        let mut cells = window.cells.into_iter();
        for entity in &mut self.entities {
            let cells = cells.next().flatten();
            let requests = cells.as_ref().map_or(0, |cells| cells.requests);
            entity.volume += (crate::histogram::as_f64(requests) - entity.volume) / 32.0;
            if let Some(cells) = cells {
                let (service, pod) = (entity.service.clone(), entity.pod.clone());
                entities.push(EntityWindow { service, pod, side: entity.side, cells: *cells });
            }
        }
        let called = self.edges.iter().zip(window.calls).filter(|(_, calls)| calls.requests > 0);
        let edges = called
            .map(|(edge, calls)| EdgeWindow {
                caller: edge.caller.clone(),
                callee: edge.callee.clone(),
                calls,
            })
            .collect();
        ClosedWindow {
            start: TimeNs::new(number.saturating_mul(self.width_ns)),
            end: TimeNs::new((number + 1).saturating_mul(self.width_ns)),
            entities,
            edges,
        }
    }
}

impl Index {
    fn entity(&mut self, service: &str, pod: &str) -> Option<usize> {
        pair(&mut self.key, service, pod);
        self.entities.get(&self.key).map(|at| *at as usize)
    }

    fn edge(&mut self, caller: &str, callee: &str) -> Option<usize> {
        pair(&mut self.key, caller, callee);
        self.edges.get(&self.key).map(|at| *at as usize)
    }
}

/// Writes the key of a pair of names, which hold no zero byte.
fn pair(key: &mut String, first: &str, second: &str) {
    key.clear();
    key.push_str(first);
    key.push('\0');
    key.push_str(second);
}

fn join(first: &str, second: &str) -> String {
    let mut key = String::with_capacity(first.len() + second.len() + 1);
    pair(&mut key, first, second);
    key
}

/// What tells a short text apart without reading its bytes one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signature {
    bytes: usize,
    head: u64,
    tail: u64,
}

impl Signature {
    fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let (head, tail) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            (Some(head), Some(tail)) => (u64::from_le_bytes(*head), u64::from_le_bytes(*tail)),
            _ => (0, bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))),
        };
        Self { bytes: bytes.len(), head, tail }
    }

    /// Whether equal signatures mean equal texts.
    fn is_whole(self) -> bool {
        self.bytes <= 16
    }
}

fn memo_slot(signatures: &[Signature; 3]) -> usize {
    let mut hash = 0_u64;
    for signature in signatures {
        let word = signature.tail ^ signature.head.rotate_left(32) ^ (signature.bytes as u64) << 56;
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    (hash >> 40) as usize % MEMO_SLOTS
}

/// The columns of a batch that the model reads.
struct Rows<'a> {
    time: &'a Int64Array,
    role: &'a Int64Array,
    status: &'a Int64Array,
    latency: &'a Int64Array,
    remote_port: &'a Int64Array,
    remote_addr: &'a StringArray,
    service: &'a StringArray,
    pod: &'a StringArray,
    remote_service: &'a StringArray,
    remote_pod: &'a StringArray,
    method: &'a StringArray,
    path: &'a StringArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        let int = |name: &str| batch[name].as_primitive::<Int64Type>();
        let text = |name: &str| batch[name].as_string::<i32>();
        Self {
            time: int("time_"),
            role: int("trace_role"),
            status: int("resp_status"),
            latency: int("latency"),
            remote_port: int("remote_port"),
            remote_addr: text("remote_addr"),
            service: text("service"),
            pod: text("pod"),
            remote_service: text("remote_service"),
            remote_pod: text("remote_pod"),
            method: text("req_method"),
            path: text("req_path"),
        }
    }

    fn sample(&self, row: usize) -> Sample {
        let path = self.path.value(row);
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let mut end = path.len().min(SAMPLE_PATH_BYTES_MAX);
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        Sample {
            time_ns: self.time.value(row),
            method: self.method.value(row).to_owned(),
            path: path[..end].to_owned(),
            status: self.status.value(row),
            latency_ns: self.latency.value(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use undine_schema::tables::{HttpEvent, HttpEvents};

    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const LATEST: TimeNs = TimeNs::new(1_000 * SECOND);

    fn features(entities_max: usize) -> Features {
        Features::new(5 * SECOND, SECOND, Limits { entities_max, edges_max: 10 })
    }

    fn row(second: i64, service: &str, status: i64) -> HttpEvent<'_> {
        let time_ = TimeNs::new(second * SECOND);
        HttpEvent { time_, service, resp_status: status, trace_role: 2, ..HttpEvent::default() }
    }

    fn batch(rows: &[HttpEvent<'_>]) -> RecordBatch {
        let mut builder = HttpEvents::new(rows.len());
        for row in rows {
            builder.push(row);
        }
        builder.finish()
    }

    /// Service, requests and errors of each entity of each window.
    fn told(closed: &[ClosedWindow]) -> Vec<(i64, String, u64, u64)> {
        let of = |window: &ClosedWindow| {
            let start = window.start.get() / SECOND;
            let entities = window.entities.iter();
            entities
                .map(|e| (start, e.service.clone(), e.cells.requests, e.cells.errors))
                .collect::<Vec<_>>()
        };
        closed.iter().flat_map(of).collect()
    }

    #[test]
    fn faults_of_the_server_are_errors_and_mistakes_of_the_client_are_not() {
        let (mut features, mut closed) = (features(10), Vec::new());
        let rows = [200, 404, 499, 500, 503, 0].map(|status| row(101, "a", status));
        features.take(&batch(&rows), LATEST, &mut closed);
        features.close_until(TimeNs::new(105 * SECOND), &mut closed);
        assert_eq!(told(&closed), [(100, "a".to_owned(), 6, 3)]);
    }

    #[test]
    fn a_row_may_be_late_by_the_lateness_and_is_counted_beyond_it() {
        let (mut features, mut closed) = (features(10), Vec::new());
        let rows = [row(101, "a", 200), row(106, "a", 200), row(104, "a", 200)];
        let taken = features.take(&batch(&rows), LATEST, &mut closed);
        assert_eq!(taken, Taken { rows: 3, ..Taken::default() });
        features.close_until(TimeNs::new(106 * SECOND), &mut closed);
        assert_eq!(told(&closed), [(100, "a".to_owned(), 2, 0)]);
        let taken = features.take(&batch(&[row(104, "a", 200)]), LATEST, &mut closed);
        assert_eq!((taken.rows, taken.late), (1, 1));
    }

    #[test]
    fn a_row_from_the_future_does_not_close_the_present() {
        let (mut features, mut closed) = (features(10), Vec::new());
        let rows = [row(101, "a", 200), row(900_000, "a", 200), row(102, "a", 200)];
        let taken = features.take(&batch(&rows), LATEST, &mut closed);
        assert_eq!((taken.ahead, taken.late, closed.len()), (1, 0, 0));
    }

    #[test]
    fn rows_that_go_on_close_the_windows_before_without_a_clock() {
        let (mut features, mut closed) = (features(10), Vec::new());
        let rows = [101, 107, 112, 500].map(|second| row(second, "a", 200));
        features.take(&batch(&rows), LATEST, &mut closed);
        let starts: Vec<i64> = closed.iter().map(|w| w.start.get() / SECOND).collect();
        assert_eq!(starts, [100, 105, 110], "the silence up to 495 was not watched");
    }

    #[test]
    fn a_clients_row_counts_for_the_peer_that_nobody_watches() {
        let (mut features, mut closed) = (features(10), Vec::new());
        let remote = HttpEvent {
            remote_addr: "10.0.0.7",
            remote_port: 80,
            trace_role: 1,
            ..row(101, "web", 500)
        };
        let known = HttpEvent { remote_service: "pay", trace_role: 1, ..row(101, "web", 200) };
        features.take(&batch(&[remote, known]), LATEST, &mut closed);
        features.close_until(TimeNs::new(105 * SECOND), &mut closed);
        let expected = [(100, "10.0.0.7:80".to_owned(), 1, 1), (100, "pay".to_owned(), 1, 0)];
        assert_eq!(told(&closed), expected);
        assert!(closed[0].entities.iter().all(|entity| entity.side == Side::Peer));
        let edges: Vec<_> = closed[0].edges.iter().map(|e| (&*e.caller, &*e.callee)).collect();
        assert_eq!(edges, [("web", "10.0.0.7:80"), ("web", "pay")]);
    }

    #[test]
    fn names_of_all_lengths_are_told_apart() {
        let long = "a-service-whose-name-is-longer-than-sixteen";
        let names = ["", "a", "b", "ab", "ba", "exactly8", "exactly9!", long];
        let other = long.replace("whose", "which");
        let (mut features, mut closed) = (features(100), Vec::new());
        for _ in 0..3 {
            let rows: Vec<_> =
                names.iter().chain([&&*other]).map(|name| row(101, name, 200)).collect();
            features.take(&batch(&rows), LATEST, &mut closed);
        }
        features.close_until(TimeNs::new(105 * SECOND), &mut closed);
        assert_eq!(closed[0].entities.len(), names.len() + 1);
        assert!(closed[0].entities.iter().all(|entity| entity.cells.requests == 3));
    }

    #[test]
    fn busy_services_push_out_idle_ones_and_what_found_no_room_is_counted() {
        let (mut features, mut closed) = (features(2), Vec::new());
        let early = [row(101, "idle", 200), row(101, "busy", 200), row(102, "busy", 200)];
        features.take(&batch(&early), LATEST, &mut closed);
        let taken = features.take(&batch(&[row(103, "new", 200)]), LATEST, &mut closed);
        assert_eq!(taken.unmodelled, 1);
        features.close_until(TimeNs::new(105 * SECOND), &mut closed);
        assert_eq!(features.shed(|_| false), [("idle".to_owned(), String::new())]);
        assert_eq!(features.shed(|_| false), []);
        let taken = features.take(&batch(&[row(106, "new", 200)]), LATEST, &mut closed);
        assert_eq!(taken.unmodelled, 0);
        closed.clear();
        features.close_until(TimeNs::new(110 * SECOND), &mut closed);
        assert_eq!(told(&closed), [(105, "new".to_owned(), 1, 0)]);
    }

    #[test]
    fn open_windows_survive_being_saved() {
        let (mut features, mut closed) = (features(10), Vec::new());
        features.take(&batch(&[row(101, "a", 200), row(106, "b", 0)]), LATEST, &mut closed);
        let text = serde_json::to_string(&features).unwrap();
        let mut loaded: Features = serde_json::from_str(&text).unwrap();
        loaded.reindex();
        for features in [&mut features, &mut loaded] {
            closed.clear();
            features.take(&batch(&[row(107, "b", 200)]), LATEST, &mut closed);
            features.close_until(TimeNs::new(110 * SECOND), &mut closed);
            let expected = [(100, "a".to_owned(), 1, 0), (105, "b".to_owned(), 2, 1)];
            assert_eq!(told(&closed), expected);
        }
    }
}
