//! Posts what is pending to one receiver, oldest first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use undine_schema::tables::{DataLoss, Delivery};

use super::ReceiverStats;
use super::notice::Notice;
use super::outbox::{Entry, Outbox};
use super::payload::{Format, Teller, render};
use super::signature::SigningKey;
use crate::delivery::{Delays, DeliveryLog, RetryPolicy, duration_ns, with_causes};

/// Bytes of a refusal's body that are kept as its reason.
const REASON_BYTES_MAX: usize = 300;

/// Posts to one receiver.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) name: String,
    pub(super) url: Url,
    pub(super) format: Format,
    pub(super) keys: Vec<SigningKey>,
    pub(super) headers: HeaderMap,
    pub(super) external_url: Arc<str>,
    pub(super) client: Client,
    pub(super) retry: RetryPolicy,
    pub(super) give_up_after: Duration,
    pub(super) outbox: Arc<Outbox>,
    pub(super) log: DeliveryLog,
    pub(super) stats: Arc<ReceiverStats>,
    /// Rung when there is a new entry.
    pub(super) pending: Arc<Notify>,
    /// Rung when there is room for more.
    pub(super) room: Arc<Notify>,
}

/// What became of one attempt.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Delivered,
    /// Try again, after what the receiver asked for where it asked.
    Again(Option<Duration>),
    /// This message will never be taken.
    Never,
    /// No message will ever be taken there.
    Gone,
}

#[derive(Debug)]
struct Attempt {
    verdict: Verdict,
    status: u16,
    error: String,
}

impl Sender {
    /// Posts until `shutdown` fires and the attempt under way has ended; the rest stays pending.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut delays = self.retry.delays();
        while !shutdown.is_cancelled() {
            let wait = match self.head().await {
                Ok(Some(entry)) => match self.post(entry, &mut delays).await {
                    Next::Now => continue,
                    Next::After(delay) => delay,
                    Next::Stop => return,
                },
                Ok(None) => Duration::MAX,
                Err(error) => {
                    tracing::error!(receiver = self.name, %error, "the webhook outbox cannot be read");
                    delays.next(None)
                }
            };
            self.wait(wait, &shutdown).await;
        }
    }

    /// Waits for `delay`; without one, for a new entry.
    async fn wait(&self, delay: Duration, shutdown: &CancellationToken) {
        if delay == Duration::MAX {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.pending.notified() => {}
            }
        } else {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    async fn head(&self) -> std::io::Result<Option<Entry>> {
        on_disk(&self.outbox, Outbox::head).await
    }

    /// Makes one attempt and books its outcome.
    async fn post(&self, mut entry: Entry, delays: &mut Delays) -> Next {
        let started = Instant::now();
        let attempt = self.attempt(&entry.notice).instrument(tracing::info_span!("webhook")).await;
        self.record(&entry, &attempt, started.elapsed());
        let seq = entry.notice.seq;
        let booked = match attempt.verdict {
            Verdict::Delivered => {
                self.stats.delivered.fetch_add(1, Ordering::Relaxed);
                *delays = self.retry.delays();
                on_disk(&self.outbox, move |outbox| outbox.acknowledge(seq))
                    .await
                    .map(|()| Next::Now)
            }
            Verdict::Never => self.bury(&entry, &attempt.error).await,
            Verdict::Gone => {
                tracing::error!(
                    receiver = self.name,
                    "a webhook receiver answered that it is gone (410); it is disabled until its url changes"
                );
                self.stats.disabled.store(true, Ordering::Relaxed);
                let url = self.url.to_string();
                on_disk(&self.outbox, move |outbox| outbox.set_gone(&url))
                    .await
                    .map(|()| Next::Stop)
            }
            Verdict::Again(asked) => {
                self.stats.failed_attempts.fetch_add(1, Ordering::Relaxed);
                entry.attempts += 1;
                if self.log.now().since(undine_schema::TimeNs::new(entry.queued_at))
                    >= self.give_up_after
                {
                    self.bury(&entry, &attempt.error).await
                } else {
                    let delay = delays.next(asked);
                    on_disk(&self.outbox, move |outbox| outbox.keep(&entry))
                        .await
                        .map(|()| Next::After(delay))
                }
            }
        };
        self.stats.pending.store(self.outbox.len() as u64, Ordering::Relaxed);
        self.room.notify_one();
        booked.unwrap_or_else(|error| {
            // Not booked is not forgotten: the entry is posted again, under the same key.
            tracing::error!(receiver = self.name, %error, "the webhook outbox cannot be written");
            Next::After(delays.next(None))
        })
    }

    async fn bury(&self, entry: &Entry, error: &str) -> std::io::Result<Next> {
        let key = entry.notice.key();
        tracing::warn!(receiver = self.name, key, error, "a webhook delivery was given up");
        let seq = entry.notice.seq;
        on_disk(&self.outbox, move |outbox| outbox.bury(seq)).await?;
        self.stats.dead.fetch_add(1, Ordering::Relaxed);
        self.log.loss(&DataLoss {
            source_table: "incidents",
            reason: "undeliverable",
            rows_min: 1,
            rows_max: 1,
            detail: &format!("webhook {}, {key}: {error}", self.name),
            ..DataLoss::default()
        });
        Ok(Next::Now)
    }

    fn record(&self, entry: &Entry, attempt: &Attempt, latency: Duration) {
        let alerts = 1 + i64::from(entry.notice.replaced.is_some());
        self.log.attempt(&Delivery {
            channel: "webhook",
            target: &format!("{} ({})", self.name, self.url.origin().ascii_serialization()),
            subject: &entry.notice.incident_id,
            idempotency_key: &entry.notice.key(),
            attempt: i64::from(entry.attempts) + 1,
            delivered: attempt.verdict == Verdict::Delivered,
            status: i64::from(attempt.status),
            items: alerts,
            latency: duration_ns(latency),
            error: &attempt.error,
            ..Delivery::default()
        });
    }

    async fn attempt(&self, notice: &Notice) -> Attempt {
        let teller = Teller { receiver: &self.name, external_url: &self.external_url };
        let body = render(self.format, notice, teller);
        let headers = self.headers(&notice.key(), &body);
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        match request.send().await {
            Ok(response) => self.judge(response).await,
            // The URL may hold a secret, so the message goes without it.
            Err(error) => Attempt {
                verdict: Verdict::Again(None),
                status: 0,
                error: with_causes(&error.without_url()),
            },
        }
    }

    fn headers(&self, key: &str, body: &[u8]) -> HeaderMap {
        let seconds = self.log.now().get().div_euclid(1_000_000_000);
        let mut headers = self.headers.clone();
        let mut set = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).expect("keys, numbers and base64 are ASCII");
            headers.insert(HeaderName::from_static(name), value);
        };
        set("content-type", "application/json");
        set("idempotency-key", key);
        set("webhook-id", key);
        set("webhook-timestamp", &seconds.to_string());
        let signatures: Vec<_> =
            self.keys.iter().map(|signing| signing.sign(key, seconds, body)).collect();
        if !signatures.is_empty() {
            set("webhook-signature", &signatures.join(" "));
        }
        headers
    }

    async fn judge(&self, response: Response) -> Attempt {
        let status = response.status();
        let asked = retry_after(response.headers(), self.log.now().get());
        let verdict = verdict(status, asked);
        let error = match verdict {
            Verdict::Delivered => String::new(),
            _ => format!("{status}: {}", reason(response).await),
        };
        Attempt { verdict, status: status.as_u16(), error }
    }
}

