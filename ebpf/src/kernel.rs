//! The programs and what they are made of.

mod buffer;
mod connection;
mod datagram;
mod fields;
#[cfg(not(feature = "before-5-17"))]
mod floor;
mod go_tls;
mod maps;
mod message_index;
mod operation;
mod process_events;
mod repeat;
mod profile;
mod ring;
mod rustls;
mod scope;
mod sock_state;
mod socket_functions;
mod socket_length;
mod sys_exit;
mod task;
mod tcp_health;
mod tcp_stream;
mod tls;
mod tls_calls;
mod tls_hello;
mod tls_output;
mod trace;
