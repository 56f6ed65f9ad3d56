//! Names of processes, executables and cgroups: each becomes a number, always the same.

use std::collections::HashMap;

use undine_ebpf::ProcessInfo;

use crate::process::Facts;

/// Most names that are told apart; further ones are one.
const NAMES_MAX: usize = 64 * 1024;

/// What names became.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<String, usize>,
}

impl Names {
    /// What is recorded of a process when it begins or ends.
    pub(super) fn of(&mut self, info: ProcessInfo) -> ProcessInfo {
        let end = info.comm.iter().position(|byte| *byte == 0).unwrap_or(info.comm.len());
        let name = self.name("process", &String::from_utf8_lossy(&info.comm[..end]));
        let mut comm = [0; 16];
        let bytes = name.len().min(comm.len() - 1);
        comm[..bytes].copy_from_slice(&name.as_bytes()[..bytes]);
        ProcessInfo { comm, ..info }
    }

    /// What is recorded of a process: whose child it is, and which have names in common.
    pub(super) fn facts(&mut self, facts: &Facts) -> Facts {
        Facts {
            comm: self.name("process", &facts.comm),
            exe: self.name("executable", &facts.exe),
            args: Vec::new(),
            cgroup: self.name("/cgroup", &facts.cgroup),
            systemd_cgroup: self.name("/cgroup", &facts.systemd_cgroup),
            parent: facts.parent,
        }
    }

    /// What a name becomes; none stays none.
    fn name(&mut self, kind: &str, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        let known = self.known.len();
        let number = match self.known.get(name) {
            Some(number) => *number,
            None if known >= NAMES_MAX => NAMES_MAX,
            None => *self.known.entry(name.to_owned()).or_insert(known),
        };
        format!("{kind}-{}", number + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers_and_arguments_go() {
        let mut names = Names::default();
        let facts = Facts {
            comm: "shop".to_owned(),
            exe: "/srv/acme/shop".to_owned(),
            args: vec!["shop".to_owned(), "--password=x".to_owned()],
            cgroup: "/acme".to_owned(),
            systemd_cgroup: String::new(),
            parent: 7,
        };
        let masked = Facts {
            comm: "process-1".to_owned(),
            exe: "executable-2".to_owned(),
            args: Vec::new(),
            cgroup: "/cgroup-3".to_owned(),
            systemd_cgroup: String::new(),
            parent: 7,
        };
        assert_eq!(names.facts(&facts), masked);
        let mut info = ProcessInfo { exit_code: 3, ..ProcessInfo::default() };
        info.comm[..4].copy_from_slice(b"shop");
        let masked = names.of(info);
        assert_eq!((&masked.comm[..10], masked.exit_code), (&b"process-1\0"[..], 3));
    }
}
