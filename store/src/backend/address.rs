//! The address of a bucket, and the client that it stands for.
//!
//! Regions, endpoints and credentials come from the environment, by the names that the stores' own
//! tools use; what it says besides, such as a proxy or plain HTTP for a test, stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use tokio::runtime::Handle;

use super::BucketError;

/// Longest time for one request, and for one connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Retries of one request, and the longest time that they take together. Whoever asked tries again
/// later and with longer pauses.
const RETRIES_MAX: usize = 4;
const RETRY_TIME_MAX: Duration = Duration::from_secs(45);

/// What an address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A folder of a disk, which several nodes may share.
    Disk(PathBuf),
    /// A prefix of a bucket of an object store.
    Remote { service: Service, bucket: String, prefix: Path },
}

/// Whose object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    S3,
    Google,
    Azure,
}

impl Address {
    /// Takes an address apart; asks nobody.
    pub(crate) fn parse(url: &str) -> Result<Self, BucketError> {
        let wrong = |problem: &str| BucketError::Address {
            url: url.to_owned(),
            problem: problem.to_owned(),
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let service = match scheme {
            "file" if rest.starts_with('/') => return Ok(Self::Disk(PathBuf::from(rest))),
            "file" => return Err(wrong("the path must begin with a slash")),
            "s3" => Service::S3,
            "gs" => Service::Google,
            "az" => Service::Azure,
            _ => return Err(wrong("its scheme is unknown")),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("it names no bucket"));
        }
        let prefix = Path::parse(prefix.trim_matches('/'));
        let prefix = prefix.map_err(|error| wrong(&error.to_string()))?;
        Ok(Self::Remote { service, bucket: bucket.to_owned(), prefix })
    }

    /// The address over HTTP of what it names, without a slash at its end. None of a folder, and none of
    /// a service that other engines do not read by an address alone.
    pub(crate) fn http(&self) -> Option<String> {
        let Self::Remote { service, bucket, prefix } = self else { return None };
        let bucket = match service {
            Service::S3 => s3_over_http(bucket),
            Service::Google => google_over_http(bucket),
            Service::Azure => return None,
        };
        Some(if prefix.as_ref().is_empty() { bucket } else { format!("{bucket}/{prefix}") })
    }
}

fn s3_over_http(bucket: &str) -> String {
    let known = AmazonS3Builder::from_env();
    let get = |key| known.get_config_value(&key);
    let endpoint = get(AmazonS3ConfigKey::S3Endpoint).or_else(|| get(AmazonS3ConfigKey::Endpoint));
    let Some(endpoint) = endpoint else {
        let region = get(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
        return format!("https://s3.{region}.amazonaws.com/{bucket}");
    };
    let endpoint = endpoint.trim_end_matches('/');
    // The endpoint of a bucket that has a host of its own names it already.
    match get(AmazonS3ConfigKey::VirtualHostedStyleRequest).as_deref() {
        Some("true") => endpoint.to_owned(),
        _ => format!("{endpoint}/{bucket}"),
    }
}

fn google_over_http(bucket: &str) -> String {
    let known = GoogleCloudStorageBuilder::from_env();
    let endpoint = known.get_config_value(&GoogleConfigKey::BaseUrl);
    let endpoint = endpoint.unwrap_or_else(|| "https://storage.googleapis.com".to_owned());
    format!("{}/{bucket}", endpoint.trim_end_matches('/'))
}

impl Service {
    /// The client of one of its buckets, whose requests run on `requests`.
    pub(super) fn client(
        self,
        bucket: &str,
        requests: &Handle,
    ) -> object_store::Result<Arc<dyn ObjectStore>> {
        let timeouts = [
            (ClientConfigKey::Timeout, REQUEST_TIMEOUT),
            (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT),
        ]
        .map(|(key, time)| (key, format!("{} seconds", time.as_secs())));
        let [timeout, connect] = &timeouts;
        let retries = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..Default::default() },
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIME_MAX,
        };
        let connector = SpawnedReqwestConnector::new(requests.clone());
        Ok(match self {
            Self::S3 => Arc::new(
                AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_config(AmazonS3ConfigKey::Client(timeout.0), &timeout.1)
                    .with_config(AmazonS3ConfigKey::Client(connect.0), &connect.1)
                    .with_retry(retries)
                    .with_http_connector(connector)
                    .build()?,
            ),
            Self::Google => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_config(GoogleConfigKey::Client(timeout.0), &timeout.1)
                    .with_config(GoogleConfigKey::Client(connect.0), &connect.1)
                    .with_retry(retries)
                    .with_http_connector(connector)
                    .build()?,
            ),
            Self::Azure => Arc::new(
                MicrosoftAzureBuilder::from_env()
                    .with_container_name(bucket)
                    .with_config(AzureConfigKey::Client(timeout.0), &timeout.1)
                    .with_config(AzureConfigKey::Client(connect.0), &connect.1)
                    .with_retry(retries)
                    .with_http_connector(connector)
                    .build()?,
            ),
        })
    }
}
