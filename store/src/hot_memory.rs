//! The memory of live rows, for as long as anybody holds them.
//!
//! A chunk that leaves the ring is freed only when the last query lets go of it. Each chunk's time
//! column therefore owns a lease: its bytes count from the moment they come until the column's
//! memory is freed. What is leased and no longer in the ring is *pinned*. A holder of some columns
//! without the time is not seen; readers of this store hold whole rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::Int64Type;
use bytes::Bytes;

/// Bytes of one table's rows that somebody holds, and with them those of all tables.
#[derive(Debug, Default)]
pub(crate) struct Account {
    held: AtomicU64,
    total: Arc<AtomicU64>,
}

/// Gives its bytes back when it goes.
#[derive(Debug)]
struct Lease {
    account: Arc<Account>,
    bytes: u64,
}

struct LeasedTimes {
    times: Buffer,
    _lease: Lease,
}

impl Account {
    /// An account of one table beside `total`.
    pub(crate) fn new(total: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), total: Arc::clone(total) })
    }

    /// Bytes that are held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The same rows, whose `bytes` count here until nobody holds them.
    pub(crate) fn lease(self: &Arc<Self>, rows: RecordBatch, bytes: u64) -> RecordBatch {
        let (schema, mut columns, _) = rows.into_parts();
        let times = columns[0].as_primitive::<Int64Type>().values().inner().clone();
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
        let lease = Lease { account: Arc::clone(self), bytes };
        let times = Buffer::from(Bytes::from_owner(LeasedTimes { times, _lease: lease }));
        columns[0] = Arc::new(Int64Array::new(ScalarBuffer::from(times), None));
        RecordBatch::try_new(schema, columns).expect("the columns are as they were")
    }
}

impl AsRef<[u8]> for LeasedTimes {
    fn as_ref(&self) -> &[u8] {
        self.times.as_slice()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.account.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use undine_schema::TimeNs;
    use undine_schema::tables::{DataLoss, DataLosses};

    use super::*;

    #[test]
    fn rows_count_until_the_last_slice_of_them_is_gone() {
        let mut builder = DataLosses::new(3);
        for time in 1..=3 {
            builder.push(&DataLoss { time_: TimeNs::new(time), ..DataLoss::default() });
        }
        let total = Arc::default();
        let account = Account::new(&total);
        let plain = builder.finish();
        let rows = account.lease(plain.clone(), 1000);
        assert_eq!(rows, plain);
        let slice = rows.slice(2, 1);
        assert_eq!((account.held(), total.load(Ordering::Relaxed)), (1000, 1000));
        drop(rows);
        assert_eq!(account.held(), 1000);
        assert_eq!(slice.column(0).as_primitive::<Int64Type>().values().as_ref(), [3]);
        drop(slice);
        assert_eq!((account.held(), total.load(Ordering::Relaxed)), (0, 0));
    }
}
