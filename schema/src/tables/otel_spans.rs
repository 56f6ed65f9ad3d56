//! The table `otel_spans`.

crate::table! {
    /// One span received over OTLP.
    OTEL_SPANS = "otel_spans": Event, OtelSpan, OtelSpans {
        /// When the span ended.
        time_: Time [time],
        /// When it started.
        start_time: Time,
        /// 32 hexadecimal digits.
        trace_id: Text,
        /// 16 hexadecimal digits.
        span_id: Text,
        /// 16 hexadecimal digits, empty for a root span.
        parent_span_id: Text,
        /// The operation's name.
        name: Text [dimension],
        /// OTLP's span kind, 0 to 5.
        kind: Int [dimension, outcome],
        /// OTLP's status code: 0 unset, 1 ok, 2 error.
        status_code: Int [dimension, outcome],
        /// The status message.
        status_message: Text,
        /// From start to end.
        latency: DurationNs [sketched],
        /// Attributes as a JSON object.
        attributes: Text [body],
        /// Resource attributes as a JSON object.
        resource: Text,
        /// Name of the instrumentation scope.
        scope: Text,
        /// `service.name` of the resource.
        service: ServiceName [dimension, context],
        /// `k8s.namespace.name/k8s.pod.name` of the resource, empty where it has none.
        pod: PodName [dimension, context],
        /// `k8s.namespace.name` of the resource, empty where it has none.
        namespace: NamespaceName [dimension, context],
        /// `k8s.node.name` or `host.name` of the resource, empty where it has neither.
        node: NodeName [dimension, context],
    }
}
