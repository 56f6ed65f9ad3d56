//! From an OTLP metrics request to rows of `otel_metrics`.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    DataPointFlags, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint,
    SummaryDataPoint,
};
use serde_json::{Map, Value, json};
use undine_schema::TimeNs;
use undine_schema::tables::{OtelMetric, OtelMetrics};

use super::attributes::{self, Origin, number};
use super::refused::{Refusal, Refused, TextBudget};
use super::{Mapped, time};

/// Maps every data point; rows take at most `text_bytes_max` bytes of text.
pub(super) fn rows(request: &ExportMetricsServiceRequest, text_bytes_max: usize) -> Mapped {
    let mut rows = OtelMetrics::new(0);
    let mut refused = Refused::default();
    let mut left_out = 0;
    let mut budget = TextBudget::new(text_bytes_max);
    for resource in &request.resource_metrics {
        let origin = Origin::new(resource.resource.as_ref());
        for scope in &resource.scope_metrics {
            let scope_name = scope.scope.as_ref().map_or("", |scope| scope.name.as_str());
            for metric in &scope.metrics {
                let series = Series { origin: &origin, scope: scope_name, metric };
                for point in points(metric) {
                    let pushed = point.and_then(|point| {
                        series.push(&mut rows, &mut budget, &point).map(|()| point.exemplars)
                    });
                    match pushed {
                        Ok(exemplars) => left_out += exemplars,
                        Err(refusal) => refused.add(refusal),
                    }
                }
            }
        }
    }
    let rows = (!rows.is_empty()).then(|| rows.finish());
    Mapped { rows, refused, left_out }
}

/// What all points of one metric share.
struct Series<'a> {
    origin: &'a Origin,
    scope: &'a str,
    metric: &'a Metric,
}

/// One data point of any kind.
struct Point<'a> {
    kind: &'static str,
    temporality: i64,
    monotonic: bool,
    time_ns: u64,
    start_ns: u64,
    attributes: &'a [KeyValue],
    value: f64,
    count: u64,
    sum: f64,
    distribution: String,
    /// How many exemplars it has.
    exemplars: usize,
}

impl Series<'_> {
    fn push(
        &self,
        rows: &mut OtelMetrics,
        budget: &mut TextBudget,
        point: &Point<'_>,
    ) -> Result<(), Refusal> {
        let time_ = time(point.time_ns)?;
        let start_time = match point.start_ns {
            0 => TimeNs::ZERO,
            start => time(start)?,
        };
        if !point.value.is_finite() || !point.sum.is_finite() {
            return Err(Refusal::Value);
        }
        let count = i64::try_from(point.count).map_err(|_too_large| Refusal::Value)?;
        let attributes = attributes::json(point.attributes);
        let own_text = self.metric.name.len() + self.metric.unit.len() + self.scope.len();
        budget.take(
            self.origin.text_bytes() + own_text + attributes.len() + point.distribution.len() + 24,
        )?;
        rows.push(&OtelMetric {
            time_,
            start_time,
            name: &self.metric.name,
            unit: &self.metric.unit,
            kind: point.kind,
            temporality: point.temporality,
            monotonic: point.monotonic,
            value: point.value,
            count,
            sum: point.sum,
            distribution: &point.distribution,
            attributes: &attributes,
            resource: &self.origin.resource,
            scope: self.scope,
            service: &self.origin.service,
            pod: &self.origin.pod,
            namespace: &self.origin.namespace,
            node: &self.origin.node,
        });
        Ok(())
    }
}

type Points<'a> = Box<dyn Iterator<Item = Result<Point<'a>, Refusal>> + 'a>;

fn points(metric: &Metric) -> Points<'_> {
    match &metric.data {
        Some(Data::Gauge(gauge)) => {
            Box::new(gauge.data_points.iter().map(|point| number_point(point, "gauge", 0, false)))
        }
        Some(Data::Sum(sum)) => Box::new(sum.data_points.iter().map(|point| {
            number_point(point, "sum", sum.aggregation_temporality, sum.is_monotonic)
        })),
        Some(Data::Histogram(histogram)) => Box::new(
            histogram
                .data_points
                .iter()
                .map(|point| histogram_point(point, histogram.aggregation_temporality)),
        ),
        Some(Data::ExponentialHistogram(histogram)) => Box::new(
            histogram
                .data_points
                .iter()
                .map(|point| exponential_point(point, histogram.aggregation_temporality)),
        ),
        Some(Data::Summary(summary)) => Box::new(summary.data_points.iter().map(summary_point)),
        None => Box::new(std::iter::once(Err(Refusal::Kind))),
    }
}

/// Refuses a point that only marks the end of its series: it has no value, and tables no nulls.
const fn recorded(flags: u32) -> Result<(), Refusal> {
    match flags & DataPointFlags::NoRecordedValueMask as u32 {
        0 => Ok(()),
        _ => Err(Refusal::Value),
    }
}

