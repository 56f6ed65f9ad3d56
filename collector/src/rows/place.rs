//! Where a request was served: what all tables of requests say of its connection and processes.

use std::sync::Arc;

use undine_schema::{TimeNs, Upid};

use super::Origin;
use crate::conn_tracker::{Connection, Ends};
use crate::endpoints::Role;
use crate::event::ProcessKey;
use crate::process::Processes;
use crate::protocol::output::QUALITY_UNBOUND;

/// Where a request was served.
pub(super) struct Place<'a> {
    pub(super) origin: &'a Origin,
    pub(super) upid: Upid,
    pub(super) role: Role,
    pub(super) remote: &'a str,
    pub(super) remote_port: u16,
    pub(super) local: &'a str,
    pub(super) local_port: u16,
    pub(super) service: Arc<str>,
    pub(super) remote_service: Option<Arc<str>>,
    pub(super) pod: &'a str,
    pub(super) container: &'a str,
    pub(super) remote_pod: &'a str,
    pub(super) encrypted: bool,
    pub(super) is_unbound: bool,
}

impl<'a> Place<'a> {
    /// The place of a request of `process` on `conn`.
    pub(super) fn of(
        conn: &'a Connection,
        process: ProcessKey,
        processes: &'a mut Processes,
        origin: &'a Origin,
    ) -> Self {
        let (role, ends) = (conn.role(), conn.ends.as_ref());
        let place = Self::at(role, ends, conn.peer_process, process, processes, origin);
        Self { encrypted: conn.is_plaintext(), is_unbound: conn.is_unbound, ..place }
    }

    /// The place of a request of `process` between `ends`.
    pub(super) fn at(
        role: Role,
        ends: Option<&'a Ends>,
        peer_process: Option<ProcessKey>,
        process: ProcessKey,
        processes: &'a mut Processes,
        origin: &'a Origin,
    ) -> Self {
        let local_port = ends.map_or(0, |ends| ends.tuple.local_port);
        let remote_port = ends.map_or(0, |ends| ends.tuple.remote_port);
        let service = processes
            .service(process, (role == Role::Server && ends.is_some()).then_some(local_port));
        let remote_service = peer_process
            .map(|peer| processes.service(peer, (role == Role::Client).then_some(remote_port)));
        let known = processes.get(process);
        let peer = peer_process.and_then(|peer| processes.get(peer));
        Self {
            origin,
            upid: process.upid(origin.asid),
            role,
            remote: ends.map_or("-", |ends| &ends.remote),
            remote_port,
            local: ends.map_or("-", |ends| &ends.local),
            local_port,
            service,
            remote_service,
            pod: known.map_or("", |known| &known.place.pod_uid),
            container: known.map_or("", |known| known.place.container_name()),
            remote_pod: peer.map_or("", |peer| &peer.place.pod_uid),
            encrypted: false,
            is_unbound: false,
        }
    }

    /// What is known to be wrong with a row of a request that is of `quality`.
    pub(super) fn quality(&self, quality: u8) -> i64 {
        i64::from(if self.is_unbound { quality | QUALITY_UNBOUND } else { quality })
    }

    /// The wall-clock time of a monotonic one.
    pub(super) fn wall(&self, mono_ns: u64) -> TimeNs {
        self.origin.wall(mono_ns)
    }
}

/// A row of a table of requests: the columns of its [`Place`], and those that are given.
macro_rules! request_row {
    ($row:ident at $place:expr, { $($column:ident: $value:expr,)+ }) => {
        request_row!($row without encrypted at $place, {
            encrypted: $place.encrypted,
            $($column: $value,)+
        })
    };
    ($row:ident without encrypted at $place:expr, { $($column:ident: $value:expr,)+ }) => {
        $row {
            upid: $place.upid,
            remote_addr: $place.remote,
            remote_port: i64::from($place.remote_port),
            local_addr: $place.local,
            local_port: i64::from($place.local_port),
            trace_role: $place.role as i64,
            service: &$place.service,
            pod: $place.pod,
            namespace: "",
            node: &$place.origin.node,
            container: $place.container,
            remote_service: $place.remote_service.as_deref().unwrap_or_default(),
            remote_pod: $place.remote_pod,
            $($column: $value,)+
        }
    };
}

pub(super) use request_row;
