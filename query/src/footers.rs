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

/// The footers and page indexes of segments by path.
#[derive(Debug, Default)]
pub(crate) struct Footers {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_path: HashMap<Path, Arc<ParquetMetaData>>,
    /// Oldest first.
    order: VecDeque<Path>,
    bytes: usize,
}

impl Footers {
    fn find(&self, path: &Path) -> Option<Arc<ParquetMetaData>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_path.get(path).map(Arc::clone)
    }

    fn keep(&self, path: &Path, footer: &Arc<ParquetMetaData>, bytes_max: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.by_path.insert(path.clone(), Arc::clone(footer)).is_some() {
            return;
        }
        kept.order.push_back(path.clone());
        kept.bytes += footer.memory_size();
        while kept.bytes > bytes_max {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(gone) = kept.by_path.remove(&oldest) {
                kept.bytes = kept.bytes.saturating_sub(gone.memory_size());
            }
        }
    }
}

/// Opens the segments of one place.
#[derive(Debug)]
pub(crate) struct Opener {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) footers: Arc<Footers>,
    /// What a scan gives; text columns that are dictionaries here are read as such.
    pub(crate) schema: SchemaRef,
}

impl ParquetFileReaderFactory for Opener {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let path = file.object_meta.location.clone();
        let bytes = file.object_meta.size;
        let plain = DefaultParquetFileReaderFactory::new(Arc::clone(&self.objects));
        let file = plain.create_reader(partition, file, metadata_size_hint, metrics)?;
        let footers = Arc::clone(&self.footers);
        Ok(Box::new(Reader { file, path, bytes, footers, schema: Arc::clone(&self.schema) }))
    }
}

/// Reads one segment.
struct Reader {
    file: Box<dyn AsyncFileReader>,
    path: Path,
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
            if let Some(footer) = self.footers.find(&self.path) {
                return Ok(footer);
            }
            let footer = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .load_and_finish(&mut self.file, self.bytes)
                .await?;
            let footer = Arc::new(with_dictionaries(footer, &self.schema)?);
            self.footers.keep(&self.path, &footer, FOOTERS_BYTES_MAX);
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
        for number in 0..5 {
            footers.keep(&Path::from(format!("{number}")), &footer, bytes_max);
        }
        let found: Vec<bool> =
            (0..5).map(|n| footers.find(&Path::from(format!("{n}"))).is_some()).collect();
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