fn number_point<'a>(
    point: &'a NumberDataPoint,
    kind: &'static str,
    temporality: i32,
    monotonic: bool,
) -> Result<Point<'a>, Refusal> {
    recorded(point.flags)?;
    #[expect(clippy::cast_precision_loss, reason = "the column is a double, as most of OTLP is")]
    let value = match point.value.as_ref().ok_or(Refusal::Value)? {
        Number::AsDouble(double) => *double,
        Number::AsInt(int) => *int as f64,
    };
    Ok(Point {
        kind,
        temporality: i64::from(temporality),
        monotonic,
        time_ns: point.time_unix_nano,
        start_ns: point.start_time_unix_nano,
        attributes: &point.attributes,
        value,
        count: 1,
        sum: value,
        distribution: String::new(),
        exemplars: point.exemplars.len(),
    })
}

fn histogram_point(point: &HistogramDataPoint, temporality: i32) -> Result<Point<'_>, Refusal> {
    recorded(point.flags)?;
    let bounds = &point.explicit_bounds;
    let fits = match point.bucket_counts.len() {
        0 => bounds.is_empty(),
        counts => counts == bounds.len() + 1,
    };
    if !fits {
        return Err(Refusal::Buckets);
    }
    let mut distribution = Map::new();
    distribution.insert("bounds".to_owned(), bounds.iter().copied().map(number).collect());
    distribution.insert("counts".to_owned(), json!(point.bucket_counts));
    extremes(&mut distribution, point.min, point.max);
    Ok(Point {
        kind: "histogram",
        temporality: i64::from(temporality),
        monotonic: false,
        time_ns: point.time_unix_nano,
        start_ns: point.start_time_unix_nano,
        attributes: &point.attributes,
        value: mean(point.sum, point.count),
        count: point.count,
        sum: point.sum.unwrap_or(0.0),
        distribution: Value::Object(distribution).to_string(),
        exemplars: point.exemplars.len(),
    })
}

fn exponential_point(
    point: &ExponentialHistogramDataPoint,
    temporality: i32,
) -> Result<Point<'_>, Refusal> {
    recorded(point.flags)?;
    let mut distribution = Map::new();
    distribution.insert("scale".to_owned(), Value::from(point.scale));
    distribution.insert("zero_count".to_owned(), Value::from(point.zero_count));
    distribution.insert("zero_threshold".to_owned(), number(point.zero_threshold));
    for (name, side) in [("positive", &point.positive), ("negative", &point.negative)] {
        if let Some(Buckets { offset, bucket_counts }) = side {
            distribution
                .insert(name.to_owned(), json!({"offset": offset, "counts": bucket_counts}));
        }
    }
    extremes(&mut distribution, point.min, point.max);
    Ok(Point {
        kind: "exponential_histogram",
        temporality: i64::from(temporality),
        monotonic: false,
        time_ns: point.time_unix_nano,
        start_ns: point.start_time_unix_nano,
        attributes: &point.attributes,
        value: mean(point.sum, point.count),
        count: point.count,
        sum: point.sum.unwrap_or(0.0),
        distribution: Value::Object(distribution).to_string(),
        exemplars: point.exemplars.len(),
    })
}

fn summary_point(point: &SummaryDataPoint) -> Result<Point<'_>, Refusal> {
    recorded(point.flags)?;
    let quantiles = point
        .quantile_values
        .iter()
        .map(|at| json!({"quantile": number(at.quantile), "value": number(at.value)}));
    Ok(Point {
        kind: "summary",
        temporality: 0,
        monotonic: false,
        time_ns: point.time_unix_nano,
        start_ns: point.start_time_unix_nano,
        attributes: &point.attributes,
        value: mean(Some(point.sum), point.count),
        count: point.count,
        sum: point.sum,
        distribution: json!({"quantiles": quantiles.collect::<Vec<_>>()}).to_string(),
        exemplars: 0,
    })
}

fn extremes(distribution: &mut Map<String, Value>, min: Option<f64>, max: Option<f64>) {
    for (name, extreme) in [("min", min), ("max", max)] {
        if let Some(extreme) = extreme {
            distribution.insert(name.to_owned(), number(extreme));
        }
    }
}

