//! Whom the kernel programs watch at one moment, for those who read `/proc` and cgroups.
//!
//! It says the same as the programs do: Undine itself never is watched, then what a target excludes
//! is not, what a target includes is, and the default decides the rest. Where the default is
//! [`ScopeDefault::TargetsOnly`] nobody else's files are opened to find that out but those that name
//! a process's network namespace and its name, and only where there is such a target.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use undine_ebpf::load::{VERDICT_EXCLUDE, VERDICT_INCLUDE};

use super::{ScopeDefault, cgroups, process_tree, scope::Resolved};

/// Inode of the first network namespace since Linux 6.18 (`NET_NS_INIT_INO`).
const FIRST_NETNS: u32 = 0xefff_fff9;

/// A target as any program can recognise who is meant, without the maps of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A cgroup and all below it.
    Cgroup(u64),
    /// A network namespace.
    Netns(u32),
    /// A name, at most 15 bytes.
    Comm(Vec<u8>),
    /// A process, by its pid and the clock tick at which it began, and all that descend from it.
    Tree(u32, u64),
}

/// Whom the kernel programs watched when it was asked for.
#[derive(Clone, Debug)]
pub struct Membership {
    default: ScopeDefault,
    /// Targets but process trees, with their verdicts.
    targets: Vec<(Resolved, u32)>,
    /// Verdicts of processes because of their ancestors, as the programs keep them.
    processes: BTreeMap<u32, u32>,
}

impl Membership {
    pub(super) fn new(
        default: ScopeDefault,
        targets: Vec<(Resolved, u32)>,
        processes: BTreeMap<u32, u32>,
    ) -> Self {
        Self { default, targets, processes }
    }

    /// As if nobody had named a target.
    #[cfg(test)]
    pub(crate) fn without_targets(default: ScopeDefault) -> Self {
        Self::new(default, Vec::new(), BTreeMap::new())
    }

    /// Whether everyone is watched whom no target names.
    pub fn is_whole_host(&self) -> bool {
        self.default == ScopeDefault::WholeHost
    }

    /// The processes that are watched, by their pids; threads of the kernel may be among them.
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut watched = if self.is_whole_host() {
            process_tree::all().into_iter().collect()
        } else {
            self.named(VERDICT_INCLUDE)
        };
        for pid in self.named(VERDICT_EXCLUDE) {
            watched.remove(&pid);
        }
        watched.remove(&std::process::id());
        watched
    }

    /// Directories of the unified hierarchy that are targets: those that are watched with all
    /// below them, and those that never are.
    pub fn cgroups(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        (self.directories(VERDICT_INCLUDE), self.directories(VERDICT_EXCLUDE))
    }

    /// Who is watched, or never is (`is_excluded`). Of trees of processes also those whose parents are
    /// gone.
    pub(crate) fn marks(&self, is_excluded: bool) -> Vec<Mark> {
        let verdict = if is_excluded { VERDICT_EXCLUDE } else { VERDICT_INCLUDE };
        let mut marks = Vec::new();
        let mut trees: Vec<u32> = Vec::new();
        for (target, _) in self.targets.iter().filter(|(_, bits)| bits & verdict != 0) {
            marks.push(match target {
                Resolved::Cgroup(id, _) => Mark::Cgroup(*id),
                Resolved::Netns(inode) => Mark::Netns(*inode),
                Resolved::Comm(padded) => {
                    Mark::Comm(padded.iter().copied().take_while(|byte| *byte != 0).collect())
                }
                Resolved::Process(root) => {
                    trees.push(*root);
                    continue;
                }
            });
        }
        let below: BTreeSet<u32> =
            trees.iter().flat_map(|root| process_tree::descendants(*root)).collect();
        let known = self.processes.iter().filter(|(_, bits)| **bits & verdict != 0);
        trees.extend(known.map(|(pid, _)| *pid).filter(|pid| !below.contains(pid)));
        let trees = trees.into_iter().filter_map(|pid| {
            process_tree::start_ticks(pid).map(|started| Mark::Tree(pid, started))
        });
        marks.extend(trees);
        marks
    }

    /// Whether the same is to be watched, but for processes that came and went.
    pub(crate) fn means_the_same_as(&self, other: &Self) -> bool {
        (self.default, &self.targets) == (other.default, &other.targets)
    }

    /// Whether all of a network namespace is watched, and not only some who are in it.
    pub fn watches_netns(&self, inode: u32) -> bool {
        let verdict = self.targets.iter().fold(0, |verdict, (target, bits)| match target {
            Resolved::Netns(of) if *of == inode => verdict | bits,
            _ => verdict,
        });
        verdict & VERDICT_EXCLUDE == 0 && (self.is_whole_host() || verdict & VERDICT_INCLUDE != 0)
    }

    /// The inodes that the host's own network namespace may have: that of the first process where
    /// it may be looked at, that in which Undine runs, and the one that it always has since Linux
    /// 6.18.
    pub fn host_netns() -> BTreeSet<u32> {
        let found = [1, std::process::id()].into_iter().filter_map(process_tree::netns);
        found.chain([FIRST_NETNS]).collect()
    }

    fn named(&self, verdict: u32) -> BTreeSet<u32> {
        let by_tree = self.processes.iter().filter(|(_, bits)| **bits & verdict != 0);
        let mut named: BTreeSet<u32> = by_tree.map(|(pid, _)| *pid).collect();
        for (target, bits) in &self.targets {
            if bits & verdict != 0 && is_still_there(target) {
                named.extend(target.processes());
            }
        }
        named
    }

    fn directories(&self, verdict: u32) -> Vec<PathBuf> {
        let is_meant =
            |(target, bits): &&(Resolved, u32)| bits & verdict != 0 && is_still_there(target);
        let directory = |(target, _): &(Resolved, u32)| match target {
            Resolved::Cgroup(_, directory) => Some(directory.clone()),
            _ => None,
        };
        self.targets.iter().filter(is_meant).filter_map(directory).collect()
    }
}

