//! The table `tcp_retransmits`.

crate::packet_table! {
    /// Segments that a TCP socket sent again. Many at once are one row with their `count`, so the sum of
    /// `count` is what the kernel counted.
    TCP_RETRANSMITS = "tcp_retransmits": TcpRetransmit, TcpRetransmits {
        /// When they were sent again, or when it was told.
        time_,
        /// Segments that the row stands for.
        count,
    }
}
