//! Debian's kernels, downloaded and unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::shell::{run, say};

/// A kernel, by the first two numbers of its version.
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    /// The ways to see the bytes of sockets that it has, as the collector calls them.
    pub(crate) rungs: &'static [&'static str],
}

const TRACEPOINTS: &str = "tracepoints of sockets";
const FUNCTIONS: &str = "functions of sockets";
/// The way that every kernel has.
pub(crate) const SYS_EXIT: &str = "the end of system calls";

/// The oldest that the programs support, the one before the tracepoints of 6.3, and one after.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel { name: "5.10", rungs: &[FUNCTIONS, SYS_EXIT] },
    Kernel { name: "6.1", rungs: &[FUNCTIONS, SYS_EXIT] },
    Kernel { name: "6.12", rungs: &[TRACEPOINTS, FUNCTIONS, SYS_EXIT] },
];

/// Where Debian keeps them: security updates of two releases, whose lists are short.
const SUITES: [&str; 2] = ["bullseye-security", "bookworm-security"];
const MIRROR: &str = "http://deb.debian.org/debian-security";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Kernel {
    pub(crate) fn called(name: &str) -> Option<&'static Self> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }
}

/// The kernel's image, downloaded where it is not in `folder` yet.
pub(crate) fn image(kernel: &Kernel, folder: &Path) -> Result<PathBuf> {
    let own = folder.join(kernel.name);
    if let Some(image) = vmlinuz(&own.join("boot")) {
        return Ok(image);
    }
    let apt = Apt::new(folder)?;
    let package = apt.newest(kernel.name)?;
    say(format!("downloading {package}"));
    fs::create_dir_all(&own)?;
    run(apt.command("apt-get").args(["download", "-qq", &package]).current_dir(&own))?;
    let archive = find(&own, |name| name.starts_with("linux-image-"))
        .context("apt-get downloaded nothing")?;
    // Only the image: modules are not needed, everything is in the initramfs.
    let unpack = "dpkg-deb --fsys-tarfile \"$0\" | tar -x --wildcards './boot/vmlinuz-*'";
    run(Command::new("sh").args(["-c", unpack]).arg(&archive).current_dir(&own))?;
    fs::remove_file(&archive)?;
    vmlinuz(&own.join("boot")).with_context(|| format!("{package} holds no kernel"))
}

fn vmlinuz(folder: &Path) -> Option<PathBuf> {
    find(folder, |name| name.starts_with("vmlinuz-"))
}

fn find(folder: &Path, is_it: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.file_name().is_some_and(|name| is_it(&name.to_string_lossy())))
}

/// An apt of our own, which leaves the host's lists alone.
struct Apt {
    config: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing; install debian-archive-keyring"
        );
        let home = folder.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(part))?;
        }
        let source = |suite| format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main\n");
        let sources = SUITES.map(source).concat();
        fs::write(home.join("sources.list"), sources)?;
        let home = home.display();
        let config = format!(
            "Dir::State::lists \"{home}/lists\";\nDir::Cache \"{home}/cache\";\n\
             Dir::Etc::sourcelist \"{home}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
             Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\n\
             APT::Architecture \"amd64\";\nAPT::Sandbox::User \"\";\n"
        );
        let apt = Self { config: folder.join("apt/apt.conf") };
        fs::write(&apt.config, config)?;
        run(apt.command("apt-get").args(["update", "-qq"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// The newest package of a version, of the small kernels that are made for virtual machines.
    fn newest(&self, version: &str) -> Result<String> {
        let pattern =
            format!(r"^linux-image-{}\.[0-9].*-cloud-amd64$", version.replace('.', r"\."));
        let output =
            self.command("apt-cache").args(["search", "--names-only", &pattern]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.split(' ').next());
        // A newer kernel that was built for an older release counts its own revisions.
        let newest = names.filter(|name| !name.contains(".deb")).max_by_key(|name| numbers(name));
        match newest {
            Some(name) => Ok(name.to_owned()),
            None => bail!("{MIRROR} has no Linux {version} any more"),
        }
    }
}

/// The numbers in a package's name.
fn numbers(name: &str) -> Vec<u64> {
    let digits = name.split(|letter: char| !letter.is_ascii_digit());
    digits.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_revision_is_the_one_with_the_largest_number() {
        assert!(
            numbers("linux-image-6.1.0-100-cloud-amd64")
                > numbers("linux-image-6.1.0-56-cloud-amd64")
        );
    }
}
