//! The table `cql_events`.

crate::request_table! {
    /// One CQL request, as Cassandra speaks it, with its response.
    CQL_EVENTS = "cql_events": CqlEvent, CqlEvents {
        /// When the response's last byte was seen.
        time_,
        /// The request's opcode.
        req_op: Int [dimension],
        /// The statement, or what else was asked.
        req_body: Text [body],
        /// The response's opcode, -1 where there is none.
        resp_op: Int [dimension],
        /// The kind of result, its columns and number of rows, or the error.
        resp_body: Text [body],
        /// Bytes of the request.
        req_size: ByteCount [measure, context],
        /// Bytes of the response.
        resp_size: ByteCount [measure, context],
        /// 1 where the response is an error, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
