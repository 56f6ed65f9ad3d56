//! How rows show a message: as the JSON objects that Pixie's scripts take apart.

use super::message::{Answer, Data, Message, Question};

/// Most bytes of an object with answers; those beyond are left out.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;

/// What a row says of a response that never came.
pub(super) const NOTHING: &str = "{}";

/// The header; the response code has its upper bits.
pub(super) fn header(message: &Message) -> String {
    let header = &message.header;
    let [queries, answers, authorities, additional] = header.counts;
    format!(
        concat!(
            r#"{{"txid":{},"qr":{},"opcode":{},"aa":{},"tc":{},"rd":{},"ra":{},"ad":{},"cd":{},"#,
            r#""rcode":{},"num_queries":{},"num_answers":{},"num_auth":{},"num_addl":{}}}"#,
        ),
        header.txid,
        header.bit(15),
        header.opcode(),
        header.bit(10),
        header.bit(9),
        header.bit(8),
        header.bit(7),
        header.bit(5),
        header.bit(4),
        message.rcode,
        queries,
        answers,
        authorities,
        additional,
    )
}

/// The questions.
pub(super) fn queries(questions: &[Question]) -> String {
    let show = |question: &Question| object(&question.name, question.kind, None);
    list("queries", questions.iter().map(show))
}

/// The answers.
pub(super) fn answers(answers: &[Answer]) -> String {
    let show = |answer: &Answer| match &answer.data {
        Data::Addr(addr) => object(&answer.name, answer.kind, Some(("addr", &addr.to_string()))),
        Data::Cname(name) => object(&answer.name, answer.kind, Some(("cname", name))),
        Data::Target(name) => object(&answer.name, answer.kind, Some(("target", name))),
        Data::Other => object(&answer.name, answer.kind, None),
    };
    list("answers", answers.iter().map(show))
}

fn list(key: &str, objects: impl Iterator<Item = String>) -> String {
    let mut json = format!("{{\"{key}\":[");
    for (index, object) in objects.enumerate() {
        if json.len() + object.len() > BODY_BYTES_MAX {
            break;
        }
        if index > 0 {
            json.push(',');
        }
        json.push_str(&object);
    }
    json.push_str("]}");
    json
}

fn object(name: &str, kind: u16, more: Option<(&str, &str)>) -> String {
    let (name, kind) = (quoted(name), type_name(kind));
    match more {
        None => format!(r#"{{"name":{name},"type":"{kind}"}}"#),
        Some((key, value)) => {
            let value = quoted(value);
            format!(r#"{{"name":{name},"type":"{kind}","{key}":{value}}}"#)
        }
    }
}

fn quoted(text: &str) -> String {
    // A string can always be written.
    serde_json::to_string(text).unwrap_or_default()
}

/// The name of a type; unknown ones as in RFC 3597.
pub(super) fn type_name(kind: u16) -> String {
    let name = match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        39 => "DNAME",
        41 => "OPT",
        43 => "DS",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        50 => "NSEC3",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        _ => return format!("TYPE{kind}"),
    };
    name.to_owned()
}
