//! The table `tcp_drops`.

crate::packet_table! {
    /// TCP packets that the kernel threw away, with its reason. Many at once are one row with their
    /// `count`, so the sum of `count` is exact.
    TCP_DROPS = "tcp_drops": TcpDrop, TcpDrops {
        /// When it was thrown away, or when it was told.
        time_,
        /// Packets that the row stands for.
        count,
        /// Why, in the words of the running kernel's `enum skb_drop_reason`, such as `TCP_OLD_DATA`.
        reason: Text [dimension],
    }
}
