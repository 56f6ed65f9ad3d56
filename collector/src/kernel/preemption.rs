//! Whether the kernel may leave a program that stands on a function for another process's work.
//!
//! Since Linux 5.11 it may, where it was built and started so, and then the other process's programs
//! on this CPU are skipped without a trace. Programs on tracepoints are never left.

use std::fs;

use aya::util::KernelVersion;

use super::doctor::release;

/// The first kernel that leaves such programs.
const PROGRAMS_ARE_LEFT: KernelVersion = KernelVersion::new(5, 11, 0);

/// What the running kernel does, in words of its own.
const LIVE: &str = "/sys/kernel/debug/sched/preempt";

/// Why programs on functions may be left on the running kernel; `None` where they never are.
pub(super) fn of_running_kernel() -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let version = read("/proc/sys/kernel/version").unwrap_or_default();
    let is_old = KernelVersion::current().is_ok_and(|kernel| kernel < PROGRAMS_ARE_LEFT);
    if is_old && !is_realtime(&version) {
        return None;
    }
    let facts = Facts {
        version: &version,
        live: read(LIVE),
        command_line: read("/proc/cmdline").unwrap_or_default(),
        built: read(&format!("/boot/config-{}", release())),
    };
    facts.reason()
}

fn is_realtime(version: &str) -> bool {
    version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

/// What is known of the kernel.
struct Facts<'a> {
    /// What `uname -v` says.
    version: &'a str,
    /// What [`LIVE`] says, where it is readable.
    live: Option<String>,
    command_line: String,
    /// How it was configured, where that is kept.
    built: Option<String>,
}

impl Facts<'_> {
    fn reason(&self) -> Option<String> {
        let may_be_left = |how: &str| {
            Some(format!(
                "this kernel is preemptible ({how}), so programs on functions may be skipped"
            ))
        };
        let mut models = self.version.split_whitespace().filter(|word| word.starts_with("PREEMPT"));
        match (models.next(), self.mode().as_deref()) {
            (None, _) | (Some("PREEMPT_DYNAMIC"), Some("none" | "voluntary")) => None,
            (Some("PREEMPT_DYNAMIC"), Some(mode)) => may_be_left(&format!("preempt={mode}")),
            (Some("PREEMPT_DYNAMIC"), None) => Some(format!(
                "whether this kernel is preemptible cannot be told; mount debugfs, so that {LIVE} \
                 says it, or start the kernel with preempt=voluntary"
            )),
            (Some(model), _) => may_be_left(model),
        }
    }

    /// Which mode a kernel is in that can be in several.
    fn mode(&self) -> Option<String> {
        let chosen = |text: &str| Some(text.split(['(', ')']).nth(1)?.to_owned());
        let asked = || {
            let asked = |word: &str| word.strip_prefix("preempt=").map(str::to_owned);
            self.command_line.split_whitespace().rev().find_map(asked)
        };
        let built = || {
            let has =
                |line: &str| self.built.iter().flat_map(|all| all.lines()).any(|one| one == line);
            [("NONE", "none"), ("VOLUNTARY", "voluntary")]
                .into_iter()
                .find(|(option, _)| has(&format!("CONFIG_PREEMPT_{option}=y")))
                .or_else(|| has("CONFIG_PREEMPT=y").then_some(("", "full")))
                .map(|(_, mode)| mode.to_owned())
        };
        self.live.as_deref().and_then(chosen).or_else(asked).or_else(built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: &str, live: &str, command_line: &str, built: &str) -> Option<String> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (live, built) = (some(live), some(built));
        Facts { version, live, command_line: command_line.to_owned(), built }.reason()
    }

    const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)";

    #[test]
    fn a_kernel_that_is_not_preemptible_leaves_no_program() {
        assert_eq!(check("#1 SMP Debian 5.10.237-1", "", "", ""), None);
        assert_eq!(check(DYNAMIC, "none (voluntary) full", "preempt=full", ""), None);
        assert_eq!(check(DYNAMIC, "", "quiet preempt=none", "CONFIG_PREEMPT=y"), None);
        assert_eq!(check(DYNAMIC, "", "quiet", "CONFIG_PREEMPT_VOLUNTARY=y\n"), None);
    }

    #[test]
    fn a_kernel_that_is_or_may_be_preemptible_says_so() {
        for (version, live, command_line, built, why) in [
            ("#1 SMP PREEMPT 2024", "", "", "", "(PREEMPT)"),
            ("#1 SMP PREEMPT_RT 2024", "none (voluntary) full", "", "", "(PREEMPT_RT)"),
            (DYNAMIC, "none voluntary (full)", "", "", "(preempt=full)"),
            (DYNAMIC, "none voluntary full (lazy)", "", "", "(preempt=lazy)"),
            (DYNAMIC, "", "preempt=none preempt=full", "", "(preempt=full)"),
            (
                DYNAMIC,
                "",
                "",
                "# CONFIG_PREEMPT_NONE is not set\nCONFIG_PREEMPT=y",
                "(preempt=full)",
            ),
            (DYNAMIC, "", "", "", "mount debugfs"),
        ] {
            let said = check(version, live, command_line, built).unwrap();
            assert!(said.contains(why), "{said}");
        }
    }
}
