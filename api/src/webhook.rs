//! Tells receivers what happens to incidents.
//!
//! ```text
//! incidents ── Feed, by cursor ──► Follower ──► Outbox (disk) ──► Sender ──► POST
//!                                     └ cursor moves once the entry is durable  └ deliveries
//! ```
//!
//! Every receiver has a follower, an outbox and a sender of its own, so that one that is slow or
//! gone holds up no other. Delivery is at least once: each change of an incident has a key that
//! every repetition carries. One receiver's messages arrive in order; a message that is refused for
//! good is set aside and counted, and the next one goes out.

mod address;
mod follower;
mod notice;
mod outbox;
mod payload;
mod sender;
mod signature;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_schema::tables::INCIDENTS;
use undine_schema::{Append, Clock, Feed, FeedError};

pub use self::address::{AddressError, LinkLocal};
pub use self::payload::Format;
pub use self::signature::{Secret, SecretError};

use self::address::GuardedResolver;
use self::follower::Follower;
use self::outbox::{Outbox, State};
use self::sender::Sender;
use self::signature::SigningKey;
use crate::delivery::{DeliveryLog, RetryPolicy};

/// Who is told, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who is told.
    pub receivers: Vec<Receiver>,
    /// Where pending deliveries are kept, one folder a receiver.
    pub dir: PathBuf,
    /// Pending deliveries per receiver; when as many wait, incidents stay in their table.
    pub outbox_entries_max: usize,
    /// Refused deliveries that are kept per receiver; beyond, the oldest are removed.
    pub dead_entries_max: usize,
    /// How failed deliveries are repeated.
    pub retry: RetryPolicy,
    /// After which time a delivery that keeps failing is set aside.
    pub give_up_after: Duration,
    /// Where Undine's own page can be reached, for links.
    pub external_url: String,
}

/// One receiver.
#[derive(Clone)]
pub struct Receiver {
    /// Names its folder and its rows in `deliveries`: letters, digits, `-` and `_`, at most 64.
    pub name: String,
    /// Where to post, http or https; it may hold a secret and is not logged.
    pub url: Secret,
    /// In which form.
    pub format: Format,
    /// Keys to sign with, `whsec_…`; several while one replaces another, none to leave unsigned.
    pub secrets: Vec<Secret>,
    /// Sent with every post, such as `Authorization`.
    pub headers: Vec<(String, Secret)>,
    /// How long one post may take.
    pub timeout: Duration,
    /// Whether it may be at a link-local address.
    pub link_local: LinkLocal,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why webhooks cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A name that cannot be a folder's.
    #[error("webhook receiver name {0:?} is not 1 to 64 letters, digits, '-' or '_'")]
    Name(String),
    /// Two receivers under one name.
    #[error("two webhook receivers are called {0}; give each a name of its own")]
    DuplicateName(String),
    /// A URL that cannot be posted to.
    #[error("the url of webhook receiver {receiver} cannot be used")]
    Url {
        /// The receiver's name.
        receiver: String,
        /// Why.
        #[source]
        cause: AddressError,
    },
    /// A secret that cannot sign.
    #[error(
        "a secret of webhook receiver {receiver} cannot sign; it must be whsec_ and the base64 of 24 to 64 bytes"
    )]
    Secret {
        /// The receiver's name.
        receiver: String,
        /// Why.
        #[source]
        cause: SecretError,
    },
    /// A header that HTTP does not allow.
    #[error(
        "header {header:?} of webhook receiver {receiver} has a name or value that HTTP does not allow"
    )]
    Header {
        /// The receiver's name.
        receiver: String,
        /// The header's name.
        header: String,
    },
    /// A limit of zero would refuse everything.
    #[error("webhook limit outbox_entries_max is 0; set it to at least 1")]
    ZeroLimit,
    /// The outbox cannot be used.
    #[error("the webhook outbox {path} cannot be used; check that the folder can be written")]
    Outbox {
        /// The receiver's folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// There is no table to follow.
    #[error("webhooks cannot follow incidents")]
    Feed(#[from] FeedError),
    /// The HTTP client cannot be made.
    #[error("the HTTP client for webhook receiver {receiver} cannot be made")]
    Client {
        /// The receiver's name.
        receiver: String,
        /// Why.
        #[source]
        cause: reqwest::Error,
    },
}

/// How a receiver's deliveries stand.
#[derive(Debug, Default)]
pub struct ReceiverStats {
    pending: AtomicU64,
    delivered: AtomicU64,
    failed_attempts: AtomicU64,
    dead: AtomicU64,
    missed_rows: AtomicU64,
    disabled: AtomicBool,
}

impl ReceiverStats {
    /// Deliveries that wait.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Deliveries that were acknowledged since the start.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Attempts that failed and are repeated, since the start.
    pub fn failed_attempts(&self) -> u64 {
        self.failed_attempts.load(Ordering::Relaxed)
    }

    /// Deliveries that were set aside since the start.
    pub fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Rows of `incidents` that were evicted before they were read, since the start.
    pub fn missed_rows(&self) -> u64 {
        self.missed_rows.load(Ordering::Relaxed)
    }

    /// Whether the receiver answered that it is gone for good.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }
}

impl Config {
    /// Checks every receiver and opens its outbox. A receiver that is new starts with the changes
    /// that come after now.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(
        self,
        feed: &Arc<dyn Feed>,
        append: Arc<dyn Append>,
        clock: Arc<dyn Clock>,
    ) -> Result<Webhooks, BuildError> {
        if self.outbox_entries_max == 0 {
            return Err(BuildError::ZeroLimit);
        }
        let mut names = BTreeSet::new();
        for Receiver { name, .. } in &self.receivers {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if !(1..=64).contains(&name.len()) || !name.chars().all(is_plain) {
                return Err(BuildError::Name(name.clone()));
            }
            if !names.insert(name) {
                return Err(BuildError::DuplicateName(name.clone()));
            }
        }
        let log = DeliveryLog::new(append, clock);
        let channels = self.receivers.iter().map(|receiver| self.channel(receiver, feed, &log));
        Ok(Webhooks { channels: channels.collect::<Result<_, _>>()? })
    }

    fn channel(
        &self,
        receiver: &Receiver,
        feed: &Arc<dyn Feed>,
        log: &DeliveryLog,
    ) -> Result<Channel, BuildError> {
        let name = || receiver.name.clone();
        let url = address::parse(receiver.url.expose(), receiver.link_local)
            .map_err(|cause| BuildError::Url { receiver: name(), cause })?;
        let keys = receiver.secrets.iter().map(SigningKey::parse).collect::<Result<_, _>>();
        let keys = keys.map_err(|cause| BuildError::Secret { receiver: name(), cause })?;
        let headers = receiver.header_map()?;
        let client =
            receiver.client().map_err(|cause| BuildError::Client { receiver: name(), cause })?;
        let newest = feed.newest(&INCIDENTS)?;

        let dir = self.dir.join(&receiver.name);
        let disk = |cause| BuildError::Outbox { path: dir.clone(), cause };
        let outbox = Outbox::open(dir.clone(), self.outbox_entries_max, self.dead_entries_max);
        let outbox = Arc::new(outbox.map_err(disk)?);
        let state = if let Some(state) = outbox.state().map_err(disk)? {
            state
        } else {
            let state = State::starting_at(*newest.borrow());
            outbox.set_state(&state).map_err(disk)?;
            state
        };
        let stats = Arc::new(ReceiverStats::default());
        stats.pending.store(outbox.len() as u64, Ordering::Relaxed);
        stats.disabled.store(outbox.is_gone(url.as_str()).map_err(disk)?, Ordering::Relaxed);

        let pending = Arc::new(Notify::new());
        let room = Arc::new(Notify::new());
        let sender = Sender {
            name: name(),
            url,
            format: receiver.format,
            keys,
            headers,
            external_url: self.external_url.trim_end_matches('/').into(),
            client,
            retry: self.retry,
            give_up_after: self.give_up_after,
            outbox: Arc::clone(&outbox),
            log: log.clone(),
            stats: Arc::clone(&stats),
            pending: Arc::clone(&pending),
            room: Arc::clone(&room),
        };
        let follower = Follower {
            name: name(),
            feed: Arc::clone(feed),
            newest,
            outbox,
            state,
            retry: self.retry,
            log: log.clone(),
            stats: Arc::clone(&stats),
            pending,
            room,
        };
        Ok(Channel { name: name(), stats, sender, follower })
    }
}

