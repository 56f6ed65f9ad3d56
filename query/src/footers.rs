//! The footers of segments, kept between runs. A segment's name is never used again, so what was read
//! of it once stays true.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{
    FileMetaData, KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder,
    ParquetMetaDataReader,
};

/// Memory of all footers together; beyond it the oldest go.
const FOOTERS_BYTES_MAX: usize = 64 << 20;

/// A segment's path, and its columns that are read as dictionaries.
type Key = (Path, Arc<str>);

/// The footers and page indexes of segments, as they are read.
#[derive(Debug, Default)]
pub(crate) struct Footers {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<Key, Arc<ParquetMetaData>>,
    /// Oldest first.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Footers {
    fn find(&self, key: &Key) -> Option<Arc<ParquetMetaData>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_key.get(key).map(Arc::clone)
    }

    fn keep(&self, key: &Key, footer: &Arc<ParquetMetaData>, bytes_max: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.by_key.insert(key.clone(), Arc::clone(footer)).is_some() {
            return;
        }
        kept.order.push_back(key.clone());
        kept.bytes += footer.memory_size();
        while kept.bytes > bytes_max {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(gone) = kept.by_key.remove(&oldest) {
                kept.bytes = kept.bytes.saturating_sub(gone.memory_size());
            }
        }
    }
}

/// Opens the segments of one place.
#[derive(Debug)]
pub(crate) struct Opener {
    objects: Arc<dyn ObjectStore>,
    footers: Arc<Footers>,
    /// What a scan gives; text columns that are dictionaries here are read as such.
    schema: SchemaRef,
    dictionaries: Arc<str>,
}

impl Opener {
    pub(crate) fn new(
        objects: Arc<dyn ObjectStore>,
        footers: Arc<Footers>,
        schema: SchemaRef,
    ) -> Self {
        let dictionaries = schema.fields().iter().filter(|field| is_dictionary(field));
        let names: Vec<_> = dictionaries.map(|field| field.name().as_str()).collect();
        let dictionaries = names.join(",").into();
        Self { objects, footers, schema, dictionaries }
    }
}

impl ParquetFileReaderFactory for Opener {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let key = (file.object_meta.location.clone(), Arc::clone(&self.dictionaries));
        let bytes = file.object_meta.size;
        let plain = DefaultParquetFileReaderFactory::new(Arc::clone(&self.objects));
        let file = plain.create_reader(partition, file, metadata_size_hint, metrics)?;
        let footers = Arc::clone(&self.footers);
        Ok(Box::new(Reader { file, key, bytes, footers, schema: Arc::clone(&self.schema) }))
    }
}

/// Reads one segment.
struct Reader {
    file: Box<dyn AsyncFileReader>,
    key: Key,
    bytes: u64,
    footers: Arc<Footers>,
    schema: SchemaRef,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.file.get_bytes(range)
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.file.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        Box::pin(async move {
            if let Some(footer) = self.footers.find(&self.key) {
                return Ok(footer);
            }
            let footer = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .load_and_finish(&mut self.file, self.bytes)
                .await?;
            let footer = Arc::new(with_dictionaries(footer, &self.schema)?);
            self.footers.keep(&self.key, &footer, FOOTERS_BYTES_MAX);
            Ok(footer)
        })
    }
}

/// The footer with the text columns that are dictionaries in `wanted` declared as such, so that the
/// reader hands on the dictionaries of the file instead of copying each text.
fn with_dictionaries(footer: ParquetMetaData, wanted: &Schema) -> ParquetResult<ParquetMetaData> {
    let file = footer.file_metadata();
    let schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())?;
    let mut is_changed = false;
    let fields = schema.fields().iter().map(|field| match wanted.field_with_name(field.name()) {
        Ok(other) if is_dictionary(other) && *field.data_type() == DataType::Utf8 => {
            is_changed = true;
            Arc::new(field.as_ref().clone().with_data_type(other.data_type().clone()))
        }
        _ => Arc::clone(field),
    });
    let declared = Schema::new(fields.collect::<Vec<_>>());
    if !is_changed {
        return Ok(footer);
    }
    let others = file.key_value_metadata().into_iter().flatten();
    let mut pairs: Vec<_> =
        others.filter(|pair| pair.key != ARROW_SCHEMA_META_KEY).cloned().collect();
    pairs.push(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&declared)));
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        Some(pairs),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    let indexes = (footer.column_index().cloned(), footer.offset_index().cloned());
    Ok(ParquetMetaDataBuilder::new(file)
        .set_row_groups(footer.row_groups().to_vec())
        .set_column_index(indexes.0)
        .set_offset_index(indexes.1)
        .build())
}

fn is_dictionary(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Dictionary(_, value) if **value == DataType::Utf8)
}

#[cfg(test)]
mod tests {
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    fn footer() -> Arc<ParquetMetaData> {
        let schema =
            parse_message_type("message m { REQUIRED BYTE_ARRAY service (UTF8); }").unwrap();
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
        Arc::new(ParquetMetaData::new(
            FileMetaData::new(2, 0, None, None, schema, None),
            Vec::new(),
        ))
    }

    #[test]
    fn the_oldest_footers_go_when_all_take_too_much() {
        let (footers, footer) = (Footers::default(), footer());
        let bytes_max = 3 * footer.memory_size();
        let key = |number: i32| (Path::from(format!("{number}")), "service".into());
        for number in 0..5 {
            footers.keep(&key(number), &footer, bytes_max);
        }
        let found: Vec<bool> = (0..5).map(|n| footers.find(&key(n)).is_some()).collect();
        assert_eq!(found, [false, false, true, true, true]);
    }

    #[test]
    fn only_texts_that_are_wanted_so_become_dictionaries() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        for (wanted, expected) in [
            (Schema::new(vec![Field::new("service", dictionary.clone(), false)]), dictionary),
            (Schema::new(vec![Field::new("service", DataType::Utf8, false)]), DataType::Utf8),
            (Schema::empty(), DataType::Utf8),
        ] {
            let footer = with_dictionaries(footer().as_ref().clone(), &wanted).unwrap();
            let file = footer.file_metadata();
            let schema =
                parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()).unwrap();
            assert_eq!(schema.field(0).data_type(), &expected);
        }
    }
}
