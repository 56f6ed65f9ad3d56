//! Programs that we start so that there is something to watch, each group in a cgroup of its own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// How long a child may take to be ready, or to stop.
pub(crate) const CHILD_TIME_MAX: Duration = Duration::from_secs(10);

/// Why there is no cgroup to work in.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The kernel has no unified hierarchy mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"
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
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = unified_mount(&mounts).ok_or(CgroupError::NotMounted)?;
        let path = root.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|source| CgroupError::Create { path: path.clone(), source })?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id, as kernel programs see it.
    ///
    /// # Errors
    /// When it was removed from outside.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
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

impl Drop for Cgroup {
    fn drop(&mut self) {
        let kill = fs::write(self.path.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() > deadline {
                tracing::warn!(path = %self.path.display(), %error, ?kill, "cannot remove the cgroup");
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Waits until a child is ready, which `ready` can see from outside.
pub(crate) fn wait_for<T>(
    process: &mut Child,
    name: &str,
    ready: impl Fn() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + CHILD_TIME_MAX;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if let Some(status) = process.try_wait()? {
            bail!("{name} ended at once with {status}");
        }
        ensure!(Instant::now() < deadline, "{name} is not ready after {CHILD_TIME_MAX:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a child that is still there.
pub(crate) fn end(process: &mut Child) {
    if matches!(process.try_wait(), Ok(None)) {
        let ended = process.kill().and_then(|()| process.wait());
        drop(ended);
    }
}

/// Where the unified hierarchy is mounted, by the text of `/proc/self/mountinfo`.
fn unified_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next() != Some("cgroup2") {
            return None;
        }
        mount.split(' ').nth(4).map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_where_it_is_mounted() {
        let mounts = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
40 30 0:36 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";
        assert_eq!(unified_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(unified_mount("30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}
