//! Rows of the tables of requests: what each protocol's table says of a request and its response.

use undine_schema::path_template::template_into;
use undine_schema::tables::{
    AmqpEvent, CqlEvent, DnsEvent, HttpEvent, KafkaEvent, MongodbEvent, MuxEvent, MysqlEvent,
    NatsEvent, PgsqlEvent, RedisEvent, TlsEvent,
};

use super::place::{Place, request_row};
use super::{Origin, Rows, signed};
use crate::conn_tracker::Connection;
use crate::datagrams::Ended;
use crate::process::Processes;
use crate::protocol::dialogue::Timed;
use crate::protocol::exchange::Exchange;
use crate::protocol::output::Finished;
use crate::protocol::{amqp, cql, dns, kafka, mongo, mux, mysql, nats, pgsql, redis, tls};
use crate::redaction::{self, Redaction, body_into};

/// Texts of the row at hand, as far as they may be kept.
#[derive(Debug, Default)]
pub(super) struct Texts {
    template: String,
    target: String,
    request: String,
    response: String,
}

impl Texts {
    /// Puts what may be kept of a request and a response, with their full sizes, where rows find it.
    fn keep(&mut self, redaction: Redaction, request: (&str, u64), response: (&str, u64)) {
        self.request.clear();
        self.response.clear();
        body_into(redaction.bodies, request.0.as_bytes(), request.1, &mut self.request);
        body_into(redaction.bodies, response.0.as_bytes(), response.1, &mut self.response);
    }
}

