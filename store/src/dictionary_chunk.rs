//! Column chunks of texts or whole numbers of which few are different.
//!
//! `parquet`'s writer hashes each value to number it, compares it for a page's least and greatest, and
//! hashes it again for a Bloom filter. Here one comparison finds the number of most values, and the rest
//! is done once for each different value. What comes out is the same for a reader: a page with the
//! dictionary, pages of its numbers (`RLE_DICTIONARY`), statistics, page index and filter. Whole numbers
//! of which many are different are packed as differences, which is not done here.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder};
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;

use crate::numbered_ints::NumberedInts;
use crate::numbered_texts::NumberedTexts;

/// Bytes of a page's least or greatest text; without statistics where one is longer.
const STATISTICS_BYTES_MAX: usize = 64;
/// Whole numbers that may be different, and how many rows have to have each on average.
const INTS_MAX: usize = 256;
const INT_ROWS_MIN: usize = 16;
/// Values that are packed together.
const GROUP: usize = 8;
/// Groups that are packed behind one header, whose length then fits a byte.
const GROUPS_MAX: u8 = 63;

/// A column chunk, as `SerializedRowGroupWriter::append_column` takes it.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    pub(crate) close: ColumnCloseResult,
}

/// The chunk of a column without nulls, compressed by `compressor` as `properties` say; none where it
/// has many different texts or is none of texts.
pub(crate) fn chunk(
    column: &ArrayRef,
    descriptor: &ColumnDescPtr,
    properties: &WriterProperties,
    compressor: &mut Compressor<'static>,
) -> Result<Option<Chunk>, ParquetError> {
    let is_plain = descriptor.max_def_level() == 0 && descriptor.max_rep_level() == 0;
    if !is_plain || column.null_count() > 0 || column.is_empty() {
        return Ok(None);
    }
    let Some(dictionary) = Dictionary::of(column) else { return Ok(None) };
    Writer::new(descriptor, properties, compressor).write(&dictionary).map(Some)
}

/// The number of each row's value, and the values.
struct Dictionary<'a> {
    numbers: Vec<u32>,
    values: Values<'a>,
}

enum Values<'a> {
    Texts(Vec<&'a [u8]>),
    Ints(Vec<i64>),
}

impl<'a> Dictionary<'a> {
    fn of(column: &'a ArrayRef) -> Option<Self> {
        if let Some(ints) = column.as_primitive_opt::<Int64Type>() {
            let rows = ints.values().iter().map(|value| value.cast_unsigned());
            let few = NumberedInts::of(rows, INTS_MAX.min(column.len() / INT_ROWS_MIN))?;
            let values = few.values.into_iter().map(u64::cast_signed).collect();
            return Some(Self { numbers: few.numbers, values: Values::Ints(values) });
        }
        if column.data_type().is_numeric() {
            return None;
        }
        let few = NumberedTexts::of_repeated(&[column.as_ref()])?;
        Some(Self { numbers: few.numbers, values: Values::Texts(few.texts) })
    }
}

impl Values<'_> {
    const fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Ints(ints) => ints.len(),
        }
    }

    /// The page of all of them.
    fn page(&self) -> Vec<u8> {
        match self {
            Self::Texts(texts) => {
                let mut page = Vec::new();
                for text in texts {
                    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                    page.extend_from_slice(&length.to_le_bytes());
                    page.extend_from_slice(text);
                }
                page
            }
            Self::Ints(ints) => ints.iter().flat_map(|int| int.to_le_bytes()).collect(),
        }
    }

    /// The least and the greatest of those with these numbers; none where one is too long to be kept.
    fn bounds(&self, numbers: &[u32]) -> Option<Bounds> {
        let mut seen = vec![false; self.len()];
        for &number in numbers {
            seen[number as usize] = true;
        }
        match self {
            Self::Texts(texts) => {
                let (least, greatest) = extremes(texts.iter().copied().zip(seen))?;
                (least.len().max(greatest.len()) <= STATISTICS_BYTES_MAX)
                    .then(|| Bounds::Texts(least.to_vec(), greatest.to_vec()))
            }
            Self::Ints(ints) => {
                let (least, greatest) = extremes(ints.iter().copied().zip(seen))?;
                Some(Bounds::Ints(least, greatest))
            }
        }
    }
}

/// The least and the greatest of what was seen.
fn extremes<T: Ord + Copy>(values: impl Iterator<Item = (T, bool)>) -> Option<(T, T)> {
    let mut seen = values.filter_map(|(value, is_seen)| is_seen.then_some(value));
    let first = seen.next()?;
    Some(seen.fold((first, first), |(least, most), value| (least.min(value), most.max(value))))
}

enum Bounds {
    Texts(Vec<u8>, Vec<u8>),
    Ints(i64, i64),
}

