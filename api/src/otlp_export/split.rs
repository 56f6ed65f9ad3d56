//! Cuts what a script exports into requests that receivers accept.
//!
//! Receivers refuse messages over 4 MiB unless they are told otherwise. Whole resources are packed
//! together; one that is too large alone is halved by scope, then by metric, then by point.

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;

/// What can be packed into a request and be cut in two.
pub(super) trait Cut: Message + Clone + Sized {
    /// How many data points or spans it holds.
    fn items(&self) -> usize;
    /// Two messages that together hold the same items, or none where it holds fewer than two.
    fn halve(self) -> Result<(Self, Self), Self>;
}

/// Cuts `whole` into batches of at most `bytes_max` encoded bytes, in order.
///
/// A single item that is larger makes a batch of its own: its receiver decides.
pub(super) fn batches<T: Cut>(whole: Vec<T>, bytes_max: usize) -> Vec<Vec<T>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    let mut rest: Vec<T> = whole;
    rest.reverse();
    while let Some(next) = rest.pop() {
        let next_bytes = field_bytes(&next);
        if next_bytes > bytes_max {
            match next.halve() {
                Ok((left, right)) => {
                    rest.push(right);
                    rest.push(left);
                    continue;
                }
                Err(single) => {
                    batches.extend([std::mem::take(&mut batch), vec![single]]);
                    batch_bytes = 0;
                    continue;
                }
            }
        }
        if batch_bytes + next_bytes > bytes_max {
            batches.push(std::mem::take(&mut batch));
            batch_bytes = 0;
        }
        batch_bytes += next_bytes;
        batch.push(next);
    }
    batches.push(batch);
    batches.retain(|batch| batch.iter().any(|part| part.items() > 0));
    batches
}

/// Bytes of a message as a field of a request: itself, its length and its tag.
fn field_bytes(message: &impl Message) -> usize {
    let length = message.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}

impl Cut for ResourceMetrics {
    fn items(&self) -> usize {
        self.scope_metrics.iter().flat_map(|scope| &scope.metrics).map(points).sum()
    }

    fn halve(mut self) -> Result<(Self, Self), Self> {
        let scope_metrics = match self.scope_metrics.as_mut_slice() {
            [] => return Err(self),
            [scope] => match halve_metrics(scope) {
                Some(right) => vec![right],
                None => return Err(self),
            },
            _ => split_half(&mut self.scope_metrics),
        };
        let right = Self {
            resource: self.resource.clone(),
            schema_url: self.schema_url.clone(),
            scope_metrics,
        };
        Ok((self, right))
    }
}

fn halve_metrics(scope: &mut ScopeMetrics) -> Option<ScopeMetrics> {
    let metrics = match scope.metrics.as_mut_slice() {
        [] => return None,
        [metric] => vec![halve_points(metric)?],
        _ => split_half(&mut scope.metrics),
    };
    Some(ScopeMetrics { scope: scope.scope.clone(), schema_url: scope.schema_url.clone(), metrics })
}

fn points(metric: &Metric) -> usize {
    match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        None => 0,
    }
}

fn halve_points(metric: &mut Metric) -> Option<Metric> {
    if points(metric) < 2 {
        return None;
    }
    let mut right = metric.clone();
    match (&mut metric.data, &mut right.data) {
        (Some(Data::Gauge(left)), Some(Data::Gauge(right))) => {
            right.data_points = split_half(&mut left.data_points);
        }
        (Some(Data::Sum(left)), Some(Data::Sum(right))) => {
            right.data_points = split_half(&mut left.data_points);
        }
        (Some(Data::Histogram(left)), Some(Data::Histogram(right))) => {
            right.data_points = split_half(&mut left.data_points);
        }
        (Some(Data::ExponentialHistogram(left)), Some(Data::ExponentialHistogram(right))) => {
            right.data_points = split_half(&mut left.data_points);
        }
        (Some(Data::Summary(left)), Some(Data::Summary(right))) => {
            right.data_points = split_half(&mut left.data_points);
        }
        _ => return None,
    }
    Some(right)
}

impl Cut for ResourceSpans {
    fn items(&self) -> usize {
        self.scope_spans.iter().map(|scope| scope.spans.len()).sum()
    }

    fn halve(mut self) -> Result<(Self, Self), Self> {
        let scope_spans = match self.scope_spans.as_mut_slice() {
            [scope] if scope.spans.len() > 1 => vec![ScopeSpans {
                scope: scope.scope.clone(),
                schema_url: scope.schema_url.clone(),
                spans: split_half(&mut scope.spans),
            }],
            [] | [_] => return Err(self),
            _ => split_half(&mut self.scope_spans),
        };
        let right = Self {
            resource: self.resource.clone(),
            schema_url: self.schema_url.clone(),
            scope_spans,
        };
        Ok((self, right))
    }
}

fn split_half<T>(items: &mut Vec<T>) -> Vec<T> {
    items.split_off(items.len() / 2)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::metrics::v1::{Gauge, NumberDataPoint, number_data_point};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use proptest::prelude::*;

    use super::*;

    fn metrics(shape: &[Vec<Vec<usize>>]) -> Vec<ResourceMetrics> {
        let mut next = 0;
        let mut gauge = |points: &usize| {
            let data_points = (0..*points).map(|_| {
                next += 1;
                let value = Some(number_data_point::Value::AsInt(next));
                NumberDataPoint { value, ..NumberDataPoint::default() }
            });
            let data = Some(Data::Gauge(Gauge { data_points: data_points.collect() }));
            Metric { name: "m".to_owned(), data, ..Metric::default() }
        };
        let mut scope = |metrics: &Vec<usize>| ScopeMetrics {
            metrics: metrics.iter().map(&mut gauge).collect(),
            ..ScopeMetrics::default()
        };
        shape
            .iter()
            .map(|scopes| ResourceMetrics {
                scope_metrics: scopes.iter().map(&mut scope).collect(),
                ..ResourceMetrics::default()
            })
            .collect()
    }

    fn values(metrics: &[ResourceMetrics]) -> Vec<i64> {
        let metrics =
            metrics.iter().flat_map(|resource| &resource.scope_metrics).flat_map(|s| &s.metrics);
        let points = metrics.flat_map(|metric| match &metric.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.iter(),
            _ => panic!("only gauges are built here"),
        });
        points
            .map(|point| match point.value {
                Some(number_data_point::Value::AsInt(int)) => int,
                _ => panic!("only integers are built here"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn batches_hold_every_point_once_in_order_and_keep_their_size(
            shape in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(0_usize..6, 0..4), 0..4), 0..6),
            bytes_max in 1_usize..200,
        ) {
            let whole = metrics(&shape);
            let batches = batches(whole.clone(), bytes_max);
            prop_assert_eq!(values(&batches.concat()), values(&whole));
            for batch in batches {
                let bytes: usize = batch.iter().map(field_bytes).sum();
                let items: usize = batch.iter().map(Cut::items).sum();
                prop_assert!(items > 0);
                prop_assert!(bytes <= bytes_max || items == 1, "{bytes} bytes, {items} items");
            }
        }
    }

    #[test]
    fn spans_of_one_resource_are_cut_when_they_are_too_many() {
        let spans = (0..100).map(|number| Span { name: number.to_string(), ..Span::default() });
        let scope = ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() };
        let whole = vec![ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() }];
        let batches = batches(whole, 64);
        let names = batches.iter().flatten().flat_map(|resource| &resource.scope_spans);
        let names: Vec<_> = names.flat_map(|s| &s.spans).map(|span| span.name.clone()).collect();
        assert_eq!(names, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(batches.len() > 5, "{} batches", batches.len());
    }
}
