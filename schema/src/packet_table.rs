//! The macro that declares a table of what happens to TCP's packets.

/// Declares a table whose rows say what TCP did to packets of a connection: as
/// [`table!`](crate::table!), with the columns that all such tables begin and end with. The
/// declaration says what `time_` and `count` are, and which columns are the event's own.
#[macro_export]
macro_rules! packet_table {
    (
        $(#[doc = $table_doc:literal])+
        $def:ident = $name:literal: $row:ident, $builder:ident {
            $(#[doc = $time_doc:literal])+
            time_,
            $(#[doc = $count_doc:literal])+
            count,
            $($own:tt)*
        }
    ) => {
        $crate::table! {
            $(#[doc = $table_doc])+
            $def = $name: Event, $row, $builder {
                $(#[doc = $time_doc])+
                time_: Time [time],
                /// The process on this host, zero where none is known: a packet for a port at which
                /// nobody listens belongs to none.
                upid: Process,
                /// This end's address.
                src_ip: IpAddress,
                /// This end's port.
                src_port: Port,
                /// The peer's address, `-` where unknown.
                dst_ip: IpAddress,
                /// The peer's port.
                dst_port: Port,
                /// State of this end's socket, such as `ESTABLISHED`; empty where there is no socket.
                state: Text [dimension],
                $($own)*
                $(#[doc = $count_doc])+
                count: Int [measure],
                /// Service of the process.
                service: ServiceName [dimension, context],
                /// Pod of the process, empty on a bare host.
                pod: PodName [dimension, context],
                /// Namespace of the process, empty on a bare host.
                namespace: NamespaceName [dimension, context],
                /// Node of the process.
                node: NodeName [dimension, context],
                /// Container of the process, empty where it runs in none.
                container: ContainerName [dimension, context],
                /// Service of the peer, empty where it is not known.
                remote_service: ServiceName [dimension, context, peer],
                /// Pod of the peer, empty where it is not known.
                remote_pod: PodName [dimension, context, peer],
            }
        }
    };
}
