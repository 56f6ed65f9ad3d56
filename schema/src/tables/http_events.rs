//! The table `http_events`.

crate::request_table! {
    /// One HTTP request with its response.
    HTTP_EVENTS = "http_events": HttpEvent, HttpEvents {
        /// When the response's last byte was seen.
        time_,
        /// HTTP major version.
        major_version: Int,
        /// HTTP minor version; 0 for HTTP/2.
        minor_version: Int,
        /// 0 unknown, 1 JSON, 2 gRPC.
        content_type: Int,
        /// Request headers as a JSON object.
        req_headers: Text [headers],
        /// The verb.
        req_method: HttpMethod [dimension],
        /// Path with query.
        req_path: Text,
        /// Request body, cut at the configured size.
        req_body: Text [body],
        /// Size of the request body before it was cut.
        req_body_size: ByteCount [measure],
        /// Response headers as a JSON object.
        resp_headers: Text [headers],
        /// Status code; 0 where no response was seen before the connection ended.
        resp_status: HttpStatus [dimension, outcome],
        /// Reason phrase; for gRPC the message of its status.
        resp_message: HttpMessage,
        /// Response body, cut at the configured size.
        resp_body: Text [body],
        /// Size of the response body before it was cut.
        resp_body_size: ByteCount [measure],
        /// The path without its query and with its variable parts folded.
        req_path_template: Text [dimension, context, template_of("req_path")],
    }
}
