//! What scripts export.

use std::time::Duration;

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use undine_query::{Endpoint, PluginWindow, Request};
use undine_schema::TimeNs;

use super::fixture::{SECOND, START, fixture, requests};

pub(crate) fn endpoint() -> Endpoint {
    Endpoint {
        url: "localhost:4317".to_owned(),
        headers: Vec::new(),
        insecure: true,
        timeout: Duration::from_secs(5),
    }
}

/// A script of the tutorial's shape, `endpoint` or not.
fn throughput(start: &str, endpoint: &str) -> String {
    format!(
        "import px\n\
         df = px.DataFrame(table='http_events', start_time={start})\n\
         df.pod = df.ctx['pod']\n\
         df.service = df.ctx['service']\n\
         df = df.groupby(['pod', 'service', 'req_method']).agg(\n\
           throughput=('latency', px.count),\n\
           time_=('time_', px.max),\n\
         )\n\
         df.requests_per_s = df.throughput / 10\n\
         px.export(df, px.otel.Data(\n\
           {endpoint}\n\
           resource={{'service.name' : df.service, 'service.instance.id': df.pod}},\n\
           data=[px.otel.metric.Gauge(\n\
             name='http.throughput',\n\
             description='requests per second',\n\
             value=df.requests_per_s,\n\
             attributes={{'req_method': df.req_method}}\n\
           )]\n\
         ))\n\
         px.display(df)\n"
    )
}

#[tokio::test]
async fn a_gauge_is_exported_for_each_row_with_its_resource() {
    let fixture = fixture(64 << 20, None);
    fixture.append(requests(0..60));
    let script =
        throughput("'-1h'", "endpoint=px.otel.Endpoint(url='collector:4317', insecure=True),");
    let answer = fixture.run(&script).await.unwrap();
    let [export] = answer.exports.as_slice() else { panic!("one export") };
    let endpoint = export.endpoint.as_ref().unwrap();
    assert_eq!((endpoint.url.as_str(), endpoint.insecure), ("collector:4317", true));
    assert_eq!((export.rows, export.metrics.len(), export.spans.len()), (6, 6, 0));
    assert_eq!(answer.tables[0].rows(), 6);
    let mut total = 0.0;
    for resource in &export.metrics {
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        assert_eq!(attributes[0].key, "service.name");
        let metric = &resource.scope_metrics[0].metrics[0];
        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("http.throughput", ""));
        let Some(Data::Gauge(gauge)) = &metric.data else { panic!("a gauge") };
        let point = &gauge.data_points[0];
        assert!(point.time_unix_nano >= u64::try_from(START).unwrap());
        assert_eq!(point.attributes[0].key, "req_method");
        let Some(Value::AsDouble(value)) = point.value else { panic!("a double") };
        total += value;
    }
    assert!((total - 6.0).abs() < 1e-9, "{total}");
}

#[tokio::test]
async fn a_scheduled_script_takes_its_window_and_endpoint_from_the_plugin() {
    let fixture = fixture(64 << 20, None);
    fixture.append(requests(0..60));
    let script = throughput("px.plugin.start_time", "");
    let without = fixture.run(&script).await.unwrap_err().to_string();
    assert!(without.contains("scheduled scripts only"), "{without}");
    let request = Request {
        script,
        plugin: Some(PluginWindow {
            start: TimeNs::new(START + 2 * SECOND),
            end: TimeNs::new(START + 4 * SECOND),
        }),
        plugin_endpoint: Some(endpoint()),
        ..Request::default()
    };
    let answer = fixture.engine.run(request).await.unwrap();
    assert_eq!(answer.exports[0].endpoint, Some(endpoint()));
    assert_eq!(answer.exports[0].metrics.len(), 6);
}

#[tokio::test]
async fn spans_and_summaries_carry_what_their_columns_say() {
    let fixture = fixture(64 << 20, None);
    fixture.append(requests(0..1));
    let script = "import px\n\
        df = px.DataFrame('http_events')\n\
        df.services = px.Service('[\"a\",\"b\"]')\n\
        df.end = df.time_\n\
        df.start = df.time_ - df.latency\n\
        df.trace = '0123456789abcdef'\n\
        df.sum = df.latency * 1.0\n\
        df.q = df.latency * 1.0\n\
        df.n = 3\n\
        px.export(df, px.otel.Data(resource={'service.name': df.services, 'host.name': 'h'}, data=[\n\
          px.otel.trace.Span(name=df.req_method, start_time=df.start, end_time=df.end,\n\
            trace_id=df.trace, kind=px.otel.trace.SPAN_KIND_CLIENT,\n\
            attributes={'status': df.resp_status}),\n\
          px.otel.metric.Summary(name='latency', count=df.n, sum=df.sum,\n\
            quantile_values={0.5: df.q}, unit='ms'),\n\
          px.otel.metric.Gauge(name='size', value=df.resp_body_size),\n\
        ]))";
    let request = Request {
        script: script.to_owned(),
        plugin_endpoint: Some(endpoint()),
        ..Request::default()
    };
    let answer = fixture.engine.run(request).await.unwrap_or_else(|e| panic!("{e}"));
    let export = &answer.exports[0];
    assert_eq!((export.spans.len(), export.metrics.len()), (2, 2), "one for each service");
    let span = &export.spans[0].scope_spans[0].spans[0];
    assert_eq!((span.name.as_str(), span.kind), ("GET", 3));
    assert_eq!(span.trace_id, [0, 0, 0, 0, 0, 0, 0, 0, 1, 35, 69, 103, 137, 171, 205, 239]);
    assert_eq!((span.span_id.len(), span.parent_span_id.len()), (8, 0));
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_000_000);
    let metrics = &export.metrics[1].scope_metrics[0].metrics;
    assert_eq!((metrics[0].unit.as_str(), metrics[1].unit.as_str()), ("ms", "By"));
    let Some(Data::Summary(summary)) = &metrics[0].data else { panic!("a summary") };
    assert_eq!(summary.data_points[0].count, 3);
}
