//! The table `nats_events.beta`.

crate::request_table! {
    /// One NATS command of either side with what answered it, if anything did.
    NATS_EVENTS = "nats_events.beta": NatsEvent, NatsEvents {
        /// When the command's first byte was seen.
        time_,
        /// From the command's first byte to the answer's last, 0 without an answer.
        latency [context],
        /// The command's name in capitals; `-ERR` for an error that answers none.
        cmd: Text [dimension],
        /// Its options as a JSON object, and the message's payload as one of them; long ones are cut
        /// at the configured size, credentials are never kept.
        body: Text [body],
        /// `OK`, `PONG` or `ERR` with the server's text; empty where a command has no answer.
        resp: Text [body],
        /// Bytes of the command with its payload.
        req_size: ByteCount [measure, context],
        /// Bytes of the answer.
        resp_size: ByteCount [measure, context],
        /// 1 where the answer is an error, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
