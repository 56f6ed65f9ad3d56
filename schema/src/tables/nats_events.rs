//! The table `nats_events.beta`.

crate::table! {
    /// One NATS command of either side with what answered it, if anything did.
    NATS_EVENTS = "nats_events.beta": Event, NatsEvent, NatsEvents {
        /// When the command's first byte was seen.
        time_: Time [time],
        /// The process on this host that serves the connection or, for role 1, that opened it.
        upid: Process,
        /// The peer's address, `-` where unknown.
        remote_addr: IpAddress,
        /// The peer's port.
        remote_port: Port,
        /// This end's address.
        local_addr: IpAddress,
        /// This end's port.
        local_port: Port,
        /// Which end was traced: 1 client, 2 server, 4 unknown.
        trace_role: Int [dimension],
        /// Whether it went through TLS.
        encrypted: Flag,
        /// The command's name in capitals; `-ERR` for an error that answers none.
        cmd: Text [dimension],
        /// Its options as a JSON object, and the message's payload as one of them; long ones are cut
        /// at the configured size, credentials are never kept.
        body: Text [body],
        /// `OK`, `PONG` or `ERR` with the server's text; empty where a command has no answer.
        resp: Text [body],
        /// Service of the traced process.
        service: ServiceName [dimension, context],
        /// Pod of the traced process, empty on a bare host.
        pod: PodName [dimension, context],
        /// Namespace of the traced process, empty on a bare host.
        namespace: NamespaceName [dimension, context],
        /// Node of the traced process.
        node: NodeName [dimension, context],
        /// Container of the traced process, empty where it runs in none.
        container: ContainerName [dimension, context],
        /// Service of the peer, empty where it is not known.
        remote_service: ServiceName [dimension, context],
        /// Pod of the peer, empty where it is not known.
        remote_pod: PodName [dimension, context],
        /// From the command's first byte to the answer's last, 0 without an answer.
        latency: DurationNs [sketched, context],
        /// Bytes of the command with its payload.
        req_size: ByteCount [measure, context],
        /// Bytes of the answer.
        resp_size: ByteCount [measure, context],
        /// 1 where the answer is an error, otherwise 0.
        failed: Int [dimension, context],
        /// What is known to be wrong with the row, a sum of: 2 the connection was joined midway,
        /// 4 the connection ended before the answer came.
        quality: Int [context],
    }
}