/// Whether a target's processes are to be looked for: those of a tree the programs know, and a
/// cgroup that was made anew under the same name is another one.
fn is_still_there(target: &Resolved) -> bool {
    match target {
        Resolved::Process(_) => false,
        Resolved::Cgroup(id, directory) => cgroups::id(directory).is_ok_and(|now| now == *id),
        Resolved::Netns(_) | Resolved::Comm(_) => true,
    }
}

/// Whether `path` is one of `directories` or below one.
pub(crate) fn is_below(path: &Path, directories: &[PathBuf]) -> bool {
    directories.iter().any(|directory| path.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_NETNS: &str = "/proc/self/ns/net";

    fn own_netns() -> u32 {
        use std::os::unix::fs::MetadataExt;
        u32::try_from(std::fs::metadata(OWN_NETNS).unwrap().ino()).unwrap()
    }

    fn of(default: ScopeDefault, targets: Vec<(Resolved, u32)>, tree: &[(u32, u32)]) -> Membership {
        Membership::new(default, targets, tree.iter().copied().collect())
    }

    #[test]
    fn only_whom_a_target_names_is_a_member_and_an_exclusion_wins() {
        let tree = [(101, VERDICT_INCLUDE), (102, VERDICT_INCLUDE | VERDICT_EXCLUDE)];
        let members = of(ScopeDefault::TargetsOnly, Vec::new(), &tree);
        assert_eq!(members.processes(), BTreeSet::from([101]));
        assert!(of(ScopeDefault::TargetsOnly, Vec::new(), &[]).processes().is_empty());
    }

    #[test]
    fn undine_itself_is_never_a_member() {
        let own = std::process::id();
        let whole = of(ScopeDefault::WholeHost, Vec::new(), &[]).processes();
        assert!(whole.contains(&1) && !whole.contains(&own));
        let named = of(ScopeDefault::TargetsOnly, Vec::new(), &[(own, VERDICT_INCLUDE)]);
        assert!(named.processes().is_empty());
        let netns = vec![(Resolved::Netns(own_netns()), VERDICT_INCLUDE)];
        let by_netns = of(ScopeDefault::TargetsOnly, netns, &[]);
        assert!(by_netns.watches_netns(own_netns()) && !by_netns.processes().contains(&own));
    }

    #[test]
    fn a_namespace_is_watched_as_a_whole_only_where_it_is_named() {
        let own = own_netns();
        assert!(!of(ScopeDefault::TargetsOnly, Vec::new(), &[]).watches_netns(own));
        assert!(of(ScopeDefault::WholeHost, Vec::new(), &[]).watches_netns(own));
        let excluded = vec![(Resolved::Netns(own), VERDICT_EXCLUDE)];
        assert!(!of(ScopeDefault::WholeHost, excluded, &[]).watches_netns(own));
    }

    #[test]
    fn a_cgroup_that_was_made_anew_is_another_one() {
        let other = vec![(Resolved::Cgroup(u64::MAX, PathBuf::from("/proc/1")), VERDICT_INCLUDE)];
        let members = of(ScopeDefault::TargetsOnly, other, &[]);
        assert_eq!(members.cgroups(), (Vec::new(), Vec::new()));
        assert!(members.processes().is_empty());
    }
}
