//! Rows that are alike: of the same window, with the same in each of some columns.
//!
//! A table's rows are many and the groups of them few. So each column's values are numbered, a row's
//! numbers are put together into one, and whatever a group costs beyond that (its key in bytes, its
//! place among others) is paid once for each class of rows.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::error::ArrowError;
use undine_schema::{ColumnDef, TimeNs};

use super::number::column;

use crate::numbered_ints::NumberedInts;
use crate::numbered_texts::NumberedTexts;

/// The classes of some rows.
#[derive(Debug)]
pub(super) struct Alike {
    /// The start of each row's window.
    pub(super) windows: Vec<i64>,
    /// The class of each row, in the order in which they first come.
    pub(super) classes: Vec<u32>,
    /// The first row of each class.
    pub(super) firsts: UInt32Array,
}

/// The number of each row's value, in the order in which they first come, and how many there are.
struct Numbered {
    numbers: Vec<u32>,
    count: usize,
}

impl Alike {
    /// The classes of rows by the windows that their times are in, and by these dimensions.
    pub(super) fn of(
        rows: &RecordBatch,
        dimensions: &[&ColumnDef],
        times: &[i64],
        width: Duration,
    ) -> Result<Self, ArrowError> {
        let windows = times.iter().map(|&time| TimeNs::new(time).floor_to(width).get()).collect();
        let columns = dimensions.iter().map(|d| column(rows, d.name).map(Arc::clone));
        Self::by(windows, &columns.collect::<Result<Vec<_>, _>>()?)
    }

    /// The classes of rows by their windows and by columns without nulls.
    fn by(windows: Vec<i64>, columns: &[ArrayRef]) -> Result<Self, ArrowError> {
        if u32::try_from(windows.len()).is_err() {
            let what = format!("{} rows are too many to be summarised at once", windows.len());
            return Err(ArrowError::ComputeError(what));
        }
        let mut all = Numbered::of(windows.iter().map(|window| window.cast_unsigned()));
        let mut keys: Vec<u64> = all.numbers.iter().copied().map(u64::from).collect();
        let mut room = u64::MAX / (all.count as u64).max(1);
        for column in columns {
            let column = Numbered::of_column(column)?;
            let count = column.count as u64;
            if count < 2 {
                continue;
            }
            if room < count {
                // Rows are fewer than 2^32, and so are their classes and a column's values.
                all = Numbered::of(keys.into_iter());
                keys = all.numbers.into_iter().map(u64::from).collect();
                room = u64::MAX / all.count as u64;
            }
            room /= count;
            for (key, &number) in keys.iter_mut().zip(&column.numbers) {
                *key = *key * count + u64::from(number);
            }
        }
        let mut firsts = Vec::new();
        let of_keys = Numbered::of(keys.into_iter());
        for (row, &class) in (0..).zip(&of_keys.numbers) {
            if class as usize == firsts.len() {
                firsts.push(row);
            }
        }
        Ok(Self { windows, classes: of_keys.numbers, firsts: firsts.into() })
    }
}

impl Numbered {
    fn of(values: impl Iterator<Item = u64>) -> Self {
        let all = NumberedInts::of(values, usize::MAX);
        all.map_or(Self { numbers: Vec::new(), count: 0 }, |all| Self {
            count: all.values.len(),
            numbers: all.numbers,
        })
    }

    fn of_column(column: &ArrayRef) -> Result<Self, ArrowError> {
        match column.data_type() {
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>().values().iter();
                Ok(Self::of(values.map(|value| value.cast_unsigned())))
            }
            DataType::Float64 => {
                let values = column.as_primitive::<Float64Type>().values().iter();
                Ok(Self::of(values.map(|value| value.to_bits())))
            }
            DataType::Boolean => {
                let values = column.as_boolean().values().iter();
                Ok(Self { numbers: values.map(u32::from).collect(), count: 2 })
            }
            _ => match NumberedTexts::of_all(column.as_ref()) {
                Some(texts) => Ok(Self { count: texts.texts.len(), numbers: texts.numbers }),
                None => Err(ArrowError::SchemaError(format!(
                    "rows cannot be told apart by a column of {}, or it holds nulls",
                    column.data_type()
                ))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;

    use super::*;

    type Row = (i64, i64, bool, u8, String);

    fn columns(rows: &[Row]) -> Vec<ArrayRef> {
        let floats = rows.iter().map(|row| if row.3 == 0 { -0.0 } else { f64::from(row.3 - 1) });
        let ids: Vec<[u8; 2]> = rows.iter().map(|row| [row.3, 7]).collect();
        vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(rows.iter().map(|row| Some(row.2)).collect::<BooleanArray>()),
            Arc::new(Float64Array::from_iter_values(floats)),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.4))),
            Arc::new(BinaryArray::from_iter_values(ids)),
        ]
    }

    /// The classes as a map finds them.
    fn expected(rows: &[Row]) -> (Vec<u32>, Vec<u32>) {
        let (mut known, mut firsts) = (HashMap::new(), Vec::new());
        let classes = (0..).zip(rows).map(|(at, row)| {
            let next = u32::try_from(known.len()).unwrap();
            *known.entry(row).or_insert_with(|| {
                firsts.push(at);
                next
            })
        });
        (classes.collect(), firsts)
    }

    proptest! {
        #[test]
        fn rows_are_alike_where_all_that_is_looked_at_is_the_same(
            rows in vec((-2_i64..3, any::<i64>(), any::<bool>(), 0_u8..3, "[ab]{0,2}"), 0..60),
            again in vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let more = again.iter().filter(|_| !rows.is_empty());
            let more: Vec<Row> = more.map(|at| at.get(&rows).clone()).collect();
            let rows = [rows, more].concat();
            let windows = rows.iter().map(|row| row.0).collect();
            let alike = Alike::by(windows, &columns(&rows)).unwrap();
            let (classes, firsts) = expected(&rows);
            prop_assert_eq!(alike.classes, classes);
            prop_assert_eq!(alike.firsts.values().to_vec(), firsts);
        }
    }

    #[test]
    fn many_columns_of_many_values_have_no_class_in_common() {
        let rows = 5000_i64;
        let ints = |seed: i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values((0..rows).map(|row| row * seed % rows)))
        };
        let columns: Vec<ArrayRef> = [1, 3, 7, 11, 13, 17, 19].map(ints).to_vec();
        let windows: Vec<i64> = (0..rows).map(|row| row / 2).collect();
        let alike = Alike::by(windows.clone(), &columns).unwrap();
        assert_eq!(alike.firsts.len(), 5000, "seven times five thousand values overflow");
        let twice: Vec<ArrayRef> = columns
            .iter()
            .map(|column| arrow::compute::concat(&[column.as_ref(), column.as_ref()]).unwrap())
            .collect();
        let alike = Alike::by([windows.as_slice(), &windows].concat(), &twice).unwrap();
        assert_eq!(alike.firsts.len(), 5000);
        assert_eq!(alike.classes[..5000], alike.classes[5000..]);
    }
}
