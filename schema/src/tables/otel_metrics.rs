//! The table `otel_metrics`.

crate::table! {
    /// One metric data point received over OTLP.
    OTEL_METRICS = "otel_metrics": Gauge, OtelMetric, OtelMetrics {
        /// The point's time.
        time_: Time [time],
        /// Start of the interval that the point covers, 0 where it has none.
        start_time: Time,
        /// The metric's name.
        name: Text [dimension],
        /// Its unit.
        unit: Text [dimension],
        /// `gauge`, `sum`, `histogram`, `exponential_histogram` or `summary`.
        kind: Text [dimension],
        /// 0 none, 1 delta, 2 cumulative.
        temporality: Int [dimension],
        /// Whether a sum only grows.
        monotonic: Flag,
        /// The value of a gauge or sum, the mean of the others.
        value: Float [sketched],
        /// Observations of a histogram or summary, 1 for the others.
        count: Int [measure],
        /// Sum of the observations.
        sum: Float [measure],
        /// Buckets or quantiles as a JSON object, empty for a gauge or sum.
        distribution: Text,
        /// Attributes as a JSON object with sorted keys.
        attributes: Text [dimension],
        /// Resource attributes as a JSON object with sorted keys.
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
