//! Webhooks from the table to a real HTTP receiver.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap as Headers, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use undine_schema::tables::{DATA_LOSS, DELIVERIES, Incident, Incidents};
use undine_schema::{SystemClock, TimeNs};

use super::*;
use crate::memory_store::MemoryStore;

/// How the receiver answers one post; with 200 once it was told nothing more.
#[derive(Clone, Debug)]
enum Answer {
    Status(u16),
    RetryAfter(&'static str),
    /// Takes the post and never answers.
    Hang,
}

#[derive(Clone, Debug)]
struct Post {
    headers: Headers,
    body: Value,
    bytes: Vec<u8>,
    at: Instant,
}

impl Post {
    fn key(&self) -> &str {
        self.headers["idempotency-key"].to_str().unwrap()
    }

    fn incident(&self) -> &str {
        self.body["insight"]["id"].as_str().unwrap()
    }
}

#[derive(Clone, Debug)]
struct Hook {
    url: String,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    posts: Arc<watch::Sender<Vec<Post>>>,
    server: Option<Arc<JoinSet<std::io::Result<()>>>>,
}

impl Hook {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut hook = Self {
            url: format!("http://{}/hook?token=t0p", listener.local_addr().unwrap()),
            answers: Arc::default(),
            posts: Arc::new(watch::Sender::default()),
            server: None,
        };
        let router =
            Router::new().route("/hook", axum::routing::post(Self::take)).with_state(hook.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        hook.server = Some(Arc::new(server));
        hook
    }

    async fn take(
        Shared(hook): Shared<Self>,
        headers: Headers,
        body: axum::body::Bytes,
    ) -> (StatusCode, Headers, &'static str) {
        let post = Post {
            headers,
            body: serde_json::from_slice(&body).unwrap(),
            bytes: body.to_vec(),
            at: Instant::now(),
        };
        let answer = hook.answers.lock().unwrap().pop_front();
        hook.posts.send_modify(|posts| posts.push(post));
        match answer {
            None => (StatusCode::OK, Headers::new(), ""),
            Some(Answer::Status(status)) => {
                (StatusCode::from_u16(status).unwrap(), Headers::new(), "no\nthanks")
            }
            Some(Answer::RetryAfter(wish)) => {
                let headers = [(axum::http::header::RETRY_AFTER, wish.parse().unwrap())];
                (StatusCode::TOO_MANY_REQUESTS, headers.into_iter().collect(), "")
            }
            Some(Answer::Hang) => std::future::pending().await,
        }
    }

    fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// Waits for `count` posts in all and gives them.
    async fn posts(&self, count: usize) -> Vec<Post> {
        let mut posts = self.posts.subscribe();
        posts.wait_for(|posts| posts.len() >= count).await.unwrap().clone()
    }

