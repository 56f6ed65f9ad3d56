//! The table `storage_segments`.

crate::table! {
    /// The files of every table and tier, as the store sees them when it is asked. No row is kept.
    STORAGE_SEGMENTS = "storage_segments": State, StorageSegment, StorageSegments {
        /// When the store was asked.
        time_: Time [time],
        /// The table.
        table_name: Text,
        /// The tier: `raw`, or the width of its windows such as `10s`.
        tier: Text,
        /// The file below the folder `tables`; the folder before it is the node's.
        path: Text,
        /// Size of the file.
        bytes: ByteCount,
        /// Its rows: states in a summary, the table's own rows in raw.
        rows: Int,
        /// How many of the table's rows it stands for.
        source_rows: Int,
        /// Smallest time of a row that it stands for.
        first_time: Time,
        /// Largest time of a row that it stands for.
        last_time: Time,
        /// Every row up to this place is in the tier, as LIFE.NUMBER.
        sealed_to: Text,
    }
}
