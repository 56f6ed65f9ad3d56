//! Requests by the million, always the same: one hour of 20 services, 60 processes, 4096 peers and
//! 200 paths by Zipf's law, log-normal latencies with a median of each service, 1.5 % failures.

use arrow::array::RecordBatch;
use undine_schema::tables::{HttpEvent, HttpEvents};
use undine_schema::{TimeNs, Upid};

use crate::random::Random;

/// The first row's time is less than [`DISORDER_NS`] after this.
pub(crate) const START_NS: i64 = 1_790_000_000_000_000_000;
/// How long the rows last.
pub(crate) const SPAN_NS: i64 = 3_600_000_000_000;
/// Neighbours may be this much out of order.
const DISORDER_NS: i64 = 50_000_000;

const SERVICES: u8 = 20;
const PROCESSES: u8 = 60;
const PEERS: u16 = 4096;
const PATHS: u8 = 200;
/// Status codes and the share of rows up to each.
const STATUSES: [(i64, f64); 8] = [
    (200, 0.86),
    (201, 0.89),
    (204, 0.91),
    (304, 0.94),
    (400, 0.96),
    (404, 0.985),
    (500, 0.995),
    (503, 1.0),
];

/// Makes the rows in order.
#[derive(Debug)]
pub(crate) struct Requests {
    start: i64,
    rows: u64,
    made: u64,
    random: Random,
    services: Vec<Service>,
    /// Share of rows up to each process and path.
    processes: Vec<f64>,
    paths: Vec<f64>,
    peer_names: Vec<String>,
    path_names: Vec<String>,
    builder: HttpEvents,
}

#[derive(Debug)]
struct Service {
    name: String,
    /// Logarithm of its median latency in nanoseconds.
    latency_ln: f64,
}

impl Requests {
    /// All `rows`, in batches of up to `batch_rows`.
    pub(crate) fn new(rows: u64, batch_rows: usize) -> Self {
        Self::starting(START_NS, rows, batch_rows)
    }

    /// The same, from another time on.
    pub(crate) fn starting(start: i64, rows: u64, batch_rows: usize) -> Self {
        let mut random = Random(42);
        let services = (0..SERVICES).map(|number| Service {
            name: format!("default/svc-{number:02}"),
            latency_ln: 2e6_f64.ln() + 0.7 * random.normal(),
        });
        let groups = ["users", "orders", "cart", "items", "search"];
        let path = |n: usize| format!("/api/v1/{}/op-{n:03}", groups[n % groups.len()]);
        let peer = |n: u16| format!("10.{}.{}.{}", n >> 8, n & 255, (u32::from(n) * 7) % 250 + 1);
        Self {
            start,
            rows,
            made: 0,
            services: services.collect(),
            random,
            processes: zipf(PROCESSES, 0.7),
            paths: zipf(PATHS, 1.1),
            peer_names: (0..PEERS).map(peer).collect(),
            path_names: (0..usize::from(PATHS)).map(path).collect(),
            builder: HttpEvents::new(batch_rows),
        }
    }

    /// The next batch of up to `batch_rows` rows; none at the end.
    pub(crate) fn batch(&mut self, batch_rows: usize) -> Option<RecordBatch> {
        while self.made < self.rows && self.builder.len() < batch_rows {
            self.push();
        }
        (!self.builder.is_empty()).then(|| self.builder.finish())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "latencies and sizes are far below 2^63 and above zero"
    )]
    fn push(&mut self) {
        let random = &mut self.random;
        let step = SPAN_NS / i64::try_from(self.rows).unwrap_or(i64::MAX).max(1);
        let number = i64::try_from(self.made).unwrap_or(i64::MAX);
        let time = self.start + number * step + random.below(DISORDER_NS as u64).cast_signed();
        let process = place(&self.processes, random.share());
        let service = &self.services[process % self.services.len()];
        let path = &self.path_names[place(&self.paths, random.share())];
        let share = random.share();
        let status = STATUSES.iter().find(|(_, upto)| share < *upto).unwrap_or(&STATUSES[0]).0;
        let slow = if random.share() < 0.004 { 20.0 } else { 1.0 };
        let latency = (service.latency_ln + 0.9 * random.normal()).exp() * slow;
        let body = (7.0 + 1.5 * random.normal()).exp();
        let pid = u32::try_from(1000 + process * 37).unwrap_or(0);
        self.builder.push(&HttpEvent {
            time_: TimeNs::new(time),
            upid: Upid::new(1, pid, 17_000_000 + process as u64 * 911),
            remote_addr: &self.peer_names[random.below(u64::from(PEERS)) as usize],
            remote_port: 40_000 + number % 20_000,
            local_addr: "10.0.0.1",
            local_port: 8080,
            trace_role: 2,
            major_version: 1,
            minor_version: 1,
            req_method: "GET",
            req_path: path,
            req_path_template: path,
            resp_status: status,
            resp_body_size: body as i64,
            latency: latency as i64,
            service: &service.name,
            node: "evals",
            ..HttpEvent::default()
        });
        self.made += 1;
    }
}

/// Share of all up to each of `count` things, of which the i-th comes `1 / i^power` times as often.
fn zipf(count: u8, power: f64) -> Vec<f64> {
    let weights = (1..=count).map(|rank| f64::from(rank).powf(-power));
    let total: f64 = weights.clone().sum();
    let mut upto = 0.0;
    weights
        .map(|weight| {
            upto += weight / total;
            upto
        })
        .collect()
}

fn place(shares: &[f64], share: f64) -> usize {
    shares.partition_point(|&upto| upto <= share).min(shares.len() - 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn the_rows_are_the_same_each_time_and_of_the_shares_that_are_stated() {
        let rows = 40_000;
        let all = || {
            let mut requests = Requests::new(rows, 10_000);
            std::iter::from_fn(move || requests.batch(10_000)).collect::<Vec<_>>()
        };
        let batches = all();
        assert_eq!(batches, all());
        assert_eq!(batches.len(), 4);
        let column = |name: &str| {
            let batches = batches.iter();
            let columns = batches.map(|batch| Arc::clone(batch.column_by_name(name).unwrap()));
            columns.collect::<Vec<_>>()
        };
        let ints = |name: &str| {
            let columns = column(name);
            let values =
                columns.iter().flat_map(|c| c.as_primitive::<Int64Type>().values().to_vec());
            values.collect::<Vec<_>>()
        };
        let failed = ints("resp_status").into_iter().filter(|&status| status >= 500).count();
        assert!((400..800).contains(&failed), "{failed} of {rows} failed");
        let times = ints("time_");
        assert!(
            times.iter().all(|&time| (START_NS..START_NS + SPAN_NS + DISORDER_NS).contains(&time))
        );
        let mut latencies = ints("latency");
        latencies.sort_unstable();
        assert!((500_000..8_000_000).contains(&latencies[latencies.len() / 2]));
        let services: std::collections::HashSet<_> = column("service")
            .iter()
            .flat_map(|c| {
                c.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(services.len(), usize::from(SERVICES));
    }
}
