use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use undine_collector::Cgroup;

use crate::server::{Server, succeed};
use crate::wait::wait_until;

/// A cgroup and a network namespace with a loopback; what runs in them ends with them.
#[derive(Debug)]
pub struct Place {
    /// Keeps the network; ended with this.
    holder: Child,
    /// In which its commands run.
    pub cgroup: Cgroup,
}

impl Place {
    /// Makes one. Its cgroup is called `NAME-PID`.
    ///
    /// # Errors
    ///
    /// Without root, cgroup v2 or iproute2.
    pub fn new(name: &str) -> Result<Self> {
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
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in(&self.cgroup, program)
    }

    /// A command in another cgroup, and in the network.
    pub fn command_in(&self, cgroup: &Cgroup, program: impl AsRef<OsStr>) -> Command {
        let mut command = cgroup.command(Path::new("nsenter"));
        command.arg(format!("--net={}", self.network())).arg(program).stdin(Stdio::null());
        command
    }

    /// Path of its network namespace.
    pub fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Runs a command to its successful end; what it says.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        succeed(self.command(program).args(args))
    }

    /// Waits until a command succeeds, which shows that a server answers.
    pub fn wait_for(&self, program: &str, args: &[&str]) -> Result<()> {
        wait_until(&format!("success of {program} {args:?}"), || {
            let mut command = self.command(program);
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            Ok(quiet.args(args).status()?.success())
        })
    }

    /// Starts a server, which `command` runs in the network, and waits until it listens on `port`.
    pub fn serve(&self, command: &mut Command, port: u16) -> Result<Server> {
        let server = Server::start(command)?;
        self.wait_until_listening(port)?;
        Ok(server)
    }

    /// Waits until a program in the network listens on `port` of TCP, without connecting to it.
    pub fn wait_until_listening(&self, port: u16) -> Result<()> {
        let sockets =
            ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", self.holder.id()));
        wait_until(&format!("a listener on port {port}"), || {
            for table in sockets.iter().filter(|table| Path::new(table).exists()) {
                if is_listening(&fs::read_to_string(table)?, port) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

/// Whether a table as `/proc/net/tcp` has a socket at `port` in state `0A`, which is listening.
fn is_listening(sockets: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    sockets.lines().any(|socket| {
        let mut columns = socket.split_whitespace().skip(1);
        columns.next().is_some_and(|local| local.ends_with(&port)) && columns.nth(1) == Some("0A")
    })
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::is_listening;

    const SOCKETS: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 29338
   1: 0100007F:A2B0 0100007F:1F91 01 00000000:00000000 00:00000000 00000000     0        0 29341
";

    #[test]
    fn a_listener_is_told_from_a_connection() {
        assert!(is_listening(SOCKETS, 0x1f90));
        assert!(!is_listening(SOCKETS, 0xa2b0));
        assert!(!is_listening(SOCKETS, 0x1f91));
    }
}
