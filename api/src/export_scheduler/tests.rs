//! Scheduled exports to a real receiver.

use std::path::Path;
use std::sync::Mutex;

use undine_schema::tables::{DATA_LOSS, DELIVERIES};
use undine_schema::{ManualClock, SystemClock};

use super::*;
use crate::memory_store::MemoryStore;
use crate::otlp_export::receiver::{Answer, Receiver, gauge};
use crate::otlp_export::{self, Compression, Endpoint};

/// Exports the start and the end of its window as two points of two requests.
#[derive(Debug, Default)]
struct Edges {
    failures: Mutex<u32>,
}

impl RunScript for Edges {
    fn run<'a>(
        &'a self,
        script: &'a ExportScript,
        window: Window,
    ) -> BoxFuture<'a, Result<Vec<Export>, ScriptError>> {
        Box::pin(async move {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(format!("{} is broken", script.script).into());
            }
            let edges = [window.start, window.end];
            let metrics = edges.map(|edge| gauge([edge.get()])).into();
            Ok(vec![Export { metrics, ..Export::default() }])
        })
    }
}

fn script(endpoint: Endpoint) -> ExportScript {
    ExportScript {
        id: "edges".to_owned(),
        name: "Edges".to_owned(),
        script: "import px".to_owned(),
        frequency: Duration::from_millis(20),
        endpoint: Some(endpoint),
        enabled: true,
    }
}

fn config(dir: &Path, endpoint: Endpoint) -> Config {
    Config {
        scripts: vec![script(endpoint)],
        dir: dir.to_owned(),
        lateness: Duration::from_millis(5),
        catch_up_max: Duration::from_hours(1),
        runs_max: 1,
        run_timeout: Duration::from_secs(5),
        retry: RetryPolicy {
            first_delay: Duration::from_millis(2),
            delay_max: Duration::from_millis(20),
        },
    }
}

/// A sink that packs every resource into a request of its own.
fn sink() -> Arc<ExportSink> {
    let config = otlp_export::Config {
        request_bytes_max: 1,
        connections_max: 4,
        connect_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(5),
        compression: Compression::None,
        ca_file: None,
    };
    Arc::new(config.build().unwrap())
}

struct Running {
    stats: Arc<ScriptStats>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    fn start(
        config: Config,
        runner: Edges,
        store: &Arc<MemoryStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let append: Arc<dyn Append> = Arc::<MemoryStore>::clone(store);
        let runner: Arc<dyn RunScript> = Arc::new(runner);
        let scheduler = config.build(&runner, &sink(), append, clock).unwrap();
        let stats = Arc::clone(&scheduler.stats()[0].1);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(scheduler.run(shutdown.clone()));
        Self { stats, shutdown, tasks }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }

    async fn crash(mut self) {
        self.tasks.shutdown().await;
    }
}

/// The windows that a receiver acknowledged; start and end of each in turn.
fn windows(receiver: &Receiver) -> Vec<(i64, i64)> {
    receiver.values().chunks_exact(2).map(|edges| (edges[0], edges[1])).collect()
}

fn assert_seamless(windows: &[(i64, i64)]) {
    for pair in windows.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "{windows:?}");
    }
}

#[tokio::test]
async fn windows_follow_each_other_also_over_a_restart() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let receiver = Receiver::start().await;
    let config = || config(dir.path(), receiver.endpoint());
    for life in 1..=3 {
        let scheduler = Running::start(config(), Edges::default(), &store, Arc::new(SystemClock));
        receiver.got(life * 8).await;
        scheduler.stop().await;
    }
    let windows = windows(&receiver);
    assert!(windows.len() >= 12);
    assert_seamless(&windows);
    for (start, end) in windows {
        assert_eq!((start % 20_000_000, end - start), (0, 20_000_000));
    }
}

#[tokio::test]
async fn a_window_is_repeated_until_it_is_acknowledged_and_only_its_rest() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let receiver = Receiver::start().await;
    receiver.answer([
        Answer::Refuse(tonic::Status::unavailable("busy")),
        Answer::Accept,
        Answer::Refuse(tonic::Status::unauthenticated("who?")),
        Answer::Refuse(tonic::Status::unavailable("busy")),
    ]);
    let config = config(dir.path(), receiver.endpoint());
    let scheduler = Running::start(config, Edges::default(), &store, Arc::new(SystemClock));
    receiver.got(6).await;
    scheduler.stop().await;
    let windows = windows(&receiver);
    assert_seamless(&windows);
    assert_eq!(store.ints(&DELIVERIES, "attempt")[..4], [1, 2, 3, 4]);
    assert_eq!(store.ints(&DELIVERIES, "status")[..4], [14, 16, 14, 0]);
    assert_eq!(store.ints(&DELIVERIES, "items")[..4], [2, 2, 1, 1]);
    let keys = store.texts(&DELIVERIES, "idempotency_key");
    assert!(keys[..4].iter().all(|key| *key == keys[0]) && keys[4] != keys[0], "{keys:?}");
}

