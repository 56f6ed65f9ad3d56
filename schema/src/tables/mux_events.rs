//! The table `mux_events`.

crate::request_table! {
    /// One Mux exchange, of either side, with its reply. What expects none is no exchange.
    MUX_EVENTS = "mux_events": MuxEvent, MuxEvents {
        /// When the reply's last byte was seen; where none came, when the message was sent.
        time_,
        /// The message's type: 1 `Treq`, 2 `Tdispatch`, 64 `Tdrain`, 65 `Tping`, 68 `Tinit`.
        req_type: Int [dimension],
        /// The logical destination of a `Tdispatch`, such as `/s/users/get`; empty where it has none.
        dest: Text [dimension, context],
        /// Bytes of the message, all of its fragments.
        req_size: ByteCount [measure, context],
        /// Bytes of the reply.
        resp_size: ByteCount [measure, context],
        /// 1 where the reply is an error or a refusal, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
