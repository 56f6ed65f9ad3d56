//! The process that is killed: a store under load, and what it notes down about it.
//!
//! Two files stand beside the store's folder. A line of `sent` is written before a frame is
//! appended, one of `told` when the store has said what becomes of it; the kernel keeps both when
//! the process dies. Everything about a frame follows from its number.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use tokio::task::JoinSet;
use undine_schema::tables::{ANOMALIES, Anomalies, Anomaly, HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{
    Append, AppendError, Clock, Durability, Frame, Part, RetryKey, SystemClock, TimeNs,
};
use undine_store::Store;

use crate::stage;

/// Frames that a life has room for.
const FRAMES_PER_LIFE: i64 = 10_000_000;
/// Rows of a frame have consecutive ids from ten times its number on.
const IDS_PER_FRAME: i64 = 10;
/// How often the process notes that it runs.
const BEAT: Duration = Duration::from_millis(10);
/// Tasks that wait for each acknowledgement before they send again.
const SENDERS: usize = 2;

/// The load's part of the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of the store, beside which the notes are.
    #[arg(long)]
    dir: PathBuf,
}

/// How safe a frame is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Captured,
    Committed,
}

/// A frame, as `sent` has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) level: Level,
    pub(super) number: i64,
    pub(super) time: TimeNs,
}

impl Sent {
    /// The ids of its rows of `http_events`.
    pub(super) fn ids(self) -> std::ops::Range<i64> {
        let first = self.number * IDS_PER_FRAME;
        first..first + 1 + self.number % 5
    }

    /// The frame that the row `id` is of.
    pub(super) const fn of(id: i64) -> i64 {
        id / IDS_PER_FRAME
    }

    fn frame(self) -> Frame {
        let requests = Part { table: &HTTP_EVENTS, rows: self.requests() };
        match self.level {
            Level::Captured => Frame::captured(&HTTP_EVENTS, requests.rows),
            Level::Committed => {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&self.number.to_le_bytes());
                Frame {
                    parts: vec![requests, Part { table: &ANOMALIES, rows: self.anomaly() }],
                    durability: Durability::Commit,
                    retry_key: Some(RetryKey(key)),
                }
            }
        }
    }

    fn requests(self) -> RecordBatch {
        let mut rows = HttpEvents::new(self.ids().count());
        for (id, service) in self.ids().zip(["shop", "cart", "pay", "shop", "mail"]) {
            rows.push(&HttpEvent {
                time_: self.time,
                service,
                req_method: "GET",
                req_path: "/items/7",
                req_path_template: "/items/*",
                resp_status: 200,
                latency: 1_000 + id % 9_000,
                resp_body_size: id,
                ..HttpEvent::default()
            });
        }
        rows.finish()
    }

    fn anomaly(self) -> RecordBatch {
        let mut rows = Anomalies::new(1);
        let requests = self.number * IDS_PER_FRAME;
        rows.push(&Anomaly { time_: self.time, requests, ..Anomaly::default() });
        rows.finish()
    }
}

/// What was noted down, read back.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) sent: Vec<Sent>,
    /// Committed frames that were acknowledged.
    pub(super) acknowledged: Vec<i64>,
    /// Captured frames that were accepted, with the place of their first row.
    pub(super) accepted: Vec<(i64, u64)>,
    /// When those were accepted.
    pub(super) accepted_at: HashMap<i64, TimeNs>,
    /// When the process noted that it runs, and how many nanoseconds late.
    pub(super) beats: Vec<(TimeNs, i64)>,
}

impl Notes {
    /// How long the process that was started and killed at these times got nothing done.
    pub(super) fn stall(&self, started_at: TimeNs, killed_at: TimeNs) -> Duration {
        let beats = || self.beats.iter().filter(|(at, _)| *at >= started_at);
        let late = beats().map(|&(_, late)| Duration::from_nanos(late.max(0).cast_unsigned()));
        let last = beats().map(|(at, _)| *at).max().unwrap_or(started_at);
        late.max().unwrap_or_default().max(killed_at.since(last))
    }

    /// Reads both files; a last line without its end does not count.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut notes = Self::default();
        for line in whole_lines(&dir.with_extension("sent"))? {
            let (level, rest) = line.split_at(1);
            let (number, time) = pair(rest)?;
            let level = if level == "c" { Level::Captured } else { Level::Committed };
            notes.sent.push(Sent { level, number, time: TimeNs::new(time) });
        }
        for line in whole_lines(&dir.with_extension("told"))? {
            let (kind, rest) = line.split_at(1);
            let (number, about) = pair(rest)?;
            match kind {
                "c" => notes.accepted.push((number, about.cast_unsigned())),
                "k" => notes.acknowledged.push(number),
                "a" => {
                    notes.accepted_at.insert(number, TimeNs::new(about));
                }
                _ => notes.beats.push((TimeNs::new(number), about)),
            }
        }
        Ok(notes)
    }
}

