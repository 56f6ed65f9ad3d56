//! Figures for a person: what an append, a seal and a restart cost.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{Append, Frame, TimeNs};
use undine_store::Config;

use super::fixture::{clock, config};

fn batch(round: i64, rows: i64) -> arrow::array::RecordBatch {
    let mut builder = HttpEvents::new(usize::try_from(rows).unwrap());
    for row in 0..rows {
        let id = round * rows + row;
        let path = format!("/api/items/{id}?page=2");
        let template = format!("/api/items/{}", id % 200);
        builder.push(&HttpEvent {
            time_: TimeNs::new(1_700_000_000_000_000_000 + id * 100_000),
            remote_addr: "10.0.0.7",
            remote_port: 40_000 + id % 1000,
            local_addr: "10.0.0.1",
            local_port: 8080,
            trace_role: 2,
            major_version: 1,
            minor_version: 1,
            req_headers: r#"{"Host":"shop.example","Accept":"*/*"}"#,
            req_method: "GET",
            req_path: &path,
            req_path_template: &template,
            resp_status: if id % 97 == 0 { 500 } else { 200 },
            resp_headers: r#"{"Content-Type":"application/json"}"#,
            resp_body_size: id % 4096,
            latency: 200_000 + id * 7919 % 9_000_000,
            service: ["shop", "cart", "pay"][usize::try_from(id % 3).unwrap()],
            node: "node-1",
            ..HttpEvent::default()
        });
    }
    builder.finish()
}

#[test]
#[ignore = "prints figures; run it with --release on a quiet machine"]
fn what_an_append_a_seal_and_a_restart_cost() {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = || Config {
        tables: undine_schema::tables::ALL.to_vec(),
        followed: Vec::new(),
        hot_bytes_max: 2 << 30,
        log_queue_bytes_max: 1 << 30,
        raw_for: None,
        log_sync_interval: Duration::from_millis(200),
        ..config(dir.path(), clock())
    };
    let store = config().build().unwrap();
    for rows in [1, 100, 1000] {
        let batches: Vec<_> = (0..300).map(|round| batch(round, rows)).collect();
        let mut times: Vec<_> = batches
            .into_iter()
            .map(|rows| {
                let started = Instant::now();
                store.append(Frame::captured(&HTTP_EVENTS, rows)).unwrap();
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("append of {rows} rows: median {:?}, p99 {:?}", times[150], times[297]);
    }
    let started = Instant::now();
    runtime.block_on(store.sync()).unwrap();
    let stats = store.stats();
    println!("log caught up after {:?}: {} bytes", started.elapsed(), stats.log_bytes);
    let rows = stats.table("http_events").unwrap().appended_rows;
    let started = Instant::now();
    drop(store);
    let store = config().build().unwrap();
    println!("restart with {rows} rows: {:?}", started.elapsed());
    let started = Instant::now();
    runtime.block_on(store.merge_hot()).unwrap();
    println!("merge: {:?}", started.elapsed());
    let started = Instant::now();
    let report = runtime.block_on(store.seal()).unwrap();
    println!("seal of {rows} rows into 2 tiers: {:?}, {report:?}", started.elapsed());
    let started = Instant::now();
    (0..1000).for_each(|_| drop(store.snapshot(&HTTP_EVENTS)));
    println!("snapshot: {:?}", started.elapsed() / 1000);
    println!("hot bytes a row: {}", store.stats().hot_bytes / rows);
}
