//! The table `redis_events`.

crate::request_table! {
    /// One Redis command with its reply.
    REDIS_EVENTS = "redis_events": RedisEvent, RedisEvents {
        /// When the reply's last byte was seen.
        time_,
        /// The command's name in capitals.
        req_cmd: Text [dimension],
        /// Its arguments as a JSON array, cut at the configured size.
        req_args: Text [body],
        /// The reply: text, numbers and arrays as in JSON, `<NULL>`, errors with a `-` before them.
        resp: Text [body],
        /// Bytes of the command.
        req_size: ByteCount [measure, context],
        /// Bytes of the reply.
        resp_size: ByteCount [measure, context],
        /// 1 where the reply is an error, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
