//! Reads `/proc` and cgroups once: what every process, network namespace, cgroup and Java virtual
//! machine that is watched has used so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error_log::{ErrorLog, Status};
use crate::event::ProcessKey;
use crate::kernel::cgroups::Hierarchies;
use crate::kernel::{Control, Membership};

use super::cgroup_set::{CgroupSet, Paths};
use super::cgroup_usage::CgroupUsage;
use super::hsperf::Heap;
use super::jvm::{JvmError, JvmFinder};
use super::net_dev::NetDev;
use super::process_dir::{self, Io, ProcessDir, Stat};

/// Reads `/proc` and cgroups.
#[derive(Debug)]
pub(crate) struct Scanner {
    control: Control,
    errors: Arc<ErrorLog>,
    processes_max: usize,
    cgroups_max: usize,
    /// Pids in the processes' own namespaces.
    inner_pids: HashMap<ProcessKey, u32>,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) processes: Vec<ProcessSample>,
    pub(crate) networks: Vec<NetworkSample>,
    pub(crate) cgroups: Vec<CgroupSample>,
    /// By the place of their process in `processes`.
    pub(crate) machines: Vec<(usize, Heap)>,
    /// Processes for which there was no room.
    pub(crate) processes_omitted: usize,
    /// Cgroups for which there was no room.
    pub(crate) cgroups_omitted: usize,
    /// Bytes of a page of memory.
    pub(crate) page_bytes: u64,
    /// How long it took.
    pub(crate) took: Duration,
    /// CPU time of it.
    pub(crate) cpu: Duration,
}

/// A process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessSample {
    pub(crate) key: ProcessKey,
    pub(crate) stat: Stat,
    pub(crate) io: Io,
}

/// A network namespace.
#[derive(Debug)]
pub(crate) struct NetworkSample {
    pub(crate) inode: u32,
    /// Whether it is the host's own, which no pod has for itself.
    pub(crate) is_host: bool,
    pub(crate) counters: NetDev,
    /// The watched processes in it, by their place in [`Sample::processes`].
    pub(crate) members: Vec<usize>,
}

/// A cgroup.
#[derive(Debug)]
pub(crate) struct CgroupSample {
    pub(crate) path: String,
    pub(crate) usage: CgroupUsage,
    /// The watched processes in it and below.
    pub(crate) members: Vec<usize>,
}

/// What went wrong in a scan, and how often.
#[derive(Debug, Default)]
struct Faults {
    denied: u64,
    odd: u64,
    machines: BTreeMap<String, (u64, Status)>,
}

impl Scanner {
    pub(crate) fn new(
        control: Control,
        errors: Arc<ErrorLog>,
        processes_max: usize,
        cgroups_max: usize,
    ) -> Self {
        Self { control, errors, processes_max, cgroups_max, inner_pids: HashMap::new() }
    }

    /// Reads everything once.
    pub(crate) fn scan(&mut self) -> Sample {
        let (began, cpu) = (Instant::now(), process_dir::thread_cpu());
        let mut sample = Sample { page_bytes: process_dir::page_bytes(), ..Sample::default() };
        // Before the members are listed: a process that is younger than the list is not of it.
        let Some(now_ticks) = process_dir::uptime_ticks() else {
            self.errors.report("host", Status::System, "/proc/uptime cannot be read", 1);
            return sample;
        };
        match self.control.membership() {
            Ok(membership) => self.scan_members(&membership, now_ticks, &mut sample),
            Err(error) => self.errors.report("host", Status::System, &error.to_string(), 1),
        }
        sample.took = began.elapsed();
        sample.cpu = process_dir::thread_cpu().saturating_sub(cpu);
        sample
    }

    fn scan_members(&mut self, membership: &Membership, now_ticks: u64, sample: &mut Sample) {
        let watched = membership.processes();
        let mut faults = Faults::default();
        let mut jvms = JvmFinder::default();
        let mut networks = Networks::new(membership);
        let mut paths = Vec::new();
        for pid in &watched {
            let Some((dir, process)) = open(*pid, now_ticks, &mut faults) else { continue };
            if sample.processes.len() >= self.processes_max {
                sample.processes_omitted += 1;
                continue;
            }
            let index = sample.processes.len();
            networks.take(&dir, index);
            paths.push(Paths::parse(&dir.read("cgroup").unwrap_or_default()));
            if let Some(heap) = self.heap(&dir, process.key, &mut jvms, &mut faults) {
                sample.machines.push((index, heap));
            }
            sample.processes.push(process);
        }
        sample.networks = networks.read(&sample.processes, &mut faults);
        self.scan_cgroups(membership, &watched, &paths, sample);
        let alive: BTreeSet<_> = sample.processes.iter().map(|process| process.key).collect();
        self.inner_pids.retain(|key, _| alive.contains(key));
        faults.report(&self.errors);
    }

    fn heap(
        &mut self,
        dir: &ProcessDir,
        key: ProcessKey,
        jvms: &mut JvmFinder,
        faults: &mut Faults,
    ) -> Option<Heap> {
        let inner = if let Some(inner) = self.inner_pids.get(&key) {
            *inner
        } else {
            let (inner, _) = process_dir::inner_pid_and_user(&dir.read("status").ok()?)?;
            self.inner_pids.insert(key, inner);
            inner
        };
        jvms.heap(dir, inner).unwrap_or_else(|error| {
            faults.machine(&error);
            None
        })
    }

