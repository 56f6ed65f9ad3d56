//! The table `pgsql_events`.

crate::request_table! {
    /// One PostgreSQL statement with its result, or what failed before one was run.
    PGSQL_EVENTS = "pgsql_events": PgsqlEvent, PgsqlEvents {
        /// When the response's last byte was seen.
        time_,
        /// What was sent: `Query`, `Execute` or `FunctionCall`; others, such as `Parse`, where they
        /// fail.
        req_cmd: Text [dimension],
        /// The SQL as sent, of an `Execute` as `query=[…] params=[…]`, cut at the configured size.
        req: Text [body],
        /// Names of columns, rows and what the server says of each statement, a line each; or the
        /// error. Empty where it was skipped because of an error before it.
        resp: Text [body],
        /// Bytes of the request, of an `Execute` with those that prepared it just before.
        req_size: ByteCount [measure, context],
        /// Bytes of the response.
        resp_size: ByteCount [measure, context],
        /// 1 where the response is an error or it was skipped because of one, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