fn whole_lines(path: &Path) -> Result<Vec<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    Ok(text[..end].lines().map(str::to_owned).collect())
}

fn pair(text: &str) -> Result<(i64, i64)> {
    let (a, b) = text.split_once(' ').context(text.to_owned())?;
    Ok((a.parse()?, b.parse()?))
}

/// Loads a store until it is killed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let before = Notes::read(&args.dir)?;
    let store = super::config(&args.dir).build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let load = Arc::new(Load {
        next: AtomicI64::new(i64::from(store.incarnation().get()) * FRAMES_PER_LIFE),
        store,
        sent: append_to(&args.dir.with_extension("sent"))?,
        told: append_to(&args.dir.with_extension("told"))?,
    });
    let mut out = io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    let capturing = Arc::clone(&load);
    let captured = std::thread::Builder::new()
        .name("capture".to_owned())
        .spawn(move || capturing.capture())?;
    let beating = Arc::clone(&load);
    std::thread::Builder::new().name("beat".to_owned()).spawn(move || beating.beat())?;
    runtime.block_on(load.serve(before))?;
    captured.join().unwrap_or(Ok(()))
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).open(path).context(path.display().to_string())
}

struct Load {
    store: Store,
    next: AtomicI64,
    sent: File,
    told: File,
}

impl Load {
    fn begin(&self, level: Level) -> io::Result<Sent> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let sent = Sent { level, number, time: SystemClock.now() };
        let letter = if level == Level::Captured { 'c' } else { 'k' };
        // One call a line, so that the lines of several threads do not mix.
        (&self.sent).write_all(format!("{letter}{number} {}\n", sent.time.get()).as_bytes())?;
        Ok(sent)
    }

    /// Notes over and over that the process runs, and how late: what the machine held up is not the
    /// store's loss.
    fn beat(&self) -> io::Result<()> {
        loop {
            let before = SystemClock.now();
            std::thread::sleep(BEAT);
            let now = SystemClock.now();
            let late = now.since(before).saturating_sub(BEAT).as_nanos();
            (&self.told).write_all(format!("b{} {late}\n", now.get()).as_bytes())?;
        }
    }

    /// Captured rows, as often as a collector hands them over, and no faster than the log takes
    /// them: what waits in its queue is lost with the process.
    fn capture(&self) -> Result<()> {
        loop {
            let sent = self.begin(Level::Captured)?;
            let pending = stage::append(&self.store, &sent.frame())?;
            let first = pending.seqs[0].first.raw();
            let (number, now) = (sent.number, SystemClock.now().get());
            let lines = format!("c{number} {first}\na{number} {now}\n");
            (&self.told).write_all(lines.as_bytes())?;
            // The load's pace; nothing is awaited.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Senders that retry, and the store's upkeep without its pauses.
    async fn serve(self: Arc<Self>, before: Notes) -> Result<()> {
        let told: std::collections::HashSet<_> = before.acknowledged.into_iter().collect();
        let unanswered: Vec<_> = before
            .sent
            .into_iter()
            .filter(|sent| sent.level == Level::Committed && !told.contains(&sent.number))
            .collect();
        let mut tasks: JoinSet<Result<()>> = JoinSet::new();
        let load = Arc::clone(&self);
        tasks.spawn(async move {
            for sent in unanswered {
                load.commit(sent).await?;
            }
            Ok(())
        });
        for _ in 0..SENDERS {
            let load = Arc::clone(&self);
            tasks.spawn(async move {
                loop {
                    let sent = load.begin(Level::Committed)?;
                    load.commit(sent).await?;
                    if sent.number % 7 == 0 {
                        // A sender that missed the answer.
                        load.commit(sent).await?;
                    }
                }
            });
        }
        let load = Arc::clone(&self);
        tasks.spawn(async move {
            loop {
                load.store.seal().await?;
                load.store.merge_hot().await?;
                load.store.tidy().await?;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn commit(&self, sent: Sent) -> Result<()> {
        loop {
            match self.store.append(sent.frame()) {
                Ok(pending) => {
                    pending.durable().await?;
                    (&self.told).write_all(format!("k{} 0\n", sent.number).as_bytes())?;
                    return Ok(());
                }
                Err(AppendError::Full { retry_after }) => tokio::time::sleep(retry_after).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
