//! The real client of S3 and a server that is busy: it says 503 and Retry-After to the first puts of each file.
//!
//! The server is one of ours, as large as a store needs it, and keeps its files in memory. The client takes
//! its endpoint from the environment, so it runs in a process of its own.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{ETAG, IF_NONE_MATCH, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use undine_store::{Bucket, BucketError, BuildError, UploadError};

use super::bucket::{Node, ids_in};

const CHILD: &str = "it::busy::a_child_that_uploads_to_a_busy_bucket";
const PREFIX: &str = "some/prefix";
/// How often the client asks for one thing before it gives up.
const ATTEMPTS: usize = 5;

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Taken,
    Refused,
    /// Taken, and the answer says otherwise.
    TakenAndRefused,
}

/// Puts of notes are refused until the client gives up, others once, of which commits are taken all the
/// same.
fn fate(key: &str, attempt: usize) -> Fate {
    let refusals = match key {
        key if key.contains("_undine_probe") => 0,
        key if key.contains("/notes.Beta/") => ATTEMPTS,
        _ => 1,
    };
    let is_commit_of_requests = key.contains("/requests/") && key.contains("/_delta_log/");
    match (attempt < refusals, is_commit_of_requests) {
        (false, _) => Fate::Taken,
        (true, true) => Fate::TakenAndRefused,
        (true, false) => Fate::Refused,
    }
}

/// A server of one bucket that ends with its test.
struct Server {
    files: Arc<Files>,
    address: SocketAddr,
    _runtime: Runtime,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Files {
    objects: InMemory,
    /// How often each was put.
    attempts: Mutex<HashMap<String, usize>>,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let files = Arc::new(Files::default());
        let service = Router::new().fallback(answer).with_state(Arc::clone(&files));
        let mut serving = JoinSet::new();
        let serve = async { axum::serve(listener, service).await.unwrap() };
        serving.spawn_on(serve, runtime.handle());
        Self { files, address, _runtime: runtime, _serving: serving }
    }
}

