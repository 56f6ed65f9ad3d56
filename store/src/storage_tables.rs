//! Tables about the store itself, whose rows are made when they are read.

use std::sync::Arc;

use arrow::array::RecordBatch;
use undine_schema::tables::{
    STORAGE_SEGMENTS, STORAGE_TABLES, StorageSegment, StorageSegments, StorageTable, StorageTables,
};
use undine_schema::{Incarnation, Seq, SeqRange, TableDef, TimeNs};

use crate::hot::{HotList, Measured};
use crate::snapshot::Snapshot;
use crate::store::Inner;

impl Inner {
    /// A table about the store at this moment; none for every other table.
    pub(crate) fn snapshot_of_itself(&self, table: &TableDef) -> Option<Snapshot> {
        let rows = if *table == STORAGE_SEGMENTS {
            self.segment_rows()
        } else if *table == STORAGE_TABLES {
            self.table_rows()
        } else {
            return None;
        };
        if rows.num_rows() == 0 {
            return Some(Snapshot::in_memory(HotList::default()));
        }
        let seqs = SeqRange::new(Seq::new(Incarnation::new(0), 1), rows.num_rows());
        let chunk = Measured::new(rows).place(seqs, false, 0);
        Some(Snapshot::in_memory(HotList::from_iter([Arc::new(chunk)])))
    }

    fn segment_rows(&self) -> RecordBatch {
        let now = self.config.clock.now();
        let mut rows = StorageSegments::new(0);
        for (number, table) in self.hot.all().iter().enumerate() {
            let cold = &self.hot.view(number).cold;
            for (holds, tier) in cold.tiers() {
                let (name, sealed_to) = (holds.tier_name(tier.width), tier.sealed_to.to_string());
                for segment in tier.segments.iter() {
                    rows.push(&StorageSegment {
                        time_: now,
                        table_name: table.def.name,
                        tier: &name,
                        path: segment.path.as_ref(),
                        bytes: number_of(segment.bytes),
                        rows: number_of(segment.rows),
                        source_rows: number_of(segment.source_rows),
                        first_time: segment.first_time,
                        last_time: segment.last_time,
                        sealed_to: &sealed_to,
                    });
                }
            }
        }
        rows.finish()
    }

    fn table_rows(&self) -> RecordBatch {
        let now = self.config.clock.now();
        let stats = self.stats();
        let mut rows = StorageTables::new(stats.tables.len());
        for (number, table) in stats.tables.iter().enumerate() {
            let view = self.hot.view(number);
            let hot = view.hot_complete_from;
            let horizon = view.cold.raw.as_ref().map_or(hot, |raw| raw.complete_from.min(hot));
            rows.push(&StorageTable {
                time_: now,
                table_name: table.table,
                kind: &format!("{:?}", self.hot.all()[number].def.kind).to_lowercase(),
                hot_rows: number_of(table.hot_rows),
                hot_bytes: number_of(table.hot_bytes),
                hot_bytes_max: number_of(self.config.hot_bytes_max as u64),
                appended_rows: number_of(table.appended_rows),
                recovered_rows: number_of(table.recovered_rows),
                sealed_rows: number_of(table.sealed_rows),
                evicted_rows: number_of(table.evicted_rows),
                lost_rows: number_of(table.lost_rows),
                newest: &table.newest.to_string(),
                sealed_to: &table.sealed_to.to_string(),
                horizon: horizon.max(TimeNs::ZERO),
                segments: number_of(table.segments),
                segment_bytes: number_of(table.segment_bytes),
            });
        }
        rows.finish()
    }
}

fn number_of(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
