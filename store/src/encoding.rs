//! How a segment's columns are written.
//!
//! Measured on requests: integers delta-packed unless few are different, text in dictionaries and pages
//! as zstd-1 take fewer bytes and are read and written faster than a dictionary for everything. Each page has its
//! statistics in the page index. A Bloom filter is there only where one value is looked for among
//! many, a process and a trace, and only where rows are kept.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// How much effort goes into a page.
pub(crate) const ZSTD_LEVEL: i32 = 1;
/// Rows of a row group.
pub(crate) const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;
/// Distinct processes that a row group's filter is made for.
const FILTERED_PROCESSES_MAX: usize = 1024;

/// The properties of a file of `rows`.
pub(crate) fn properties(rows: &RecordBatch) -> Result<WriterProperties, ParquetError> {
    let builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_created_by(concat!("undine ", env!("CARGO_PKG_VERSION")).to_owned());
    let schema = rows.schema();
    let is_rows = rows.column_by_name("window_start").is_none();
    let builder = schema.fields().iter().fold(builder, |builder, field| {
        let name = field.name().clone();
        match field.data_type() {
            DataType::Int64 | DataType::Timestamp(..) => packed(builder, vec![name]),
            DataType::List(item) => {
                packed(builder, vec![name, "list".to_owned(), item.name().clone()])
            }
            DataType::Float64 => builder
                .set_column_dictionary_enabled(ColumnPath::from(name.as_str()), false)
                .set_column_encoding(name.as_str().into(), Encoding::BYTE_STREAM_SPLIT),
            _ => builder,
        }
    });
    let group_rows = rows.num_rows().min(ROW_GROUP_ROWS_MAX);
    let filtered = [("upid", group_rows.min(FILTERED_PROCESSES_MAX)), ("trace_id", group_rows)];
    let builder = filtered.into_iter().fold(builder, |builder, (name, distinct)| {
        if is_rows && rows.column_by_name(name).is_some() {
            filter(builder, name, distinct)
        } else {
            builder
        }
    });
    Ok(builder.build())
}

fn packed(builder: WriterPropertiesBuilder, path: Vec<String>) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(path);
    builder
        .set_column_dictionary_enabled(path.clone(), false)
        .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
}

fn filter(
    builder: WriterPropertiesBuilder,
    name: &str,
    distinct: usize,
) -> WriterPropertiesBuilder {
    builder
        .set_column_bloom_filter_enabled(name.into(), true)
        .set_column_bloom_filter_max_ndv(name.into(), distinct.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use arrow::compute::cast;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
    use undine_schema::{Seq, SeqRange, Slice};
    use undine_schema::{TimeNs, Upid};

    use super::*;
    use crate::numbered_texts::plain_type;
    use crate::segment_file::parquet;
    use crate::state::{by_time, raw_rows, raw_schema};

    fn requests(count: u32) -> RecordBatch {
        let mut rows = HttpEvents::new(0);
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % below
        };
        let mut time = 1_700_000_000_000_000_000;
        for _ in 0..count {
            time += i64::try_from(next(200_000)).unwrap();
            let (service, endpoint) = (next(20), next(10));
            let template = format!("/api/v1/s{service}/e{endpoint}/{{id}}");
            let path = format!("/api/v1/s{service}/e{endpoint}/{}", next(100_000));
            let (service, pod) = (format!("service-{service}"), format!("ns/pod-{}", next(60)));
            let latency = 200_000_f64 * 1.000_1_f64.powi(i32::try_from(next(60_000)).unwrap());
            rows.push(&HttpEvent {
                time_: TimeNs::new(time),
                upid: Upid::new(1, u32::try_from(next(60)).unwrap(), 7),
                remote_addr: "10.0.0.7",
                remote_port: 30_000 + i64::try_from(next(20_000)).unwrap(),
                local_addr: "10.0.0.1",
                local_port: 8080,
                trace_role: 2,
                req_method: if next(4) == 0 { "POST" } else { "GET" },
                req_path: &path,
                req_path_template: &template,
                req_body_size: i64::try_from(next(500)).unwrap(),
                resp_status: [200, 200, 200, 404, 500][usize::try_from(next(5)).unwrap()],
                resp_body_size: i64::try_from(next(8192)).unwrap(),
                #[expect(clippy::cast_possible_truncation, reason = "is below an hour")]
                latency: latency as i64,
                service: &service,
                pod: &pod,
                namespace: "ns",
                node: "node-1",
                remote_service: "gateway",
                ..HttpEvent::default()
            });
        }
        rows.finish()
    }

    fn placed(rows: RecordBatch) -> Slice {
        Slice { seqs: SeqRange::new(Seq::from_raw(1), rows.num_rows()), rows }
    }

    fn written(rows: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
        writer.write(rows).unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn filters_are_there_where_one_value_is_looked_for_and_every_page_has_statistics() {
        let rows = raw_rows(&HTTP_EVENTS, &[placed(requests(1000))], true).unwrap();
        let file = bytes::Bytes::from(parquet(&rows).unwrap());
        let options = parquet::arrow::arrow_reader::ArrowReaderOptions::new()
            .with_page_index_policy(parquet::file::metadata::PageIndexPolicy::Required);
        let read = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
        assert!(read.metadata().column_index().is_some());
        let filtered = read.metadata().row_group(0).columns().iter();
        let filtered = filtered.filter(|column| column.bloom_filter_offset().is_some());
        let filtered: Vec<_> = filtered.map(|column| column.column_path().string()).collect();
        assert_eq!(filtered, ["upid"]);
        let batches: Vec<_> = read.build().unwrap().map(Result::unwrap).collect();
        let plain = rows.columns().iter().map(|c| cast(c, plain_type(c.data_type())).unwrap());
        assert_eq!(
            batches,
            [RecordBatch::try_new(raw_schema(&HTTP_EVENTS), plain.collect()).unwrap()]
        );
    }

    #[test]
    #[ignore = "prints figures; run it with --release"]
    fn what_a_row_costs_with_each_way_to_write_it() {
        const ROWS: u32 = 500_000;
        let requests = requests(ROWS);
        let started = Instant::now();
        let sorted = raw_rows(&HTTP_EVENTS, &[placed(requests)], true).unwrap();
        println!("sorting by service and time: {:?}", started.elapsed());
        let rows = by_time(&sorted).unwrap();
        let dictionaries = || {
            WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))
                .build()
        };
        for round in 0..3 {
            type Way<'a> = (&'a str, &'a dyn Fn() -> Vec<u8>);
            let ways: [Way<'_>; 4] = [
                ("dictionaries, zstd-3, by time", &|| written(&rows, dictionaries())),
                ("these properties, by time", &|| written(&rows, properties(&rows).unwrap())),
                ("as here, by time", &|| parquet(&rows).unwrap()),
                ("as here, by service and time", &|| parquet(&sorted).unwrap()),
            ];
            for (way, write) in ways {
                let started = Instant::now();
                let file = write();
                let took = started.elapsed();
                #[expect(clippy::cast_precision_loss, reason = "a figure")]
                let bytes_per_row = file.len() as f64 / f64::from(ROWS);
                let speed = f64::from(ROWS) / took.as_secs_f64() / 1e6;
                println!("{round} {way}: {bytes_per_row:.2} B/row, {speed:.2} M rows/s");
            }
        }
    }
}