async fn answer(
    State(files): State<Arc<Files>>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let key = uri.path().strip_prefix("/undine").unwrap();
    let key = Path::from_url_path(key).unwrap();
    let done = match method {
        Method::PUT => files.put(&key, body, headers.contains_key(IF_NONE_MATCH)).await,
        Method::GET if query.contains_key("list-type") => files.list(&query).await,
        Method::GET | Method::HEAD => files.get(&key).await,
        Method::POST if query.contains_key("delete") => files.delete(&body).await,
        _ => Ok(StatusCode::NOT_IMPLEMENTED.into_response()),
    };
    done.unwrap_or_else(|error| match error {
        Error::NotFound { .. } => StatusCode::NOT_FOUND.into_response(),
        Error::AlreadyExists { .. } => StatusCode::PRECONDITION_FAILED.into_response(),
        error => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

impl Files {
    async fn put(&self, key: &Path, body: Bytes, creates: bool) -> object_store::Result<Response> {
        let attempt = {
            let mut attempts = self.attempts.lock().unwrap();
            let attempts = attempts.entry(key.to_string()).or_default();
            *attempts += 1;
            *attempts - 1
        };
        let fate = fate(key.as_ref(), attempt);
        if fate != Fate::Refused {
            let mode = if creates { PutMode::Create } else { PutMode::Overwrite };
            self.objects.put_opts(key, PutPayload::from(body), mode.into()).await?;
        }
        Ok(match fate {
            Fate::Taken => [(ETAG, "\"1\"")].into_response(),
            Fate::Refused | Fate::TakenAndRefused => {
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], "slow down").into_response()
            }
        })
    }

    async fn get(&self, key: &Path) -> object_store::Result<Response> {
        let body = self.objects.get(key).await?.bytes().await?;
        Ok(([(ETAG, "\"1\"")], Body::from(body)).into_response())
    }

    async fn list(&self, query: &BTreeMap<String, String>) -> object_store::Result<Response> {
        let prefix = query.get("prefix").map(|prefix| Path::from(prefix.as_str()));
        let listed = if query.contains_key("delimiter") {
            self.objects.list_with_delimiter(prefix.as_ref()).await?
        } else {
            let objects = self.objects.list(prefix.as_ref()).try_collect().await?;
            object_store::ListResult { objects, common_prefixes: Vec::new() }
        };
        let files = listed.objects.iter().map(|file| {
            let (key, at) = (&file.location, file.last_modified.to_rfc3339());
            let size = file.size;
            format!("<Contents><Key>{key}</Key><LastModified>{at}</LastModified><Size>{size}</Size></Contents>")
        });
        let folders = listed.common_prefixes.iter();
        let folders =
            folders.map(|at| format!("<CommonPrefixes><Prefix>{at}/</Prefix></CommonPrefixes>"));
        let found: String = files.chain(folders).collect();
        Ok(format!("<ListBucketResult>{found}</ListBucketResult>").into_response())
    }

    async fn delete(&self, body: &[u8]) -> object_store::Result<Response> {
        let body = std::str::from_utf8(body).unwrap();
        let mut deleted = String::new();
        for key in body.split("<Key>").skip(1) {
            let (key, _) = key.split_once("</Key>").unwrap();
            self.objects.delete(&Path::from(key)).await?;
            deleted += &format!("<Deleted><Key>{key}</Key></Deleted>");
        }
        Ok(format!("<DeleteResult>{deleted}</DeleteResult>").into_response())
    }
}

#[test]
fn a_server_that_is_busy_costs_retries_and_no_row() {
    let server = Server::start();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture", "--test-threads=1"])
        .envs([
            ("AWS_ENDPOINT", format!("http://{}", server.address).as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ])
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    let attempts = server.files.attempts.lock().unwrap().clone();
    let of = |table: &'static str| attempts.iter().filter(move |(key, _)| key.contains(table));
    assert!(of("/requests/").count() > 12 && of("/notes.Beta/").count() == 4, "{attempts:?}");
    // A commit that was taken is put once more by the client, and by nobody else.
    assert!(of("/requests/").all(|(_, &attempts)| attempts == 2), "{attempts:?}");
    assert!(of("/notes.Beta/").all(|(_, &attempts)| attempts == ATTEMPTS + 1), "{attempts:?}");
    let objects = Arc::new(PrefixStore::new(server.files.objects.fork(), PREFIX));
    assert_eq!(ids_in(&*objects), [1, 2, 3]);
}

#[test]
#[ignore = "is run by its parent, in a process of its own"]
fn a_child_that_uploads_to_a_busy_bucket() {
    let bucket = Arc::new(Bucket::open(&format!("s3://undine/{PREFIX}")).unwrap());
    let node = Node::at(Arc::clone(&bucket), "node-1");
    let store = node.start();
    node.append(&store, &[1, 2, 3]);
    node.seal(&store).unwrap();
    // The log's first version, the segment, and the commit that names it fail once each.
    for failures in 1..=3 {
        let failure = node.upload(&store).unwrap_err();
        assert!(
            matches!(failure, UploadError::Catalog { .. } | UploadError::File { .. }),
            "{failure}"
        );
        let stats = store.stats().bucket.unwrap();
        assert_eq!((stats.failed_uploads, stats.spooled_files), (failures, 1), "{stats:?}");
        assert!(stats.failure.unwrap().contains("503"));
        assert_eq!(node.ids(&store), [1, 2, 3]);
    }
    assert_eq!(node.upload(&store).unwrap(), 1);
    let stats = store.stats().bucket.unwrap();
    assert_eq!((stats.failure, stats.spooled_files), (None, 0));
    drop(store);
    // Another disk cannot say that it takes over, and is told why; the next one can.
    let refused = Node::at(Arc::clone(&bucket), "node-1").config().build().unwrap_err();
    assert!(matches!(refused, BuildError::Bucket(BucketError::Away { .. })), "{refused:?}");
    let other_disk = Node::at(bucket, "node-1");
    assert_eq!(other_disk.ids(&other_disk.start()), [1, 2, 3]);
}
