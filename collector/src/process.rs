//! Which processes there are, as far as messages name them.
//!
//! A process is looked up in `/proc` when the first message of it comes, and again when it runs a
//! new program; nobody else is looked at. In a replay the recording says what `/proc` said then.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use undine_ebpf::ProcessInfo;
use undine_schema::Upid;

use crate::event::ProcessKey;
use crate::id_map::IdMap;
use crate::service_name::{NamedBy, Place, ServiceRule, service_name};

/// Most processes that are remembered; the longest unused go first.
pub const PROCESSES_MAX: usize = 16 * 1024;
/// Most processes that are remembered after their end.
const ENDED_MAX: usize = 1024;
/// Most bytes of a process's arguments.
const CMDLINE_BYTES_MAX: usize = 4096;
/// Most ports under one name; further ones share the plain name.
const PORTS_MAX: usize = 256;
/// Nanoseconds of a clock tick, as `/proc/PID/stat` counts.
pub(crate) const TICK_NS: u64 = 10_000_000;

impl ProcessKey {
    /// The process's identity on node `asid`.
    pub fn upid(self, asid: u32) -> Upid {
        Upid::new(asid, self.tgid, self.start_ns / TICK_NS)
    }
}

/// What `/proc` says of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name in the kernel.
    pub comm: String,
    /// Path of its executable, empty where it cannot be read.
    pub exe: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its path in the unified cgroup hierarchy.
    pub cgroup: String,
    /// Its path in the hierarchy of systemd, where that is another.
    pub systemd_cgroup: String,
    /// Its parent's process id.
    pub parent: u32,
}

impl Facts {
    /// The arguments, joined by blanks.
    pub fn cmdline(&self) -> String {
        self.args.join(" ")
    }

    /// Reads what `/proc` says of the process `key`; `None` where it is gone, or its pid belongs
    /// to another by now.
    pub fn read(key: ProcessKey) -> Option<Self> {
        let base = format!("/proc/{}", key.tgid);
        let stat = std::fs::read_to_string(format!("{base}/stat")).ok()?;
        let (comm, parent, start_ticks) = parse_stat(&stat)?;
        if start_ticks != key.start_ns / TICK_NS {
            return None;
        }
        let mut cmdline = std::fs::read(format!("{base}/cmdline")).unwrap_or_default();
        cmdline.truncate(CMDLINE_BYTES_MAX);
        let exe = std::fs::read_link(format!("{base}/exe"))
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        let cgroups = std::fs::read_to_string(format!("{base}/cgroup")).unwrap_or_default();
        let (cgroup, systemd_cgroup) = parse_cgroups(&cgroups);
        Some(Self { comm, exe, args: parse_cmdline(&cmdline), cgroup, systemd_cgroup, parent })
    }
}

/// The process that has `pid` now.
pub(crate) fn running(pid: u32) -> Option<ProcessKey> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, _, start_ticks) = parse_stat(&stat)?;
    Some(ProcessKey { tgid: pid, start_ns: start_ticks * TICK_NS })
}

/// Whether the process `key` still runs, so that what `/proc` says of its pid is of it.
pub(crate) fn is_running(key: ProcessKey) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", key.tgid)).unwrap_or_default();
    parse_stat(&stat).is_some_and(|(_, _, start_ticks)| start_ticks == key.start_ns / TICK_NS)
}

/// Name, parent and start of a line of `/proc/PID/stat`.
fn parse_stat(stat: &str) -> Option<(String, u32, u64)> {
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let comm = stat.get(open + 1..close)?.to_owned();
    let mut fields = stat.get(close + 1..)?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some((comm, parent, start))
}

fn parse_cmdline(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\0', ' ']);
    if text.is_empty() { Vec::new() } else { text.split('\0').map(str::to_owned).collect() }
}

/// The unified path and the one of systemd's own hierarchy.
fn parse_cgroups(lines: &str) -> (String, String) {
    let path = |start: &str| {
        lines.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.strip_prefix(start).map(str::to_owned)
        })
    };
    (path(":").unwrap_or_default(), path("name=systemd:").unwrap_or_default())
}

/// Where facts come from.
#[derive(Debug)]
pub enum FactSource {
    /// `/proc` of this machine.
    Proc,
    /// What a recording said, by process; the newest counts.
    Recorded(HashMap<ProcessKey, Facts>),
}

/// A process that messages named.
#[derive(Debug)]
pub struct Process {
    /// Its identity.
    pub upid: Upid,
    /// What is known of it.
    pub facts: Facts,
    /// Where it runs.
    pub place: Place,
    /// The ports that it serves at, as far as seen.
    ports: BTreeSet<u16>,
    labels: Vec<(Option<u16>, u64, Arc<str>)>,
    used_at: u64,
    has_ended: bool,
}

