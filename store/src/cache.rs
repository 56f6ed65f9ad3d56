//! Reading segments wherever they are: on the local disk, in the cache, in the bucket.
//!
//! ```text
//!   sealed              uploaded                       read again
//!   tables/a.parquet ──────────► cache/a.parquet ◄──────────────── bucket
//!   (the spool)         rename   (least recently read goes first)
//! ```
//!
//! A name is given once and its file never changes, so a copy is as good as the original and nothing
//! is ever out of date. A file leaves the spool only once a commit in the bucket names it, so whoever
//! looks in this order finds it. Small and whole files: a segment is rarely larger than a few MiB, and
//! a query that wants one column of it soon wants others.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::backend::Bucket;
use crate::durable;

/// The part of the cache that one file may take; larger ones are read in ranges and not kept.
const FILES_MIN: u64 = 8;

/// What the cache did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes of files in it.
    pub bytes: u64,
    /// Files in it.
    pub files: u64,
    /// Reads of files that were in it.
    pub hits: u64,
    /// Files that were fetched from the bucket to be kept.
    pub misses: u64,
    /// Files that made room for others.
    pub evictions: u64,
    /// Reads of files too large to be kept.
    pub bypasses: u64,
    /// Bytes that were fetched from the bucket to be kept.
    pub fetched_bytes: u64,
}

/// Where segments are, in the order in which they are looked for.
#[derive(Debug)]
pub(crate) struct Shelves {
    spool: LocalFileSystem,
    cached: LocalFileSystem,
    cache: Arc<Cache>,
    bucket: Arc<Bucket>,
    /// One fetch of a file at a time; the others wait for it.
    fetches: Mutex<HashMap<Path, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug)]
struct Cache {
    dir: PathBuf,
    bytes_max: u64,
    files: Mutex<Files>,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    bypasses: AtomicU64,
    fetched_bytes: AtomicU64,
}

/// What is in the cache, by name and by when it was read last.
#[derive(Debug, Default)]
struct Files {
    by_key: HashMap<String, (u64, u64)>,
    by_turn: BTreeMap<u64, String>,
    turn: u64,
    bytes: u64,
}

/// Where a file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shelf {
    Spool,
    Cache,
    Bucket,
}

impl Shelves {
    /// Shelves over the folder of the store's own files, one for copies, and a bucket.
    pub(crate) fn open(
        tables: &std::path::Path,
        cache: PathBuf,
        bytes_max: u64,
        bucket: Arc<Bucket>,
    ) -> io::Result<Self> {
        durable::create_dirs(&cache)?;
        let local =
            |dir: &std::path::Path| LocalFileSystem::new_with_prefix(dir).map_err(io::Error::other);
        Ok(Self {
            spool: local(tables)?,
            cached: local(&cache)?,
            cache: Arc::new(Cache::open(cache, bytes_max)?),
            bucket,
            fetches: Mutex::default(),
        })
    }

    /// Reads a whole file that is not in the spool. Blocks.
    pub(crate) fn read(self: &Arc<Self>, key: &str) -> io::Result<Bytes> {
        let (shelves, path) = (Arc::clone(self), Path::from(key));
        self.bucket.wait(async move { shelves.get(&path).await?.bytes().await })
    }

    /// Takes a file that the bucket now has from the spool, as the one that was read last.
    pub(crate) fn take(&self, key: &str, from: &std::path::Path) -> io::Result<()> {
        let bytes = match fs::metadata(from) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if bytes > self.cache.file_bytes_max() {
            return fs::remove_file(from);
        }
        let path = self.cache.dir.join(key);
        fs::create_dir_all(durable::parent(&path))?;
        fs::rename(from, path)?;
        self.cache.insert(key, bytes);
        Ok(())
    }

    /// Forgets a file that no version names any more; says whether there was a copy.
    pub(crate) fn drop_file(&self, key: &str) -> bool {
        self.cache.remove(key)
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Finds a file, and fetches it where it is only in the bucket and small enough to be kept.
    async fn find(&self, path: &Path) -> Result<Shelf> {
        if self.spool.head(path).await.is_ok() {
            return Ok(Shelf::Spool);
        }
        if self.cache.touch(path.as_ref()) {
            self.cache.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Shelf::Cache);
        }
        let fetch = Arc::clone(self.fetches().entry(path.clone()).or_default());
        let turn = fetch.lock().await;
        let found = self.fetch(path).await;
        drop(turn);
        drop(fetch);
        let mut fetches = self.fetches();
        if fetches.get(path).is_some_and(|fetch| Arc::strong_count(fetch) == 1) {
            fetches.remove(path);
        }
        found
    }

