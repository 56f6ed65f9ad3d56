//! The table `deliveries`.

crate::table! {
    /// Attempts to deliver an alert or an export, one row an attempt.
    DELIVERIES = "deliveries": Record, Delivery, Deliveries {
        /// When the attempt ended.
        time_: Time [time],
        /// `webhook` or `otlp`.
        channel: Text,
        /// Where it went, without credentials.
        target: Text,
        /// What was delivered: an incident's or a script's id.
        subject: Text,
        /// The key by which a receiver can tell a repetition.
        idempotency_key: Text,
        /// 1 for the first attempt.
        attempt: Int,
        /// Whether the receiver acknowledged.
        delivered: Flag,
        /// HTTP or gRPC status, 0 where there was none.
        status: Int,
        /// Points or alerts that it carried.
        items: Int,
        /// How long the attempt took.
        latency: DurationNs,
        /// Why it failed, empty where it did not.
        error: Text,
    }
}
