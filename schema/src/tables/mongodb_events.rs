//! The table `mongodb_events`.

crate::request_table! {
    /// One MongoDB command with its reply.
    MONGODB_EVENTS = "mongodb_events": MongodbEvent, MongodbEvents {
        /// When the command's first byte was seen.
        time_,
        /// The command's name, such as `find`; `OP_COMPRESSED` where it was compressed.
        req_cmd: Text [dimension],
        /// The command as JSON, cut at the configured size, without credentials; `[compressed]` where
        /// it was.
        req_body: Text [body],
        /// `ok`, the name of the error's code, or nothing where there is no reply that can be read.
        resp_status: Text [dimension],
        /// The reply as JSON, in the same way.
        resp_body: Text [body],
        /// Bytes of the command.
        req_size: ByteCount [measure, context],
        /// Bytes of the reply.
        resp_size: ByteCount [measure, context],
        /// 1 where the reply is an error, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