impl Bounds {
    /// As a page index has them.
    fn bytes(self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Texts(least, greatest) => (least, greatest),
            Self::Ints(least, greatest) => {
                (least.to_le_bytes().to_vec(), greatest.to_le_bytes().to_vec())
            }
        }
    }

    fn statistics(self) -> Statistics {
        match self {
            Self::Texts(least, greatest) => {
                let bound = |text: Vec<u8>| Some(ByteArray::from(text));
                let bounds =
                    ValueStatistics::new(bound(least), bound(greatest), None, Some(0), false);
                Statistics::ByteArray(bounds.with_min_is_exact(true).with_max_is_exact(true))
            }
            Self::Ints(least, greatest) => {
                let bounds =
                    ValueStatistics::new(Some(least), Some(greatest), None, Some(0), false);
                Statistics::Int64(
                    bounds
                        .with_min_is_exact(true)
                        .with_max_is_exact(true)
                        .with_backwards_compatible_min_max(true),
                )
            }
        }
    }
}

struct Writer<'a> {
    descriptor: &'a ColumnDescPtr,
    properties: &'a WriterProperties,
    compressor: &'a mut Compressor<'static>,
    uncompressed: usize,
    compressed: usize,
}

impl<'a> Writer<'a> {
    fn new(
        descriptor: &'a ColumnDescPtr,
        properties: &'a WriterProperties,
        compressor: &'a mut Compressor<'static>,
    ) -> Self {
        Self { descriptor, properties, compressor, uncompressed: 0, compressed: 0 }
    }

    fn write(mut self, dictionary: &Dictionary<'_>) -> Result<Chunk, ParquetError> {
        let Dictionary { numbers, values } = dictionary;
        let mut file = TrackedWrite::new(Vec::new());
        let mut pages = SerializedPageWriter::new(&mut file);
        let different = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let dictionary = self.put(&mut pages, &values.page(), |buf| Page::DictionaryPage {
            buf,
            num_values: different,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        })?;
        let width = u32::BITS - (different - 1).leading_zeros();
        let mut page = Vec::new();
        let mut columns = ColumnIndexBuilder::new(self.descriptor.physical_type());
        let mut offsets = OffsetIndexBuilder::new();
        let mut first = None;
        for numbers in numbers.chunks(self.properties.data_page_row_count_limit()) {
            page.clear();
            page.push(u8::try_from(width).unwrap_or(u8::MAX));
            put_numbers(numbers, width, &mut page);
            let rows = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            let put = self.put(&mut pages, &page, |buf| Page::DataPage {
                buf,
                num_values: rows,
                encoding: Encoding::RLE_DICTIONARY,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            })?;
            match values.bounds(numbers) {
                Some(bounds) if columns.valid() => {
                    let (least, greatest) = bounds.bytes();
                    columns.append(false, least, greatest, 0);
                }
                _ => columns.to_invalid(),
            }
            let offset = put.offset.cast_signed();
            first.get_or_insert(offset);
            offsets.append_row_count(i64::from(rows));
            let size = i32::try_from(put.compressed_size).unwrap_or(i32::MAX);
            offsets.append_offset_and_size(offset, size);
        }
        let rows = numbers.len();
        let metadata = ColumnChunkMetaData::builder(Arc::clone(self.descriptor))
            .set_compression(self.properties.compression(self.descriptor.path()))
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
            .set_num_values(i64::try_from(rows).unwrap_or(i64::MAX))
            .set_total_compressed_size(i64::try_from(self.compressed).unwrap_or(i64::MAX))
            .set_total_uncompressed_size(i64::try_from(self.uncompressed).unwrap_or(i64::MAX))
            .set_dictionary_page_offset(Some(dictionary.offset.cast_signed()))
            .set_data_page_offset(first.unwrap_or_default());
        let metadata = match values.bounds(numbers) {
            Some(bounds) => metadata.set_statistics(bounds.statistics()),
            None => metadata,
        };
        let bytes = Bytes::from(file.into_inner()?);
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: rows as u64,
            metadata: metadata.build()?,
            bloom_filter: self.filter(values)?,
            column_index: if columns.valid() { Some(columns.build()?) } else { None },
            offset_index: Some(offsets.build()),
        };
        Ok(Chunk { bytes, close })
    }

    fn put(
        &mut self,
        pages: &mut SerializedPageWriter<'_, Vec<u8>>,
        page: &[u8],
        of: impl FnOnce(Bytes) -> Page,
    ) -> Result<PageWriteSpec, ParquetError> {
        let compressed = self.compressor.compress(page)?;
        let put = pages.write_page(CompressedPage::new(of(compressed.into()), page.len()))?;
        self.uncompressed += put.uncompressed_size;
        self.compressed += put.compressed_size;
        Ok(put)
    }

    fn filter(&self, values: &Values<'_>) -> Result<Option<Sbbf>, ParquetError> {
        let Some(wanted) = self.properties.bloom_filter_properties(self.descriptor.path()) else {
            return Ok(None);
        };
        let mut filter = Sbbf::new_with_ndv_fpp(values.len() as u64, wanted.fpp())?;
        match values {
            Values::Texts(texts) => texts.iter().for_each(|text| filter.insert(*text)),
            Values::Ints(ints) => ints.iter().for_each(|int| filter.insert(int)),
        }
        Ok(Some(filter))
    }
}

