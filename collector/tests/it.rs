//! The collector as a whole: on the real kernel, and from recordings.

#[cfg(test)]
mod it {
    mod amqp;
    mod bpftrace;
    mod costs;
    mod cql;
    mod dns;
    mod flavours;
    mod golden;
    mod host;
    mod hooks;
    mod http2;
    mod http;
    mod kafka;
    mod kernel;
    mod memory;
    mod midway;
    mod mmsg;
    mod mongo;
    mod mux;
    mod mysql;
    mod nats;
    mod pgsql;
    mod place;
    mod player;
    mod postgres;
    mod profile;
    mod redis;
    mod refusals;
    mod refusals_on_demand;
    mod replay;
    mod tcp_health;
    mod tls;
    mod tls_ending;
    mod tls_events;
    mod tls_boringssl;
    mod tls_bundled;
    mod tls_go;
    mod tls_hyper;
    mod tls_memory_bio;
    mod tls_rustls;
    mod tls_scene;
    mod tls_unbound;
    mod trace;
    mod watch;
}
