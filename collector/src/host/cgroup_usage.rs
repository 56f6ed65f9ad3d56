//! What a cgroup has used and uses, as its files say, in version 1 and 2.
//!
//! Files are asked for by name, so that what is said of them here needs no file system.

/// What was found; `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupUsage {
    pub(crate) cpu_usage_ns: Option<u64>,
    pub(crate) cpu_user_ns: Option<u64>,
    pub(crate) cpu_system_ns: Option<u64>,
    pub(crate) cpu_periods: Option<u64>,
    pub(crate) cpu_throttled_periods: Option<u64>,
    pub(crate) cpu_throttled_ns: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) memory_max: Option<Limit>,
    pub(crate) memory_swap_bytes: Option<u64>,
    pub(crate) memory_high_events: Option<u64>,
    pub(crate) memory_max_events: Option<u64>,
    pub(crate) memory_oom_events: Option<u64>,
    pub(crate) memory_oom_kills: Option<u64>,
    pub(crate) io_read_bytes: Option<u64>,
    pub(crate) io_write_bytes: Option<u64>,
    pub(crate) io_read_ops: Option<u64>,
    pub(crate) io_write_ops: Option<u64>,
    pub(crate) cpu_pressure: Option<Pressure>,
    pub(crate) memory_pressure: Option<Pressure>,
    pub(crate) io_pressure: Option<Pressure>,
    pub(crate) pids: Option<u64>,
}

/// How much may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Whatever there is.
    None,
    /// So many bytes.
    Bytes(u64),
}

/// How long tasks have waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) some_ns: u64,
    pub(crate) full_ns: u64,
}

/// Nanoseconds of a tick in which version 1 counts CPU time.
const TICK_NS: u64 = 10_000_000;
/// A limit of version 1 from which on it is none: the largest that a page counter holds, 2^63 less
/// a page, whatever a page is.
const V1_LIMIT_NONE: u64 = (1 << 63) - (1 << 16);

/// Gives the text of a file of the cgroup, where it has it.
pub(crate) type Files<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl CgroupUsage {
    /// Takes what the files of a cgroup of version 2 say (`cgroup-v2.rst` of the kernel).
    pub(crate) fn read_unified(&mut self, files: &Files<'_>) {
        if let Some(text) = files("cpu.stat") {
            let us = |name| keyed(&text, name).map(|us| us.saturating_mul(1000));
            keep(&mut self.cpu_usage_ns, us("usage_usec"));
            keep(&mut self.cpu_user_ns, us("user_usec"));
            keep(&mut self.cpu_system_ns, us("system_usec"));
            keep(&mut self.cpu_periods, keyed(&text, "nr_periods"));
            keep(&mut self.cpu_throttled_periods, keyed(&text, "nr_throttled"));
            keep(&mut self.cpu_throttled_ns, us("throttled_usec"));
        }
        let number = |name| files(name).and_then(|text| single(&text));
        keep(&mut self.memory_bytes, number("memory.current"));
        keep(&mut self.memory_peak_bytes, number("memory.peak"));
        keep(&mut self.memory_swap_bytes, number("memory.swap.current"));
        keep(&mut self.memory_max, files("memory.max").and_then(|text| limit(&text)));
        if let Some(text) = files("memory.events") {
            keep(&mut self.memory_high_events, keyed(&text, "high"));
            keep(&mut self.memory_max_events, keyed(&text, "max"));
            keep(&mut self.memory_oom_events, keyed(&text, "oom"));
            keep(&mut self.memory_oom_kills, keyed(&text, "oom_kill"));
        }
        if let Some(text) = files("io.stat") {
            keep(&mut self.io_read_bytes, Some(devices(&text, "rbytes=")));
            keep(&mut self.io_write_bytes, Some(devices(&text, "wbytes=")));
            keep(&mut self.io_read_ops, Some(devices(&text, "rios=")));
            keep(&mut self.io_write_ops, Some(devices(&text, "wios=")));
        }
        let waits = |name| files(name).and_then(|text| pressure(&text));
        keep(&mut self.cpu_pressure, waits("cpu.pressure"));
        keep(&mut self.memory_pressure, waits("memory.pressure"));
        keep(&mut self.io_pressure, waits("io.pressure"));
        keep(&mut self.pids, number("pids.current"));
    }

    /// Takes what the files of a cgroup of version 1 say in the hierarchy of `controller`
    /// (`cgroup-v1/*.rst` of the kernel), where version 2 has not told already.
    pub(crate) fn read_v1(&mut self, controller: &str, files: &Files<'_>) {
        let number = |name| files(name).and_then(|text| single(&text));
        match controller {
            "cpuacct" => {
                keep(&mut self.cpu_usage_ns, number("cpuacct.usage"));
                if let Some(text) = files("cpuacct.stat") {
                    let ticks = |name| keyed(&text, name).map(|n| n.saturating_mul(TICK_NS));
                    keep(&mut self.cpu_user_ns, ticks("user"));
                    keep(&mut self.cpu_system_ns, ticks("system"));
                }
            }
            "cpu" => {
                if let Some(text) = files("cpu.stat") {
                    keep(&mut self.cpu_periods, keyed(&text, "nr_periods"));
                    keep(&mut self.cpu_throttled_periods, keyed(&text, "nr_throttled"));
                    keep(&mut self.cpu_throttled_ns, keyed(&text, "throttled_time"));
                }
            }
            "memory" => {
                let used = number("memory.usage_in_bytes");
                keep(&mut self.memory_bytes, used);
                keep(&mut self.memory_peak_bytes, number("memory.max_usage_in_bytes"));
                keep(&mut self.memory_max, number("memory.limit_in_bytes").map(limit_v1));
                let swapped = number("memory.memsw.usage_in_bytes").zip(used);
                let swapped = swapped.map(|(both, memory)| both.saturating_sub(memory));
                keep(&mut self.memory_swap_bytes, swapped);
                keep(&mut self.memory_max_events, number("memory.failcnt"));
                if let Some(text) = files("memory.oom_control") {
                    keep(&mut self.memory_oom_kills, keyed(&text, "oom_kill"));
                }
            }
            "blkio" => {
                let either = |all: &str, own: &str| files(all).or_else(|| files(own));
                let bytes = either(
                    "blkio.throttle.io_service_bytes_recursive",
                    "blkio.throttle.io_service_bytes",
                );
                let operations =
                    either("blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced");
                if let Some(text) = bytes {
                    keep(&mut self.io_read_bytes, Some(devices_v1(&text, "Read")));
                    keep(&mut self.io_write_bytes, Some(devices_v1(&text, "Write")));
                }
                if let Some(text) = operations {
                    keep(&mut self.io_read_ops, Some(devices_v1(&text, "Read")));
                    keep(&mut self.io_write_ops, Some(devices_v1(&text, "Write")));
                }
            }
            "pids" => keep(&mut self.pids, number("pids.current")),
            _ => {}
        }
    }

    /// Which controllers told something, joined by commas.
    pub(crate) fn controllers(&self) -> String {
        let told = [
            ("cpu", self.cpu_usage_ns.is_some()),
            ("memory", self.memory_bytes.is_some()),
            ("io", self.io_read_bytes.is_some()),
            ("pressure", self.cpu_pressure.or(self.memory_pressure).is_some()),
            ("pids", self.pids.is_some()),
        ];
        let names: Vec<_> = told.iter().filter(|(_, told)| *told).map(|(name, _)| *name).collect();
        names.join(",")
    }
}

