//! A virtual machine without disk and network, which ends by itself or is ended.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::initramfs::{DONE, UP};
use crate::shell::say;

/// How long a guest may say nothing: longer than any test takes, emulated and with other jobs on the
/// machine.
const SILENCE_MAX: Duration = Duration::from_mins(10);
/// How long a guest that KVM runs may take until it is up. Where KVM only pretends to work, as in
/// some nested machines, it stays silent.
const KVM_UP_TIME_MAX: Duration = Duration::from_secs(20);
/// The guest's memory, in MiB: its files are in there, and rings of up to 32 MiB.
const MEMORY: &str = "1536";
/// On a busy host an emulated timer may be late, which the kernel would take for a broken one.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 no_timer_check";
/// Lines that wait to be read.
const LINES_MAX: usize = 1024;

/// What runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Acceleration {
    /// The processor.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Acceleration {
    /// KVM where it may be used.
    pub(crate) fn best() -> Self {
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        if kvm.is_ok() { Self::Kvm } else { Self::Tcg }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }
}

/// Boots `kernel` with `initramfs` and gives the lines that the guest wrote. Where KVM does not
/// work, `acceleration` becomes emulation.
pub(crate) fn run(
    kernel: &Path,
    initramfs: &Path,
    acceleration: &mut Acceleration,
) -> Result<Vec<String>> {
    if *acceleration == Acceleration::Kvm {
        let machine = Machine::start(kernel, initramfs, *acceleration)?;
        if let Some(lines) = machine.lines(KVM_UP_TIME_MAX)? {
            return Ok(lines);
        }
        say("KVM does not work here, so the processor is emulated");
        *acceleration = Acceleration::Tcg;
    }
    let machine = Machine::start(kernel, initramfs, *acceleration)?;
    machine.lines(SILENCE_MAX)?.context("the guest did not come up; what it wrote is above")
}

/// A running machine; ended when it is dropped.
struct Machine {
    process: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn start(kernel: &Path, initramfs: &Path, acceleration: Acceleration) -> Result<Self> {
        let mut process = Command::new("qemu-system-x86_64")
            .args(["-accel", acceleration.option(), "-cpu", "max", "-smp", "2", "-m", MEMORY])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-nic", "none", "-append", COMMAND_LINE])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(if acceleration == Acceleration::Kvm {
                Stdio::null()
            } else {
                Stdio::inherit()
            })
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let output = process.stdout.take().context("qemu has no output")?;
        let (send, lines) = sync_channel(LINES_MAX);
        thread::spawn(move || {
            let all = BufReader::new(output).split(b'\n').map_while(Result::ok);
            // It ends with the machine, or when nobody listens any more.
            all.map(|line| text_of(&line)).all(|line| send.send(line).is_ok())
        });
        Ok(Self { process, lines })
    }

    /// What the guest writes from [`UP`] to [`DONE`], or nothing where it is not up in time.
    fn lines(self, up_time_max: Duration) -> Result<Option<Vec<String>>> {
        let start = Instant::now();
        let mut all: Option<Vec<String>> = None;
        let mut early = Vec::new();
        loop {
            let left = match all {
                Some(_) => SILENCE_MAX,
                None => up_time_max.saturating_sub(start.elapsed()),
            };
            match (self.lines.recv_timeout(left), &mut all) {
                (Ok(line), None) if line.ends_with(UP) => all = Some(Vec::new()),
                (Ok(line), None) => early.push(line),
                (Ok(line), Some(_)) if line == DONE => return Ok(all),
                (Ok(line), Some(lines)) => {
                    // So that one sees that it goes on.
                    if line.starts_with("test ") {
                        say(&line);
                    }
                    lines.push(line);
                }
                (Err(_), None) => {
                    early.iter().take(LINES_MAX).for_each(say);
                    return Ok(None);
                }
                (Err(RecvTimeoutError::Disconnected), Some(_)) => return Ok(all),
                (Err(RecvTimeoutError::Timeout), Some(lines)) => {
                    lines.iter().for_each(say);
                    bail!("the guest said nothing for {SILENCE_MAX:?}");
                }
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A line of the serial console, without what only a terminal wants.
fn text_of(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|letter| !letter.is_control()).collect()
}
