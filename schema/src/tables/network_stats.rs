//! The table `network_stats`.

crate::table! {
    /// What the network interfaces of each pod or other network namespace have moved, by interval.
    ///
    /// Interfaces within the host (`lo`, `docker…`, and those that begin with `v`, such as
    /// `veth…`) are not in the sums, as in Pixie.
    NETWORK_STATS = "network_stats": Counter, NetworkStat, NetworkStats {
        /// When the counters were read.
        time_: Time [time],
        /// UID of the pod, empty on a bare host.
        pod_id: Text [dimension],
        /// Bytes received since the namespace began.
        rx_bytes: ByteCount [measure],
        /// Packets received.
        rx_packets: Int [measure],
        /// Packets received that were broken.
        rx_errors: Int [measure],
        /// Packets received that were dropped.
        rx_drops: Int [measure],
        /// Bytes sent since the namespace began.
        tx_bytes: ByteCount [measure],
        /// Packets sent.
        tx_packets: Int [measure],
        /// Packets that could not be sent.
        tx_errors: Int [measure],
        /// Packets to be sent that were dropped.
        tx_drops: Int [measure],
        /// Inode of the network namespace.
        netns: Int [dimension, context],
        /// Bytes that the namespace sent to itself over `lo`.
        loopback_bytes: ByteCount [measure, context],
        /// Packets that the namespace sent to itself over `lo`.
        loopback_packets: Int [measure, context],
        /// Service of all watched processes in the namespace, empty where they are of several.
        service: ServiceName [dimension, context],
        /// Pod of the namespace, empty on a bare host.
        pod: PodName [dimension, context],
        /// Namespace of the pod, empty on a bare host.
        namespace: NamespaceName [dimension, context],
        /// The node.
        node: NodeName [dimension, context],
        /// Container of all watched processes in the namespace, empty where they are of several.
        container: ContainerName [dimension, context],
    }
}
