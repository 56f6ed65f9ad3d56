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
        rx_bytes: ByteCount [counter],
        /// Packets received.
        rx_packets: Int [counter],
        /// Packets received that were broken.
        rx_errors: Int [counter],
        /// Packets received that were dropped.
        rx_drops: Int [counter],
        /// Bytes sent since the namespace began.
        tx_bytes: ByteCount [counter],
        /// Packets sent.
        tx_packets: Int [counter],
        /// Packets that could not be sent.
        tx_errors: Int [counter],
        /// Packets to be sent that were dropped.
        tx_drops: Int [counter],
        /// Inode of the network namespace.
        netns: Int [dimension, context],
        /// Bytes that the namespace sent to itself over `lo`.
        loopback_bytes: ByteCount [counter, context],
        /// Packets that the namespace sent to itself over `lo`.
        loopback_packets: Int [counter, context],
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
