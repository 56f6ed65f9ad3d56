//! The table `kafka_events.beta`.

crate::request_table! {
    /// One Kafka request with its response.
    KAFKA_EVENTS = "kafka_events.beta": KafkaEvent, KafkaEvents {
        /// When the request's first byte was seen.
        time_,
        /// The request's API key.
        req_cmd: Int [dimension],
        /// What the client calls itself.
        client_id: Text [dimension],
        /// The request as JSON, without records; whole fields are left out where it gets too long.
        req_body: Text [body],
        /// The response likewise; empty where there is none.
        resp: Text [body],
        /// Bytes of the request.
        req_size: ByteCount [measure, context],
        /// Bytes of the response.
        resp_size: ByteCount [measure, context],
        /// 1 where an error code was seen in the response, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
