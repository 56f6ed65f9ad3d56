//! The table `http_events`.

crate::table! {
    /// One HTTP request with its response.
    HTTP_EVENTS = "http_events": Event, HttpEvent, HttpEvents {
        /// When the response's last byte was seen.
        time_: Time [time],
        /// The process on this host that served or, for role 1, sent the request.
        upid: Process,
        /// The peer's address, `-` where unknown.
        remote_addr: IpAddress,
        /// The peer's port.
        remote_port: Port,
        /// This end's address.
        local_addr: IpAddress,
        /// This end's port.
        local_port: Port,
        /// Which end was traced: 1 client, 2 server, 4 unknown.
        trace_role: Int [dimension],
        /// Whether it went through TLS.
        encrypted: Flag,
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
        resp_status: HttpStatus [dimension],
        /// Reason phrase.
        resp_message: HttpMessage,
        /// Response body, cut at the configured size.
        resp_body: Text [body],
        /// Size of the response body before it was cut.
        resp_body_size: ByteCount [measure],
        /// From the request's first byte to the response's last.
        latency: DurationNs [sketched],
        /// Service of the traced process.
        service: ServiceName [dimension, context],
        /// Pod of the traced process, empty on a bare host.
        pod: PodName [dimension, context],
        /// Namespace of the traced process, empty on a bare host.
        namespace: NamespaceName [dimension, context],
        /// Node of the traced process.
        node: NodeName [dimension, context],
        /// Container of the traced process, empty where it runs in none.
        container: ContainerName [dimension, context],
        /// Service of the peer, empty where it is not known.
        remote_service: ServiceName [dimension, context],
        /// Pod of the peer, empty where it is not known.
        remote_pod: PodName [dimension, context],
        /// The path without its query and with its variable parts folded.
        req_path_template: Text [dimension, context, template_of("req_path")],
        /// What is known to be wrong with the row, a sum of: 1 bytes of its bodies were not
        /// captured, 2 the connection was joined midway, 4 the response ended with the connection.
        quality: Int [context],
    }
}
