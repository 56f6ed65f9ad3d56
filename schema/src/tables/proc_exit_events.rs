//! The table `proc_exit_events`.

crate::table! {
    /// One process that ended, with how it ended.
    PROC_EXIT_EVENTS = "proc_exit_events": Event, ProcExitEvent, ProcExitEvents {
        /// When it ended.
        time_: Time [time],
        /// The process.
        upid: Process,
        /// The code that it ended with; 0 where a signal ended it.
        exit_code: Int [dimension, outcome],
        /// The signal that ended it; 0 where it ended by itself.
        signal: Int [dimension, outcome],
        /// Its name in the kernel, at most 15 bytes.
        comm: Text [dimension],
        /// Its service, named by the public rule.
        service: ServiceName [dimension, context],
        /// Its pod, empty on a bare host.
        pod: PodName [dimension, context],
        /// Its namespace, empty on a bare host.
        namespace: NamespaceName [dimension, context],
        /// Its node.
        node: NodeName [dimension, context],
        /// Its container, empty where it ran in none.
        container: ContainerName [dimension, context],
    }
}