/// What happened to a process, for the table `processes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was seen for the first time, or runs a new program.
    Began,
    /// It ended, with this exit code.
    Ended(i32),
}

/// A process that `/proc` shows, of which no message need have come.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its pid and its start, the latter as exactly as `/proc` tells.
    pub key: ProcessKey,
    /// What else `/proc` says, where it was read.
    pub facts: Option<Facts>,
}

/// Who a process is: what the rows of all tables say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its identity.
    pub upid: Upid,
    /// Its service, by the public rule.
    pub service: Arc<str>,
    /// Where it runs.
    pub place: Place,
}

/// All processes that messages named, and the names of their services.
#[derive(Debug)]
pub struct Processes {
    asid: u32,
    rules: Vec<ServiceRule>,
    source: FactSource,
    known: IdMap<ProcessKey, Process>,
    /// The youngest process of a pid.
    by_tgid: IdMap<u32, ProcessKey>,
    /// Those that ended, whose last rows may still come.
    ended: VecDeque<ProcessKey>,
    names: HashMap<String, BTreeSet<u16>>,
    /// Changes whenever a label that was given may be another now.
    version: u64,
    changes: Vec<(ProcessKey, Change)>,
    fresh: Vec<(ProcessKey, Facts)>,
    evicted: u64,
    clock: u64,
}

impl Processes {
    /// No processes yet.
    pub fn new(asid: u32, rules: Vec<ServiceRule>, source: FactSource) -> Self {
        Self {
            asid,
            rules,
            source,
            known: IdMap::default(),
            by_tgid: IdMap::default(),
            ended: VecDeque::new(),
            names: HashMap::new(),
            version: 0,
            changes: Vec::new(),
            fresh: Vec::new(),
            evicted: 0,
            clock: 0,
        }
    }

    /// Makes sure that the process `key` is known.
    pub fn meet(&mut self, key: ProcessKey) {
        self.clock += 1;
        if let Some(process) = self.known.get_mut(&key) {
            process.used_at = self.clock;
        } else {
            let facts = self.read(key).unwrap_or_default();
            self.enter(key, facts);
        }
    }

    /// A process was forked: the child runs its parent's program until it says otherwise.
    pub fn fork(&mut self, child: ProcessKey, info: &ProcessInfo) {
        if self.known.contains_key(&child) {
            return;
        }
        let parent = self.by_tgid.get(&info.parent_tgid).and_then(|key| self.known.get(key));
        let parent = parent.map(|parent| &parent.facts);
        let mut facts = match (parent, &self.source) {
            (Some(parent), _) => parent.clone(),
            (None, _) => self.read(child).unwrap_or_default(),
        };
        facts.comm = comm(info);
        facts.parent = info.parent_tgid;
        self.enter(child, facts);
    }

    /// A process runs a new program.
    pub fn exec(&mut self, key: ProcessKey, info: &ProcessInfo) {
        let mut facts = self.read(key).unwrap_or_else(|| {
            let old = self.known.get(&key);
            let cgroup = old.map(|old| old.facts.cgroup.clone()).unwrap_or_default();
            Facts { cgroup, parent: info.parent_tgid, ..Facts::default() }
        });
        if facts.comm.is_empty() {
            facts.comm = comm(info);
        }
        self.enter(key, facts);
    }

