//! The table `tcp_resets`.

crate::packet_table! {
    /// TCP resets that were sent or received. Many at once are one row with their `count`, so the sum of
    /// `count` is exact.
    TCP_RESETS = "tcp_resets": TcpReset, TcpResets {
        /// When it was sent or received, or when it was told.
        time_,
        /// Resets that the row stands for.
        count,
        /// `sent` or `received`.
        direction: Text [dimension],
        /// Why it was sent, in the words of the running kernel's `enum sk_rst_reason`, such as
        /// `NO_SOCKET`; empty before kernel 6.10 and for those that were received.
        reason: Text [dimension],
    }
}
