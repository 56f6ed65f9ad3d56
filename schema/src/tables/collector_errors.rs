//! The table `collector_errors`.

crate::table! {
    /// What went wrong in Undine's own sources of data; Pixie calls it `stirling_error`.
    ///
    /// Errors that are alike are one row a minute; the rows' `count` add up to all of them.
    COLLECTOR_ERRORS = "collector_errors": Record, CollectorError, CollectorErrors {
        /// When the row was written.
        time_: Time [time],
        /// Undine's own process.
        upid: Process,
        /// The source of data: `sockets`, `host`, `jvm`, `store`, `recording`.
        source_connector: Text,
        /// 3 invalid data, 5 not found, 7 permission denied, 9 internal, 10 not available, 11 a
        /// limit was reached, 12 refused by the system.
        status: Int,
        /// What went wrong.
        error: Text,
        /// Further facts as a JSON object; `count` is how many errors the row stands for.
        context: Text,
        /// The node.
        node: NodeName [context],
    }
}
