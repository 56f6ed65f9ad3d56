//! Which processes are looked at for TLS libraries, and when.
//!
//! A program maps its libraries some time after it was started, or when it first needs them, and
//! nothing tells of that. So a process is looked at several times, ever less often.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::library::Library;
use super::mappings::{self, FileId, Mapping};
use super::placement::{Manner, Placing};
use crate::kernel::{Control, Outcome};
use crate::pipeline::LookAt;

/// How long after its start a program is looked at.
const AFTER_START: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(4),
    Duration::from_millis(16),
    Duration::from_millis(64),
    Duration::from_millis(500),
    Duration::from_secs(3),
    Duration::from_secs(15),
];
/// How long after it was seen to speak TLS.
const AFTER_TLS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(50)];
/// How often all processes are looked at.
const ALL_INTERVAL: Duration = Duration::from_secs(30);
/// Most looks that are planned; further ones wait for the look at all processes.
const PLANNED_MAX: usize = 16 * 1024;
/// Most files that are remembered as looked at.
const FILES_MAX: usize = 64 * 1024;
/// Messages that wait between the threads.
const WAITING_MAX: usize = 1024;
/// Where a host's TLS libraries are. They are probed before a process maps them only where the
/// whole host is watched.
const DIRECTORIES: [&str; 5] =
    ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib"];

/// How a library or program that has TLS in it fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryReport {
    /// Its name where the process that mapped it sees it.
    pub name: String,
    /// How it fared.
    pub outcome: Outcome,
    /// How the probe of each function is placed.
    pub manners: BTreeMap<&'static str, Manner>,
}

/// Probes the libraries that watched processes have mapped now, where no collector does; how each fared.
pub fn probe_watched(control: &Control, placing: Placing) -> Vec<LibraryReport> {
    Finder::new(control.clone(), placing).look_at_all()
}

/// Looks for libraries.
#[derive(Debug)]
pub(crate) struct Finder {
    control: Control,
    placing: Placing,
    files: HashSet<FileId>,
    /// By device and inode as `stat` has them, for what was found without a process.
    host_files: BTreeSet<(u64, u64)>,
    reports: Vec<LibraryReport>,
}

impl Finder {
    /// Has looked at nothing yet.
    pub(crate) fn new(control: Control, placing: Placing) -> Self {
        let (files, host_files) = (HashSet::new(), BTreeSet::new());
        Self { control, placing, files, host_files, reports: Vec::new() }
    }

    /// Looks at all processes that are watched, and gives what was found.
    pub(crate) fn look_at_all(&mut self) -> Vec<LibraryReport> {
        if self.control.watches_whole_host() {
            self.look_at_host();
        }
        for pid in self.control.watched_processes() {
            self.look_at(pid);
        }
        std::mem::take(&mut self.reports)
    }

    fn look_at_host(&mut self) {
        for directory in DIRECTORIES {
            let Ok(entries) = fs::read_dir(directory) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(name) = name.to_str().filter(|name| mappings::is_library_name(name))
                else {
                    continue;
                };
                let path = Path::new(directory).join(name);
                let Ok(metadata) = fs::metadata(&path) else { continue };
                if self.host_files.insert((metadata.dev(), metadata.ino())) {
                    self.probe(&path, path.display().to_string());
                }
            }
        }
    }

    /// Looks at what process `pid` has mapped.
    fn look_at(&mut self, pid: u32) {
        let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return };
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
        for mapping in mappings::parse(&maps) {
            let is_program = exe.as_deref() == Some(Path::new(&mapping.name));
            if (mapping.is_library() || is_program)
                && self.files.len() < FILES_MAX
                && !self.files.contains(&mapping.file)
            {
                self.look_at_file(pid, &mapping);
            }
        }
    }

    fn look_at_file(&mut self, pid: u32, mapping: &Mapping) {
        for path in mapping.paths(pid) {
            // A process that has ended meanwhile has none; another may map the same file.
            let Ok(file) = File::open(&path) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            self.files.insert(mapping.file.clone());
            if self.host_files.insert((metadata.dev(), metadata.ino())) {
                // It stays the same file, also where the process ends now.
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                self.probe(Path::new(&path), mapping.name.clone());
            }
            return;
        }
    }

    fn probe(&mut self, path: &Path, name: String) {
        let library = match Library::read(path, self.placing) {
            Ok(Some(library)) => library,
            Ok(None) => return,
            Err(error) => {
                let why = format!("{error}{}", cause(&error));
                let report = |outcome| LibraryReport { name, outcome, manners: BTreeMap::new() };
                self.reports.push(report(Outcome::Refused(why)));
                return;
            }
        };
        let outcome = self.control.probe_tls(path, &library);
        self.reports.push(LibraryReport { name, outcome, manners: library.manners });
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, |cause| format!(": {cause}"))
}

