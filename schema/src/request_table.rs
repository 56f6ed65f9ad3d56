//! The macro that declares a table of requests.

/// Declares a table with one row for each request and its response: as [`table!`](crate::table!),
/// with the columns that all such tables begin and end with. The declaration says only what `time_`
/// is and which columns are the protocol's own. Where upstream's table has no `latency`, the
/// declaration says after `time_` what it is, and it is hidden with the others of ours; where it has
/// no `encrypted`, it says so there.
///
/// ```ignore
/// request_table! {
///     /// One Redis command with its reply.
///     REDIS_EVENTS = "redis_events": RedisEvent, RedisEvents {
///         /// When the reply's last byte was seen.
///         time_,
///         /// The command's name in capitals.
///         req_cmd: Text [dimension],
///     }
/// }
/// ```
#[macro_export]
macro_rules! request_table {
    (
        $(#[doc = $table_doc:literal])+
        $def:ident = $name:literal: $row:ident, $builder:ident {
            $(#[doc = $time_doc:literal])+
            time_,
            $(#[doc = $latency_doc:literal])+
            latency [context],
            $($own:tt)*
        }
    ) => {
        $crate::request_table! { @ [
                /// Whether it went through TLS.
                encrypted: Flag,
            ]
            $(#[doc = $table_doc])+
            $def = $name: $row, $builder {
                $(#[doc = $time_doc])+
                time_,
                $($own)*
                $(#[doc = $latency_doc])+
                latency: DurationNs [sketched, context],
            }
        }
    };
    (
        $(#[doc = $table_doc:literal])+
        $def:ident = $name:literal: $row:ident, $builder:ident {
            $(#[doc = $time_doc:literal])+
            time_,
            without encrypted,
            $($own:tt)*
        }
    ) => {
        $crate::request_table! { @ []
            $(#[doc = $table_doc])+
            $def = $name: $row, $builder {
                $(#[doc = $time_doc])+
                time_,
                $($own)*
                /// From the request's first byte to the response's last.
                latency: DurationNs [sketched],
            }
        }
    };
    (
        $(#[doc = $table_doc:literal])+
        $def:ident = $name:literal: $row:ident, $builder:ident {
            $(#[doc = $time_doc:literal])+
            time_,
            $($own:tt)*
        }
    ) => {
        $crate::request_table! { @ [
                /// Whether it went through TLS.
                encrypted: Flag,
            ]
            $(#[doc = $table_doc])+
            $def = $name: $row, $builder {
                $(#[doc = $time_doc])+
                time_,
                $($own)*
                /// From the request's first byte to the response's last.
                latency: DurationNs [sketched],
            }
        }
    };
    // All columns but those that every such table has.
    (@ [$($encrypted:tt)*]
        $(#[doc = $table_doc:literal])+
        $def:ident = $name:literal: $row:ident, $builder:ident {
            $(#[doc = $time_doc:literal])+
            time_,
            $($own:tt)*
        }
    ) => {
        $crate::table! {
            $(#[doc = $table_doc])+
            $def = $name: Event, $row, $builder {
                $(#[doc = $time_doc])+
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
                trace_role: Int [dimension, outcome],
                $($encrypted)*
                $($own)*
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
                remote_service: ServiceName [dimension, context, peer],
                /// Pod of the peer, empty where it is not known.
                remote_pod: PodName [dimension, context, peer],
                /// What is known to be wrong with the row, a sum of: 1 bytes of its bodies were not
                /// captured, 2 the connection was joined midway, 4 the connection, an HTTP/2
                /// stream by a reset, or the wait for it ended before the response did, 8 headers
                /// are not known and shown as `?`, 16 it is not known which connection carries what was
                /// said inside TLS, so there are no addresses, and no beginning that was seen.
                quality: Int [context],
            }
        }
    };
}
