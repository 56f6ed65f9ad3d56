//! A bucket: one prefix of an object store, asked by threads that may wait.
//!
//! Requests run on a thread of their own, so that neither a seal nor a test needs a runtime, and so
//! that a connection never belongs to a runtime that has gone.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::{Builder, Handle, Runtime};
use undine_schema::TimeNs;

use super::Entry;
use super::address::Address;
use super::probe::{self, Thoroughness};
use crate::durable;

/// Bytes of a file that is still put in one request.
const ONE_PUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one part of a multipart upload; every store takes parts of 5 MiB or more.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Settings of a bucket.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// The bucket.
    pub bucket: Arc<Bucket>,
    /// Bytes of segments that may wait on the local disk for the bucket. Beyond them rows stay in the
    /// log and in memory as if there were no disk.
    pub spool_bytes_max: u64,
    /// Bytes of the bucket's files that are kept on the local disk to be read again.
    pub cache_bytes_max: u64,
    /// Time between two uploads of what was sealed; what is merged meanwhile goes up once.
    pub upload_interval: Duration,
    /// How long files stay in the bucket after no version refers to them any more.
    pub deleted_files_for: Duration,
}

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Its address is not understood.
    #[error(
        "bucket {url} is no address of a bucket: {problem}; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///PATH"
    )]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Its client cannot be made.
    #[error(
        "bucket {url} cannot be opened; set its region, endpoint and credentials in the environment (AWS_*, GOOGLE_*, AZURE_*)"
    )]
    Client {
        /// The address.
        url: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// It does not answer as it should.
    #[error("bucket {url} cannot be reached; check the network, its endpoint and its credentials")]
    Away {
        /// The address.
        url: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not there.
    #[error(
        "bucket {url} is not there; check its name, and the region and endpoint that the environment names (AWS_REGION, AWS_ENDPOINT)"
    )]
    Missing {
        /// The address.
        url: String,
    },
    /// These credentials may not read it.
    #[error(
        "bucket {url} may not be read with these credentials; allow them to list it and to get its objects (s3:ListBucket, s3:GetObject), or set others in the environment (AWS_*, GOOGLE_*, AZURE_*)"
    )]
    Denied {
        /// The address.
        url: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It does not keep the promise that the catalog rests on.
    #[error(
        "bucket {url} is not safe to write to: {observed}; use a store with conditional writes (If-None-Match: *), such as Amazon S3, Google Cloud Storage, Azure Blob Storage or a current MinIO, or keep the data on a local disk"
    )]
    Unsafe {
        /// The address.
        url: String,
        /// What was seen.
        observed: String,
    },
    /// The folder's older segments are in another bucket.
    #[error("folder {dir} keeps its older segments in bucket {found}, not in {expected}; configure that bucket or choose another folder", dir = dir.display())]
    Other {
        /// The folder.
        dir: PathBuf,
        /// The bucket that it has used.
        found: String,
        /// The configured bucket.
        expected: String,
    },
    /// A node of the same name writes to it.
    #[error(
        "bucket {url} is being written by another undine with this node's name (table {table}); stop it or give this node another name"
    )]
    Contested {
        /// The address.
        url: String,
        /// The table.
        table: &'static str,
    },
}

/// A bucket, or a part of one.
#[derive(Debug)]
pub struct Bucket {
    url: String,
    objects: Arc<dyn ObjectStore>,
    /// Set where it is a folder of a disk, whose files are synced in our own way.
    disk: Option<PathBuf>,
    requests: Requests,
}

/// The thread on which requests run.
#[derive(Debug)]
struct Requests {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Bucket {
    /// Opens a bucket by its address, to write to it; asks nothing of it yet. Regions, endpoints and
    /// credentials come from the environment, by the names that the stores' own tools use.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub fn open(url: &str) -> Result<Self, BucketError> {
        if let Address::Disk(dir) = Address::parse(url)? {
            durable::create_dirs(&dir)
                .map_err(|source| BucketError::Away { url: url.to_owned(), source })?;
        }
        Self::open_to_read(url)
    }

    /// Opens a bucket by its address without making a folder that is not there.
    pub(crate) fn open_to_read(url: &str) -> Result<Self, BucketError> {
        let address = Address::parse(url)?;
        let away = |source| BucketError::Away { url: url.to_owned(), source };
        let requests = Requests::start().map_err(away)?;
        let client = |source| BucketError::Client { url: url.to_owned(), source };
        match address {
            Address::Disk(dir) => {
                if !dir.try_exists().map_err(away)? {
                    return Err(BucketError::Missing { url: url.to_owned() });
                }
                let objects = Arc::new(LocalFileSystem::new_with_prefix(&dir).map_err(client)?);
                Ok(Self { url: url.to_owned(), objects, disk: Some(dir), requests })
            }
            Address::Remote { service, bucket, prefix } => {
                let objects = service.client(&bucket, &requests.handle).map_err(client)?;
                let objects = Arc::new(PrefixStore::new(objects, prefix));
                let url = url.trim_end_matches('/').to_owned();
                Ok(Self { url, objects, disk: None, requests })
            }
        }
    }

