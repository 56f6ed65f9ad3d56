//! A chunk's rows by service: where each one's are, and side by side what questions about one service
//! read most.
//!
//! Rows stay in the order of their arrival, so in each column every row of one service of many is a
//! cache line of its own. Side by side they are a run of a few bytes each.

use std::ops::Range;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;

use crate::packed::Packed;

/// Rows whose order by service fits.
const ROWS_MAX: usize = 1 << 16;

/// The order of a chunk's rows by service, and columns in this order.
#[derive(Debug)]
pub(crate) struct ByService {
    /// Which row of the chunk comes next, service by service, ascending for each.
    offsets: Box<[u16]>,
    /// Where those of each service end, in the order in which the services first came.
    ends: Box<[u32]>,
    /// Columns of the table in this order.
    columns: Vec<(usize, Packed)>,
}

impl ByService {
    /// The order of rows whose services have these `numbers`, of which `distinct` are the different
    /// ones, all below `numbers_end`. Nothing where all have the same, or where rows are too many.
    pub(crate) fn of(numbers: &[i32], distinct: &[i32], numbers_end: usize) -> Option<Self> {
        if distinct.len() < 2 || numbers.len() > ROWS_MAX {
            return None;
        }
        let mut ranks = vec![0_usize; numbers_end];
        for (rank, &number) in distinct.iter().enumerate() {
            *ranks.get_mut(usize::try_from(number).ok()?)? = rank;
        }
        let ranks: Vec<usize> =
            numbers.iter().map(|&number| ranks[usize::try_from(number).unwrap_or(0)]).collect();
        let mut free = vec![0_u32; distinct.len() + 1];
        for &rank in &ranks {
            free[rank + 1] += 1;
        }
        for rank in 1..free.len() {
            free[rank] += free[rank - 1];
        }
        let mut offsets = vec![0; numbers.len()];
        for (offset, &rank) in (0..=u16::MAX).zip(&ranks) {
            offsets[free[rank] as usize] = offset;
            free[rank] += 1;
        }
        // What is free after all rows of a service are there is its end.
        free.truncate(distinct.len());
        Some(Self { offsets: offsets.into(), ends: free.into(), columns: Vec::new() })
    }

    /// Puts integers of the chunk side by side, too.
    pub(crate) fn add_integers(&mut self, column: usize, rows: &RecordBatch) {
        let values = rows.column(column).as_primitive::<Int64Type>().values();
        self.add(column, |row| values[row]);
    }

    /// Puts the numbers of a column's texts side by side, too.
    pub(crate) fn add_numbers(&mut self, column: usize, numbers: &[i32]) {
        self.add(column, |row| numbers[row].into());
    }

    fn add(&mut self, column: usize, value: impl Fn(usize) -> i64) {
        let values: Vec<_> = self.offsets.iter().map(|&offset| value(offset.into())).collect();
        self.columns.push((column, Packed::of(&values)));
    }

    /// Where the rows of the service are that came `rank` others after the first.
    pub(crate) fn of_rank(&self, rank: usize) -> Range<usize> {
        let start = if rank == 0 { 0 } else { self.ends[rank - 1] };
        start as usize..self.ends[rank] as usize
    }

    /// Which rows of the chunk are at `range`.
    pub(crate) fn offsets(&self, range: Range<usize>) -> &[u16] {
        &self.offsets[range]
    }

    /// A column in this order.
    pub(crate) fn column(&self, column: usize) -> Option<&Packed> {
        self.columns.iter().find(|(at, _)| *at == column).map(|(_, packed)| packed)
    }

    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let columns = self.columns.iter().map(|(_, packed)| packed.bytes()).sum::<usize>();
        let headers = self.columns.capacity() * size_of::<(usize, Packed)>();
        size_of_val(&*self.offsets) + size_of_val(&*self.ends) + headers + columns
    }
}
