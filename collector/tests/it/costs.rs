//! What programs cost that run where functions are called, as `undine doctor` and `probe_status` show it.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use undine_collector::Mode;
use undine_collector::kernel::{CostSample, cost_of_running};
use undine_testbed::Server;

use super::kernel::{alone, may_load};
use super::memory::Memory;
use super::place::{are_installed, wait_until};
use super::tls_scene::{RING_BYTES, Scene, can_run};
use super::trace;

/// What `probe_status` says of the program `name`: who wants it, its status, and its `info`.
fn told(memory: &Memory, name: &str) -> Vec<(String, String, Value)> {
    let columns = ["tracepoint", "source_connector", "status", "info"];
    let rows = memory.rows("probe_status", &columns).into_iter();
    let own = rows.filter(|row| row[0] == format!("uprobe:{name}"));
    own.map(|row| (row[1].clone(), row[2].clone(), serde_json::from_str(&row[3]).unwrap()))
        .collect()
}

/// What `undine doctor` measures.
fn measured() -> CostSample {
    cost_of_running().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_programs_for_tls_cost_is_told() {
    let _alone = alone().await;
    if !can_run(&["nginx", "h2load"]) {
        return;
    }
    let scene = Scene::new("undine-costs-tls");
    let nginx = scene.nginx();
    let mut command = scene.command("h2load");
    command.args(["--h1", "-n", "100000000", "-c", "2", "-t", "1"]).arg(Scene::url("/of/much"));
    let load = Server::start(&mut command).unwrap();
    wait_until("requests", || nginx.logged_so_far().unwrap() > 100);
    let names = ["tls_enter", "tls_exit"];
    let (_, _, sample) = scene
        .watch(RING_BYTES, |_, memory| {
            for name in names {
                wait_until("a row that says what a program costs", || {
                    told(memory, name).iter().any(|(source, status, info)| {
                        let number = |key: &str| info[key].as_u64().unwrap_or_default();
                        let costs = number("runs_per_second") > 0 && number("run_ns") > 0;
                        costs && (source.as_str(), status.as_str()) == ("tls", "0")
                    })
                });
            }
            let sample = measured();
            drop(load);
            sample
        })
        .await;
    for name in names {
        let cost = sample.programs[name];
        println!("{name}: {} runs, {} ns each", cost.runs, cost.run_ns());
        assert!(cost.runs > 0 && cost.run_ns() > 0, "{sample:?}");
    }
    // Nobody says anything through them, but they are there.
    for name in ["go_tls_exit", "rustls_send_ent"] {
        assert_eq!(sample.programs[name].runs, 0, "{sample:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_programs_for_traced_functions_cost_is_told_once_they_are_loaded() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    let scene = trace::Scene::new(Mode::Full);
    let built = trace::Built::with(&["-g"]);
    let mut program = scene.start(&built);
    assert!(!measured().programs.contains_key("trace_enter"));
    let outputs = vec![trace::argument("number", "number"), trace::returned("result", "$0")];
    scene.tracer.upsert(trace::tracepoint(program.target(), "handle", outputs)).unwrap();
    for name in ["trace_enter", "trace_exit"] {
        wait_until("a row of a program", || !told(&scene.memory, name).is_empty());
        let rows = told(&scene.memory, name);
        assert_eq!((rows[0].0.as_str(), rows[0].1.as_str()), ("dynamic_trace", "0"), "{rows:?}");
        assert_eq!(rows[0].2["program"], name);
    }
    let is_over = AtomicBool::new(false);
    let sample = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                program.call("handle", 100);
            }
        });
        let sample = measured();
        is_over.store(true, Ordering::Relaxed);
        sample
    });
    for name in ["trace_enter", "trace_exit"] {
        let cost = sample.programs[name];
        println!("{name}: {} runs, {} ns each", cost.runs, cost.run_ns());
        assert!(cost.runs > 0 && cost.run_ns() > 0, "{sample:?}");
    }
    scene.end().await;
}
