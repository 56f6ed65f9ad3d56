//! Whom the kernel programs watch.
//!
//! Undine's own process never is. Then whatever a target excludes is not watched, whatever a
//! target includes is, and [`ScopeDefault`] decides the rest. All of it is decided in the kernel.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use undine_ebpf::load::{VERDICT_EXCLUDE, VERDICT_INCLUDE};

use super::{cgroups, membership::Membership, process_tree};

/// Longest process name that the kernel keeps, in bytes.
const COMM_BYTES_MAX: usize = 15;

/// Inode of the topmost cgroup, in which every process is.
const ROOT_CGROUP: u64 = 1;

/// A set of processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A process, all processes that descend from it now, and all that they will fork.
    Pid(u32),
    /// Processes in a unified cgroup and below; its directory, or its path below the mount.
    Cgroup(PathBuf),
    /// Sockets and processes of a network namespace; a file such as `/run/netns/NAME` or
    /// `/proc/PID/ns/net`.
    Netns(PathBuf),
    /// Processes with this name, at most 15 bytes, as in `/proc/PID/comm`.
    Comm(String),
}

/// What a target means for those it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// They are watched.
    Include,
    /// They are never watched.
    Exclude,
}

/// Who is watched of those that no target names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScopeDefault {
    /// Everyone.
    WholeHost,
    /// No one.
    TargetsOnly,
}

/// Whom the kernel programs watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Who is watched of those that no target names.
    pub default: ScopeDefault,
    /// They are watched.
    pub include: Vec<Target>,
    /// They never are.
    pub exclude: Vec<Target>,
}

/// Whether a scope that names no one in particular is acceptable.
///
/// Tests, demos and CI run on machines that others use too, hence the stricter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScopeGuard {
    /// Any scope will do.
    Open,
    /// Every included target must be a process, a cgroup or a network namespace that holds less
    /// than the whole host.
    Required,
}

/// Why text is not a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetParseError {
    /// No known kind before the colon.
    #[error("`{0}` is not a target; write pid:NUMBER, cgroup:PATH, netns:PATH or comm:NAME")]
    Kind(String),
    /// Not a process id.
    #[error("`{0}` is not a process id; write pid: and a number from 1")]
    Pid(String),
    /// Nothing after the colon.
    #[error("`{0}` names nothing; write what to watch after the colon")]
    Empty(String),
    /// A name that no process can have.
    #[error("the name `{0}` is longer than the 15 bytes that the kernel keeps; shorten it to them")]
    Comm(String),
}

/// Why a scope cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// The guard does not let the whole host be watched.
    #[error(
        "the scope must be narrowed (UNDINE_SCOPE=required) but it is the whole host; name targets \
         with --target pid:N, cgroup:PATH or netns:PATH"
    )]
    WholeHost,
    /// The guard needs a target.
    #[error(
        "the scope must be narrowed (UNDINE_SCOPE=required) but no target is included; name one \
         with --target pid:N, cgroup:PATH or netns:PATH"
    )]
    NoTarget,
    /// The guard does not accept this target.
    #[error(
        "the scope must be narrowed (UNDINE_SCOPE=required) but {0} may name processes of others; \
         use a process, cgroup or network namespace of your own"
    )]
    TooWide(Target),
    /// No such process.
    #[error("cannot watch {0}: there is no such process")]
    NoProcess(Target),
    /// The cgroup or namespace cannot be looked at.
    #[error("cannot watch {target}: {path} is not usable")]
    Path {
        /// What was to be watched.
        target: Target,
        /// The path that was tried.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "cannot watch {0}: it is not a network namespace; name a file such as /run/netns/NAME or /proc/PID/ns/net"
    )]
    NotNetns(Target),
}

/// A target as the kernel programs know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// A process, the root of a tree.
    Process(u32),
    /// Id of a cgroup and its directory.
    Cgroup(u64, PathBuf),
    /// Inode of a network namespace.
    Netns(u32),
    /// A name, padded with zeros.
    Comm([u8; 16]),
}

impl Verdict {
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Include => VERDICT_INCLUDE,
            Self::Exclude => VERDICT_EXCLUDE,
        }
    }
}

impl ScopeGuard {
    /// Checks a whole scope, before anything is loaded.
    ///
    /// # Errors
    /// Where the guard is [`Self::Required`] and the scope names no one in particular.
    pub fn admit(self, scope: &Scope) -> Result<(), ScopeError> {
        if self == Self::Open {
            return Ok(());
        }
        if scope.default == ScopeDefault::WholeHost {
            return Err(ScopeError::WholeHost);
        }
        if scope.include.is_empty() {
            return Err(ScopeError::NoTarget);
        }
        scope.include.iter().try_for_each(|target| self.admit_target(target, Verdict::Include))
    }

    /// Checks a target that is added to a running scope.
    ///
    /// # Errors
    /// Where the guard is [`Self::Required`] and the target could include others' processes.
    pub fn admit_target(self, target: &Target, verdict: Verdict) -> Result<(), ScopeError> {
        if self == Self::Open || verdict == Verdict::Exclude {
            return Ok(());
        }
        let too_wide = match target.resolve()? {
            Resolved::Process(pid) => pid == 1,
            Resolved::Cgroup(id, _) => id == ROOT_CGROUP,
            Resolved::Netns(inode) => Membership::host_netns().contains(&inode),
            Resolved::Comm(_) => true,
        };
        if too_wide { Err(ScopeError::TooWide(target.clone())) } else { Ok(()) }
    }
}

