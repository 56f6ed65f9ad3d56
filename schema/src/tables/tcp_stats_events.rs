//! The table `tcp_stats_events`.

crate::table! {
    /// What the kernel knows of a TCP connection: every ten seconds while it is used, and when it ends.
    TCP_STATS_EVENTS = "tcp_stats_events": Event, TcpStatsEvent, TcpStatsEvents {
        /// When it was read.
        time_: Time [time],
        /// The process on this host that used the connection first.
        upid: Process,
        /// This end's address.
        local_addr: IpAddress,
        /// This end's port.
        local_port: Port,
        /// The peer's address.
        remote_addr: IpAddress,
        /// The peer's port.
        remote_port: Port,
        /// Data bytes sent since the connection began, each once.
        tx: ByteCount,
        /// Data bytes received in order since the connection began.
        rx: ByteCount,
        /// Segments sent again since the connection began.
        retransmits: Int,
        /// Data bytes sent again since the connection began.
        retransmitted_bytes: ByteCount,
        /// Segments sent since the connection began.
        segments_out: Int,
        /// Segments received since the connection began.
        segments_in: Int,
        /// Segments that were taken for lost since the connection began.
        lost: Int,
        /// Segments that came out of order since the connection began.
        out_of_order: Int,
        /// Segments that the peer said it has since the connection began.
        delivered: Int,
        /// Segments that wait for an acknowledgement now.
        unacked: Int,
        /// Bytes of the process that wait to be sent now.
        unsent: ByteCount,
        /// Congestion window now, in segments.
        cwnd: Int,
        /// Where slow start ends, in segments; 2147483647 where nothing was lost yet.
        ssthresh: Int,
        /// Bytes that the peer would take now.
        send_window: ByteCount,
        /// Bytes that this end would take now.
        receive_window: ByteCount,
        /// Smoothed round trip time, 0 where none was measured.
        srtt: DurationNs [sketched],
        /// Mean deviation of the round trip time.
        rttvar: DurationNs,
        /// Shortest round trip time of the last minutes, 0 where none was measured.
        rtt_min: DurationNs,
        /// Size of a segment.
        mss: ByteCount,
        /// Segments that may come out of order before one is taken for lost.
        reordering: Int,
        /// Packets of it that were thrown away since the connection was seen first.
        drops: Int,
        /// Resets that it sent since the connection was seen first.
        resets_sent: Int,
        /// Resets that it received since the connection was seen first.
        resets_received: Int,
        /// State of the socket, such as `ESTABLISHED`.
        state: Text [dimension],
        /// Whether the connection has ended: it has no row after this one.
        closed: Flag,
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
