//! The collector as a whole: on the real kernel, and from recordings.

#[cfg(test)]
mod it {
    mod amqp;
    mod cql;
    mod dns;
    mod flavours;
    mod http2;
    mod http;
    mod kafka;
    mod kernel;
    mod memory;
    mod midway;
    mod mongo;
    mod mysql;
    mod nats;
    mod pgsql;
    mod place;
    mod player;
    mod postgres;
    mod redis;
    mod replay;
    mod tcp_health;
    mod watch;
}
