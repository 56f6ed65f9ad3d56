//! The two ends of a connection, and which other connection is its other end on this host.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use undine_ebpf::{ConnInfo, PLAINTEXT};

use crate::event::Flow;

const AF_INET: u16 = 2;

/// Addresses and ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// This end's address; IPv4 also where the socket maps it into IPv6.
    pub local: IpAddr,
    /// This end's port.
    pub local_port: u16,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's port.
    pub remote_port: u16,
}

impl Tuple {
    /// The tuple in a kernel message.
    pub fn of(info: &ConnInfo) -> Self {
        Self {
            local: address(info.family, info.local_addr),
            local_port: info.local_port,
            remote: address(info.family, info.remote_addr),
            remote_port: info.remote_port,
        }
    }

    /// The same connection as its other end sees it.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            local: self.remote,
            local_port: self.remote_port,
            remote: self.local,
            remote_port: self.local_port,
        }
    }
}

fn address(family: u16, bytes: [u8; 16]) -> IpAddr {
    if family == AF_INET {
        let [a, b, c, d, ..] = bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        Ipv6Addr::from(bytes).to_canonical()
    }
}

/// Which end of a connection was traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// This end asks.
    Client = 1,
    /// This end answers.
    Server = 2,
    /// Not known.
    #[default]
    Unknown = 4,
}

impl Role {
    /// The role in a kernel message.
    pub const fn of(info: &ConnInfo) -> Self {
        match info.role {
            1 => Self::Client,
            2 => Self::Server,
            _ => Self::Unknown,
        }
    }

    /// The role of an end that sees requests go this way.
    pub const fn of_requests(requests: Flow) -> Self {
        match requests {
            Flow::Ingress => Self::Server,
            Flow::Egress => Self::Client,
        }
    }

    /// The direction of requests, where the role is known.
    pub const fn requests(self) -> Option<Flow> {
        match self {
            Self::Client => Some(Flow::Egress),
            Self::Server => Some(Flow::Ingress),
            Self::Unknown => None,
        }
    }
}

/// All connections by their layer and tuple, since a plaintext has the tuple of the connection that
/// carries it, and its other end is a plaintext too. Bounded by the connection table.
#[derive(Debug, Default)]
pub struct Endpoints {
    by_tuple: HashMap<(u64, Tuple), Vec<(u64, u64)>>,
}

/// The layer of a connection or plaintext, by its number.
const fn layer(conn: u64) -> u64 {
    conn & PLAINTEXT
}

impl Endpoints {
    /// Enters connection `conn` of network namespace `netns`, and says which connection is its
    /// other end: one of the same namespace, or, but for loopback addresses, the only one with
    /// that tuple in any.
    pub fn enter(&mut self, conn: u64, netns: u64, tuple: Tuple) -> Option<u64> {
        let entries = self.by_tuple.entry((layer(conn), tuple)).or_default();
        entries.retain(|(_, other)| *other != conn);
        entries.push((netns, conn));
        let others = self.by_tuple.get(&(layer(conn), tuple.reversed()))?;
        let same = others.iter().rev().find(|(of, other)| *of == netns && *other != conn);
        match (same, others.as_slice()) {
            (Some((_, other)), _) => Some(*other),
            (None, [(_, other)]) if !tuple.local.is_loopback() && *other != conn => Some(*other),
            _ => None,
        }
    }

    /// Removes connection `conn`.
    pub fn leave(&mut self, conn: u64, tuple: Tuple) {
        if let Some(entries) = self.by_tuple.get_mut(&(layer(conn), tuple)) {
            entries.retain(|(_, other)| *other != conn);
            if entries.is_empty() {
                self.by_tuple.remove(&(layer(conn), tuple));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(local: &str, local_port: u16, remote: &str, remote_port: u16) -> Tuple {
        Tuple {
            local: local.parse().unwrap(),
            local_port,
            remote: remote.parse().unwrap(),
            remote_port,
        }
    }

    #[test]
    fn the_other_end_has_the_reversed_tuple_in_the_same_namespace() {
        let mut endpoints = Endpoints::default();
        let client = tuple("127.0.0.1", 4000, "127.0.0.1", 80);
        assert_eq!(endpoints.enter(1, 10, client), None);
        assert_eq!(endpoints.enter(2, 11, client.reversed()), None);
        assert_eq!(endpoints.enter(3, 10, client.reversed()), Some(1));
        endpoints.leave(1, client);
        assert_eq!(endpoints.enter(4, 10, client.reversed()), None);
    }

    #[test]
    fn the_other_end_of_a_plaintext_is_a_plaintext() {
        let mut endpoints = Endpoints::default();
        let client = tuple("127.0.0.1", 4000, "127.0.0.1", 443);
        assert_eq!(endpoints.enter(1, 10, client), None);
        assert_eq!(endpoints.enter(2 | PLAINTEXT, 10, client.reversed()), None);
        assert_eq!(endpoints.enter(3, 10, client.reversed()), Some(1));
        assert_eq!(endpoints.enter(4 | PLAINTEXT, 10, client), Some(2 | PLAINTEXT));
        endpoints.leave(4 | PLAINTEXT, client);
        assert_eq!(endpoints.enter(5 | PLAINTEXT, 10, client.reversed()), None);
    }

    #[test]
    fn containers_meet_across_namespaces_where_no_other_could_be_meant() {
        let mut endpoints = Endpoints::default();
        let client = tuple("10.0.0.2", 4000, "10.0.0.3", 80);
        endpoints.enter(1, 10, client);
        assert_eq!(endpoints.enter(2, 11, client.reversed()), Some(1));
        endpoints.enter(3, 12, client);
        assert_eq!(endpoints.enter(4, 13, client.reversed()), None);
    }

    #[test]
    fn addresses_that_ipv6_sockets_map_are_ipv4() {
        let mut info = ConnInfo { family: 10, local_port: 80, ..ConnInfo::default() };
        info.local_addr[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
        assert_eq!(Tuple::of(&info).local.to_string(), "127.0.0.1");
        assert_eq!(Tuple::of(&info).remote.to_string(), "::");
    }
}
