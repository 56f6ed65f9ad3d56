//! What this host offers to the kernel side, without loading anything but a feature probe.

use std::{fs, path::Path};

use aya::{maps::MapType, sys::is_map_supported, util::KernelVersion};

use super::{cgroups, object, offsets};

/// A condition that the kernel side needs or likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do; empty where it is as it should be.
    pub remedy: String,
}

/// Bits of the capabilities that the programs need, by name.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_PTRACE", 19), ("CAP_SYS_RESOURCE", 24)];

/// Only kernels before 5.11 need it, for locked memory.
const CAP_SYS_RESOURCE: u32 = 24;

/// The oldest kernel that the programs are tested on; 5.8 brought the ring buffer.
const KERNEL_MIN: KernelVersion = KernelVersion::new(5, 10, 0);

/// The first kernel with the tracepoints `sock_send_length` and `sock_recv_length`.
pub(super) const SOCKET_LENGTH_SINCE: KernelVersion = KernelVersion::new(6, 3, 0);

const KERNEL_REMEDY: &str = "Undine needs Linux 5.10, and likes 6.3 or later";

/// With it, all others are given.
const CAP_SYS_ADMIN: u32 = 21;

/// Looks at what the kernel side needs. Reads a few files and asks the kernel for one map type.
pub fn check_host() -> Vec<Check> {
    let mut checks = vec![kernel()];
    checks.extend(capabilities());
    checks.extend([types(), lockdown(), ring_buffer(), tracefs(), cgroup()]);
    checks
}

fn check(name: &'static str, ok: bool, found: String, remedy: &str) -> Check {
    let remedy = if ok { String::new() } else { remedy.to_owned() };
    Check { name, ok, found, remedy }
}

fn kernel() -> Check {
    let name = "kernel";
    match KernelVersion::current() {
        Ok(version) => {
            let ok = version >= KERNEL_MIN;
            let build = if object::has_loop() { "" } else { "; programs for kernels before 5.17" };
            check(name, ok, format!("{}{build}", release()), KERNEL_REMEDY)
        }
        Err(error) => check(name, false, error.to_string(), KERNEL_REMEDY),
    }
}

/// The running kernel, as `uname -r` says it.
pub(crate) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn capabilities() -> Vec<Check> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = effective(&status);
    let has = |bit: u32| effective & (1 << bit) != 0;
    let mut checks = Vec::new();
    for (name, bit) in CAPABILITIES {
        let needed = bit != CAP_SYS_RESOURCE
            || KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 11, 0));
        if !needed {
            continue;
        }
        let ok = has(bit) || (bit >= 38 && has(CAP_SYS_ADMIN));
        let found = if ok { "granted" } else { "missing" };
        checks.push(check(
            name,
            ok,
            found.to_owned(),
            "run as root, or give the binary the right with setcap",
        ));
    }
    checks
}

/// The effective capabilities in a `/proc/PID/status`.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

fn types() -> Check {
    let bytes = fs::metadata(offsets::VMLINUX).map(|metadata| metadata.len());
    let remedy = "use a kernel built with CONFIG_DEBUG_INFO_BTF";
    match bytes {
        Ok(bytes) => check("kernel types (BTF)", true, format!("{bytes} bytes"), remedy),
        Err(error) => check("kernel types (BTF)", false, error.to_string(), remedy),
    }
}

fn lockdown() -> Check {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = text.split(['[', ']']).nth(1).unwrap_or("none");
    check(
        "lockdown",
        mode != "confidentiality",
        mode.to_owned(),
        "this mode forbids eBPF to read memory; boot with lockdown=integrity or none",
    )
}

fn ring_buffer() -> Check {
    let name = "ring buffer";
    let remedy = "run as root; the kernel must be 5.8 or later";
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => check(name, true, "supported".to_owned(), remedy),
        Ok(false) => check(name, false, "not supported".to_owned(), remedy),
        Err(error) => check(name, false, error.to_string(), remedy),
    }
}

/// Raw tracepoints do without it; programs of bpftrace find their tracepoints there.
fn tracefs() -> Check {
    let places = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    let text = found.map_or_else(
        || "not mounted; only tracepoints of bpftrace programs need it".to_owned(),
        str::to_owned,
    );
    check("tracefs", true, text, "mount -t tracefs none /sys/kernel/tracing")
}

fn cgroup() -> Check {
    let remedy = "mount -t cgroup2 none /sys/fs/cgroup; without it targets cannot be cgroups";
    match cgroups::unified_mount() {
        Ok(Some(mount)) => check("cgroup v2", true, mount.display().to_string(), remedy),
        Ok(None) => check("cgroup v2", false, "not mounted".to_owned(), remedy),
        Err(error) => check("cgroup v2", false, error.to_string(), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_read_from_the_status() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert_eq!(effective("Name:\tx\n"), 0);
    }
}
