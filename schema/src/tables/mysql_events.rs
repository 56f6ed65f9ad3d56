//! The table `mysql_events`.

crate::request_table! {
    /// One MySQL or MariaDB command with its response, once for each end that is observed.
    MYSQL_EVENTS = "mysql_events": MysqlEvent, MysqlEvents {
        /// When the response's last byte was seen.
        time_,
        /// The command byte, such as 3 for a query and 23 for the execution of a prepared statement.
        req_cmd: Int [dimension],
        /// The SQL text, cut at the configured size and without passwords; of an execution
        /// `query=[…] params=[…]`.
        req_body: Text [body],
        /// How it ended: 0 unknown, 1 without a response, 2 ok, 3 with an error.
        resp_status: Int [dimension],
        /// What came of it, such as `Resultset rows = 3`, or the error's message.
        resp_body: Text [body],
        /// Bytes of the command.
        req_size: ByteCount [measure, context],
        /// Bytes of the response.
        resp_size: ByteCount [measure, context],
        /// 1 where the response is an error, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
