//! The table `incidents`.

crate::table! {
    /// What happened to an incident: it opened, grew worse, or was resolved. One row a change.
    INCIDENTS = "incidents": Record, Incident, Incidents {
        /// When it changed.
        time_: Time [time],
        /// Stays the same from opening to resolution.
        incident_id: Text,
        /// `open`, `update` or `resolved`.
        state: Text,
        /// The service that is to blame.
        service: ServiceName,
        /// Pod of the service, empty on a bare host.
        pod: PodName,
        /// `warning` or `critical`.
        severity: Text,
        /// When the first unusual window began.
        started_at: Time,
        /// When it was resolved; 0 before.
        ended_at: Time,
        /// The feature that contributes most.
        feature: Text,
        /// What that feature was when the incident was worst.
        value: Float,
        /// What was expected of it.
        expected: Float,
        /// Calibrated score from 0 to 1 when the incident was worst.
        score: Float,
        /// Features with their values, expectations and shares, as a JSON array, most first.
        contributions: Text,
        /// Requests that show it, as a JSON array.
        samples: Text [body],
        /// One sentence for people.
        summary: Text,
        /// The script that shows it.
        pxl: Text,
    }
}
