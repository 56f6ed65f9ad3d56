//! The table `dns_events`.

crate::request_table! {
    /// One DNS query with its response, over UDP or TCP. Both ends have a row where both are seen.
    DNS_EVENTS = "dns_events": DnsEvent, DnsEvents {
        /// When the response was seen; where none came, when the query was.
        time_,
        /// The query's header as a JSON object: `txid`, `qr`, `opcode`, `aa`, `tc`, `rd`, `ra`,
        /// `ad`, `cd`, `rcode`, `num_queries`, `num_answers`, `num_auth`, `num_addl`.
        req_header: Text,
        /// `{"queries":[…]}`, each with `name` and `type`.
        req_body: Text,
        /// The response's header, as `req_header`, its `rcode` with the upper bits of EDNS; `{}`
        /// where none came.
        resp_header: Text,
        /// `{"answers":[…]}`, each with `name`, `type` and, where it gives an address `addr`, an
        /// alias `cname`, another name `target`; `{}` where no response came.
        resp_body: Text,
        /// The first question's name in small letters.
        query_name: Text [dimension, context],
        /// The first question's type, such as `AAAA`.
        query_type: Text [dimension, context],
        /// The response code; -1 where no response came: within 5 s, before its connection ended,
        /// or before 4096 others waited too. The latency is then 0.
        rcode: Int [dimension, context, outcome],
    }
}