    /// A process ended; false where that is known already. Threads that are killed at the same
    /// moment may each look like the last one.
    pub fn exit(&mut self, key: ProcessKey, info: &ProcessInfo) -> bool {
        if !self.known.contains_key(&key) {
            // It was there before us. What is left of it still says where it ran.
            let mut facts = self.read(key).unwrap_or_default();
            facts.comm = comm(info);
            self.enter(key, facts);
        }
        let known = self.known.get_mut(&key);
        if known.is_some_and(|process| std::mem::replace(&mut process.has_ended, true)) {
            return false;
        }
        self.changes.push((key, Change::Ended(exit_code(info.exit_code))));
        self.ended.push_back(key);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.forget(oldest);
        }
        true
    }

    /// What is known of the process `key`.
    pub fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.known.get(&key)
    }

    /// Who the process is that `/proc` shows; `None` where it is not known and `seen` does not say.
    pub fn identify(&mut self, seen: Seen) -> Option<Identity> {
        let upid = seen.key.upid(self.asid);
        // Messages know the start more exactly than `/proc` does.
        let exact = self.by_tgid.get(&seen.key.tgid).filter(|key| key.upid(self.asid) == upid);
        let key = match (exact, seen.facts) {
            (Some(key), _) => *key,
            (None, Some(facts)) => {
                self.enter(seen.key, facts);
                seen.key
            }
            (None, None) => return None,
        };
        self.meet(key);
        let service = self.service(key, None);
        let process = self.known.get(&key)?;
        Some(Identity { upid, service, place: process.place.clone() })
    }

    /// Takes note that the process serves at `port`.
    pub fn serves(&mut self, key: ProcessKey, port: u16) {
        let Some(process) = self.known.get_mut(&key) else { return };
        if process.ports.contains(&port) || process.ports.len() >= PORTS_MAX {
            return;
        }
        process.ports.insert(port);
        let (name, by) = service_name(&self.rules, &process.facts, Some(port));
        if by.is_told_apart_by_port() {
            let ports = self.names.entry(name).or_default();
            if ports.len() < PORTS_MAX && ports.insert(port) {
                self.version += 1;
            }
        }
    }

    /// The service of the process where it serves at `port`, or as a client where that is `None`.
    pub fn service(&mut self, key: ProcessKey, port: Option<u16>) -> Arc<str> {
        let version = self.version;
        let Some(process) = self.known.get_mut(&key) else { return Arc::from("") };
        // As a client, a process with one port is the service at that port.
        let port = port.or_else(|| match process.ports.len() {
            1 => process.ports.first().copied(),
            _ => None,
        });
        let label = process.labels.iter().find(|(of, at, _)| *of == port && *at == version);
        if let Some((_, _, label)) = label {
            return Arc::clone(label);
        }
        let (mut name, by) = service_name(&self.rules, &process.facts, port);
        let listeners = self.names.get(&name).map_or(0, BTreeSet::len);
        if let Some(port) = port
            && by != NamedBy::Rule
            && by.is_told_apart_by_port()
            && listeners > 1
        {
            name = format!("{name}:{port}");
        }
        let label: Arc<str> = Arc::from(name);
        process.labels.retain(|(of, at, _)| *of != port && *at == version);
        process.labels.push((port, version, Arc::clone(&label)));
        label
    }

    /// Changes whenever [`Self::service`] may answer otherwise than before.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Takes what happened since the last call.
    pub fn take_changes(&mut self) -> Vec<(ProcessKey, Change)> {
        std::mem::take(&mut self.changes)
    }

    /// Takes what was read since the last call, for a recording.
    pub fn take_fresh(&mut self) -> Vec<(ProcessKey, Facts)> {
        std::mem::take(&mut self.fresh)
    }

    /// Adds what a recording says of a process.
    pub fn recorded(&mut self, key: ProcessKey, facts: Facts) {
        if let FactSource::Recorded(all) = &mut self.source {
            all.insert(key, facts);
        }
    }

    /// Forgets a process; its pid may be another's by now.
    fn forget(&mut self, key: ProcessKey) {
        self.known.remove(&key);
        if self.by_tgid.get(&key.tgid) == Some(&key) {
            self.by_tgid.remove(&key.tgid);
        }
    }

    fn read(&self, key: ProcessKey) -> Option<Facts> {
        match &self.source {
            FactSource::Proc => Facts::read(key),
            FactSource::Recorded(all) => all.get(&key).cloned(),
        }
    }

    fn enter(&mut self, key: ProcessKey, facts: Facts) {
        if self.known.len() >= PROCESSES_MAX && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, p)| p.used_at).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.forget(oldest);
                self.evicted += 1;
            }
        }
        self.clock += 1;
        self.version += 1;
        let upid = key.upid(self.asid);
        let place = Place::of(&facts);
        self.fresh.push((key, facts.clone()));
        // As `/proc` showed it, its start was known less exactly.
        let before = self.by_tgid.get(&key.tgid).filter(|old| **old != key);
        let before = before.filter(|old| old.upid(self.asid) == upid).copied();
        let before = before.and_then(|old| self.known.remove(&old));
        let old = self.known.get(&key).or(before.as_ref());
        let ports = old.map(|process| process.ports.clone()).unwrap_or_default();
        let is_same = before.is_some_and(|process| process.facts == facts);
        let process = Process {
            upid,
            facts,
            place,
            ports,
            labels: Vec::new(),
            used_at: self.clock,
            has_ended: false,
        };
        self.known.insert(key, process);
        self.by_tgid.insert(key.tgid, key);
        if !is_same {
            self.changes.push((key, Change::Began));
        }
    }
}

/// The process's name, as the kernel tells it.
pub(crate) fn comm(info: &ProcessInfo) -> String {
    let end = info.comm.iter().position(|b| *b == 0).unwrap_or(info.comm.len());
    String::from_utf8_lossy(&info.comm[..end]).into_owned()
}

