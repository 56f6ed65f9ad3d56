//! The table `process_stats`.

crate::table! {
    /// What each process has used since it began, and what it holds now, by interval.
    PROCESS_STATS = "process_stats": Counter, ProcessStat, ProcessStats {
        /// When the counters were read.
        time_: Time [time],
        /// The process.
        upid: Process [dimension],
        /// Page faults that had to wait for a disk, since it began.
        major_faults: Int [counter],
        /// Page faults that needed no disk, since it began.
        minor_faults: Int [counter],
        /// CPU time in its own code since it began, in steps of the kernel's tick (10 ms).
        cpu_utime_ns: DurationNs [counter],
        /// CPU time in the kernel on its behalf since it began, in the same steps.
        cpu_ktime_ns: DurationNs [counter],
        /// Threads that it has now.
        num_threads: Int [measure],
        /// Size of its address space.
        vsize_bytes: ByteCount [measure],
        /// Memory of it that is resident.
        rss_bytes: ByteCount [measure],
        /// Bytes that it read by system calls since it began, from a disk or not.
        rchar_bytes: ByteCount [counter],
        /// Bytes that it wrote by system calls since it began, to a disk or not.
        wchar_bytes: ByteCount [counter],
        /// Bytes that a disk read for it since it began.
        read_bytes: ByteCount [counter],
        /// Bytes that are to reach a disk because of it since it began.
        write_bytes: ByteCount [counter],
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
