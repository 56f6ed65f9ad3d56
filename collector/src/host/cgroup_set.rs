//! Which cgroups are reported, and where their files are.
//!
//! A target that is a cgroup brings itself and all below it. Any other cgroup is reported only
//! where all processes in it and below are watched, so that nothing is told of those who are not.
//! Of version 1 those are reported in which a watched process itself is. It has a hierarchy for each controller; where a cgroup has the same path in several they
//! are one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::kernel::Membership;
use crate::kernel::cgroups::{self, Hierarchies, Mount, Tree};
use crate::kernel::membership::is_below;

use super::cgroup_usage::CgroupUsage;

/// Most bytes of a file that are read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The cgroups to report, by path.
#[derive(Debug, Default)]
pub(crate) struct CgroupSet {
    found: BTreeMap<String, Directories>,
    /// Those for which there was no room.
    omitted: BTreeSet<String>,
}

/// Where a cgroup's files are.
#[derive(Debug, Default)]
struct Directories {
    unified: Option<PathBuf>,
    /// By controller.
    v1: Vec<(String, PathBuf)>,
}

/// In which cgroups a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    /// In the unified hierarchy.
    pub(crate) unified: Option<String>,
    /// In hierarchies of version 1, by controller.
    pub(crate) v1: Vec<(String, String)>,
}

impl Paths {
    /// Takes a `/proc/PID/cgroup` apart. A cgroup that was removed is none.
    pub(crate) fn parse(text: &str) -> Self {
        let mut paths = Self::default();
        for line in text.lines().filter(|line| !line.ends_with(" (deleted)")) {
            let Some((controllers, path)) =
                line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
            else {
                continue;
            };
            if controllers.is_empty() {
                paths.unified = Some(path.to_owned());
            } else {
                let of = |controller: &str| (controller.to_owned(), path.to_owned());
                paths.v1.extend(controllers.split(',').map(of));
            }
        }
        paths
    }

    fn v1_path(&self, controller: &str) -> Option<&str> {
        let mut all = self.v1.iter();
        all.find(|(of, _)| of == controller).map(|(_, path)| path.as_str())
    }
}

impl CgroupSet {
    /// The cgroups that are watched, where `watched` are the processes that are and `paths` the
    /// cgroups in which these are; at most `max` of them.
    pub(crate) fn find(
        hierarchies: &Hierarchies,
        membership: &Membership,
        watched: &BTreeSet<u32>,
        paths: &[Paths],
        max: usize,
    ) -> Self {
        let mut set = Self::default();
        if let Some(mount) = &hierarchies.unified {
            let own = paths.iter().filter_map(|paths| paths.unified.as_deref());
            set.add_unified(mount, membership, watched, own.collect(), max);
        }
        for (controller, mount) in &hierarchies.controllers {
            let own: BTreeSet<_> =
                paths.iter().filter_map(|paths| paths.v1_path(controller)).collect();
            for path in own {
                let directory = mount.directory(path);
                if may_tell(membership, &directory, path, watched)
                    && let Some(found) = set.enter(path.to_owned(), max)
                {
                    found.v1.push((controller.clone(), directory));
                }
            }
        }
        set
    }

    fn add_unified(
        &mut self,
        mount: &Mount,
        membership: &Membership,
        watched: &BTreeSet<u32>,
        own: BTreeSet<&str>,
        max: usize,
    ) {
        let (mut included, excluded) = membership.cgroups();
        if membership.is_whole_host() {
            included = vec![mount.point.clone()];
        }
        for target in &included {
            for directory in Tree::below(target).filter(|below| !is_below(below, &excluded)) {
                if let Some(path) = mount.path(&directory)
                    && let Some(found) = self.enter(path, max)
                {
                    found.unified = Some(directory);
                }
            }
        }
        for path in own {
            let directory = mount.directory(path);
            let is_known = is_below(&directory, &included) || is_below(&directory, &excluded);
            if !is_known
                && may_tell(membership, &directory, path, watched)
                && let Some(found) = self.enter(path.to_owned(), max)
            {
                found.unified = Some(directory);
            }
        }
    }

    fn enter(&mut self, path: String, max: usize) -> Option<&mut Directories> {
        let is_full = self.found.len() >= max;
        match self.found.entry(path) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(new) if is_full => {
                self.omitted.insert(new.into_key());
                None
            }
            Entry::Vacant(new) => Some(new.insert(Directories::default())),
        }
    }

    /// How many had no room.
    pub(crate) fn omitted(&self) -> usize {
        self.omitted.len()
    }

    /// Each cgroup's path with what it has used and uses.
    pub(crate) fn usages(&self) -> impl Iterator<Item = (&str, CgroupUsage)> {
        self.found.iter().map(|(path, directories)| (path.as_str(), directories.read()))
    }
}

