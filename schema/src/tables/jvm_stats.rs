//! The table `jvm_stats`.

crate::table! {
    /// Heap and garbage collection of each Java virtual machine, as it publishes them itself.
    JVM_STATS = "jvm_stats": Counter, JvmStat, JvmStats {
        /// When the counters were read.
        time_: Time [time],
        /// The process.
        upid: Process [dimension],
        /// Time in the first collector since the machine began; with G1 its young pauses.
        young_gc_time: DurationNs [counter],
        /// Time in the second collector since the machine began; with G1 its full pauses.
        full_gc_time: DurationNs [counter],
        /// Bytes of the heap that are used.
        used_heap_size: Int [measure],
        /// Bytes of the heap that are committed.
        total_heap_size: Int [measure],
        /// Bytes that the heap may grow to.
        max_heap_size: Int [measure],
        /// Its service, named by the public rule.
        service: ServiceName [dimension, context],
        /// Its pod, empty on a bare host.
        pod: PodName [dimension, context],
        /// Its namespace, empty on a bare host.
        namespace: NamespaceName [dimension, context],
        /// Its node.
        node: NodeName [dimension, context],
        /// Its container, empty where it runs in none.
        container: ContainerName [dimension, context],
    }
}
