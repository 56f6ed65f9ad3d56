//! The table `processes`.

crate::table! {
    /// What is known of a process: one row when it appears, changes its program or ends.
    PROCESSES = "processes": State, ProcessVersion, Processes {
        /// When this version began to hold.
        time_: Time [time],
        /// The process.
        upid: Process [key],
        /// Its process id as the host sees it.
        pid: Int,
        /// Its parent's process id.
        ppid: Int,
        /// Its name in the kernel, at most 15 bytes.
        comm: Text,
        /// Path of its executable.
        exe: Text,
        /// Its arguments, joined by blanks.
        cmdline: Text [body],
        /// Its path in the unified cgroup hierarchy.
        cgroup: Text,
        /// Its systemd unit, empty where it has none.
        unit: Text,
        /// Its service, named by the public rule.
        service: ServiceName [context],
        /// Its pod, empty on a bare host.
        pod: PodName [context],
        /// Its namespace, empty on a bare host.
        namespace: NamespaceName [context],
        /// Its node.
        node: NodeName [context],
        /// Its container's name, empty where it runs in none.
        container: ContainerName [context],
        /// Its container's id, empty where it runs in none.
        container_id: Text,
        /// When it started.
        start_time: Time,
        /// When it ended; 0 while it runs.
        stop_time: Time [end],
        /// Exit code, 0 while it runs.
        exit_code: Int,
    }
}