    /// A bucket over any object store, under a name for messages.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn over(url: &str, objects: Arc<dyn ObjectStore>) -> io::Result<Self> {
        let requests = Requests::start()?;
        Ok(Self { url: url.to_owned(), objects, disk: None, requests })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its files, by their ways from its prefix.
    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Finds out whether it keeps its promises, with a few dozen to a few hundred small requests.
    /// Blocks.
    ///
    /// # Errors
    /// [`BucketError::Unsafe`] when it does not, [`BucketError::Away`] when it does not answer.
    pub fn probe(&self, thoroughness: Thoroughness) -> Result<(), BucketError> {
        let objects = Arc::clone(&self.objects);
        let probed = self.requests.wait(async move {
            Ok::<_, object_store::Error>(probe::run(&objects, thoroughness).await)
        });
        let away = |source| BucketError::Away { url: self.url.clone(), source };
        match probed.map_err(away)? {
            Ok(()) => Ok(()),
            Err(probe::Failure::Broken(observed)) => {
                Err(BucketError::Unsafe { url: self.url.clone(), observed })
            }
            Err(probe::Failure::Away(error)) => Err(away(io_error(error))),
        }
    }

    /// Makes a file unless it exists.
    ///
    /// # Errors
    /// `AlreadyExists` where it was there.
    pub(super) fn create(&self, key: &str, bytes: Bytes) -> io::Result<()> {
        if let Some(dir) = &self.disk {
            let path = dir.join(key);
            durable::create_dirs(durable::parent(&path))?;
            return durable::publish_new(&path, &bytes);
        }
        let (objects, path) = (Arc::clone(&self.objects), Path::from(key));
        let put = async move {
            objects.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await
        };
        self.requests.wait(put).map(drop)
    }

