//! A cgroup and a network of a test's own, for real servers and their clients.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use undine_collector::Cgroup;

/// How long a server may take to answer for the first time.
const READY_TIME_MAX: Duration = Duration::from_secs(30);

/// A cgroup and a network namespace; what runs in them ends with them.
pub(crate) struct Place {
    /// Keeps the network; ended by the cgroup.
    holder: Child,
    pub(crate) cgroup: Cgroup,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let cgroup = Cgroup::create(name).unwrap();
        let mut holder = cgroup
            .command(Path::new("unshare"))
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { holder, cgroup }
    }

    /// A command in the cgroup and the network.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.cgroup.command(Path::new("nsenter"));
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command
    }

    /// Runs a command to its successful end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let Output { status, stdout, stderr } =
            self.command(program).args(args).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{program} {args:?} ended with {status}: {stderr}");
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Waits until a command succeeds, which shows that a server answers.
    pub(crate) fn wait_for(&self, program: &str, args: &[&str]) {
        let deadline = Instant::now() + READY_TIME_MAX;
        loop {
            let mut command = self.command(program);
            let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if quiet.args(args).status().unwrap().success() {
                return;
            }
            assert!(Instant::now() < deadline, "{program} {args:?} does not succeed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Whether all programs are installed; says which is not.
pub(crate) fn are_installed(programs: &[&str]) -> bool {
    let is_missing = |program: &&&str| {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
        !found.status.success()
    };
    let missing: Vec<_> = programs.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        println!("skipped: {missing:?} are not installed");
    }
    missing.is_empty()
}

/// A Python that can import all modules: the one that `UNDINE_TEST_PYTHON` names, or the system's;
/// says where there is none.
pub(crate) fn python_with(modules: &[&str]) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let python = std::env::var("UNDINE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = format!("import {}", modules.join(","));
    let found = Command::new(&python).args(["-c", &import]).stderr(Stdio::null()).status();
    let has_all = found.is_ok_and(|status| status.success());
    if !has_all {
        println!("skipped: {python} has no {modules:?}");
    }
    has_all.then_some(python)
}