impl Directories {
    fn read(&self) -> CgroupUsage {
        let mut usage = CgroupUsage::default();
        if let Some(directory) = &self.unified {
            usage.read_unified(&|name| text(&directory.join(name)));
        }
        for (controller, directory) in &self.v1 {
            usage.read_v1(controller, &|name| text(&directory.join(name)));
        }
        usage
    }
}

/// Whether what a cgroup that no target names has used may be told.
fn may_tell(
    membership: &Membership,
    directory: &Path,
    path: &str,
    watched: &BTreeSet<u32>,
) -> bool {
    if path == "/" {
        return membership.is_whole_host();
    }
    let members = cgroups::processes(directory);
    !members.is_empty() && members.iter().all(|pid| watched.contains(pid))
}

fn text(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ScopeDefault;

    #[test]
    fn the_cgroups_of_a_process_are_found_in_both_versions() {
        let text = "9:name=systemd:/user.slice\n4:memory:/box:1/a\n2:cpu,cpuacct:/\n\
                    0::/user.slice/x.scope\nnonsense\n";
        let paths = Paths::parse(text);
        assert_eq!(paths.unified.as_deref(), Some("/user.slice/x.scope"));
        assert_eq!(paths.v1_path("memory"), Some("/box:1/a"));
        assert_eq!(paths.v1_path("cpuacct"), Some("/"));
        assert_eq!(paths.v1_path("blkio"), None);
        assert_eq!(Paths::parse("0::/gone (deleted)\n"), Paths::default());
    }

    /// A unified hierarchy and one of version 1, of which the processes 1 and 2 are in cgroups.
    fn hierarchies(dir: &Path) -> Hierarchies {
        for (cgroup, members) in [
            ("v2", "1\n2\n"),
            ("v2/a", ""),
            ("v2/a/b", "1\n"),
            ("v2/c", "2\n3\n"),
            ("memory/a/b", "1\n"),
            ("memory/a/b/c", "3\n"),
            ("memory/d", "2\n"),
        ] {
            std::fs::create_dir_all(dir.join(cgroup)).unwrap();
            std::fs::write(dir.join(cgroup).join("cgroup.procs"), members).unwrap();
        }
        std::fs::write(dir.join("v2/a/b/memory.current"), "7\n").unwrap();
        std::fs::write(dir.join("memory/d/memory.usage_in_bytes"), "8\n").unwrap();
        let mount = |name: &str| Mount { point: dir.join(name), root: PathBuf::from("/") };
        let controllers = vec![("memory".to_owned(), mount("memory"))];
        Hierarchies { unified: Some(mount("v2")), controllers }
    }

    fn found(default: ScopeDefault, watched: &[u32]) -> Vec<(String, Option<u64>)> {
        let dir = tempfile::tempdir().unwrap();
        let hierarchies = hierarchies(dir.path());
        let membership = Membership::without_targets(default);
        let paths = ["4:memory:/a/b\n0::/a/b\n", "4:memory:/d\n0::/c\n"].map(Paths::parse);
        let watched = watched.iter().copied().collect();
        let set = CgroupSet::find(&hierarchies, &membership, &watched, &paths, 16);
        set.usages().map(|(path, usage)| (path.to_owned(), usage.memory_bytes)).collect()
    }

    #[test]
    fn of_cgroups_that_no_target_names_only_those_are_told_in_which_all_are_watched() {
        let told = |path: &str, memory| (path.to_owned(), memory);
        // Process 3 is not watched: it is in the unified `/c`, and below `/a/b` of version 1.
        let some = found(ScopeDefault::TargetsOnly, &[1, 2]);
        assert_eq!(some, [told("/a/b", Some(7)), told("/d", Some(8))]);
        assert_eq!(found(ScopeDefault::TargetsOnly, &[]), []);
    }

    #[test]
    fn of_a_whole_host_every_cgroup_is_told() {
        let all = found(ScopeDefault::WholeHost, &[1, 2, 3]);
        let paths: Vec<_> = all.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["/", "/a", "/a/b", "/c", "/d"]);
    }

    #[test]
    fn there_are_at_most_so_many_and_the_rest_is_counted_once() {
        let mut set = CgroupSet::default();
        for path in ["/a", "/b", "/a", "/c", "/c", "/d"] {
            set.enter(path.to_owned(), 2);
        }
        let paths: Vec<_> = set.usages().map(|(path, _)| path.to_owned()).collect();
        assert_eq!((paths, set.omitted()), (vec!["/a".to_owned(), "/b".to_owned()], 2));
    }
}