/// Appends numbers of `width` bits as runs of one number, and as groups of eight packed ones where none
/// comes so often.
fn put_numbers(numbers: &[u32], width: u32, out: &mut Vec<u8>) {
    let bytes = width as usize;
    let (mut at, mut header) = (0, None);
    while at < numbers.len() {
        let number = numbers[at];
        let run = numbers[at..].iter().take_while(|&&other| other == number).count();
        if run >= GROUP {
            header = None;
            put_varint((run as u64) << 1, out);
            out.extend_from_slice(&number.to_le_bytes()[..bytes.div_ceil(8)]);
            at += run;
            continue;
        }
        // The lowest bit says that what follows is packed, those above how many groups.
        let place = *header.get_or_insert_with(|| {
            out.push(1);
            out.len() - 1
        });
        out[place] += 2;
        if out[place] >> 1 == GROUPS_MAX {
            header = None;
        }
        let end = numbers.len().min(at + GROUP);
        let packed = numbers[at..end].iter().rev();
        let packed = packed.fold(0_u128, |all, &number| all << width | u128::from(number));
        out.extend_from_slice(&packed.to_le_bytes()[..bytes]);
        at = end;
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use arrow::array::{BinaryArray, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
    use parquet::file::page_index::column_index::ColumnIndexMetaData;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::encoding::properties;
    use crate::numbered_texts::{TEXTS_BYTES_MAX, TEXTS_MAX};
    use crate::segment_file::parquet;

    fn rows(texts: &[String]) -> RecordBatch {
        let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).rev().collect();
        let columns: [ArrayRef; 2] =
            [Arc::new(StringArray::from(texts.to_vec())), Arc::new(BinaryArray::from(bytes))];
        let fields = [
            Field::new("req_path", DataType::Utf8, false),
            Field::new("upid", DataType::Binary, false),
        ];
        RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns.to_vec()).unwrap()
    }

    /// What a file holds, and what its footer says.
    fn read(file: Vec<u8>) -> (Vec<RecordBatch>, Arc<ParquetMetaData>) {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let reader =
            ParquetRecordBatchReaderBuilder::try_new_with_options(Bytes::from(file), options);
        let reader = reader.unwrap().with_batch_size(1 << 20);
        let footer = Arc::clone(reader.metadata());
        (reader.build().unwrap().map(Result::unwrap).collect(), footer)
    }

    fn is_ours(footer: &ParquetMetaData, column: usize) -> bool {
        // The other writer counts the bytes of all texts.
        footer.row_group(0).column(column).unencoded_byte_array_data_bytes().is_none()
    }

    proptest! {
        #[test]
        fn any_texts_are_read_back_as_they_were(
            runs in vec((any::<u32>(), 1..30_usize), 1..200),
            (different, length) in (prop_oneof![Just(1_u32), 2..10_u32, 200..9000_u32], 0..90_usize),
        ) {
            let texts = runs.iter().flat_map(|&(text, times)| {
                let text = format!("{:0>length$}", text % different);
                std::iter::repeat_n(if text.len() == 3 { String::new() } else { text }, times)
            });
            let texts: Vec<_> = texts.collect();
            let come_again = texts.iter().collect::<HashSet<_>>().len() * 2 <= texts.len();
            let rows = rows(&texts);
            let (found, footer) = read(parquet(&rows).unwrap());
            prop_assert_eq!(&found, std::slice::from_ref(&rows));
            prop_assert_eq!((is_ours(&footer, 0), is_ours(&footer, 1)), (come_again, come_again));

            let properties = properties(&rows).unwrap();
            let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
            writer.write(&rows).unwrap();
            let (_, theirs) = read(writer.into_inner().unwrap());
            for column in [0, 1] {
                let of = |footer: &ParquetMetaData| {
                    let column = footer.row_group(0).column(column);
                    (column.statistics().cloned(), column.num_values(), column.bloom_filter_offset().is_some())
                };
                if length <= STATISTICS_BYTES_MAX {
                    prop_assert_eq!(of(&footer), of(&theirs));
                }
            }
        }
    }

    fn ints(values: &[i64]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("resp_status", DataType::Int64, false)]);
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap()
    }

    proptest! {
        #[test]
        fn any_whole_numbers_are_read_back_as_they_were(
            different in vec(any::<i64>(), 1..300),
            runs in vec((any::<prop::sample::Index>(), 1..40_usize), 1..800),
        ) {
            let values = runs.iter().flat_map(|(at, times)| std::iter::repeat_n(*at.get(&different), *times));
            let rows = ints(&values.collect::<Vec<_>>());
            let (found, footer) = read(parquet(&rows).unwrap());
            prop_assert_eq!(&found, std::slice::from_ref(&rows));
            let properties = properties(&rows).unwrap();
            let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
            writer.write(&rows).unwrap();
            let (_, theirs) = read(writer.into_inner().unwrap());
            let of = |footer: &ParquetMetaData| {
                let column = footer.row_group(0).column(0);
                (column.statistics().cloned(), column.num_values())
            };
            prop_assert_eq!(of(&footer), of(&theirs));
            let bounds = |footer: &ParquetMetaData| match &footer.column_index().unwrap()[0][0] {
                ColumnIndexMetaData::INT64(index) => {
                    (0..usize::try_from(index.num_pages()).unwrap()).map(|page| (index.min_value(page).copied(), index.max_value(page).copied())).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(bounds(&footer), bounds(&theirs));
        }
    }

    #[test]
    fn whole_numbers_are_in_a_dictionary_where_each_comes_often() {
        let is_dictionary = |values: &[i64]| {
            let (found, footer) = read(parquet(&ints(values)).unwrap());
            assert_eq!(found, [ints(values)]);
            footer.row_group(0).column(0).dictionary_page_offset().is_some()
        };
        let often: Vec<i64> = (0..8000).map(|row| [200, 503, -1, i64::MAX][row % 4]).collect();
        let many: Vec<i64> = (0..8000).map(|row| row % 257).collect();
        let seldom: Vec<i64> = (0..60).map(|row| row % 4).collect();
        assert!(is_dictionary(&often));
        assert!(!is_dictionary(&many) && !is_dictionary(&seldom));
    }

    #[test]
    fn every_page_of_a_long_chunk_has_its_rows_and_its_bounds() {
        let texts: Vec<String> = (0..50_000).map(|row| format!("{:05}", row / 100)).collect();
        let rows = rows(&texts);
        let (found, footer) = read(parquet(&rows).unwrap());
        assert_eq!(found, [rows]);
        let pages = footer.offset_index().unwrap()[0][0].page_locations();
        assert_eq!(
            pages.iter().map(|page| page.first_row_index).collect::<Vec<_>>(),
            [0, 20_000, 40_000]
        );
        let ColumnIndexMetaData::BYTE_ARRAY(index) = &footer.column_index().unwrap()[0][0] else {
            panic!("it is a column of texts");
        };
        let bounds = [0, 1, 2].map(|page| (index.min_value(page), index.max_value(page)));
        let text = |text: &'static str| Some(text.as_bytes());
        let expected = [("00000", "00199"), ("00200", "00399"), ("00400", "00499")];
        assert_eq!(bounds, expected.map(|(least, greatest)| (text(least), text(greatest))));
    }

    #[test]
    fn texts_that_hardly_come_again_and_many_bytes_are_left_to_the_usual_writer() {
        let many: Vec<String> = (0..=TEXTS_MAX).map(|row| row.to_string()).collect();
        let large =
            vec!["x".repeat(TEXTS_BYTES_MAX / 2), "y".repeat(TEXTS_BYTES_MAX / 2), "z".to_owned()];
        let once = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let twice = |texts: Vec<String>| [texts.as_slice(), &texts].concat();
        for texts in [twice(many), twice(large), once] {
            let rows = rows(&texts);
            let (found, footer) = read(parquet(&rows).unwrap());
            assert_eq!(found, [rows]);
            assert!(!is_ours(&footer, 0));
        }
    }

    #[test]
    fn long_texts_have_no_bounds_and_texts_of_no_bytes_do() {
        let long = ["a".repeat(STATISTICS_BYTES_MAX + 1), "b".to_owned()];
        let long = rows(&[long.as_slice(), &long].concat());
        let (found, footer) = read(parquet(&long).unwrap());
        assert_eq!(found, [long]);
        assert!(is_ours(&footer, 0) && footer.row_group(0).column(0).statistics().is_none());
        let empty = rows(&vec![String::new(); 1000]);
        let (found, footer) = read(parquet(&empty).unwrap());
        assert_eq!(found, [empty]);
        assert!(footer.row_group(0).column(0).statistics().is_some());
    }
}
