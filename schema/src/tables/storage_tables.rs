//! The table `storage_tables`.

crate::table! {
    /// What the store holds of every table when it is asked, in memory and on disk. No row is kept.
    STORAGE_TABLES = "storage_tables": State, StorageTable, StorageTables {
        /// When the store was asked.
        time_: Time [time],
        /// The table.
        table_name: Text,
        /// How its rows age: `event`, `counter`, `state`, `record` and their like.
        kind: Text,
        /// Rows in memory.
        hot_rows: Int,
        /// Memory of those rows.
        hot_bytes: ByteCount,
        /// Memory that the rows of all tables together may take.
        hot_bytes_max: ByteCount,
        /// Rows appended since the start.
        appended_rows: Int,
        /// Rows that the log gave back at the start.
        recovered_rows: Int,
        /// Rows that the finest tier, or raw where there is no tier, stands for.
        sealed_rows: Int,
        /// Rows that left memory before they were sealed, since the start; each is in `data_loss`.
        evicted_rows: Int,
        /// Rows that earlier lives had accepted and a crash took; each is in `data_loss`.
        lost_rows: Int,
        /// The newest row's place, as LIFE.NUMBER.
        newest: Text,
        /// Every tier holds the rows up to this place.
        sealed_to: Text,
        /// Single rows are all there since this time, in memory or on disk; 0 where none is missing.
        horizon: Time,
        /// Files over all tiers.
        segments: Int,
        /// Their size.
        segment_bytes: ByteCount,
    }
}