    /// Puts a file in place of whatever has its name, in parts where it is large.
    pub(crate) fn put(&self, key: &str, bytes: Bytes) -> io::Result<()> {
        if let Some(dir) = &self.disk {
            let path = dir.join(key);
            durable::create_dirs(durable::parent(&path))?;
            return durable::replace(&path, &bytes);
        }
        let (objects, path) = (Arc::clone(&self.objects), Path::from(key));
        self.requests.wait(async move {
            if bytes.len() <= ONE_PUT_BYTES_MAX {
                return objects.put(&path, PutPayload::from(bytes)).await.map(drop);
            }
            put_in_parts(&*objects, &path, &bytes).await
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub(crate) fn get(&self, key: &str) -> io::Result<Bytes> {
        let (objects, path) = (Arc::clone(&self.objects), Path::from(key));
        self.requests.wait(async move { objects.get(&path).await?.bytes().await })
    }

    /// Whether a file is there.
    pub(super) fn has(&self, key: &str) -> io::Result<bool> {
        let (objects, path) = (Arc::clone(&self.objects), Path::from(key));
        match self.requests.wait(async move { objects.head(&path).await }) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The files right below a prefix.
    pub(super) fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let (objects, prefix) = (Arc::clone(&self.objects), Path::from(prefix));
        let listed =
            self.requests.wait(async move { objects.list_with_delimiter(Some(&prefix)).await })?;
        let files = listed.objects.into_iter().filter_map(|meta| {
            let name = meta.location.filename()?.to_owned();
            let changed = TimeNs::new(meta.last_modified.timestamp_nanos_opt().unwrap_or(i64::MAX));
            Some(Entry { name, changed })
        });
        Ok(files.collect())
    }

    /// Deletes a file; says whether there may have been one.
    pub(super) fn delete(&self, key: &str) -> io::Result<bool> {
        let (objects, path) = (Arc::clone(&self.objects), Path::from(key));
        match self.requests.wait(async move { objects.delete(&path).await }) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Why it could not be read.
    pub(crate) fn unread(&self, error: object_store::Error) -> BucketError {
        let url = self.url.clone();
        match reason(&error) {
            Some(io::ErrorKind::NotFound) => BucketError::Missing { url },
            Some(io::ErrorKind::PermissionDenied) => {
                BucketError::Denied { url, source: io_error(error) }
            }
            _ => BucketError::Away { url, source: io_error(error) },
        }
    }

    /// Runs something on the bucket's thread and waits for it. Blocks.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        self.requests.wait(work)
    }
}

impl Requests {
    fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("bucket").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = sync_channel(1);
        let task = self.handle.spawn(async move {
            let _gone = sender.send(work.await);
        });
        let answer = receiver.recv();
        drop(task);
        answer.map_err(io::Error::other)?.map_err(io_error)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // Waiting for it is not allowed on a thread that serves another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Puts a large file; nothing of it can be seen before its last part is there.
async fn put_in_parts(
    objects: &dyn ObjectStore,
    path: &Path,
    bytes: &Bytes,
) -> object_store::Result<()> {
    let mut upload = objects.put_multipart(path).await?;
    let parts = async {
        for from in (0..bytes.len()).step_by(PART_BYTES) {
            let part = bytes.slice(from..bytes.len().min(from + PART_BYTES));
            upload.put_part(part.into()).await?;
        }
        upload.complete().await
    };
    let done = parts.await;
    if done.is_err()
        && let Err(error) = upload.abort().await
    {
        tracing::warn!(file = %path, %error, "parts of an upload may stay in the bucket");
    }
    done.map(drop)
}

/// The same error as files give, with its cause.
fn io_error(error: object_store::Error) -> io::Error {
    use object_store::Error;
    let kind = match &error {
        Error::AlreadyExists { .. } | Error::Precondition { .. } => io::ErrorKind::AlreadyExists,
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// Why a list or a read failed, where that is known. Of a list the client gives the server's status as
/// text alone, and of a folder the cause is further down.
fn reason(error: &object_store::Error) -> Option<io::ErrorKind> {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => return Some(io::ErrorKind::NotFound),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            return Some(io::ErrorKind::PermissionDenied);
        }
        _ => {}
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    let text = error.to_string();
    let status = text.split("status code: ").nth(1).and_then(|status| status.get(..3));
    match status {
        Some("404") => Some(io::ErrorKind::NotFound),
        Some("401" | "403") => Some(io::ErrorKind::PermissionDenied),
        _ => None,
    }
}

/// All files below a prefix.
pub(super) async fn list_all(
    objects: &Arc<dyn ObjectStore>,
    prefix: &Path,
) -> object_store::Result<Vec<Path>> {
    objects.list(Some(prefix)).map_ok(|meta| meta.location).try_collect().await
}

#[cfg(test)]
#[path = "../../tests/it/faulty.rs"]
#[expect(dead_code, reason = "the gate is for the tests that see the store from outside")]
mod faulty;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::faulty::Faulty;
    use super::*;

    #[test]
    fn a_large_file_goes_up_in_parts_and_shows_nothing_before_the_last() {
        let faulty = Arc::new(Faulty::default());
        let bucket = Bucket::over("memory://parts", Arc::clone(&faulty) as _).unwrap();
        let bytes: Bytes = (0..20_u32 << 20).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
        faulty.faults.torn_every.store(2, Ordering::SeqCst);
        assert!(bucket.put("a/large", bytes.clone()).is_err());
        assert_eq!(bucket.get("a/large").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(bucket.list("a").unwrap(), []);
        faulty.faults.torn_every.store(0, Ordering::SeqCst);
        bucket.put("a/large", bytes.clone()).unwrap();
        assert!(bucket.get("a/large").unwrap() == bytes);
    }

    #[test]
    fn an_address_that_names_no_bucket_is_refused_with_what_to_write() {
        for url in ["", "s3:bucket", "s3://", "ftp://bucket/x", "file://relative"] {
            let message = Bucket::open(url).unwrap_err().to_string();
            assert!(message.contains("write s3://BUCKET/PREFIX"), "{message}");
        }
    }

    #[test]
    fn a_folder_of_a_disk_is_a_bucket_too() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(&format!("file://{}/b", dir.path().display())).unwrap();
        bucket.probe(Thoroughness::Full).unwrap();
        bucket.create("a/b/c", Bytes::from_static(b"first")).unwrap();
        let again = bucket.create("a/b/c", Bytes::from_static(b"second")).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(bucket.get("a/b/c").unwrap(), "first");
        bucket.put("a/b/c", Bytes::from_static(b"third")).unwrap();
        assert_eq!(bucket.get("a/b/c").unwrap(), "third");
        let names: Vec<_> = bucket.list("a/b").unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["c"]);
        assert!(bucket.has("a/b/c").unwrap() && !bucket.has("a/b/d").unwrap());
        assert!(bucket.delete("a/b/c").unwrap() && !bucket.has("a/b/c").unwrap());
    }
}