/// The exit code as a shell shows it: 128 and the signal's number where a signal ended it.
fn exit_code(status: i32) -> i32 {
    let signal = status & 0x7f;
    if signal == 0 { (status >> 8) & 0xff } else { 128 + signal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(programs: &[(u32, &str)]) -> Processes {
        let facts = programs.iter().map(|(tgid, exe)| {
            let facts = Facts { exe: (*exe).to_owned(), ..Facts::default() };
            (key(*tgid), facts)
        });
        let mut processes = Processes::new(1, Vec::new(), FactSource::Recorded(facts.collect()));
        for (tgid, _) in programs {
            processes.meet(key(*tgid));
        }
        processes
    }

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey { tgid, start_ns: 5 * TICK_NS + 3 }
    }

    #[test]
    fn two_listeners_under_one_name_are_told_apart_by_their_port() {
        let mut processes = recorded(&[(1, "/bin/a"), (2, "/bin/a"), (3, "/bin/b")]);
        processes.serves(key(1), 80);
        assert_eq!(&*processes.service(key(1), Some(80)), "a");
        processes.serves(key(2), 81);
        processes.serves(key(3), 82);
        assert_eq!(&*processes.service(key(1), Some(80)), "a:80");
        assert_eq!(&*processes.service(key(2), None), "a:81");
        assert_eq!(&*processes.service(key(3), Some(82)), "b");
    }

    #[test]
    fn workers_that_share_a_port_are_one_service() {
        let mut processes = recorded(&[(1, "/bin/a"), (2, "/bin/a")]);
        processes.serves(key(1), 80);
        processes.serves(key(2), 80);
        assert_eq!(&*processes.service(key(2), Some(80)), "a");
    }

    #[test]
    fn a_new_program_is_a_new_version_under_the_same_identity() {
        let mut processes = recorded(&[(1, "/bin/sh")]);
        processes.recorded(key(1), Facts { exe: "/bin/web".to_owned(), ..Facts::default() });
        processes.exec(key(1), &ProcessInfo::default());
        assert_eq!(&*processes.service(key(1), None), "web");
        let killed = ProcessInfo { exit_code: 9, ..ProcessInfo::default() };
        assert!(processes.exit(key(1), &killed), "the first that says so");
        assert!(!processes.exit(key(1), &killed), "another thread of it");
        let changes: Vec<_> = processes.take_changes().into_iter().map(|(_, c)| c).collect();
        assert_eq!(changes, [Change::Began, Change::Began, Change::Ended(137)]);
    }

    #[test]
    fn a_process_that_proc_showed_first_is_the_same_when_messages_name_it() {
        let mut processes = recorded(&[(1, "/bin/a")]);
        let facts = Facts { exe: "/bin/b".to_owned(), ..Facts::default() };
        let shown = ProcessKey { tgid: 2, start_ns: 5 * TICK_NS };
        assert_eq!(processes.identify(Seen { key: shown, facts: None }), None);
        let identity = processes.identify(Seen { key: shown, facts: Some(facts.clone()) }).unwrap();
        assert_eq!((identity.upid, &*identity.service), (key(2).upid(1), "b"));
        // Its start is the same tick, known more exactly.
        processes.recorded(key(2), facts);
        processes.meet(key(2));
        processes.serves(key(2), 80);
        processes.serves(key(1), 81);
        assert_eq!(processes.known.len(), 2);
        assert_eq!(processes.take_changes().len(), 2);
        let again = processes.identify(Seen { key: shown, facts: None }).unwrap();
        assert_eq!((again.upid, again.service), (identity.upid, processes.service(key(2), None)));
    }

    #[test]
    fn the_end_of_a_process_that_was_there_before_us_is_told_too() {
        let mut processes = recorded(&[]);
        processes.exit(key(9), &ProcessInfo { exit_code: 256, ..ProcessInfo::default() });
        let changes: Vec<_> = processes.take_changes().into_iter().map(|(_, c)| c).collect();
        assert_eq!(changes, [Change::Began, Change::Ended(1)]);
    }

    #[test]
    fn the_identity_of_this_process_is_the_one_in_proc() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, _, ticks) = parse_stat(&stat).unwrap();
        let key = ProcessKey { tgid: std::process::id(), start_ns: ticks * TICK_NS + 7 };
        let facts = Facts::read(key).unwrap();
        assert!(!facts.args.is_empty() && facts.exe.starts_with('/'), "{facts:?}");
        assert_eq!(key.upid(7).start_ticks(), ticks);
        let other = ProcessKey { start_ns: key.start_ns + TICK_NS, ..key };
        assert_eq!(Facts::read(other), None);
    }

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_confuse_the_reader() {
        let stat = "42 (a) (b c) S 7 1 1 0 -1 4 1 0 0 0 1 1 0 0 20 0 1 0 999 1";
        assert_eq!(parse_stat(stat), Some(("a) (b c".to_owned(), 7, 999)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut processes = Processes::new(1, Vec::new(), FactSource::Recorded(HashMap::new()));
        for tgid in 0..u32::try_from(PROCESSES_MAX).unwrap() + 10 {
            processes.meet(ProcessKey { tgid, start_ns: 0 });
        }
        assert_eq!((processes.known.len(), processes.evicted), (PROCESSES_MAX, 10));
    }
}
