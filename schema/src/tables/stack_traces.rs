//! The table `stack_traces.beta`.

crate::table! {
    /// What processes did with their CPU time: a stack and how often it was seen since the last row.
    STACK_TRACES = "stack_traces.beta": Stacks, StackTrace, StackTraces {
        /// When the row was written.
        time_: Time [time],
        /// The process.
        upid: Process,
        /// The same for the same stack, on every node and at any time.
        stack_trace_id: Int,
        /// The frames from the outermost to the innermost, with `;` between them; those of the
        /// kernel begin with `[k] `, and one without a name is its module and the address in it.
        stack_trace: Text [dimension],
        /// Samples since the last row of this process and stack.
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
    }
}
