//! The collector as a whole: on the real kernel, and from recordings.

#[cfg(test)]
mod it {
    mod amqp;
    mod cql;
    mod dns;
    mod host;
    mod hooks;
    mod http2;
    mod http;
    mod kafka;
    mod kernel;
    mod memory;
    mod mongo;
    mod mux;
    mod mysql;
    mod nats;
    mod pgsql;
    mod place;
    mod postgres;
    mod profile;
    mod redis;
    mod refusals;
    mod replay;
    mod tls;
    mod tls_events;
    mod watch;
}