impl Receiver {
    fn header_map(&self) -> Result<HeaderMap, BuildError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || BuildError::Header { receiver: self.name.clone(), header: name.clone() };
            let key: HeaderName = name.parse().map_err(|_invalid_name| wrong())?;
            let mut value =
                HeaderValue::from_str(value.expose()).map_err(|_invalid_value| wrong())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        Ok(headers)
    }

    /// Redirects are not followed: they could lead to an address that is refused.
    fn client(&self) -> Result<Client, reqwest::Error> {
        Client::builder()
            .user_agent(concat!("undine/", env!("CARGO_PKG_VERSION")))
            .timeout(self.timeout)
            .redirect(Policy::none())
            .dns_resolver(Arc::new(GuardedResolver(self.link_local)))
            .build()
    }
}

/// Tells all receivers.
#[derive(Debug)]
pub struct Webhooks {
    channels: Vec<Channel>,
}

#[derive(Debug)]
struct Channel {
    name: String,
    stats: Arc<ReceiverStats>,
    sender: Sender,
    follower: Follower,
}

impl Webhooks {
    /// How each receiver's deliveries stand, by name.
    pub fn stats(&self) -> Vec<(String, Arc<ReceiverStats>)> {
        let stats = |channel: &Channel| (channel.name.clone(), Arc::clone(&channel.stats));
        self.channels.iter().map(stats).collect()
    }

    /// Delivers until `shutdown` fires and the posts under way have ended; what is pending then
    /// goes out after the next start.
    ///
    /// # Panics
    /// When one of its tasks does.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        for Channel { name, stats, sender, follower } in self.channels {
            if stats.is_disabled() {
                tracing::warn!(
                    receiver = name,
                    "a webhook receiver stays disabled because its url once answered 410; give it another url"
                );
                continue;
            }
            tasks.spawn(follower.run(shutdown.clone()));
            tasks.spawn(sender.run(shutdown.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

#[cfg(test)]
mod tests;