/// Sets what is not known yet.
fn keep<T>(known: &mut Option<T>, found: Option<T>) {
    if known.is_none() {
        *known = found;
    }
}

fn single(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number on the line that begins with `name` and a blank.
fn keyed(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| single(value))?
    })
}

fn limit(text: &str) -> Option<Limit> {
    if text.trim() == "max" { Some(Limit::None) } else { single(text).map(Limit::Bytes) }
}

fn limit_v1(bytes: u64) -> Limit {
    if bytes >= V1_LIMIT_NONE { Limit::None } else { Limit::Bytes(bytes) }
}

/// The sum over all devices of the numbers after `name`, as in `8:0 rbytes=1 wbytes=2`.
fn devices(text: &str, name: &str) -> u64 {
    let of = |line: &str| {
        line.split_ascii_whitespace().find_map(|field| field.strip_prefix(name)?.parse().ok())
    };
    text.lines().filter_map(of).fold(0, u64::saturating_add)
}

/// The sum over all devices of the numbers after `name`, as in `8:0 Read 1`.
fn devices_v1(text: &str, name: &str) -> u64 {
    let of = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        (fields.next() == Some(name)).then(|| fields.next()?.parse().ok())?
    };
    text.lines().filter_map(of).fold(0, u64::saturating_add)
}

