//! Cumulative traffic of processes with their peers, for the table `conn_stats`.
//!
//! A connection is entered once its protocol is decided, so that no counter ever has to go back.
//! The bytes of a connection that carries TLS are those on the wire; its plaintext has no account.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::conn_tracker::{Connection, Decided};
use crate::endpoints::Role;
use crate::event::{Flow, ProcessKey};
use crate::protocol::ProtocolCode;

/// Most accounts. When there are more, those without a connection go; connections for which
/// that makes no room are counted, but not in the table.
pub const ACCOUNTS_MAX: usize = 64 * 1024;
/// How long a connection may be undecided before it is entered as unknown, in nanoseconds.
const UNDECIDED_NS_MAX: u64 = 1_000_000_000;

/// What connections are gathered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountKey {
    /// The process on this host.
    pub process: ProcessKey,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's port; 0 for a server, where each connection has another.
    pub remote_port: u16,
    /// This end's port for a server, otherwise 0.
    pub local_port: u16,
    /// Which end this is.
    pub role: Role,
    /// Socket family.
    pub family: u16,
    /// What is spoken; inside TLS, where that is looked into.
    pub protocol: ProtocolCode,
    /// Whether it is spoken inside TLS.
    pub ssl: bool,
}

/// Counters of one key; none ever goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that were closed.
    pub closed: u64,
    /// Bytes received and sent.
    pub bytes: [u64; 2],
    /// The process at the other end, where it is observed.
    pub peer_process: Option<ProcessKey>,
    changed: bool,
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: HashMap<AccountKey, Account>,
    refused: u64,
}

impl Accounts {
    /// Brings the account of `conn` up to date.
    pub fn update(&mut self, conn: &mut Connection, now: u64) {
        if conn.is_plaintext() {
            return;
        }
        let Some(key) = key_of(conn) else { return };
        let may_carry_plaintext =
            conn.may_carry_plaintext() && now.saturating_sub(conn.entered_at) < UNDECIDED_NS_MAX;
        let decided = (conn.decided() != Decided::NotYet && !may_carry_plaintext)
            || conn.closing.is_some()
            || now.saturating_sub(conn.used_at) >= UNDECIDED_NS_MAX;
        let (key, counted) = match conn.account {
            None if !decided => return,
            None => {
                if !self.open(key) {
                    return;
                }
                (key, [0; 2])
            }
            // What a connection speaks may be found out late; who owns it stays.
            Some((old, counted)) if AccountKey { process: old.process, ..key } == old => {
                (old, counted)
            }
            Some((old, counted)) => {
                let key = AccountKey { process: old.process, ..key };
                if !self.open(key) {
                    return;
                }
                if let Some(account) = self.accounts.get_mut(&old) {
                    account.closed += 1;
                    account.changed = true;
                }
                (key, counted)
            }
        };
        let Some(account) = self.accounts.get_mut(&key) else { return };
        for flow in [Flow::Ingress, Flow::Egress] {
            let more = conn.bytes[flow.index()].saturating_sub(counted[flow.index()]);
            account.bytes[flow.index()] = account.bytes[flow.index()].saturating_add(more);
            account.changed |= more > 0;
        }
        account.peer_process = conn.peer_process.or(account.peer_process);
        conn.account = Some((key, conn.bytes));
    }

    /// Takes note that `conn` is gone.
    pub fn close(&mut self, conn: &mut Connection) {
        self.update(conn, u64::MAX);
        if let Some((key, _)) = conn.account.take()
            && let Some(account) = self.accounts.get_mut(&key)
        {
            account.closed += 1;
            account.changed = true;
        }
    }

    /// Takes the accounts that changed since the last call, in a fixed order.
    pub fn take_changed(&mut self) -> Vec<(AccountKey, Account)> {
        let mut changed: Vec<_> = self
            .accounts
            .iter_mut()
            .filter_map(|(key, account)| {
                std::mem::take(&mut account.changed).then_some((*key, *account))
            })
            .collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        changed
    }

    /// Connections for which there was no room.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    fn open(&mut self, key: AccountKey) -> bool {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&key) {
            self.accounts.retain(|_, account| account.changed || account.opened > account.closed);
            if self.accounts.len() >= ACCOUNTS_MAX {
                self.refused += 1;
                return false;
            }
        }
        let account = self.accounts.entry(key).or_default();
        account.opened += 1;
        account.changed = true;
        true
    }
}

fn key_of(conn: &Connection) -> Option<AccountKey> {
    let ends = conn.ends.as_ref()?;
    let (protocol, role) = conn.speaks();
    let server = role == Role::Server;
    Some(AccountKey {
        process: conn.process,
        remote: ends.tuple.remote,
        remote_port: if server { 0 } else { ends.tuple.remote_port },
        local_port: if server { ends.tuple.local_port } else { 0 },
        role,
        family: ends.family,
        protocol,
        ssl: conn.is_tls(),
    })
}
