//! What the guest runs: busybox, the collector's tests with a server, and the libraries that they need.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Chosen, Profile};
use crate::shell::{cargo, run};

/// The test binaries by the start of their file name, with what is run of each.
///
/// The first takes the programs through every flavour of socket call, byte by byte; the second
/// turns what they send into rows.
const TESTS: [(&str, &str); 2] = [("undine_collector-", "kernel::tests::"), ("it-", "it::hooks::")];

/// Programs that the tests start: a server, and who speaks TLS to it.
const SERVERS: [&str; 2] = ["/usr/sbin/nginx", "/usr/bin/openssl"];

/// How cargo names the collector in its messages.
const PACKAGE: &str = "#undine-collector@";

/// The line that says that the guest is up; others before it are the machine's own.
pub(crate) const UP: &str = "undine-guest up";
/// The line after the last test.
pub(crate) const DONE: &str = "undine-guest done";

/// Builds the tests and packs them, to run those that are `chosen` of [`TESTS`]. Gives the archive.
pub(crate) fn build(folder: &Path, chosen: Chosen<'_>) -> Result<PathBuf> {
    let tests = test_binaries(chosen.profile == Profile::Release)?;
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for part in ["bin", "usr/bin", "usr/sbin", "proc", "sys", "dev", "tmp", "etc", "tests"] {
        fs::create_dir_all(root.join(part))?;
    }
    add_busybox(&root)?;
    add_servers(&root)?;
    let mut script = String::from(PREPARE);
    for (program, (name, filter)) in tests.iter().zip(TESTS) {
        let place = Path::new("tests").join(name.trim_end_matches('-'));
        run(Command::new("strip").arg("-o").arg(root.join(&place)).arg(program))?;
        add_libraries(&root, program)?;
        let all = std::slice::from_ref(&filter);
        let filters = if chosen.only.is_empty() { all } else { chosen.only }.join("' '");
        let options = format!("--test-threads=1 --show-output '{filters}'");
        script += &format!("/{} {options} 2>&1\n", place.display());
    }
    script += &format!("echo {DONE}\npoweroff -f\n");
    let init = root.join("init");
    fs::write(&init, script)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = folder.join("initramfs");
    let pack = "find . | cpio --create --format=newc --quiet > \"$0\"";
    run(Command::new("sh").args(["-c", pack]).arg(&archive).current_dir(&root))?;
    Ok(archive)
}

const PREPARE: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t securityfs security /sys/kernel/security
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
ip link set lo up
export PATH UNDINE_SCOPE=required
echo undine-guest up
echo undine-guest release $(uname -r)
";

/// The binaries in the order of [`TESTS`]; what is built already, is not built again.
fn test_binaries(optimised: bool) -> Result<Vec<PathBuf>> {
    let mut build = cargo(&["test", "--locked", "--no-run"]);
    // The whole workspace, as CI has built it: one crate alone would ask its dependencies for other
    // features and have them built again.
    let chosen: &[&str] =
        if optimised { &["--release", "--workspace"] } else { &["-p", "undine-collector"] };
    build.args(["--message-format=json-render-diagnostics"]).args(chosen);
    let output = build.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the collector's tests could not be built");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let executables: Vec<_> = messages
        .lines()
        .filter(|line| line.contains(PACKAGE))
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
        .map(PathBuf::from)
        .collect();
    let called = |start: &str| {
        let mut all = executables.iter().filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
        });
        all.next().cloned().with_context(|| format!("cargo built no test {start}…"))
    };
    TESTS.iter().map(|(start, _)| called(start)).collect()
}

/// Busybox is every other program that the tests start.
fn add_busybox(root: &Path) -> Result<()> {
    let program = Path::new("/usr/bin/busybox");
    let program = if program.exists() { program } else { Path::new("/bin/busybox") };
    fs::copy(program, root.join("bin/busybox")).context("cannot copy busybox")?;
    let list = Command::new(program).arg("--list").output()?;
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(())
}

/// The servers that are installed here; tests of the others say that they are skipped.
fn add_servers(root: &Path) -> Result<()> {
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    for server in SERVERS.map(Path::new).into_iter().filter(|server| server.exists()) {
        fs::copy(server, root.join(server.strip_prefix("/")?))?;
        add_libraries(root, server)?;
    }
    Ok(())
}

/// The shared libraries of `program`, where it looks for them.
fn add_libraries(root: &Path, program: &Path) -> Result<()> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("ldd cannot read {}", program.display());
    }
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries.filter(|word| Path::new(word).exists()) {
        let to = root.join(library.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(library, to)?;
    }
    Ok(())
}