    fn scan_cgroups(
        &self,
        membership: &Membership,
        watched: &BTreeSet<u32>,
        paths: &[Paths],
        sample: &mut Sample,
    ) {
        let hierarchies = match Hierarchies::read() {
            Ok(hierarchies) => hierarchies,
            Err(error) => {
                let text = format!("/proc/self/mountinfo cannot be read: {}", error.kind());
                self.errors.report("host", Status::System, &text, 1);
                return;
            }
        };
        let set = CgroupSet::find(&hierarchies, membership, watched, paths, self.cgroups_max);
        sample.cgroups_omitted = set.omitted();
        let members = members_by_path(paths);
        sample.cgroups = set
            .usages()
            .map(|(path, usage)| {
                let members = members.get(path).cloned().unwrap_or_default();
                CgroupSample { path: path.to_owned(), usage, members }
            })
            .collect();
    }
}

/// Opens a process and reads what it has used; `None` where it has ended, is younger than
/// `now_ticks`, or is a thread of the kernel.
fn open(pid: u32, now_ticks: u64, faults: &mut Faults) -> Option<(ProcessDir, ProcessSample)> {
    let dir = faults.noted(ProcessDir::open(pid))?;
    let line = faults.noted(dir.read("stat"))?;
    let stat = faults.understood(&line, Stat::parse)?;
    if stat.is_kernel_thread || stat.start_ticks > now_ticks {
        return None;
    }
    let io = match dir.read("io") {
        Ok(text) => faults.understood(&text, Io::parse).unwrap_or_default(),
        Err(error) if process_dir::is_gone(&error) => return None,
        Err(error) => {
            faults.note(&error);
            Io::default()
        }
    };
    Some((dir, ProcessSample { key: stat.key(pid), stat, io }))
}

/// The processes in each cgroup and below, by the cgroup's path, in whichever hierarchy.
fn members_by_path(paths: &[Paths]) -> HashMap<String, Vec<usize>> {
    let mut members: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, paths) in paths.iter().enumerate() {
        let all = paths.unified.iter().chain(paths.v1.iter().map(|(_, path)| path));
        let distinct: BTreeSet<&str> = all.flat_map(|path| ancestors(path)).collect();
        for path in distinct {
            members.entry(path.to_owned()).or_default().push(index);
        }
    }
    members
}

/// A path and all above it.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (above, _) => Some(above),
    })
}

/// Network namespaces as they are met.
struct Networks<'a> {
    membership: &'a Membership,
    host: BTreeSet<u32>,
    found: BTreeMap<u32, Vec<(usize, Option<String>)>>,
}

impl<'a> Networks<'a> {
    fn new(membership: &'a Membership) -> Self {
        Self { membership, host: Membership::host_netns(), found: BTreeMap::new() }
    }

    /// Takes note of the namespace of a process, and reads it where it is the first in it.
    fn take(&mut self, dir: &ProcessDir, index: usize) {
        let Ok(found) = std::fs::metadata(dir.path("ns/net")) else { return };
        let Ok(inode) = u32::try_from(found.ino()) else { return };
        // Others' traffic goes through the host's own interfaces too.
        if self.host.contains(&inode) && !self.membership.watches_netns(inode) {
            return;
        }
        let members = self.found.entry(inode).or_default();
        let text = if members.is_empty() { dir.read("net/dev").ok() } else { None };
        members.push((index, text));
    }

    fn read(self, processes: &[ProcessSample], faults: &mut Faults) -> Vec<NetworkSample> {
        let mut samples = Vec::new();
        for (inode, members) in self.found {
            // Where the first has ended meanwhile, another one tells.
            let first = members.iter().find_map(|(_, text)| text.clone());
            let text = first.or_else(|| {
                let again = |(index, _): &(usize, Option<String>)| {
                    let dir = ProcessDir::open(processes[*index].key.tgid).ok()?;
                    let stat = Stat::parse(&dir.read("stat").ok()?)?;
                    let is_same = stat.key(processes[*index].key.tgid) == processes[*index].key;
                    if is_same { dir.read("net/dev").ok() } else { None }
                };
                members.iter().find_map(again)
            });
            let Some(text) = text else { continue };
            if let Some(counters) = faults.understood(&text, NetDev::parse) {
                let is_host = self.host.contains(&inode);
                let members = members.into_iter().map(|(index, _)| index).collect();
                samples.push(NetworkSample { inode, is_host, counters, members });
            }
        }
        samples
    }
}

impl Faults {
    fn note(&mut self, error: &std::io::Error) {
        if process_dir::is_gone(error) {
            return;
        }
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            self.denied += 1;
        } else {
            self.odd += 1;
        }
    }

    fn noted<T>(&mut self, result: std::io::Result<T>) -> Option<T> {
        result.inspect_err(|error| self.note(error)).ok()
    }

    fn understood<T>(&mut self, text: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
        let parsed = parse(text);
        // A process that ends meanwhile leaves empty files.
        self.odd += u64::from(parsed.is_none() && !text.is_empty());
        parsed
    }

    fn machine(&mut self, error: &JvmError) {
        let status = match error {
            JvmError::Read(_) => Status::System,
            JvmError::Size => Status::Exhausted,
            JvmError::Content(_) | JvmError::Owner => Status::Invalid,
        };
        self.machines.entry(error.to_string()).or_insert((0, status)).0 += 1;
    }

    fn report(self, errors: &ErrorLog) {
        let text = "files of processes may not be read; run as root or with CAP_SYS_PTRACE";
        errors.report("host", Status::Denied, text, self.denied);
        errors.report("host", Status::Invalid, "files of /proc are not understood", self.odd);
        for (text, (count, status)) in self.machines {
            errors.report("jvm", status, &text, count);
        }
    }
}
