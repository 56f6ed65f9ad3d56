//! The table `data_loss`.

crate::table! {
    /// What was not kept: which table it would have been in, where it was lost, why, and how much.
    ///
    /// Operations and bytes are exact. A lost operation can hold none or ten requests, so rows are
    /// bounds that contain the truth.
    DATA_LOSS = "data_loss": Record, DataLoss, DataLosses {
        /// When the loss was noticed.
        time_: Time [time],
        /// The table that is short of rows, empty where it cannot be told.
        source_table: Text,
        /// Where: `kernel`, `collector`, `store`, `ml`, `export`.
        stage: Text,
        /// Why: `ring_full`, `truncated`, `bypassed`, `parse_error`, `evicted`, `late`, …
        reason: Text,
        /// Socket operations, or frames of the log, that were lost; exact.
        operations: Int,
        /// Payload bytes that were lost; exact.
        bytes: ByteCount,
        /// At least this many rows are missing.
        rows_min: Int,
        /// At most this many rows are missing; -1 where there is no bound.
        rows_max: Int,
        /// First time that the missing rows may have; zero where they are about as old as the loss.
        rows_from: Time,
        /// Last time that they may have; zero as before.
        rows_until: Time,
        /// The process, zero where it cannot be told.
        upid: Process,
        /// The connection in hexadecimal, empty where it cannot be told.
        conn: Text,
        /// What else is known.
        detail: Text,
    }
}