    fn keys(&self) -> Vec<String> {
        self.posts.borrow().iter().map(|post| post.key().to_owned()).collect()
    }
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn receiver(url: &str) -> Receiver {
    Receiver {
        name: "ops".to_owned(),
        url: Secret::new(url),
        format: Format::Json,
        secrets: vec![Secret::new(SECRET)],
        headers: vec![("Authorization".to_owned(), Secret::new("Bearer x"))],
        timeout: Duration::from_secs(5),
        link_local: LinkLocal::Refused,
    }
}

fn config(dir: &Path, url: &str) -> Config {
    Config {
        receivers: vec![receiver(url)],
        dir: dir.to_owned(),
        outbox_entries_max: 100,
        dead_entries_max: 10,
        retry: RetryPolicy {
            first_delay: Duration::from_millis(5),
            delay_max: Duration::from_secs(2),
        },
        give_up_after: Duration::from_hours(1),
        external_url: "http://127.0.0.1:7117/".to_owned(),
    }
}

fn build(config: Config, store: &Arc<MemoryStore>) -> Result<Webhooks, BuildError> {
    let feed: Arc<dyn Feed> = Arc::<MemoryStore>::clone(store);
    let append: Arc<dyn Append> = Arc::<MemoryStore>::clone(store);
    config.build(&feed, append, Arc::new(SystemClock))
}

/// Webhooks under way; dropping it is a crash.
struct Running {
    stats: Arc<ReceiverStats>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    fn start(config: Config, store: &Arc<MemoryStore>) -> Self {
        let webhooks = build(config, store).unwrap();
        let stats = Arc::clone(&webhooks.stats()[0].1);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(webhooks.run(shutdown.clone()));
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

fn tell(store: &MemoryStore, id: &str, state: &str) {
    let mut rows = Incidents::new(1);
    rows.push(&Incident {
        time_: TimeNs::new(1_763_720_090_000_000_000),
        incident_id: id,
        state,
        service: "cart",
        severity: "critical",
        started_at: TimeNs::new(1_763_720_060_000_000_000),
        feature: "latency_p99",
        summary: "slow",
        contributions: "[]",
        samples: "[]",
        ..Incident::default()
    });
    store.put(&INCIDENTS, rows.finish());
}

#[tokio::test]
async fn a_change_is_posted_within_two_seconds_signed_and_recorded() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    let told = Instant::now();
    tell(&store, "A", "open");
    let post = hook.posts(1).await.remove(0);
    assert!(post.at - told < Duration::from_secs(2));
    assert_eq!((post.incident(), post.key()), ("A", "A-open-1000000000001"));
    assert_eq!(post.headers["authorization"], "Bearer x");
    assert_eq!(post.headers["content-type"], "application/json");
    assert_eq!(post.headers["webhook-id"], post.key());
    let seconds = post.headers["webhook-timestamp"].to_str().unwrap().parse().unwrap();
    let key = SigningKey::parse(&Secret::new(SECRET)).unwrap();
    let signature = key.sign(post.key(), seconds, &post.bytes);
    assert_eq!(post.headers["webhook-signature"], signature);

    store.holds(&DELIVERIES, 1).await;
    assert_eq!(store.texts(&DELIVERIES, "subject"), ["A"]);
    assert_eq!(store.ints(&DELIVERIES, "status"), [200]);
    let target = store.texts(&DELIVERIES, "target").remove(0);
    assert!(target.starts_with("ops (http://127.0.0.1:") && !target.contains("t0p"), "{target}");
    webhooks.stop().await;
}

#[tokio::test]
async fn a_failing_receiver_gets_the_same_message_again_and_later_ones_in_order() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([500, 503].map(Answer::Status));
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "A", "open");
    tell(&store, "A", "resolved");
    let posts = hook.posts(4).await;
    let incidents: Vec<_> = posts.iter().map(|post| post.body["state"].as_str().unwrap()).collect();
    assert_eq!(incidents, ["open", "open", "open", "resolved"]);
    assert_eq!(posts[0].bytes, posts[2].bytes);
    assert_eq!(posts[0].key(), posts[2].key());
    store.holds(&DELIVERIES, 4).await;
    assert_eq!(store.ints(&DELIVERIES, "attempt"), [1, 2, 3, 1]);
    assert_eq!(store.ints(&DELIVERIES, "status"), [500, 503, 200, 200]);
    assert!(store.texts(&DELIVERIES, "error")[0].ends_with("no thanks"));
    webhooks.stop().await;
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([Answer::RetryAfter("1")]);
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "A", "open");
    let posts = hook.posts(2).await;
    let waited = posts[1].at - posts[0].at;
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    webhooks.stop().await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_set_aside_and_counted() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([Answer::Status(422)]);
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "A", "open");
    tell(&store, "B", "open");
    let posts = hook.posts(2).await;
    assert_eq!((posts[0].incident(), posts[1].incident()), ("A", "B"));
    store.holds(&DATA_LOSS, 1).await;
    assert_eq!(store.texts(&DATA_LOSS, "reason"), ["undeliverable"]);
    assert_eq!(webhooks.stats.dead(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("ops/dead")).unwrap().count(), 1);
    webhooks.stop().await;
}