    async fn fetch(&self, path: &Path) -> Result<Shelf> {
        if self.cache.touch(path.as_ref()) {
            self.cache.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Shelf::Cache);
        }
        let found = self.bucket.objects().get(path).await?;
        if found.meta.size > self.cache.file_bytes_max() {
            self.cache.bypasses.fetch_add(1, Ordering::Relaxed);
            return Ok(Shelf::Bucket);
        }
        let bytes = found.bytes().await?;
        let (cache, key) = (Arc::clone(&self.cache), path.to_string());
        let kept = tokio::task::spawn_blocking(move || cache.keep(&key, &bytes)).await?;
        if let Err(error) = kept {
            tracing::warn!(%error, "a file of the bucket cannot be kept; check that the disk has room");
            return Ok(Shelf::Bucket);
        }
        Ok(Shelf::Cache)
    }

    fn fetches(&self) -> MutexGuard<'_, HashMap<Path, Arc<tokio::sync::Mutex<()>>>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on(&self, shelf: Shelf) -> &dyn ObjectStore {
        match shelf {
            Shelf::Spool => &self.spool,
            Shelf::Cache => &self.cached,
            Shelf::Bucket => &**self.bucket.objects(),
        }
    }
}

#[async_trait]
impl ObjectStore for Shelves {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let shelf = self.find(location).await?;
        match self.on(shelf).get_opts(location, options.clone()).await {
            // It was uploaded or evicted meanwhile; the bucket has it.
            Err(object_store::Error::NotFound { .. }) if shelf != Shelf::Bucket => {
                self.bucket.objects().get_opts(location, options).await
            }
            found => found,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let shelf = self.find(location).await?;
        match self.on(shelf).get_ranges(location, ranges).await {
            Err(object_store::Error::NotFound { .. }) if shelf != Shelf::Bucket => {
                self.bucket.objects().get_ranges(location, ranges).await
            }
            found => found,
        }
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only("put_opts"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only("put_multipart_opts"))
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { Err(read_only("delete_stream")) }))
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        Box::pin(futures::stream::once(async { Err(read_only("list")) }))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(read_only("list_with_delimiter"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only("copy_opts"))
    }
}

impl fmt::Display for Shelves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the local disk before {}", self.bucket.url())
    }
}

/// A segment is named by the catalog; nothing else may be asked of the shelves.
fn read_only(operation: &str) -> object_store::Error {
    object_store::Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "the store's shelves".to_owned(),
    }
}

impl Cache {
    /// Takes over the files of an earlier life, oldest first.
    fn open(dir: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let mut found = Vec::new();
        files_below(&dir, &dir, &mut found)?;
        found.sort_unstable_by_key(|(_, _, changed)| *changed);
        let cache = Self {
            dir,
            bytes_max,
            files: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            bypasses: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
        };
        for (key, bytes, _) in found {
            if std::path::Path::new(&key).extension().is_some_and(|end| end == "tmp") {
                fs::remove_file(cache.dir.join(key))?;
            } else {
                cache.insert(&key, bytes);
            }
        }
        Ok(cache)
    }

    fn file_bytes_max(&self) -> u64 {
        self.bytes_max / FILES_MIN
    }

    /// Whether a file is in it; it is then the one that was read last.
    fn touch(&self, key: &str) -> bool {
        let mut files = self.files();
        let Some((turn, bytes)) = files.by_key.get(key).copied() else { return false };
        files.by_turn.remove(&turn);
        files.put(key, bytes);
        true
    }

    /// Writes a copy, synced, since a torn one would be taken for whole after a power loss.
    fn keep(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(key);
        fs::create_dir_all(durable::parent(&path))?;
        durable::replace(&path, bytes)?;
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.insert(key, bytes.len() as u64);
        Ok(())
    }

    fn insert(&self, key: &str, bytes: u64) {
        let mut files = self.files();
        files.forget(key);
        files.put(key, bytes);
        files.bytes += bytes;
        while files.bytes > self.bytes_max
            && let Some(oldest) = files.by_turn.values().next().cloned()
        {
            files.forget(&oldest);
            self.evictions.fetch_add(1, Ordering::Relaxed);
            self.delete(&oldest);
        }
    }

    fn remove(&self, key: &str) -> bool {
        let known = self.files().forget(key);
        known && self.delete(key)
    }

    fn delete(&self, key: &str) -> bool {
        match fs::remove_file(self.dir.join(key)) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(file = key, %error, "a copy in the cache cannot be deleted");
                false
            }
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> CacheStats {
        let files = self.files();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            bytes: files.bytes,
            files: files.by_key.len() as u64,
            hits: count(&self.hits),
            misses: count(&self.misses),
            evictions: count(&self.evictions),
            bypasses: count(&self.bypasses),
            fetched_bytes: count(&self.fetched_bytes),
        }
    }
}

impl Files {
    fn put(&mut self, key: &str, bytes: u64) {
        self.turn += 1;
        self.by_turn.insert(self.turn, key.to_owned());
        self.by_key.insert(key.to_owned(), (self.turn, bytes));
    }

    fn forget(&mut self, key: &str) -> bool {
        let Some((turn, bytes)) = self.by_key.remove(key) else { return false };
        self.by_turn.remove(&turn);
        self.bytes -= bytes;
        true
    }
}

/// All files below `dir`: their ways from `root`, sizes and ages.
fn files_below(
    root: &std::path::Path,
    dir: &std::path::Path,
    found: &mut Vec<(String, u64, Option<std::time::SystemTime>)>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        if metadata.is_dir() {
            files_below(root, &path, found)?;
        } else if let Some(key) = path.strip_prefix(root).ok().and_then(|key| key.to_str()) {
            found.push((key.to_owned(), metadata.len(), metadata.modified().ok()));
        }
    }
    Ok(())
}
