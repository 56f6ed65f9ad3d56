//! What is known of a connection's two ends.

use std::net::IpAddr;

use undine_ebpf::ConnInfo;

use crate::endpoints::{Role, Tuple};

/// What is known of a connection's ends once it was announced.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Addresses and ports.
    pub tuple: Tuple,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Socket family.
    pub family: u16,
    /// Which end this is, as far as the kernel knows.
    pub role: Role,
    /// The peer's address as text.
    pub remote: String,
    /// This end's address as text.
    pub local: String,
}

impl Ends {
    /// The ends in a kernel message.
    pub fn of(info: &ConnInfo) -> Self {
        let tuple = Tuple::of(info);
        Self {
            tuple,
            netns: info.netns,
            family: info.family,
            role: Role::of(info),
            remote: text(tuple.remote),
            local: text(tuple.local),
        }
    }

    /// Whether the peer is known; that of a datagram may not be.
    pub const fn knows_peer(&self) -> bool {
        self.tuple.remote_port != 0
    }
}

/// An address as rows show it, `-` where it is not known.
fn text(address: IpAddr) -> String {
    if address.is_unspecified() { "-".to_owned() } else { address.to_string() }
}