impl Rows {
    /// Writes a request and its response to the table of their protocol.
    pub fn finished(
        &mut self,
        finished: &Finished,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, finished.process(), processes, origin);
        match finished {
            Finished::Http(exchange) => self.http_event(exchange, &place),
            Finished::Dns(lookup) => self.dns_event(lookup, &place),
            Finished::Mysql(command) => self.mysql_event(command, &place),
            Finished::Pgsql(request) => self.pgsql_event(request, &place),
            Finished::Cql(request) => self.cql_event(request, &place),
            Finished::Kafka(request) => self.kafka_event(request, &place),
            Finished::Redis(command) => self.redis_event(command, &place),
            Finished::Nats(command) => self.nats_event(command, &place),
            Finished::Mongo(command) => self.mongodb_event(command, &place),
            Finished::Amqp(exchange) => self.amqp_event(exchange, &place),
            Finished::Mux(exchange) => self.mux_event(exchange, &place),
            Finished::Tls(handshake) => self.tls_event(handshake, &place),
        }
    }

    /// Writes a query over UDP.
    pub fn lookup(&mut self, ended: &Ended, processes: &mut Processes, origin: &Origin) {
        let Ended { timed, ends, peer_process } = ended;
        let process = timed.process;
        let place = Place::at(ends.role, Some(ends), *peer_process, process, processes, origin);
        self.dns_event(timed, &place);
    }

    fn http_event(&mut self, exchange: &Exchange, place: &Place<'_>) {
        let Redaction { headers, bodies } = place.origin.redaction;
        let (request, response) = (&exchange.req_body, &exchange.resp_body);
        let Texts { template, target: path, request: asked, response: answered } = &mut self.texts;
        template.clear();
        template_into(&exchange.path, template);
        let path = redaction::target(headers, &exchange.path, path);
        let asked = redaction::body(bodies, &request.kept, request.size, asked);
        let answered = redaction::body(bodies, &response.kept, response.size, answered);
        let (requested_at, responded_at) = (exchange.requested_at, exchange.responded_at);
        self.http_events.push(&request_row!(HttpEvent at place, {
            time_: place.wall(responded_at),
            major_version: i64::from(exchange.major_version),
            minor_version: i64::from(exchange.minor_version),
            content_type: exchange.content_type as i64,
            req_headers: &exchange.req_headers,
            req_method: &exchange.method,
            req_path: path,
            req_body: asked,
            req_body_size: signed(request.size),
            resp_headers: &exchange.resp_headers,
            resp_status: i64::from(exchange.resp_status),
            resp_message: &exchange.resp_message,
            resp_body: answered,
            resp_body_size: signed(response.size),
            latency: signed(responded_at.saturating_sub(requested_at)),
            req_path_template: template,
            quality: place.quality(exchange.quality),
        }));
    }

    fn mysql_event(&mut self, timed: &Timed<mysql::Command>, place: &Place<'_>) {
        let command = &timed.call;
        let response = (command.result.as_str(), command.result.len() as u64);
        self.texts.keep(place.origin.redaction, (&command.text, command.text_size), response);
        self.mysql_events.push(&request_row!(MysqlEvent at place, {
            time_: place.wall(timed.responded_at),
            req_cmd: i64::from(command.code),
            req_body: &self.texts.request,
            resp_status: command.status as i64,
            resp_body: &self.texts.response,
            latency: signed(timed.latency_ns()),
            req_size: signed(command.request_size),
            resp_size: signed(command.response_size),
            failed: i64::from(command.status == mysql::Status::Err),
            quality: place.quality(timed.quality),
        }));
    }

    /// Names are kept as they are: without them nothing could be said.
    fn dns_event(&mut self, timed: &Timed<dns::Lookup>, place: &Place<'_>) {
        let lookup = &timed.call;
        let (time, latency) = times(timed, lookup.is_answered());
        self.dns_events.push(&request_row!(DnsEvent at place, {
            time_: place.wall(time),
            req_header: &lookup.req_header,
            req_body: &lookup.req_body,
            resp_header: &lookup.resp_header,
            resp_body: &lookup.resp_body,
            latency: signed(latency),
            query_name: &lookup.name,
            query_type: &lookup.kind,
            rcode: i64::from(lookup.rcode),
            quality: place.quality(timed.quality),
        }));
    }

    fn pgsql_event(&mut self, timed: &Timed<pgsql::Request>, place: &Place<'_>) {
        let request = &timed.call;
        self.texts.keep(
            place.origin.redaction,
            (&request.text, request.request_size),
            (&request.response, request.response_size),
        );
        self.pgsql_events.push(&request_row!(PgsqlEvent at place, {
            time_: place.wall(timed.responded_at),
            req_cmd: request.kind.name(),
            req: &self.texts.request,
            resp: &self.texts.response,
            latency: signed(timed.latency_ns()),
            req_size: signed(request.request_size),
            resp_size: signed(request.response_size),
            failed: i64::from(request.failed),
            quality: place.quality(timed.quality),
        }));
    }

    fn redis_event(&mut self, timed: &Timed<redis::Command>, place: &Place<'_>) {
        let command = &timed.call;
        let request = (command.args.as_str(), command.args_size);
        self.texts.keep(place.origin.redaction, request, (&command.reply, command.reply_size));
        self.redis_events.push(&request_row!(RedisEvent at place, {
            time_: place.wall(timed.responded_at),
            req_cmd: &command.name,
            req_args: &self.texts.request,
            resp: &self.texts.response,
            latency: signed(timed.latency_ns()),
            req_size: signed(command.args_size),
            resp_size: signed(command.reply_size),
            failed: i64::from(command.failed()),
            quality: place.quality(timed.quality),
        }));
    }

    fn nats_event(&mut self, timed: &Timed<nats::Command>, place: &Place<'_>) {
        let command = &timed.call;
        let body_size = if command.body.is_empty() { 0 } else { command.size };
        let answer = (command.answer.as_str(), command.answer_size);
        self.texts.keep(place.origin.redaction, (&command.body, body_size), answer);
        self.nats_events.push(&request_row!(NatsEvent at place, {
            time_: place.wall(timed.requested_at),
            cmd: command.name,
            body: &self.texts.request,
            resp: &self.texts.response,
            latency: if command.is_answered() { signed(timed.latency_ns()) } else { 0 },
            req_size: signed(command.size),
            resp_size: signed(command.answer_size),
            failed: i64::from(command.failed()),
            quality: place.quality(timed.quality),
        }));
    }

    fn mongodb_event(&mut self, timed: &Timed<mongo::Command>, place: &Place<'_>) {
        let command = &timed.call;
        let request = (command.request.as_str(), command.request_size);
        self.texts.keep(place.origin.redaction, request, (&command.reply, command.reply_size));
        self.mongodb_events.push(&request_row!(MongodbEvent at place, {
            time_: place.wall(timed.requested_at),
            req_cmd: &command.name,
            req_body: &self.texts.request,
            resp_status: &command.status,
            resp_body: &self.texts.response,
            latency: if command.is_answered() { signed(timed.latency_ns()) } else { 0 },
            req_size: signed(command.request_size),
            resp_size: signed(command.reply_size),
            failed: i64::from(command.failed()),
            quality: place.quality(timed.quality),
        }));
    }

    fn amqp_event(&mut self, timed: &Timed<amqp::Exchange>, place: &Place<'_>) {
        let amqp::Exchange { channel, request, response, failed, .. } = &timed.call;
        let is_answered = timed.call.is_answered();
        let text = |half: &'_ amqp::Half| if half.message.is_empty() { 0 } else { half.size };
        let req_msg = (request.message.as_str(), text(request));
        self.texts.keep(place.origin.redaction, req_msg, (&response.message, text(response)));
        self.amqp_events.push(&request_row!(AmqpEvent at place, {
            time_: place.wall(if is_answered { timed.responded_at } else { timed.requested_at }),
            frame_type: amqp::FRAME_METHOD,
            channel: i64::from(*channel),
            req_class_id: i64::from(request.class),
            req_method_id: i64::from(request.method),
            resp_class_id: i64::from(response.class),
            resp_method_id: i64::from(response.method),
            req_msg: &self.texts.request,
            resp_msg: &self.texts.response,
            latency: if is_answered { signed(timed.latency_ns()) } else { 0 },
            req_size: signed(request.size),
            resp_size: signed(response.size),
            failed: i64::from(*failed),
            quality: place.quality(timed.quality | timed.call.quality()),
        }));
    }

    fn cql_event(&mut self, timed: &Timed<cql::Request>, place: &Place<'_>) {
        let request = &timed.call;
        let body = (request.body.as_str(), request.request_size);
        self.texts.keep(place.origin.redaction, body, (&request.response, request.response_size));
        self.cql_events.push(&request_row!(CqlEvent at place, {
            time_: place.wall(timed.responded_at),
            req_op: i64::from(request.opcode),
            req_body: &self.texts.request,
            resp_op: request.response_opcode.map_or(-1, i64::from),
            resp_body: &self.texts.response,
            latency: signed(timed.latency_ns()),
            req_size: signed(request.request_size),
            resp_size: signed(request.response_size),
            failed: i64::from(request.failed()),
            quality: place.quality(timed.quality | request.quality()),
        }));
    }

    fn kafka_event(&mut self, timed: &Timed<kafka::Request>, place: &Place<'_>) {
        let request = &timed.call;
        let body = (request.body.as_str(), request.request_size);
        self.texts.keep(place.origin.redaction, body, (&request.response, request.response_size));
        self.kafka_events.push(&request_row!(KafkaEvent at place, {
            // Other tables have the time of the response here; scripts know.
            time_: place.wall(timed.requested_at),
            req_cmd: i64::from(request.api_key),
            client_id: &request.client_id,
            req_body: &self.texts.request,
            resp: &self.texts.response,
            latency: signed(timed.latency_ns()),
            req_size: signed(request.request_size),
            resp_size: signed(request.response_size),
            failed: i64::from(request.failed),
            quality: place.quality(timed.quality | request.quality()),
        }));
    }

    fn mux_event(&mut self, timed: &Timed<mux::Exchange>, place: &Place<'_>) {
        let exchange = &timed.call;
        let (time, latency) = times(timed, exchange.is_answered());
        self.mux_events.push(&request_row!(MuxEvent at place, {
            time_: place.wall(time),
            req_type: i64::from(exchange.kind),
            latency: signed(latency),
            dest: &exchange.dest,
            req_size: signed(exchange.request_size),
            resp_size: signed(exchange.response_size),
            failed: i64::from(exchange.failed()),
            quality: place.quality(timed.quality),
        }));
    }

    /// What a handshake says in the clear is no secret; names are kept as for DNS.
    fn tls_event(&mut self, timed: &Timed<tls::Handshake>, place: &Place<'_>) {
        let handshake = &timed.call;
        let is_answered = handshake.outcome != tls::Outcome::Unanswered;
        let (time, latency) = times(timed, is_answered);
        self.tls_events.push(&request_row!(TlsEvent without encrypted at place, {
            time_: place.wall(time),
            req_type: tls::CONTENT_HANDSHAKE,
            req_body: &handshake.offer,
            resp_body: &handshake.answer,
            latency: signed(latency),
            server_name: &handshake.server_name,
            version: &handshake.version,
            cipher: &handshake.cipher,
            alpn: &handshake.alpn,
            req_size: signed(handshake.request_size),
            resp_size: signed(handshake.response_size),
            failed: i64::from(handshake.outcome == tls::Outcome::Refused),
            quality: place.quality(timed.quality),
        }));
    }
}

/// When a request was answered, and after how many nanoseconds; where it was not, when it was sent.
const fn times<C>(timed: &Timed<C>, is_answered: bool) -> (u64, u64) {
    if is_answered { (timed.responded_at, timed.latency_ns()) } else { (timed.requested_at, 0) }
}