/// A thread that looks for libraries.
#[derive(Debug)]
pub(crate) struct FinderThread {
    thread: JoinHandle<()>,
    ask: SyncSender<LookAt>,
    reports: Receiver<LibraryReport>,
}

impl FinderThread {
    /// Starts it.
    pub(crate) fn start(finder: Finder) -> io::Result<Self> {
        let (ask, asked) = sync_channel(WAITING_MAX);
        let (report, reports) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("undine-tls".to_owned())
            .spawn(move || Planner::new(finder, report).run(&asked))?;
        Ok(Self { thread, ask, reports })
    }

    /// Has it look at a process. Where it is behind, the look at all processes will do.
    pub(crate) fn look_at(&self, what: LookAt) {
        if let Err(TrySendError::Disconnected(_)) = self.ask.try_send(what) {
            tracing::debug!("the thread that looks for TLS libraries has ended");
        }
    }

    /// What it found since the last call.
    pub(crate) fn take_reports(&self) -> Vec<LibraryReport> {
        self.reports.try_iter().collect()
    }

    /// Ends it.
    pub(crate) fn stop(self) {
        let Self { thread, ask, reports } = self;
        drop((ask, reports));
        if thread.join().is_err() {
            tracing::error!("the thread that looks for TLS libraries panicked");
        }
    }
}

/// Decides when to look.
struct Planner {
    finder: Finder,
    report: SyncSender<LibraryReport>,
    planned: BTreeSet<(Instant, u32)>,
    all_at: Instant,
}

impl Planner {
    fn new(finder: Finder, report: SyncSender<LibraryReport>) -> Self {
        let all_at = Instant::now() + ALL_INTERVAL;
        Self { finder, report, planned: BTreeSet::new(), all_at }
    }

    fn run(mut self, asked: &Receiver<LookAt>) {
        loop {
            let next = self.planned.first().map_or(self.all_at, |(at, _)| *at).min(self.all_at);
            match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(LookAt::Started(pid)) => self.plan(pid, &AFTER_START),
                Ok(LookAt::Speaks(pid)) => self.plan(pid, &AFTER_TLS),
                Ok(LookAt::Ended(pid)) => self.planned.retain(|(_, planned)| *planned != pid),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
            for report in std::mem::take(&mut self.finder.reports) {
                if self.report.try_send(report).is_err() {
                    tracing::warn!("a TLS library's report was dropped; too many wait");
                }
            }
        }
    }

    fn plan(&mut self, pid: u32, after: &[Duration]) {
        let now = Instant::now();
        for wait in after {
            if self.planned.len() < PLANNED_MAX {
                self.planned.insert((now + *wait, pid));
            }
        }
    }

    /// Looks at whom it is time to look at.
    fn look(&mut self) {
        while let Some(&(at, pid)) = self.planned.first()
            && at <= Instant::now()
        {
            self.planned.pop_first();
            self.finder.look_at(pid);
        }
        if self.all_at <= Instant::now() {
            self.all_at = Instant::now() + ALL_INTERVAL;
            let reports = self.finder.look_at_all();
            self.finder.reports = reports;
            self.finder.control.forget_ended_tls();
        }
    }
}
