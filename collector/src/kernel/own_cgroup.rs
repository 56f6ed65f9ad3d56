//! A cgroup of our own, so that what is started in it can be the only thing that is watched.
#![expect(unsafe_code, reason = "kernels before 5.14 end a cgroup's processes one by one")]

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::cgroups;

/// How long the processes in a cgroup may take to be gone after they were killed.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether they are.
const END_LOOK: Duration = Duration::from_millis(1);

/// Why there is no cgroup to work in.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The kernel has no unified hierarchy mounted.
    #[error(
        "no cgroup2 file system is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup`"
    )]
    NotMounted,
    /// It cannot be made.
    #[error("cannot make the cgroup {path}; run as root")]
    Create {
        /// Where it should have been.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The id of the unified cgroup that this process is in; `None` where that cannot be told.
pub(super) fn own_id() -> Option<u64> {
    let lines = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = lines.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(fs::metadata(cgroups::directory(Path::new(path)).ok()?).ok()?.ino())
}

/// A cgroup that we made; when it is dropped, everything in it is ended and it is removed.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `NAME-PID` in the unified hierarchy, wherever that is mounted.
    ///
    /// # Errors
    /// Where there is no such hierarchy or no right to write to it.
    pub fn create(name: &str) -> Result<Self, CgroupError> {
        let mount = cgroups::unified_mount().ok().flatten().ok_or(CgroupError::NotMounted)?;
        let path = mount.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|source| CgroupError::Create { path: path.clone(), source })?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command whose process is in the cgroup before `program` runs.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg("echo 0 > \"$0\" && exec \"$@\"")
            .arg(self.path.join("cgroup.procs"))
            .arg(program);
        command
    }
}

impl Cgroup {
    /// Ends everything in it, at once where the kernel can (5.14), otherwise one by one.
    fn kill(&self) -> io::Result<()> {
        // Not to be created: where it is missing, that is denied and not impossible.
        match File::options().write(true).open(self.path.join("cgroup.kill")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened?.write_all(b"1"),
        }
        // Frozen, so that none can start another meanwhile.
        fs::write(self.path.join("cgroup.freeze"), "1")?;
        let members = fs::read_to_string(self.path.join("cgroup.procs"))?;
        for pid in members.lines().filter_map(|line| line.parse().ok()) {
            // SAFETY: a plain call. The process is in the cgroup, which is ours, and is frozen.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        fs::write(self.path.join("cgroup.freeze"), "0")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let killed = self.kill();
        let deadline = Instant::now() + END_TIME_MAX;
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() > deadline {
                tracing::warn!(path = %self.path.display(), %error, ?killed, "cannot remove the cgroup");
                return;
            }
            // Killed processes leave a cgroup as the kernel gets to them, which nothing tells us of.
            thread::sleep(END_LOOK);
        }
    }
}
