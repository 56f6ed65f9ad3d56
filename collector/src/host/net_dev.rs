//! What the interfaces of a network namespace have moved, as `/proc/PID/net/dev` says.

/// Counters of interfaces that lead out of the namespace, summed up, and those of `lo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetDev {
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
    pub(crate) loopback_bytes: u64,
    pub(crate) loopback_packets: u64,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) drops: u64,
}

impl Traffic {
    fn add(&mut self, fields: &[u64]) {
        for (sum, value) in [&mut self.bytes, &mut self.packets, &mut self.errors, &mut self.drops]
            .into_iter()
            .zip(fields)
        {
            *sum = sum.saturating_add(*value);
        }
    }
}

/// Interfaces that lead to somewhere on this host, by how their names begin; Pixie's list.
const WITHIN_HOST: [&str; 3] = ["lo", "docker", "v"];

impl NetDev {
    /// Takes the file apart: two lines of headings, then for each interface eight numbers of what
    /// it received and eight of what it sent.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut sum = Self::default();
        for line in text.lines().skip(2) {
            let (name, numbers) = line.rsplit_once(':')?;
            let name = name.trim();
            let numbers: Option<Vec<u64>> =
                numbers.split_ascii_whitespace().map(|text| text.parse().ok()).collect();
            let numbers = numbers?;
            let (received, sent) = (numbers.get(..4)?, numbers.get(8..12)?);
            if name == "lo" {
                (sum.loopback_bytes, sum.loopback_packets) = (sent[0], sent[1]);
            }
            if !WITHIN_HOST.iter().any(|start| name.starts_with(start)) {
                sum.received.add(received);
                sum.sent.add(sent);
            }
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000       10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0
  eth0:54504114   65296    1    2    0     0          0         0  4258632   39739    3    4    0     0       0          0
  eth1:      6       5    4    3    0     0          0         0        2       1    0    1    0     0       0          0
docker0:      7       7    7    7    0     0          0         0        7       7    7    7    0     0       0          0
veth1@if2:   9       9    9    9    0     0          0         0        9       9    9    9    0     0       0          0
";

    #[test]
    fn interfaces_that_lead_out_are_summed_up_and_loopback_is_apart() {
        let expected = NetDev {
            received: Traffic { bytes: 54_504_120, packets: 65_301, errors: 5, drops: 5 },
            sent: Traffic { bytes: 4_258_634, packets: 39_740, errors: 3, drops: 5 },
            loopback_bytes: 1000,
            loopback_packets: 10,
        };
        assert_eq!(NetDev::parse(FILE), Some(expected));
    }

    #[test]
    fn a_line_that_is_cut_is_refused() {
        assert_eq!(NetDev::parse(""), Some(NetDev::default()));
        let end = FILE.find("54504114").unwrap();
        assert_eq!(NetDev::parse(&FILE[..end + 30]), None);
        assert_eq!(NetDev::parse("a\nb\neth0: 1 2 3 x\n"), None);
        assert_eq!(NetDev::parse("a\nb\neth0\n"), None);
    }
}
