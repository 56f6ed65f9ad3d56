//! The table `tcp_drops`.

crate::table! {
    /// TCP packets that the kernel threw away, with its reason. Many at once are one row with their
    /// `count`, so the sum of `count` is exact.
    TCP_DROPS = "tcp_drops": Event, TcpDrop, TcpDrops {
        /// When it was thrown away, or when it was told.
        time_: Time [time],
        /// The process on this host, zero where none is known: a packet for a port at which nobody
        /// listens belongs to none.
        upid: Process,
        /// This end's address.
        src_ip: IpAddress,
        /// This end's port.
        src_port: Port,
        /// The peer's address, `-` where unknown.
        dst_ip: IpAddress,
        /// The peer's port.
        dst_port: Port,
        /// State of this end's socket, such as `ESTABLISHED`; empty where there is no socket.
        state: Text [dimension],
        /// Why, in the words of the running kernel's `enum skb_drop_reason`, such as `TCP_OLD_DATA`.
        reason: Text [dimension],
        /// Packets that the row stands for.
        count: Int [measure],
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
        remote_service: ServiceName [dimension, context],
        /// Pod of the peer, empty where it is not known.
        remote_pod: PodName [dimension, context],
    }
}