/// The totals of a file such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=12` in microseconds.
fn pressure(text: &str) -> Option<Pressure> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let us: u64 = line
            .split_ascii_whitespace()
            .find_map(|field| field.strip_prefix("total=")?.parse().ok())?;
        Some(us.saturating_mul(1000))
    };
    // `full` is not there for CPUs before Linux 5.13.
    Some(Pressure { some_ns: total("some")?, full_ns: total("full").unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files<'a>(all: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| all.iter().find(|(of, _)| *of == name).map(|(_, text)| (*text).to_owned())
    }

    /// As systemd's `system.slice` on Linux 6.1.
    const V2: [(&str, &str); 11] = [
        (
            "cpu.stat",
            "usage_usec 54000\nuser_usec 40000\nsystem_usec 14000\ncore_sched.force_idle_usec 0\n\
             nr_periods 9\nnr_throttled 3\nthrottled_usec 700\nnr_bursts 0\nburst_usec 0\n",
        ),
        ("memory.current", "1048576\n"),
        ("memory.peak", "2097152\n"),
        ("memory.max", "4194304\n"),
        ("memory.swap.current", "4096\n"),
        ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 0\n"),
        (
            "io.stat",
            "254:0 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=0 dios=0\n\
             8:16 \n8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        ),
        (
            "cpu.pressure",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
        ),
        ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"),
        ("io.pressure", "nonsense\n"),
        ("pids.current", "6\n"),
    ];

    const V1: [(&str, &str); 13] = [
        ("cpuacct.usage", "54000123\n"),
        ("cpuacct.stat", "user 4\nsystem 1\n"),
        ("cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 700123\n"),
        ("memory.usage_in_bytes", "1048576\n"),
        ("memory.max_usage_in_bytes", "2097152\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.memsw.usage_in_bytes", "1052672\n"),
        ("memory.failcnt", "3\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"),
        (
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 100\n8:0 Write 200\n8:0 Sync 300\n8:0 Total 300\n8:16 Read 1\nTotal 301\n",
        ),
        ("blkio.throttle.io_service_bytes", "8:0 Read 7\n"),
        ("blkio.throttle.io_serviced", "8:0 Read 3\n8:0 Write 4\nTotal 7\n"),
        ("pids.current", "6\n"),
    ];

    #[test]
    fn the_files_of_version_2_are_understood() {
        let mut usage = CgroupUsage::default();
        usage.read_unified(&files(&V2));
        let expected = CgroupUsage {
            cpu_usage_ns: Some(54_000_000),
            cpu_user_ns: Some(40_000_000),
            cpu_system_ns: Some(14_000_000),
            cpu_periods: Some(9),
            cpu_throttled_periods: Some(3),
            cpu_throttled_ns: Some(700_000),
            memory_bytes: Some(1_048_576),
            memory_peak_bytes: Some(2_097_152),
            memory_max: Some(Limit::Bytes(4_194_304)),
            memory_swap_bytes: Some(4096),
            memory_high_events: Some(2),
            memory_max_events: Some(3),
            memory_oom_events: Some(4),
            memory_oom_kills: Some(5),
            io_read_bytes: Some(101),
            io_write_bytes: Some(202),
            io_read_ops: Some(6),
            io_write_ops: Some(8),
            cpu_pressure: Some(Pressure { some_ns: 11_000, full_ns: 5000 }),
            memory_pressure: Some(Pressure { some_ns: 7000, full_ns: 0 }),
            io_pressure: None,
            pids: Some(6),
        };
        assert_eq!(usage, expected);
        assert_eq!(usage.controllers(), "cpu,memory,io,pressure,pids");
    }

    #[test]
    fn the_files_of_version_1_say_the_same_in_other_words() {
        let mut usage = CgroupUsage::default();
        for controller in ["cpu", "cpuacct", "memory", "blkio", "pids", "freezer"] {
            usage.read_v1(controller, &files(&V1));
        }
        let expected = CgroupUsage {
            cpu_usage_ns: Some(54_000_123),
            cpu_user_ns: Some(40_000_000),
            cpu_system_ns: Some(10_000_000),
            cpu_periods: Some(9),
            cpu_throttled_periods: Some(3),
            cpu_throttled_ns: Some(700_123),
            memory_bytes: Some(1_048_576),
            memory_peak_bytes: Some(2_097_152),
            memory_max: Some(Limit::None),
            memory_swap_bytes: Some(4096),
            memory_max_events: Some(3),
            memory_oom_kills: Some(5),
            io_read_bytes: Some(101),
            io_write_bytes: Some(200),
            io_read_ops: Some(3),
            io_write_ops: Some(4),
            pids: Some(6),
            ..CgroupUsage::default()
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn version_2_goes_first_and_version_1_tells_the_rest() {
        let mut usage = CgroupUsage::default();
        usage.read_unified(&files(&V2[..1]));
        usage.read_v1("cpuacct", &files(&V1));
        usage.read_v1("memory", &files(&V1));
        assert_eq!(usage.cpu_usage_ns, Some(54_000_000));
        assert_eq!((usage.memory_bytes, usage.pids), (Some(1_048_576), None));
        assert_eq!(usage.controllers(), "cpu,memory");
    }

    #[test]
    fn what_is_not_there_or_makes_no_sense_is_not_known() {
        let mut usage = CgroupUsage::default();
        let odd = [("cpu.stat", "usage_usec x\nuser_usec"), ("memory.max", "-"), ("io.stat", "")];
        usage.read_unified(&files(&odd));
        let nothing = CgroupUsage {
            io_read_bytes: Some(0),
            io_write_bytes: Some(0),
            io_read_ops: Some(0),
            io_write_ops: Some(0),
            ..CgroupUsage::default()
        };
        assert_eq!(usage, nothing);
    }
}
