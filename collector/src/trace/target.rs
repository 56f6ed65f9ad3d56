//! Which processes a script means, and which file of theirs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use undine_schema::Upid;
use undine_schema::trace::{TraceError, TraceTarget};

use crate::event::ProcessKey;
use crate::process::{self, Facts, TICK_NS};
use crate::service_name::Place;
use crate::tls::mappings;

/// Most processes that one tracepoint probes.
pub const PROCESSES_MAX: usize = 64;

/// A process, and the file whose function is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) pid: u32,
    pub(crate) file: PathBuf,
}

/// The processes that `target` means, of those that are watched on node `asid`.
pub(crate) fn resolve(
    target: &TraceTarget,
    watched: &BTreeSet<u32>,
    asid: u32,
) -> Result<Vec<Target>, TraceError> {
    match target {
        TraceTarget::Process(upid) => {
            let pid = process_of(*upid, watched, asid)?;
            Ok(vec![Target { pid, file: program(pid) }])
        }
        TraceTarget::SharedObject { name, upid } => {
            let pid = process_of(*upid, watched, asid)?;
            Ok(vec![Target { pid, file: library(pid, name)? }])
        }
        TraceTarget::Matching { pod, container, cmdline } => {
            matching(pod, container, cmdline, watched)
        }
    }
}

fn program(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/exe"))
}

fn process_of(upid: Upid, watched: &BTreeSet<u32>, asid: u32) -> Result<u32, TraceError> {
    let pid = upid.pid();
    if upid.asid() != asid {
        let reason = format!("process {upid} is of node {}, this is node {asid}", upid.asid());
        return Err(TraceError::new(reason, "take the upid of a row of this node"));
    }
    let start_ns = upid.start_ticks().saturating_mul(TICK_NS);
    if !process::is_running(ProcessKey { tgid: pid, start_ns }) {
        let reason = format!("there is no process {upid} any more");
        return Err(TraceError::new(reason, "take the upid of a row that is some seconds old"));
    }
    if !watched.contains(&pid) {
        let reason = format!("process {pid} is not watched");
        return Err(TraceError::new(reason, "add it to the scope in the configuration"));
    }
    Ok(pid)
}

/// A library that a process has mapped.
fn library(pid: u32, name: &str) -> Result<PathBuf, TraceError> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let files = mappings::parse(&maps);
    let file_name =
        |path: &str| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
    let found = files
        .iter()
        .find(|file| file_name(&file.name).is_some_and(|known| known.starts_with(name)));
    let Some(found) = found.filter(|_| !name.is_empty()) else {
        let names: Vec<_> =
            files.iter().filter_map(|file| file_name(&file.name)).take(16).collect();
        let reason = format!("process {pid} has mapped no library `{name}`");
        return Err(TraceError::new(reason, format!("it has mapped {}", names.join(", "))));
    };
    let [mapped, named] = found.paths(pid);
    // The name may be that of another file by now; where it is the same, it needs fewer rights.
    Ok(if std::fs::File::open(&mapped).is_ok() { mapped } else { named })
}

fn matching(
    pod: &str,
    container: &str,
    cmdline: &str,
    watched: &BTreeSet<u32>,
) -> Result<Vec<Target>, TraceError> {
    if pod.is_empty() && container.is_empty() && cmdline.is_empty() {
        return Err(TraceError::new(
            "the target names no process",
            "give a pod, a container or a part of a command line",
        ));
    }
    let mut found = Vec::new();
    for pid in watched {
        let Some(facts) = process::running(*pid).and_then(Facts::read) else { continue };
        // Threads of the kernel have no program.
        if facts.exe.is_empty() || !is_meant(&facts, pod, container, cmdline) {
            continue;
        }
        found.push(Target { pid: *pid, file: program(*pid) });
    }
    if found.is_empty() {
        let named = [("pod", pod), ("container", container), ("a command line with", cmdline)];
        let named: Vec<_> = named
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(what, text)| format!("{what} `{text}`"))
            .collect();
        let reason = format!("no watched process has {}", named.join(" and "));
        let help = "the tables processes and process_stats show those that are watched; pods are \
                    known by their uid, containers by their id";
        return Err(TraceError::new(reason, help));
    }
    if found.len() > PROCESSES_MAX {
        let reason = format!("{} processes match, at most {PROCESSES_MAX} are probed", found.len());
        return Err(TraceError::new(reason, "give more of the command line"));
    }
    Ok(found)
}

fn is_meant(facts: &Facts, pod: &str, container: &str, cmdline: &str) -> bool {
    let place = Place::of(facts);
    // Scripts write a pod as `namespace/pod`; here its uid stands for its name.
    let pod = pod.rsplit('/').next().unwrap_or(pod);
    let pod = pod.strip_prefix("pod-").unwrap_or(pod);
    (pod.is_empty() || (!place.pod_uid.is_empty() && place.pod_uid.starts_with(pod)))
        && (container.is_empty()
            || (!place.container_id.is_empty() && place.container_id.starts_with(container)))
        && (cmdline.is_empty() || facts.cmdline().contains(cmdline))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> (u32, Upid) {
        let pid = std::process::id();
        (pid, process::running(pid).unwrap().upid(1))
    }

    #[test]
    fn only_a_watched_process_that_runs_here_is_a_target() {
        let (pid, upid) = own();
        let target = TraceTarget::Process(upid);
        let found = resolve(&target, &BTreeSet::from([pid]), 1).unwrap();
        assert_eq!(found, [Target { pid, file: program(pid) }]);
        let outside = resolve(&target, &BTreeSet::new(), 1).unwrap_err();
        assert_eq!(outside.reason, format!("process {pid} is not watched"));
        assert!(resolve(&target, &BTreeSet::from([pid]), 2).is_err());
        let later = Upid::new(1, pid, upid.start_ticks() + 1);
        let gone = resolve(&TraceTarget::Process(later), &BTreeSet::from([pid]), 1).unwrap_err();
        assert!(gone.reason.starts_with("there is no process"), "{gone:?}");
    }

    #[test]
    fn a_library_is_found_by_the_beginning_of_its_name() {
        let (pid, upid) = own();
        let of = |name: &str| TraceTarget::SharedObject { name: name.to_owned(), upid };
        let found = resolve(&of("libc.so"), &BTreeSet::from([pid]), 1).unwrap();
        assert!(std::fs::File::open(&found[0].file).is_ok());
        for name in ["libnowhere.so", ""] {
            let missing = resolve(&of(name), &BTreeSet::from([pid]), 1).unwrap_err();
            assert!(missing.help.contains("libc.so"), "{missing:?}");
        }
    }

    #[test]
    fn processes_are_found_by_what_they_were_started_as() {
        let (pid, _) = own();
        let of = |pod: &str, cmdline: &str| TraceTarget::Matching {
            pod: pod.to_owned(),
            container: String::new(),
            cmdline: cmdline.to_owned(),
        };
        let cmdline = Facts::read(process::running(pid).unwrap()).unwrap().cmdline();
        let watched = BTreeSet::from([pid]);
        assert_eq!(resolve(&of("", &cmdline), &watched, 1).unwrap().len(), 1);
        assert!(resolve(&of("", "no such command line"), &watched, 1).is_err());
        assert!(resolve(&of("shop/cart", ""), &watched, 1).is_err());
        assert!(resolve(&of("", ""), &watched, 1).is_err());
    }
}
