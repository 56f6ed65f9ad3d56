//! Ports that were listened on before the programs were attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use undine_ebpf::load::ListenKey;

use super::process_tree;

/// `st` in `/proc/net/tcp` of a listening socket.
const LISTEN: &str = "0A";

/// How many sockets listen on each port in the network namespaces of `processes`.
pub(super) fn listening(processes: impl IntoIterator<Item = u32>) -> BTreeMap<(u32, u16), u64> {
    let mut seen = BTreeSet::new();
    let mut ports = BTreeMap::new();
    for pid in processes {
        let Some(netns) = process_tree::netns(pid) else { continue };
        if !seen.insert(netns) {
            continue;
        }
        for file in ["tcp", "tcp6"] {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
            for port in ports_in(&text) {
                *ports.entry((netns, port)).or_default() += 1;
            }
        }
    }
    ports
}

/// The key of the map `LISTEN_PORTS`.
pub(super) fn key((netns, port): (u32, u16)) -> ListenKey {
    ListenKey { netns, port: u32::from(port) }
}

fn ports_in(text: &str) -> impl Iterator<Item = u16> + '_ {
    text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, port) = local.rsplit_once(':')?;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_count() {
        let text = "  sl  local_address rem_address   st\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000\n   \
            1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000\n";
        assert_eq!(ports_in(text).collect::<Vec<_>>(), [8080]);
    }
}
