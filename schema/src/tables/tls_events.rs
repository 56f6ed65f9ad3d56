//! The table `tls_events`.

crate::request_table! {
    /// One TLS handshake, as far as it can be read without keys.
    TLS_EVENTS = "tls_events": TlsEvent, TlsEvents {
        /// When the last byte of the server's hello, or of its alert, was seen; where neither came,
        /// when the client's hello was.
        time_,
        without encrypted,
        /// The kind of record that it begins with: 22, a handshake.
        req_type: Int [dimension],
        /// What the client offers, as a JSON object: `version`, `server_name`, `alpn`,
        /// `supported_versions`, `cipher_suites`, `groups`, `resumes`, `early_data`.
        req_body: Text,
        /// What the server chooses, as a JSON object: `version`, `cipher_suite`, `alpn`, `group`,
        /// `resumed`, `retried`; or the `alert` that it answers with; `{}` where it does not.
        resp_body: Text,
        /// The name that the client wants to talk to (SNI), empty where it says none.
        server_name: Text [dimension, context],
        /// The version that the server chose, such as `TLS 1.3`; empty where it chose none.
        version: Text [dimension, context],
        /// The cipher suite that it chose, by its name in IANA's registry.
        cipher: Text [dimension, context],
        /// The protocol that it chose (ALPN); empty from TLS 1.3 on, which hides it.
        alpn: Text [dimension, context],
        /// Bytes of the client's hello.
        req_size: ByteCount [measure, context],
        /// Bytes of the server's hello or alert.
        resp_size: ByteCount [measure, context],
        /// 1 where the server answered by an alert, otherwise 0.
        failed: Int [dimension, context, outcome],
    }
}