impl Target {
    /// Looks the target up, so that the kernel programs can recognise it.
    pub(super) fn resolve(&self) -> Result<Resolved, ScopeError> {
        match self {
            Self::Pid(pid) if process_tree::is_process(*pid) => Ok(Resolved::Process(*pid)),
            Self::Pid(_) => Err(ScopeError::NoProcess(self.clone())),
            Self::Cgroup(path) => {
                let directory =
                    cgroups::directory(path).map_err(|cause| self.unusable(path, cause))?;
                let id =
                    cgroups::id(&directory).map_err(|cause| self.unusable(&directory, cause))?;
                Ok(Resolved::Cgroup(id, directory))
            }
            Self::Netns(path) => self.resolve_netns(path),
            Self::Comm(name) => {
                let mut padded = [0; 16];
                let bytes = &name.as_bytes()[..name.len().min(COMM_BYTES_MAX)];
                padded[..bytes.len()].copy_from_slice(bytes);
                Ok(Resolved::Comm(padded))
            }
        }
    }

    fn resolve_netns(&self, path: &Path) -> Result<Resolved, ScopeError> {
        let metadata = fs::metadata(path).map_err(|cause| self.unusable(path, cause))?;
        // All namespaces are files of one file system; one that is known to be there tells it.
        let own = fs::metadata("/proc/self/ns/net").map_err(|cause| self.unusable(path, cause))?;
        match u32::try_from(metadata.ino()) {
            Ok(inode) if metadata.dev() == own.dev() => Ok(Resolved::Netns(inode)),
            _ => Err(ScopeError::NotNetns(self.clone())),
        }
    }

    fn unusable(&self, path: &Path, source: io::Error) -> ScopeError {
        ScopeError::Path { target: self.clone(), path: path.to_path_buf(), source }
    }
}

impl Resolved {
    /// The processes that it names now.
    pub(super) fn processes(&self) -> Vec<u32> {
        match self {
            Self::Process(root) => process_tree::descendants(*root).into_iter().collect(),
            Self::Cgroup(_, directory) => cgroups::processes(directory),
            Self::Netns(inode) => {
                let mut all = process_tree::all();
                all.retain(|pid| process_tree::netns(*pid) == Some(*inode));
                all
            }
            Self::Comm(padded) => {
                let name = padded.split(|byte| *byte == 0).next().unwrap_or_default();
                let mut all = process_tree::all();
                all.retain(|pid| {
                    process_tree::comm(*pid).is_some_and(|comm| comm.as_bytes() == name)
                });
                all
            }
        }
    }
}

impl FromStr for Target {
    type Err = TargetParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) =
            text.split_once(':').ok_or_else(|| TargetParseError::Kind(text.to_owned()))?;
        if name.is_empty() && ["pid", "cgroup", "netns", "comm"].contains(&kind) {
            return Err(TargetParseError::Empty(text.to_owned()));
        }
        match kind {
            "pid" => match name.parse() {
                Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
                _ => Err(TargetParseError::Pid(name.to_owned())),
            },
            "cgroup" => Ok(Self::Cgroup(PathBuf::from(name))),
            "netns" => Ok(Self::Netns(PathBuf::from(name))),
            "comm" if name.len() <= COMM_BYTES_MAX => Ok(Self::Comm(name.to_owned())),
            "comm" => Err(TargetParseError::Comm(name.to_owned())),
            _ => Err(TargetParseError::Kind(text.to_owned())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
            Self::Netns(path) => write!(f, "netns:{}", path.display()),
            Self::Comm(name) => write!(f, "comm:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(include: Vec<Target>) -> Scope {
        Scope { default: ScopeDefault::TargetsOnly, include, exclude: Vec::new() }
    }

    #[test]
    fn a_target_is_what_its_text_says() {
        for text in ["pid:1", "cgroup:/a/b", "netns:/run/netns/x", "comm:nginx"] {
            assert_eq!(
                text.parse::<Target>().map(|target| target.to_string()),
                Ok(text.to_owned())
            );
        }
        let errors = ["nginx", "pid:x", "pid:0", "pid:", "port:80", "comm:a-name-of-16-byte"];
        for text in errors {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_guard_refuses_a_scope_that_names_no_one_in_particular() {
        let guard = ScopeGuard::Required;
        let whole = Scope { default: ScopeDefault::WholeHost, ..only(Vec::new()) };
        assert!(matches!(guard.admit(&whole), Err(ScopeError::WholeHost)));
        assert!(ScopeGuard::Open.admit(&whole).is_ok());
        assert!(matches!(guard.admit(&only(Vec::new())), Err(ScopeError::NoTarget)));
        let wide = [Target::Comm("nginx".to_owned()), Target::Pid(1)];
        for target in wide {
            let own = Target::Pid(std::process::id());
            let scope = only(vec![own, target]);
            assert!(matches!(guard.admit(&scope), Err(ScopeError::TooWide(_))));
        }
        let own_network = Target::Netns("/proc/self/ns/net".into());
        assert!(matches!(guard.admit(&only(vec![own_network])), Err(ScopeError::TooWide(_))));
        assert!(guard.admit(&only(vec![Target::Pid(std::process::id())])).is_ok());
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let target = Target::Netns(PathBuf::from("/proc/self/status"));
        assert!(matches!(target.resolve(), Err(ScopeError::NotNetns(_))));
        assert!(Target::Netns(PathBuf::from("/proc/self/ns/net")).resolve().is_ok());
    }
}