#[tokio::test]
async fn a_delivery_that_keeps_failing_is_given_up_in_the_end() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([Answer::Status(500)]);
    let config = Config { give_up_after: Duration::ZERO, ..config(dir.path(), &hook.url) };
    let webhooks = Running::start(config, &store);
    tell(&store, "A", "open");
    tell(&store, "B", "open");
    let posts = hook.posts(2).await;
    assert_eq!((posts[0].incident(), posts[1].incident()), ("A", "B"));
    webhooks.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_stays_disabled_until_its_url_changes() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([Answer::Status(410)]);
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "A", "open");
    hook.posts(1).await;
    store.holds(&DELIVERIES, 1).await;
    webhooks.stop().await;

    let again = Running::start(config(dir.path(), &hook.url), &store);
    assert!(again.stats.is_disabled());
    tell(&store, "A", "resolved");
    again.stop().await;
    assert_eq!(hook.keys().len(), 1);

    let moved = Hook::start().await;
    let webhooks = Running::start(config(dir.path(), &moved.url), &store);
    let posts = moved.posts(2).await;
    let states: Vec<_> = posts.iter().map(|post| post.body["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["open", "resolved"]);
    webhooks.stop().await;
}

#[tokio::test]
async fn what_was_pending_goes_out_once_after_a_restart() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([500; 1_000].map(Answer::Status));
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    for id in ["A", "B", "C"] {
        tell(&store, id, "open");
    }
    hook.posts(2).await;
    webhooks.stop().await;

    let healthy = Hook::start().await;
    let webhooks = Running::start(config(dir.path(), &healthy.url), &store);
    tell(&store, "D", "open");
    let posts = healthy.posts(4).await;
    let incidents: Vec<_> = posts.iter().map(Post::incident).collect();
    assert_eq!(incidents, ["A", "B", "C", "D"]);
    assert_eq!(posts[0].key(), hook.keys()[0]);
    webhooks.stop().await;
    assert_eq!(healthy.keys().len(), 4);
}

#[tokio::test]
async fn a_crash_between_the_outbox_and_the_post_loses_and_repeats_nothing() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    // Only the follower lives long enough to run.
    let mut webhooks = build(config(dir.path(), &hook.url), &store).unwrap();
    tell(&store, "A", "open");
    let Channel { mut follower, .. } = webhooks.channels.remove(0);
    let mut delays = follower.retry.delays();
    follower.catch_up(&mut delays).await;
    drop(follower);

    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "B", "open");
    let posts = hook.posts(2).await;
    assert_eq!((posts[0].incident(), posts[1].incident()), ("A", "B"));
    webhooks.stop().await;
    assert_eq!(hook.keys().len(), 2);
}

#[tokio::test]
async fn a_crash_between_the_outbox_and_its_cursor_repeats_nothing() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    let mut webhooks = build(config(dir.path(), &hook.url), &store).unwrap();
    let state = std::fs::read(dir.path().join("ops/state.json")).unwrap();
    tell(&store, "A", "open");
    let Channel { mut follower, .. } = webhooks.channels.remove(0);
    let mut delays = follower.retry.delays();
    follower.catch_up(&mut delays).await;
    drop(follower);
    std::fs::write(dir.path().join("ops/state.json"), state).unwrap();

    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "A", "resolved");
    hook.posts(2).await;
    webhooks.stop().await;
    assert_eq!(hook.keys(), ["A-open-1000000000001", "A-resolved-1000000000002"]);
}

#[tokio::test]
async fn a_crash_before_the_answer_repeats_the_post_under_the_same_key() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([Answer::Hang]);
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "A", "open");
    hook.posts(1).await;
    webhooks.crash().await;

    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    let posts = hook.posts(2).await;
    assert_eq!(posts[0].key(), posts[1].key());
    assert_eq!(posts[0].bytes, posts[1].bytes);
    webhooks.stop().await;
}

