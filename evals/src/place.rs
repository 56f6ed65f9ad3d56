//! A cgroup and a network of a scenario's own, for real servers and their clients.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use undine_collector::Cgroup;

/// How long a program may take to do what a scenario waits for.
const WAIT_MAX: Duration = Duration::from_mins(3);
/// How often it is looked whether it has.
const WAIT_LOOK: Duration = Duration::from_millis(10);
/// Folders of programs that a user's path may lack.
const MORE_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// A cgroup and a network namespace; what runs in them ends with them.
#[derive(Debug)]
pub(crate) struct Place {
    /// Keeps the network; ended with this.
    holder: Child,
    pub(crate) cgroup: Cgroup,
}

impl Place {
    /// Makes one. Its cgroup is called `NAME-PID`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let cgroup = Cgroup::create(name)?;
        let mut holder = cgroup
            .command(Path::new("unshare"))
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let mut line = String::new();
        let stdout = holder.stdout.take().context("the holder has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "cannot make a network namespace; run as root with iproute2");
        Ok(Self { holder, cgroup })
    }

    /// A command in the cgroup and the network.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_of(&self.cgroup, program)
    }

    /// A command in the network, and in another cgroup.
    pub(crate) fn command_of(
        &self,
        cgroup: &Cgroup,
        program: impl AsRef<std::ffi::OsStr>,
    ) -> Command {
        let mut command = cgroup.command(Path::new("nsenter"));
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its successful end; what it printed.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        said(self.command(program).args(args))
    }

    /// Waits until a command succeeds, which shows that a server answers.
    pub(crate) fn wait_for(&self, program: &str, args: &[&str]) -> Result<()> {
        wait_until(&format!("success of {program} {args:?}"), || {
            let mut command = self.command(program);
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            Ok(quiet.args(args).status()?.success())
        })
    }

    /// Waits until a program in the network listens on `port`, without connecting to it.
    pub(crate) fn wait_for_listener(&self, port: u16) -> Result<()> {
        let sockets = format!("/proc/{}/net/tcp", self.holder.id());
        wait_until(&format!("a listener on port {port}"), || {
            Ok(fs::read_to_string(&sockets)?.contains(&format!(":{port:04X} 00000000:0000 0A")))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// A program that is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Server {
    /// Starts one that says nothing.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(quiet.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    /// Starts one that writes what it says to `file`.
    pub(crate) fn logging(command: &mut Command, file: &Path) -> Result<Self> {
        let log = fs::File::create(file)?;
        let quiet = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        Ok(Self(quiet.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end by `signal`, and waits until it has.
    pub(crate) fn end(mut self, signal: &str) -> Result<()> {
        said(Command::new("kill").args([&format!("-{signal}"), &self.0.id().to_string()]))?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a command to its successful end; what it printed.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout);
    let stderr = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{command:?} ended with {status}: {stderr}{stdout}");
    Ok(stdout.into_owned())
}

/// Waits for something that another program does and that nothing tells us of.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !is_so()? {
        if Instant::now() >= deadline {
            bail!("waited {WAIT_MAX:?} for {what}");
        }
        // Between two looks, so that the program that is waited for has the CPU.
        std::thread::sleep(WAIT_LOOK);
    }
    Ok(())
}

/// Where a program is, in the path or where Debian keeps those of administrators.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    #[expect(clippy::disallowed_methods, reason = "the search path is where programs are")]
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(MORE_FOLDERS);
    folders.map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}

/// The programs of these that are not installed.
pub(crate) fn missing(programs: &[&str]) -> Vec<String> {
    let missing = programs.iter().filter(|program| find(program).is_none());
    missing.map(|program| (*program).to_owned()).collect()
}

/// The Python that `UNDINE_TEST_PYTHON` names, or the system's.
pub(crate) fn python() -> String {
    #[expect(clippy::disallowed_methods, reason = "evals have no configuration")]
    std::env::var("UNDINE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// The modules of these that Python cannot import.
pub(crate) fn missing_modules(modules: &[&str]) -> Vec<String> {
    let lacks = |module: &&&str| {
        let import = format!("import {module}");
        let mut python = Command::new(python());
        let imported = python.args(["-c", &import]).stderr(Stdio::null()).status();
        !imported.is_ok_and(|status| status.success())
    };
    modules.iter().filter(lacks).map(|module| format!("Python's {module}")).collect()
}
