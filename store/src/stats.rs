//! Figures about the store.

use undine_schema::Seq;

use crate::store::Inner;

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Each table, in the order of the configuration.
    pub tables: Vec<TableStats>,
    /// Bytes of rows in memory.
    pub hot_bytes: u64,
    /// Bytes of rows that may be in memory.
    pub hot_bytes_max: u64,
    /// Bytes of the log's segments.
    pub log_bytes: u64,
    /// Bytes that wait for the log.
    pub log_queue_bytes: u64,
    /// Frames that were refused since the start because the store was full.
    pub refused_frames: u64,
    /// Retries since the start that were acknowledged and not stored again.
    pub repeated_frames: u64,
}

/// What the store holds of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// The table's name.
    pub table: &'static str,
    /// Rows in memory.
    pub hot_rows: u64,
    /// Bytes of rows in memory.
    pub hot_bytes: u64,
    /// Rows appended since the start.
    pub appended_rows: u64,
    /// Rows that the log gave back at the start.
    pub recovered_rows: u64,
    /// Rows that the finest tier, or raw where there is no tier, stands for.
    pub sealed_rows: u64,
    /// Rows evicted since the start before they were sealed; each is in `data_loss`.
    pub evicted_rows: u64,
    /// Rows that earlier lives had accepted and that were gone at the start; each is in `data_loss`.
    pub lost_rows: u64,
    /// Files over all tiers.
    pub segments: u64,
    /// Their size.
    pub segment_bytes: u64,
    /// The newest row's place.
    pub newest: Seq,
    /// Every tier holds the rows up to here.
    pub sealed_to: Seq,
}

/// What the start found of one table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) rows: u64,
    pub(crate) lost_rows: u64,
}

impl Stats {
    /// The figures of one table.
    pub fn table(&self, name: &str) -> Option<&TableStats> {
        self.tables.iter().find(|table| table.table == name)
    }
}

impl Inner {
    pub(crate) fn stats(&self) -> Stats {
        let views: Vec<_> = (0..self.hot.all().len()).map(|table| self.hot.view(table)).collect();
        let (log_bytes, log_queue_bytes) = (self.log.bytes(), self.log.queue_bytes());
        let changes = self.hot.lock();
        let tables = views.iter().enumerate().map(|(number, view)| {
            let table = &self.hot.all()[number];
            let changed = &changes.tables[number];
            let cold = &view.cold;
            let all = || cold.tiers.iter().chain(&cold.raw).flat_map(|tier| tier.segments.iter());
            let finest = cold.tiers.first().or(cold.raw.as_ref());
            let sealed = finest.iter().flat_map(|tier| tier.segments.iter());
            TableStats {
                table: table.def.name,
                hot_rows: view.hot.iter().map(|chunk| chunk.seqs.rows()).sum(),
                hot_bytes: changed.bytes,
                appended_rows: changed.appended_rows,
                recovered_rows: self.recovered[number].rows,
                sealed_rows: sealed.map(|segment| segment.source_rows).sum(),
                evicted_rows: changed.evicted_rows,
                lost_rows: self.recovered[number].lost_rows,
                segments: all().count() as u64,
                segment_bytes: all().map(|segment| segment.bytes).sum(),
                newest: *table.newest.borrow(),
                sealed_to: changed.sealed_to,
            }
        });
        Stats {
            tables: tables.collect(),
            hot_bytes: changes.bytes,
            hot_bytes_max: self.config.hot_bytes_max as u64,
            log_bytes,
            log_queue_bytes,
            refused_frames: changes.refused_frames,
            repeated_frames: changes.repeated_frames,
        }
    }
}