#[tokio::test]
async fn a_script_that_fails_is_recorded_and_run_again() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let receiver = Receiver::start().await;
    let runner = Edges { failures: Mutex::new(2) };
    let config = config(dir.path(), receiver.endpoint());
    let scheduler = Running::start(config, runner, &store, Arc::new(SystemClock));
    receiver.got(4).await;
    assert_eq!(scheduler.stats.failed_attempts(), 2);
    scheduler.stop().await;
    assert_seamless(&windows(&receiver));
    assert_eq!(store.texts(&DELIVERIES, "error")[..2], ["import px is broken"; 2]);
}

#[tokio::test]
async fn a_crash_before_the_acknowledgement_exports_the_window_again() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Accept, Answer::Hang]);
    let config = || config(dir.path(), receiver.endpoint());
    let scheduler = Running::start(config(), Edges::default(), &store, Arc::new(SystemClock));
    receiver.asked(2).await;
    scheduler.crash().await;
    let cut_off = receiver.values()[0];

    let scheduler = Running::start(config(), Edges::default(), &store, Arc::new(SystemClock));
    receiver.got(5).await;
    scheduler.stop().await;
    assert_eq!(receiver.values()[1], cut_off, "the window starts again where it was cut off");
}

#[tokio::test]
async fn after_a_pause_windows_are_made_up_for_and_what_is_too_old_is_counted() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let receiver = Receiver::start().await;
    let second = 1_000_000_000;
    let clock = Arc::new(ManualClock::new(TimeNs::new(100 * second + 7)));
    let config = || {
        let mut config = Config {
            catch_up_max: Duration::from_secs(30),
            lateness: Duration::from_secs(2),
            ..config(dir.path(), receiver.endpoint())
        };
        config.scripts[0].frequency = Duration::from_secs(10);
        config
    };
    let early: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    Running::start(config(), Edges::default(), &store, early).stop().await;

    clock.set(TimeNs::new(995 * second));
    let later: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let scheduler = Running::start(config(), Edges::default(), &store, later);
    receiver.got(6).await;
    assert_eq!(scheduler.stats.skipped_windows(), 1);
    scheduler.stop().await;
    let expected = [(960, 970), (970, 980), (980, 990)];
    let expected = expected.map(|(start, end)| (start * second, end * second));
    assert_eq!(windows(&receiver), expected);
    assert_eq!(store.texts(&DATA_LOSS, "reason"), ["skipped"]);
    assert_eq!(
        store.texts(&DATA_LOSS, "detail"),
        ["export edges, from 100000000000 to 960000000000"]
    );
    assert_eq!(store.ints(&DATA_LOSS, "rows_max"), [-1]);
}

#[tokio::test]
async fn items_that_the_receiver_rejects_are_counted_and_not_sent_again() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Reject(1)]);
    let config = config(dir.path(), receiver.endpoint());
    let scheduler = Running::start(config, Edges::default(), &store, Arc::new(SystemClock));
    receiver.got(4).await;
    store.holds(&DATA_LOSS, 1).await;
    assert_eq!(scheduler.stats.rejected_items(), 1);
    scheduler.stop().await;
    assert_seamless(&windows(&receiver));
    assert_eq!(store.texts(&DATA_LOSS, "reason"), ["rejected"]);
}

#[test]
fn a_script_that_cannot_be_scheduled_is_named() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let endpoint = Endpoint {
        url: "localhost:4317".to_owned(),
        headers: Vec::new(),
        insecure: true,
        timeout: Duration::ZERO,
    };
    let error = |change: fn(&mut Config)| {
        let mut config = config(dir.path(), endpoint.clone());
        change(&mut config);
        let append: Arc<dyn Append> = Arc::<MemoryStore>::clone(&store);
        let runner: Arc<dyn RunScript> = Arc::new(Edges::default());
        let built = config.build(&runner, &sink(), append, Arc::new(SystemClock));
        built.unwrap_err().to_string()
    };
    let shown = [
        error(|config| config.scripts[0].id = "../x".to_owned()),
        error(|config| config.scripts.push(config.scripts[0].clone())),
        error(|config| config.scripts[0].frequency = Duration::ZERO),
        error(|config| config.catch_up_max = Duration::from_millis(1)),
        error(|config| config.runs_max = 0),
    ];
    expect_test::expect![[r#"
        export script id "../x" is not 1 to 64 letters, digits, '-' or '_'
        two export scripts have the id edges; give each an id of its own
        export script edges has a frequency of 0; set it to 1s or more, or disable the script
        export script edges: frequency 20ms is above catch_up_max 1ms
        export limit runs_max is 0; set it to at least 1"#]]
    .assert_eq(&shown.join("\n"));
}
