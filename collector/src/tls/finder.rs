//! Which processes are looked at for TLS libraries, and when.
//!
//! A program maps its libraries some time after it was started, or when it first needs them, and
//! nothing tells of that. So a process is looked at several times, ever less often.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
/// Most files that are remembered as looked at; half of them are forgotten if nobody maps them any more.
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
    files: Files,
    /// Files that were not looked at since the last look at all processes, because there are too many.
    left_out: u64,
    reports: Vec<LibraryReport>,
}

/// Device and inode of a file, as `stat` has them.
type Inode = (u64, u64);

/// What of TLS a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A program or a TLS library: all that is known here.
    Any,
    /// Another library: what is linked into it.
    Linked,
}

/// Files that were looked at.
#[derive(Debug, Default)]
struct Files {
    mapped: HashMap<FileId, Inode>,
    /// Those above, and what was found without a process.
    known: BTreeSet<Inode>,
    /// Those of them that are probed, which are never forgotten: probed twice, each call would count
    /// twice.
    probed: BTreeSet<Inode>,
}

impl Files {
    /// Forgets those that are not among `mapped`.
    fn forget_others(&mut self, mapped: &HashSet<FileId>) {
        let gone: Vec<_> = self.mapped.extract_if(|file, _| !mapped.contains(file)).collect();
        for (_, inode) in gone {
            if !self.probed.contains(&inode) {
                self.known.remove(&inode);
            }
        }
    }
}

impl Finder {
    /// Has looked at nothing yet.
    pub(crate) fn new(control: Control, placing: Placing) -> Self {
        Self { control, placing, files: Files::default(), left_out: 0, reports: Vec::new() }
    }

    /// Looks at all processes that are watched, and gives what was found.
    pub(crate) fn look_at_all(&mut self) -> Vec<LibraryReport> {
        if self.control.watches_whole_host() {
            self.look_at_host();
        }
        let mut mapped = HashSet::new();
        for pid in self.control.watched_processes() {
            mapped.extend(self.look_at(pid).into_iter().map(|mapping| mapping.file));
        }
        if self.files.mapped.len() > FILES_MAX / 2 {
            self.files.forget_others(&mapped);
        }
        if self.left_out > 0 {
            let left_out = std::mem::take(&mut self.left_out);
            self.reports.push(too_many(left_out));
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
                let inode = (metadata.dev(), metadata.ino());
                if self.files.known.insert(inode) {
                    self.probe(&path, inode, path.display().to_string(), Part::Any);
                }
            }
        }
    }

    /// Looks at what process `pid` has mapped, and gives it.
    fn look_at(&mut self, pid: u32) -> Vec<Mapping> {
        let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return Vec::new() };
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let mappings = mappings::parse(&maps);
        for mapping in &mappings {
            let is_program = exe.as_deref() == Some(Path::new(&mapping.name));
            let part = if mapping.is_library() || is_program {
                Part::Any
            } else if mapping.is_shared_object() {
                Part::Linked
            } else {
                continue;
            };
            if self.files.mapped.contains_key(&mapping.file) {
                continue;
            }
            if self.files.mapped.len() < FILES_MAX {
                self.look_at_file(pid, mapping, part);
            } else {
                self.left_out += 1;
            }
        }
        mappings
    }

    fn look_at_file(&mut self, pid: u32, mapping: &Mapping, part: Part) {
        for path in mapping.paths(pid) {
            // A process that has ended meanwhile has none; another may map the same file.
            let Ok(file) = File::open(&path) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            let inode = (metadata.dev(), metadata.ino());
            self.files.mapped.insert(mapping.file.clone(), inode);
            if self.files.known.insert(inode) {
                // It stays the same file, also where the process ends now.
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                self.probe(Path::new(&path), inode, mapping.name.clone(), part);
            }
            return;
        }
    }

    fn probe(&mut self, path: &Path, inode: Inode, name: String, part: Part) {
        let library = match part {
            Part::Any => Library::read(path, self.placing),
            Part::Linked => Ok(Library::read_linked(path, self.placing)),
        };
        let mut library = match library {
            Ok(Some(library)) => library,
            Ok(None) => return,
            Err(error) => {
                let why = format!("{error}{}", cause(&error));
                let report = |outcome| LibraryReport { name, outcome, manners: BTreeMap::new() };
                self.reports.push(report(Outcome::Refused(why)));
                return;
            }
        };
        let outcome = self.control.probe_tls(path, &mut library);
        if outcome == Outcome::Attached {
            self.files.probed.insert(inode);
        }
        self.reports.push(LibraryReport { name, outcome, manners: library.manners });
    }
}

/// That so many mappings were not looked at, as if they were a library.
fn too_many(left_out: u64) -> LibraryReport {
    let why = format!(
        "{FILES_MAX} files are mapped already; {left_out} mappings of further ones were not looked at"
    );
    let name = "files beyond the limit".to_owned();
    LibraryReport { name, outcome: Outcome::Refused(why), manners: BTreeMap::new() }
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
            let _mapped = self.finder.look_at(pid);
        }
        if self.all_at <= Instant::now() {
            self.all_at = Instant::now() + ALL_INTERVAL;
            let reports = self.finder.look_at_all();
            self.finder.reports = reports;
            self.finder.control.forget_ended_tls();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_nobody_maps_any_more_are_forgotten_unless_they_are_probed() {
        let maps = "\
01-02 r-xp 00000000 fe:00 1 /bin/a
03-04 r-xp 00000000 fe:00 2 /bin/b
05-06 r-xp 00000000 fe:00 3 /bin/c";
        let ids: Vec<_> = mappings::parse(maps).into_iter().map(|mapping| mapping.file).collect();
        let mut files = Files::default();
        for (id, inode) in ids.iter().zip(1..) {
            files.mapped.insert(id.clone(), (9, inode));
            files.known.insert((9, inode));
        }
        // One that was found without a process.
        files.known.insert((9, 4));
        files.probed.insert((9, 2));
        files.forget_others(&HashSet::from([ids[0].clone()]));
        assert_eq!(files.mapped.keys().collect::<Vec<_>>(), [&ids[0]]);
        assert_eq!(files.known, BTreeSet::from([(9, 1), (9, 2), (9, 4)]));
    }

    #[test]
    fn a_limit_that_was_reached_is_told_as_a_library_is() {
        let Outcome::Refused(why) = too_many(3).outcome else { panic!() };
        assert_eq!(
            why,
            "65536 files are mapped already; 3 mappings of further ones were not looked at"
        );
    }
}
