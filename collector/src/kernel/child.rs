//! A program of someone else's that runs for us and never longer than we do.
#![expect(unsafe_code, reason = "the end of a parent is told to its children by the kernel only")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

/// A process that the kernel kills when the thread that started it ends.
#[derive(Debug)]
pub(crate) struct Child {
    pid: libc::pid_t,
    /// Taken when its end has been seen, from when on its pid may be another's.
    process: Mutex<Option<std::process::Child>>,
}

/// What a child reads and writes, where it was asked for.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

impl Child {
    /// Starts `command` in a process group of its own. The calling thread must live until
    /// [`Child::wait`] has returned.
    ///
    /// # Errors
    /// Where the program cannot be started.
    pub(crate) fn start(command: &mut Command) -> io::Result<(Self, Pipes)> {
        let parent = std::process::id();
        command.process_group(0);
        // SAFETY: only calls that are safe after a fork: no memory is allocated and no lock taken.
        unsafe { command.pre_exec(move || die_with(parent)) };
        let mut process = command.spawn()?;
        let pid = libc::pid_t::try_from(process.id()).map_err(io::Error::other)?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let pipes = Pipes { stdin, stdout, stderr: process.stderr.take() };
        Ok((Self { pid, process: Mutex::new(Some(process)) }, pipes))
    }

    /// Asks it to end, as Ctrl-C does. Nothing happens where it has ended.
    pub(crate) fn interrupt(&self) {
        self.signal(libc::SIGINT);
    }

    /// Ends it. Nothing happens where it has ended.
    pub(crate) fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> io::Result<ExitStatus> {
        // Without the lock, and so that its pid stays its own while others may signal.
        loop {
            // SAFETY: all bytes may be zero.
            let mut told: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let options = libc::WEXITED | libc::WNOWAIT;
            let id = libc::id_t::try_from(self.pid).map_err(io::Error::other)?;
            // SAFETY: `told` lives through the call.
            if unsafe { libc::waitid(libc::P_PID, id, &raw mut told, options) } == 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = process.take().map(|mut process| process.wait());
        ended.unwrap_or_else(|| Err(io::Error::other("its end has been seen before")))
    }

    fn signal(&self, signal: libc::c_int) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if process.is_some() {
            // SAFETY: a plain call. While the lock is held nobody sees its end, so the pid is its own.
            unsafe { libc::kill(self.pid, signal) };
        }
    }
}

/// Has the kernel kill this process when the thread that forked it ends.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: a plain call.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a plain call.
    let now = unsafe { libc::getppid() };
    if u32::try_from(now).is_ok_and(|now| now == parent) {
        Ok(())
    } else {
        // It ended before it could be asked for.
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}
