//! The table `anomalies`.

crate::table! {
    /// How unusual one feature of one entity was in one window, for every window that was unusual.
    ANOMALIES = "anomalies": Record, Anomaly, Anomalies {
        /// End of the window.
        time_: Time [time],
        /// The service it is about.
        service: ServiceName,
        /// Pod of the service, empty on a bare host.
        pod: PodName,
        /// Which feature: `throughput`, `error_ratio`, `latency_p50`, `latency_p99`.
        feature: Text,
        /// Length of the window.
        window: DurationNs,
        /// What was observed.
        value: Float,
        /// What was expected.
        expected: Float,
        /// The observed value's distance from the expected one in robust standard deviations.
        deviation: Float,
        /// Calibrated score from 0 to 1: the share of quiet windows that were less unusual.
        score: Float,
        /// Requests that the window held.
        requests: Int,
        /// The incident that it belongs to, empty where it belongs to none.
        incident_id: Text,
        /// Name and version of the model.
        model: Text,
    }
}
