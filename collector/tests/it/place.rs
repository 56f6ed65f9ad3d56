//! A cgroup and a network of a test's own, for real servers and their clients.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use undine_collector::Cgroup;

/// How long a program may take to do what a test waits for.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const WAIT_LOOK: Duration = Duration::from_millis(20);

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
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in(&self.cgroup, program)
    }

    /// A command in another cgroup, and in the network.
    pub(crate) fn command_in(&self, cgroup: &Cgroup, program: impl AsRef<OsStr>) -> Command {
        let mut command = cgroup.command(Path::new("nsenter"));
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command
    }

    /// Path of its network namespace.
    pub(crate) fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Runs a command to its successful end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        succeed(self.command(program).args(args))
    }

    /// Waits until a server listens, without a connection to it.
    pub(crate) fn wait_until_listening(&self, port: u16) {
        // Any local address, no peer, and the state of listening.
        self.wait_for("grep", &["-q", &format!(":{port:04X} 00000000:0000 0A"), "/proc/net/tcp"]);
    }

    /// Waits until a command succeeds, which shows that a server answers.
    pub(crate) fn wait_for(&self, program: &str, args: &[&str]) {
        wait_until(&format!("success of {program} {args:?}"), || {
            let mut command = self.command(program);
            let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            quiet.args(args).status().unwrap().success()
        });
    }
}

/// Runs a command to its successful end; what it says.
pub(crate) fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(status.success(), "{command:?} ended with {status}: {stdout}{stderr}");
    stdout
}

/// Starts a program that says nothing and is ended when this is dropped.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().unwrap())
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it by a signal, unless it has ended.
    pub(crate) fn stop(&mut self, signal: &str) {
        if self.0.try_wait().unwrap().is_none() {
            succeed(Command::new("kill").args(["-s", signal, &self.0.id().to_string()]));
            self.0.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits for something that another program does and that nothing tells us of.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {WAIT_MAX:?} for {what}");
        // Between two looks, so that the program that is waited for has the CPU.
        std::thread::sleep(WAIT_LOOK);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Whether all programs are installed, which `x` installs for the tests; says which is not. Where
/// `UNDINE_TEST_SERVERS` is `required`, as in CI, that is a failure.
pub(crate) fn are_installed(programs: &[&str]) -> bool {
    let missing = missing(programs);
    if !missing.is_empty() {
        skip(&format!("{missing:?} are not installed"));
    }
    missing.is_empty()
}

/// Whether all programs are there, which Debian does not have; says which is not.
pub(crate) fn happen_to_be_installed(programs: &[&str]) -> bool {
    let missing = missing(programs);
    if !missing.is_empty() {
        println!("skipped: {missing:?} are not installed");
    }
    missing.is_empty()
}

/// Says why a test cannot be run, or fails where it must.
pub(crate) fn skip(why: &str) {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let required = std::env::var("UNDINE_TEST_SERVERS").is_ok_and(|value| value == "required");
    assert!(!required, "UNDINE_TEST_SERVERS=required, but {why}; run ./x setup test");
    println!("skipped: {why}");
}

fn missing<'a>(programs: &[&'a str]) -> Vec<&'a str> {
    let is_missing = |program: &&str| {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
        !found.status.success()
    };
    programs.iter().copied().filter(is_missing).collect()
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