#[tokio::test]
async fn a_full_outbox_leaves_incidents_in_their_table_until_there_is_room() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    hook.answer([500; 3].map(Answer::Status));
    let config = Config { outbox_entries_max: 2, ..config(dir.path(), &hook.url) };
    let webhooks = Running::start(config, &store);
    let ids: Vec<String> = (0..9).map(|number| format!("I{number}")).collect();
    for id in &ids {
        tell(&store, id, "open");
    }
    hook.posts(2).await;
    assert_eq!(webhooks.stats.pending(), 2);
    let posts = hook.posts(3 + ids.len()).await;
    let delivered: Vec<_> = posts[3..].iter().map(Post::incident).collect();
    assert_eq!(delivered, ids);
    webhooks.stop().await;
}

#[tokio::test]
async fn incidents_that_were_evicted_unread_are_counted() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    let webhooks = build(config(dir.path(), &hook.url), &store).unwrap();
    drop(webhooks);
    tell(&store, "A", "open");
    tell(&store, "B", "open");
    store.evict(&INCIDENTS);
    tell(&store, "C", "open");
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    assert_eq!(hook.posts(1).await[0].incident(), "C");
    store.holds(&DATA_LOSS, 1).await;
    assert_eq!(store.ints(&DATA_LOSS, "rows_min"), [2]);
    assert_eq!(webhooks.stats.missed_rows(), 2);
    webhooks.stop().await;
}

#[tokio::test]
async fn a_new_receiver_is_not_told_of_the_past() {
    let (dir, store, hook) =
        (tempfile::tempdir().unwrap(), MemoryStore::new(), Hook::start().await);
    tell(&store, "old", "open");
    let webhooks = Running::start(config(dir.path(), &hook.url), &store);
    tell(&store, "new", "open");
    assert_eq!(hook.posts(1).await[0].incident(), "new");
    webhooks.stop().await;
}

#[tokio::test]
async fn a_slow_receiver_holds_up_no_other() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let (slow, quick) = (Hook::start().await, Hook::start().await);
    slow.answer([Answer::Hang]);
    let second = Receiver { name: "second".to_owned(), ..receiver(&quick.url) };
    let mut config = config(dir.path(), &slow.url);
    config.receivers.push(second);
    let webhooks = Running::start(config, &store);
    tell(&store, "A", "open");
    tell(&store, "A", "resolved");
    quick.posts(2).await;
    assert!(slow.keys().len() <= 1);
    webhooks.crash().await;
}

#[test]
fn a_wrong_configuration_names_the_receiver_and_no_secret() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let error = |change: fn(&mut Config)| {
        let mut config = config(dir.path(), "http://127.0.0.1:1/t0p");
        change(&mut config);
        let error = build(config, &store).unwrap_err();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("{error}{}", cause.unwrap_or_default())
    };
    let shown = [
        error(|config| config.receivers[0].name = "a/b".to_owned()),
        error(|config| config.receivers.push(receiver("http://127.0.0.1:2/"))),
        error(|config| config.receivers[0].url = Secret::new("gopher://t0p")),
        error(|config| config.receivers[0].url = Secret::new("http://169.254.169.254/t0p")),
        error(|config| config.receivers[0].secrets = vec![Secret::new("t0p")]),
        error(|config| {
            config.receivers[0].headers = vec![("X-Key".to_owned(), Secret::new("t0p\n"))];
        }),
        error(|config| config.outbox_entries_max = 0),
    ];
    assert!(!shown.concat().contains("t0p"));
    expect_test::expect![[r#"
        webhook receiver name "a/b" is not 1 to 64 letters, digits, '-' or '_'
        two webhook receivers are called ops; give each a name of its own
        the url of webhook receiver ops cannot be used: its scheme is gopher, and only http and https are posted to
        the url of webhook receiver ops cannot be used: 169.254.169.254 is a link-local address, as cloud metadata services use; allow it explicitly if it is meant
        a secret of webhook receiver ops cannot sign; it must be whsec_ and the base64 of 24 to 64 bytes: it does not start with whsec_
        header "X-Key" of webhook receiver ops has a name or value that HTTP does not allow
        webhook limit outbox_entries_max is 0; set it to at least 1"#]].assert_eq(&shown.join("\n"));
}
