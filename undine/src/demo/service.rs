//! A small HTTP service that calls others, can be made to fail, and keeps its own record.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::DemoService;
use crate::record;

/// How much longer a request takes while the fault lasts.
const FAULT_DELAY: Duration = Duration::from_millis(60);
/// One in so many requests fails while the fault lasts.
const FAULT_ERROR_EVERY: u64 = 3;
/// How often the service looks whether it is to misbehave, and writes its record.
const TICK: Duration = Duration::from_millis(100);

/// What a service knows of the requests that it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServiceRecord {
    /// Where it listens.
    pub listen: String,
    /// Its process.
    pub pid: u32,
    /// Requests answered, by status.
    pub by_status: BTreeMap<u16, u64>,
}

impl ServiceRecord {
    /// All requests answered.
    pub(super) fn requests(&self) -> u64 {
        self.by_status.values().sum()
    }
}

#[derive(Debug)]
struct Service {
    calls: Vec<SocketAddr>,
    work: Duration,
    client: reqwest::Client,
    is_faulty: AtomicBool,
    served: AtomicU64,
    record: Mutex<ServiceRecord>,
}

/// Serves until it is terminated, then finishes what it has begun.
///
/// # Errors
/// Where it cannot listen or write its record.
pub(crate) async fn serve(args: DemoService) -> Result<()> {
    let listener = TcpListener::bind(args.listen).await.context("the service cannot listen")?;
    let service = Arc::new(Service {
        calls: args.calls,
        work: Duration::from_micros(args.work_us),
        client: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?,
        is_faulty: AtomicBool::new(false),
        served: AtomicU64::new(0),
        record: Mutex::new(ServiceRecord {
            listen: listener.local_addr()?.to_string(),
            pid: std::process::id(),
            by_status: BTreeMap::new(),
        }),
    });
    let keeper = keep_record(Arc::clone(&service), args.record.clone(), args.fault);
    let app = Router::new().fallback(answer).with_state(Arc::clone(&service));
    let mut terminate = signal(SignalKind::terminate())?;
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        terminate.recv().await;
    });
    tokio::select! {
        result = server => result?,
        result = keeper => result?,
    }
    write_record(&service, &args.record)
}

async fn answer(State(service): State<Arc<Service>>, request: Request) -> impl IntoResponse {
    let path = request.uri().path().to_owned();
    let status = service.work_on(&path).await;
    let mut record = service.record.lock().unwrap_or_else(PoisonError::into_inner);
    *record.by_status.entry(status.as_u16()).or_default() += 1;
    drop(record);
    let body = format!("{{\"path\":\"{path}\",\"status\":{}}}", status.as_u16());
    (status, [("content-type", "application/json")], body)
}

impl Service {
    /// Does the work of one request: its own, then that of the services that it calls.
    async fn work_on(&self, path: &str) -> StatusCode {
        let number = self.served.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.work + Duration::from_micros(number * 7919 % 1000)).await;
        if self.is_faulty.load(Ordering::Relaxed) {
            tokio::time::sleep(FAULT_DELAY).await;
            if number.is_multiple_of(FAULT_ERROR_EVERY) {
                return StatusCode::INTERNAL_SERVER_ERROR;
            }
        }
        for callee in &self.calls {
            match self.client.get(format!("http://{callee}{path}")).send().await {
                // Reading the body to its end lets the connection be used again.
                Ok(response) => match response.bytes().await {
                    Ok(_) => {}
                    Err(_broken) => return StatusCode::BAD_GATEWAY,
                },
                Err(_unreachable) => return StatusCode::BAD_GATEWAY,
            }
        }
        StatusCode::OK
    }
}

async fn keep_record(service: Arc<Service>, path: PathBuf, fault: PathBuf) -> Result<()> {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        service.is_faulty.store(fault.exists(), Ordering::Relaxed);
        write_record(&service, &path)?;
    }
}

fn write_record(service: &Service, path: &Path) -> Result<()> {
    let text =
        serde_json::to_string(&*service.record.lock().unwrap_or_else(PoisonError::into_inner))?;
    record::replace(path, &text).with_context(|| format!("cannot write {}", path.display()))
}

/// What the service at `path` has recorded, once it has.
pub(crate) fn read_record(path: &Path) -> Option<ServiceRecord> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}
