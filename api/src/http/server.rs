//! Accepts connections and drives each in a task of its own, until told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::{HttpMetrics, Refusal};

/// How long to wait after the system refused to hand out a connection, for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket that does not serve yet.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) listener: std::net::TcpListener,
    pub(crate) router: Router,
    pub(crate) metrics: Arc<HttpMetrics>,
    pub(crate) connections_max: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) drain_timeout: Duration,
}

impl Server {
    /// Serves until `shutdown`, then lets requests in flight end within the drain timeout.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the HTTP socket cannot be polled; restart undine");
                return;
            }
        };
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&listener, &permits, &self.metrics) => accepted,
                Some(ended) = connections.join_next() => {
                    report(ended);
                    continue;
                }
            };
            let Some((stream, peer, permit)) = accepted else { continue };
            connections.spawn(connection(
                stream,
                peer,
                permit,
                self.router.clone(),
                self.header_timeout,
                Arc::clone(&self.metrics),
                shutdown.clone(),
            ));
        }
        drop(listener);
        let drained = tokio::time::timeout(self.drain_timeout, async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        });
        if drained.await.is_err() {
            let pending = connections.len();
            tracing::warn!(pending, "HTTP requests were cut off at the drain deadline");
            connections.shutdown().await;
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task that answered an HTTP connection panicked");
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    metrics: &HttpMetrics,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    if permits.available_permits() == 0 {
        metrics.refused(Refusal::Connections);
    }
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) if is_about_the_peer(&error) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot accept HTTP connections for a moment");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn is_about_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
    router: Router,
    header_timeout: Duration,
    metrics: Arc<HttpMetrics>,
    shutdown: CancellationToken,
) {
    let _connected = metrics.connected();
    // Answers are written whole, so waiting to fill a segment only costs time.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    use super::*;

    struct Running {
        address: SocketAddr,
        metrics: Arc<HttpMetrics>,
        stop: CancellationToken,
        tasks: JoinSet<()>,
    }

    fn serve(router: Router, connections_max: usize, header_timeout: Duration) -> Running {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(HttpMetrics::default());
        let server = Server {
            listener,
            router,
            metrics: Arc::clone(&metrics),
            connections_max,
            header_timeout,
            drain_timeout: Duration::from_secs(10),
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(stop.clone()));
        Running { address, metrics, stop, tasks }
    }

    impl Running {
        async fn stopped(mut self) {
            self.stop.cancel();
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn rest(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_request_in_flight_is_answered_after_the_stop() {
        let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&entered), Arc::clone(&go_on));
        let slow = get(move || async move {
            tell.notify_one();
            wait.notified().await;
            "done"
        });
        let running = serve(Router::new().route("/slow", slow), 4, LONG);
        let stream = ask(running.address, "/slow").await;
        entered.notified().await;
        running.stop.cancel();
        go_on.notify_one();
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        running.stopped().await;
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_waits_for_its_turn_and_is_counted() {
        let running = serve(Router::new().route("/", get(|| async { "hello" })), 1, LONG);
        let first = TcpStream::connect(running.address).await.unwrap();
        let second = ask(running.address, "/").await;
        drop(first);
        assert!(rest(second).await.ends_with("hello"));
        let text = super::super::metrics::render(&running.metrics.metrics());
        let counted = text
            .lines()
            .find_map(|line| {
                line.strip_prefix("undine_api_refusals_total{reason=\"connections\"} ")
            })
            .unwrap();
        assert_ne!(counted, "0");
        running.stopped().await;
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed() {
        let running = serve(Router::new(), 4, Duration::from_millis(50));
        let silent = TcpStream::connect(running.address).await.unwrap();
        assert_eq!(rest(silent).await, "");
        running.stopped().await;
    }
}
