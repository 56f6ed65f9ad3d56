//! The table `cgroup_stats`.

crate::table! {
    /// What each cgroup, with all below it, has used and uses, by interval.
    ///
    /// Of cgroups of version 1 the hierarchies in which a cgroup has the same path are one row. What
    /// the kernel does not tell is 0; `controllers` says what it told.
    CGROUP_STATS = "cgroup_stats": Counter, CgroupStat, CgroupStats {
        /// When the counters were read.
        time_: Time [time],
        /// Its path below the hierarchy's mount.
        cgroup: Text [dimension],
        /// Which of `cpu`, `memory`, `io`, `pressure` and `pids` could be read, joined by commas.
        controllers: Text,
        /// CPU time since it was made.
        cpu_usage_ns: DurationNs [counter],
        /// CPU time in programs.
        cpu_user_ns: DurationNs [counter],
        /// CPU time in the kernel.
        cpu_system_ns: DurationNs [counter],
        /// Periods of its CPU limit in which it ran.
        cpu_periods: Int [counter],
        /// Periods in which the limit stopped it.
        cpu_throttled_periods: Int [counter],
        /// How long the limit stopped it.
        cpu_throttled_ns: DurationNs [counter],
        /// Memory that is charged to it.
        memory_bytes: ByteCount [measure],
        /// Most memory that was ever charged to it.
        memory_peak_bytes: ByteCount [measure],
        /// Its limit of memory, -1 without one.
        memory_max_bytes: ByteCount [measure],
        /// Swap that is charged to it.
        memory_swap_bytes: ByteCount [measure],
        /// Times that it was slowed since it used more than `memory.high`.
        memory_high_events: Int [counter],
        /// Times that it came to its limit.
        memory_max_events: Int [counter],
        /// Times that reclaiming could not make room; version 2 only.
        memory_oom_events: Int [counter],
        /// Processes of it that were killed to make room.
        memory_oom_kills: Int [counter],
        /// Bytes that its processes had read from block devices.
        io_read_bytes: ByteCount [counter],
        /// Bytes that its processes had written to block devices.
        io_write_bytes: ByteCount [counter],
        /// Reads of block devices.
        io_read_ops: Int [counter],
        /// Writes to block devices.
        io_write_ops: Int [counter],
        /// Time in which at least one task waited for a CPU.
        cpu_some_ns: DurationNs [counter],
        /// Time in which all tasks waited for a CPU; Linux 5.13 and later.
        cpu_full_ns: DurationNs [counter],
        /// Time in which at least one task waited for memory.
        memory_some_ns: DurationNs [counter],
        /// Time in which all tasks waited for memory.
        memory_full_ns: DurationNs [counter],
        /// Time in which at least one task waited for a block device.
        io_some_ns: DurationNs [counter],
        /// Time in which all tasks waited for a block device.
        io_full_ns: DurationNs [counter],
        /// Processes and threads in it.
        pids: Int [measure],
        /// Service that its path names, or that of all watched processes in it; empty where they
        /// are of several.
        service: ServiceName [dimension, context],
        /// Pod that its path names, empty on a bare host.
        pod: PodName [dimension, context],
        /// Namespace of the pod, empty on a bare host.
        namespace: NamespaceName [dimension, context],
        /// The node.
        node: NodeName [dimension, context],
        /// Container that its path names, empty where it names none.
        container: ContainerName [dimension, context],
    }
}