/// What to do after a post.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Now,
    After(Duration),
    Stop,
}

fn verdict(status: StatusCode, asked: Option<Duration>) -> Verdict {
    match status {
        _ if status.is_success() => Verdict::Delivered,
        StatusCode::GONE => Verdict::Gone,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Again(asked)
        }
        _ if status.is_server_error() => Verdict::Again(asked),
        _ => Verdict::Never,
    }
}

/// `Retry-After` in seconds or as a date.
fn retry_after(headers: &HeaderMap, now_ns: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let now = Timestamp::from_nanosecond(i128::from(now_ns)).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// The start of a refusal's body, on one line.
async fn reason(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < REASON_BYTES_MAX
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(REASON_BYTES_MAX);
    let text = String::from_utf8_lossy(&bytes);
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `work` on the outbox where it may block.
pub(super) async fn on_disk<T: Send + 'static>(
    outbox: &Arc<Outbox>,
    work: impl FnOnce(&Outbox) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let outbox = Arc::clone(outbox);
    tokio::task::spawn_blocking(move || work(&outbox)).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let verdict = |status: u16| verdict(StatusCode::from_u16(status).unwrap(), None);
        assert_eq!(verdict(204), Verdict::Delivered);
        for again in [408, 425, 429, 500, 503, 599] {
            assert_eq!(verdict(again), Verdict::Again(None), "{again}");
        }
        for never in [301, 400, 401, 404, 422] {
            assert_eq!(verdict(never), Verdict::Never, "{never}");
        }
        assert_eq!(verdict(410), Verdict::Gone);
    }

    #[test]
    fn a_receiver_asks_for_time_in_seconds_or_by_date() {
        let asked = |value: &str| {
            let headers = [(RETRY_AFTER, HeaderValue::from_str(value).unwrap())];
            retry_after(&headers.into_iter().collect(), 1_445_412_470_000_000_000)
        };
        assert_eq!(asked("120"), Some(Duration::from_mins(2)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
    }
}
