//! Addresses, each of which becomes always the same other one.
//!
//! IPv4 addresses become those that are for documentation (RFC 5737) and, where these do not suffice,
//! those for benchmarks (RFC 2544); IPv6 addresses those for documentation (RFC 3849). What is the same in
//! every network stays: loopback addresses, and none at all.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use undine_ebpf::ConnInfo;

const AF_INET: u16 = 2;
/// Networks for documentation, of each of which the hosts 1 to 254 are used.
const DOCUMENTATION: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
/// Hosts of such a network.
const HOSTS: usize = 254;
/// How many there are for benchmarks, from [`BENCHMARKS`] on.
const BENCHMARKS_MAX: usize = 1 << 17;
/// The first of them.
const BENCHMARKS: u32 = 0xc612_0000;
/// The first address of IPv6 for documentation.
const DOCUMENTATION_V6: u128 = 0x2001_0db8 << 96;

/// What addresses became.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    v4: HashMap<Ipv4Addr, Ipv4Addr>,
    v6: HashMap<Ipv6Addr, Ipv6Addr>,
}

impl Addresses {
    /// Replaces both addresses of a connection.
    pub(crate) fn replace_in(&mut self, info: &mut ConnInfo) {
        for address in [&mut info.local_addr, &mut info.remote_addr] {
            if info.family == AF_INET {
                if let Some((address, rest)) = address.split_first_chunk_mut() {
                    self.replace_v4(address);
                    rest.fill(0);
                }
            } else {
                self.replace_v6(address);
            }
        }
    }

    /// Replaces an address of IPv4.
    pub(crate) fn replace_v4(&mut self, address: &mut [u8; 4]) {
        let was = Ipv4Addr::from(*address);
        if was.is_loopback() || was.is_unspecified() {
            return;
        }
        let known = self.v4.len();
        // When all are used they are used again.
        let number = known % (DOCUMENTATION.len() * HOSTS + BENCHMARKS_MAX);
        let full = known >= DOCUMENTATION.len() * HOSTS + BENCHMARKS_MAX;
        let becomes = match self.v4.get(&was) {
            Some(becomes) => *becomes,
            None if full => v4(number),
            None => *self.v4.entry(was).or_insert_with(|| v4(number)),
        };
        *address = becomes.octets();
    }

    /// Replaces an address of IPv6, or one of IPv4 that is written as one.
    pub(crate) fn replace_v6(&mut self, address: &mut [u8; 16]) {
        let was = Ipv6Addr::from(*address);
        if was.is_loopback() || was.is_unspecified() {
            return;
        }
        if was.to_ipv4_mapped().is_some() {
            if let Some(address) = address.last_chunk_mut() {
                self.replace_v4(address);
            }
            return;
        }
        let known = self.v6.len();
        let full = known >= BENCHMARKS_MAX;
        let becomes = match self.v6.get(&was) {
            Some(becomes) => *becomes,
            None if full => v6(known),
            None => *self.v6.entry(was).or_insert_with(|| v6(known)),
        };
        *address = becomes.octets();
    }
}

fn v4(number: usize) -> Ipv4Addr {
    if let Some([a, b, c]) = DOCUMENTATION.get(number / HOSTS) {
        let host = u8::try_from(number % HOSTS + 1).unwrap_or(u8::MAX);
        return Ipv4Addr::new(*a, *b, *c, host);
    }
    let number = u32::try_from(number - DOCUMENTATION.len() * HOSTS).unwrap_or(0);
    Ipv4Addr::from(BENCHMARKS + number)
}

fn v6(number: usize) -> Ipv6Addr {
    Ipv6Addr::from(DOCUMENTATION_V6 + number as u128 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_always_the_same_other_one() {
        let mut addresses = Addresses::default();
        let mut replaced = |address: &str| {
            let mut bytes = address.parse::<Ipv4Addr>().unwrap().octets();
            addresses.replace_v4(&mut bytes);
            Ipv4Addr::from(bytes).to_string()
        };
        assert_eq!(replaced("10.0.0.7"), "192.0.2.1");
        assert_eq!(replaced("10.0.0.8"), "192.0.2.2");
        assert_eq!(replaced("10.0.0.7"), "192.0.2.1");
        assert_eq!(
            (replaced("127.0.0.1"), replaced("0.0.0.0")),
            ("127.0.0.1".into(), "0.0.0.0".into())
        );
        for number in 0..800 {
            replaced(&Ipv4Addr::from(0x0b00_0000_u32 + number).to_string());
        }
        assert_eq!(replaced("9.9.9.9"), "198.18.0.40");
    }

    #[test]
    fn both_ways_to_write_an_address_become_the_same() {
        let mut addresses = Addresses::default();
        let mut replaced = |address: &str| {
            let mut bytes = address.parse::<Ipv6Addr>().unwrap().octets();
            addresses.replace_v6(&mut bytes);
            Ipv6Addr::from(bytes).to_string()
        };
        assert_eq!(replaced("fe80::1"), "2001:db8::1");
        assert_eq!(replaced("::ffff:10.0.0.7"), "::ffff:192.0.2.1");
        assert_eq!(replaced("::1"), "::1");
        let mut same = [10, 0, 0, 7];
        addresses.replace_v4(&mut same);
        assert_eq!(same, [192, 0, 2, 1]);
    }
}
