//! The collector as a whole: on the real kernel, and from recordings.

#[cfg(test)]
mod it {
    mod amqp;
    mod cql;
    mod dns;
    mod http2;
    mod http;
    mod kafka;
    mod kernel;
    mod memory;
    mod mongo;
    mod mysql;
    mod nats;
    mod pgsql;
    mod place;
    mod postgres;
    mod redis;
    mod replay;
    mod tls;
    mod watch;
}
