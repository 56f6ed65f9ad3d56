//! The table `conn_stats`.

crate::table! {
    /// Cumulative traffic of a process with one peer, by role and protocol.
    CONN_STATS = "conn_stats": Counter, ConnStat, ConnStats {
        /// When the counters were read.
        time_: Time [time],
        /// The process on this host.
        upid: Process [dimension],
        /// The peer's address, `-` where unknown.
        remote_addr: IpAddress [dimension],
        /// The peer's port; 0 for role 2, where each connection has another.
        remote_port: Port [dimension],
        /// Which end was traced: 1 client, 2 server, 4 unknown.
        trace_role: Int [dimension],
        /// Socket family: 2 IPv4, 10 IPv6.
        addr_family: Int [dimension],
        /// Protocol code: 0 unknown, 1 HTTP, and so on as in Pixie.
        protocol: Int [dimension],
        /// Whether TLS was seen.
        ssl: Flag [dimension],
        /// Connections opened since capture began.
        conn_open: Int [counter],
        /// Connections closed since capture began.
        conn_close: Int [counter],
        /// Connections open now.
        conn_active: Int [measure],
        /// Bytes sent since capture began, exact for every flavour of socket call.
        bytes_sent: ByteCount [counter],
        /// Bytes received since capture began.
        bytes_recv: ByteCount [counter],
        /// Service of the process.
        service: ServiceName [dimension, context],
        /// Pod of the process, empty on a bare host.
        pod: PodName [dimension, context],
        /// Namespace of the process, empty on a bare host.
        namespace: NamespaceName [dimension, context],
        /// Node of the process.
        node: NodeName [dimension, context],
        /// Container of the process, empty where it runs in none.
        container: ContainerName [dimension, context],
        /// Service of the peer, empty where it is not known.
        remote_service: ServiceName [dimension, context, peer],
        /// Pod of the peer, empty where it is not known.
        remote_pod: PodName [dimension, context, peer],
    }
}
