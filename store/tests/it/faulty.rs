//! An object store in memory that fails, or takes its time, when it is told to.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use tokio::sync::watch;

/// What goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Requests wait at it while it is shut, however long.
    pub(crate) gate: Gate,
    /// Nothing answers.
    pub(crate) away: AtomicBool,
    /// Every so many puts are refused with 503; none for 0.
    pub(crate) refused_every: AtomicU64,
    /// Every so many puts are done and their answer is lost; none for 0.
    pub(crate) unanswered_every: AtomicU64,
    /// Lists do not name the newest so many files.
    pub(crate) unlisted: AtomicU64,
    /// Every so many parts of a multipart upload fail; none for 0.
    pub(crate) torn_every: AtomicU64,
    /// A create overwrites.
    pub(crate) creates_overwrite: AtomicBool,
    puts: AtomicU64,
    parts: AtomicU64,
}

/// Holds up requests until a test has seen what goes on meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    pub(crate) fn shut(&self) {
        self.shut.send_replace(true);
    }

    pub(crate) fn open(&self) {
        self.shut.send_replace(false);
    }

    /// Waits until a request waits.
    pub(crate) async fn holds_a_request(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.unwrap();
    }

    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.shut.subscribe().wait_for(|shut| !shut).await.unwrap();
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Faulty {
    pub(crate) inner: InMemory,
    pub(crate) faults: Arc<Faults>,
    order: Mutex<Vec<Path>>,
}

impl Faulty {
    async fn answer(&self) -> Result<()> {
        self.faults.gate.pass().await;
        self.answer_at_once()
    }

    /// Streams are not held up.
    fn answer_at_once(&self) -> Result<()> {
        if self.faults.away.load(Ordering::SeqCst) { Err(lost("nothing answers")) } else { Ok(()) }
    }

    fn hidden(&self) -> Vec<Path> {
        let order = self.order.lock().unwrap();
        let unlisted = usize::try_from(self.faults.unlisted.load(Ordering::SeqCst)).unwrap();
        order[order.len().saturating_sub(unlisted)..].to_vec()
    }
}

fn is_due(counter: &AtomicU64, every: &AtomicU64) -> bool {
    let every = every.load(Ordering::SeqCst);
    let count = counter.fetch_add(1, Ordering::SeqCst) + 1;
    every > 0 && count.is_multiple_of(every)
}

fn lost(what: &'static str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.answer().await?;
        let refused = is_due(&self.faults.puts, &self.faults.refused_every);
        if refused {
            return Err(lost("503 slow down"));
        }
        if self.faults.creates_overwrite.load(Ordering::SeqCst) {
            options.mode = PutMode::Overwrite;
        }
        let put = self.inner.put_opts(location, payload, options).await?;
        self.order.lock().unwrap().push(location.clone());
        let every = self.faults.unanswered_every.load(Ordering::SeqCst);
        if every > 0 && self.faults.puts.load(Ordering::SeqCst).is_multiple_of(every) {
            return Err(lost("the answer was lost"));
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.answer().await?;
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Torn { upload, faults: Arc::clone(&self.faults) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.answer().await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.answer().await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.answer_at_once() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let hidden = self.hidden();
        match self.answer_at_once() {
            Ok(()) => self
                .inner
                .list(prefix)
                .filter(move |meta| {
                    let shown = !meta.as_ref().is_ok_and(|meta| hidden.contains(&meta.location));
                    async move { shown }
                })
                .boxed(),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.answer().await?;
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        let hidden = self.hidden();
        listed.objects.retain(|meta| !hidden.contains(&meta.location));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[derive(Debug)]
struct Torn {
    upload: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
}

#[async_trait]
impl MultipartUpload for Torn {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if is_due(&self.faults.parts, &self.faults.torn_every) {
            return Box::pin(async { Err(lost("the connection was cut")) });
        }
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