/// The mean of the observations; 0 where there are none or where the sender keeps no sum.
fn mean(sum: Option<f64>, count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a mean needs no more than 53 bits of count")]
    match sum {
        Some(sum) if count > 0 => sum / count as f64,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use arrow::util::pretty::pretty_format_batches;
    use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
    use opentelemetry_proto::tonic::metrics::v1::{
        Exemplar, ExponentialHistogram, Gauge, Histogram, ResourceMetrics, ScopeMetrics, Sum,
        Summary,
    };

    use super::*;

    fn request(metrics: Vec<Data>) -> ExportMetricsServiceRequest {
        let metrics = metrics
            .into_iter()
            .map(|data| Metric {
                name: "m".to_owned(),
                unit: "ns".to_owned(),
                data: Some(data),
                ..Metric::default()
            })
            .collect();
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
                ..ResourceMetrics::default()
            }],
        }
    }

    fn reading(value: Option<Number>) -> NumberDataPoint {
        NumberDataPoint {
            time_unix_nano: 20,
            start_time_unix_nano: 10,
            value,
            ..Default::default()
        }
    }

    fn shown(rows: &RecordBatch) -> String {
        let columns: Vec<_> = [
            "time_",
            "start_time",
            "kind",
            "temporality",
            "monotonic",
            "value",
            "count",
            "sum",
            "distribution",
        ]
        .iter()
        .map(|name| rows.schema().index_of(name).unwrap())
        .collect();
        pretty_format_batches(&[rows.project(&columns).unwrap()]).unwrap().to_string()
    }

    #[test]
    fn every_kind_of_metric_becomes_a_row() {
        let data = vec![
            Data::Gauge(Gauge { data_points: vec![reading(Some(Number::AsDouble(1.5)))] }),
            Data::Sum(Sum {
                data_points: vec![reading(Some(Number::AsInt(7)))],
                aggregation_temporality: 2,
                is_monotonic: true,
            }),
            Data::Histogram(Histogram {
                data_points: vec![HistogramDataPoint {
                    time_unix_nano: 20,
                    count: 4,
                    sum: Some(10.0),
                    bucket_counts: vec![1, 3],
                    explicit_bounds: vec![2.0],
                    max: Some(4.0),
                    ..Default::default()
                }],
                aggregation_temporality: 1,
            }),
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![ExponentialHistogramDataPoint {
                    time_unix_nano: 20,
                    count: 3,
                    sum: Some(9.0),
                    scale: 2,
                    zero_count: 1,
                    positive: Some(Buckets { offset: -1, bucket_counts: vec![2] }),
                    ..Default::default()
                }],
                aggregation_temporality: 2,
            }),
            Data::Summary(Summary {
                data_points: vec![SummaryDataPoint {
                    time_unix_nano: 20,
                    count: 2,
                    sum: 3.0,
                    quantile_values: vec![ValueAtQuantile { quantile: 0.5, value: 1.0 }],
                    ..Default::default()
                }],
            }),
        ];
        let mapped = rows(&request(data), usize::MAX);
        assert_eq!(mapped.refused.total(), 0);
        expect_test::expect![[r#"
            +-------+------------+-----------------------+-------------+-----------+-------+-------+------+---------------------------------------------------------------------------------------+
            | time_ | start_time | kind                  | temporality | monotonic | value | count | sum  | distribution                                                                          |
            +-------+------------+-----------------------+-------------+-----------+-------+-------+------+---------------------------------------------------------------------------------------+
            | 20    | 10         | gauge                 | 0           | false     | 1.5   | 1     | 1.5  |                                                                                       |
            | 20    | 10         | sum                   | 2           | true      | 7.0   | 1     | 7.0  |                                                                                       |
            | 20    | 0          | histogram             | 1           | false     | 2.5   | 4     | 10.0 | {"bounds":[2.0],"counts":[1,3],"max":4.0}                                             |
            | 20    | 0          | exponential_histogram | 2           | false     | 3.0   | 3     | 9.0  | {"scale":2,"zero_count":1,"zero_threshold":0.0,"positive":{"offset":-1,"counts":[2]}} |
            | 20    | 0          | summary               | 0           | false     | 1.5   | 2     | 3.0  | {"quantiles":[{"quantile":0.5,"value":1.0}]}                                          |
            +-------+------------+-----------------------+-------------+-----------+-------+-------+------+---------------------------------------------------------------------------------------+"#]].assert_eq(&shown(&mapped.rows.unwrap()));
    }

    #[test]
    fn exemplars_have_no_column_and_are_counted() {
        let exemplars = vec![Exemplar::default(); 2];
        let point = NumberDataPoint { exemplars, ..reading(Some(Number::AsInt(1))) };
        let data = Data::Gauge(Gauge { data_points: vec![point] });
        assert_eq!(rows(&request(vec![data]), usize::MAX).left_out, 2);
    }

    #[test]
    fn points_that_no_row_can_hold_are_refused_by_reason() {
        let stale = NumberDataPoint { flags: 1, ..reading(Some(Number::AsInt(1))) };
        let timeless = NumberDataPoint { time_unix_nano: 0, ..reading(Some(Number::AsInt(1))) };
        let points = vec![
            reading(Some(Number::AsDouble(f64::NAN))),
            reading(None),
            stale,
            timeless,
            reading(Some(Number::AsInt(1))),
        ];
        let uneven = HistogramDataPoint {
            time_unix_nano: 1,
            bucket_counts: vec![1],
            explicit_bounds: vec![1.0],
            ..Default::default()
        };
        let data = vec![
            Data::Gauge(Gauge { data_points: points }),
            Data::Histogram(Histogram { data_points: vec![uneven], aggregation_temporality: 1 }),
        ];
        let mapped = rows(&request(data), usize::MAX);
        assert_eq!(mapped.rows.unwrap().num_rows(), 1);
        assert_eq!(
            mapped.refused.to_string(),
            "refused 1 with a missing or impossible time, 3 without a finite value, \
             1 with buckets that do not fit their bounds"
        );
    }
}
