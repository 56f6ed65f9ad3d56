//! The methods of AMQP 0-9-1 with RabbitMQ's: who sends them, what answers them, what they carry.

use serde_json::{Map, Value};

use super::super::dialogue::Side;
use super::super::mask::fields::Fields;

/// Arguments by name.
pub(super) type Arguments = Map<String, Value>;

/// Who may send a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
    Both,
}

impl Sender {
    pub(super) fn may_be(self, side: Side) -> bool {
        match self {
            Self::Client => side == Side::Client,
            Self::Server => side == Side::Server,
            Self::Both => true,
        }
    }
}

/// What a method is to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It is answered, unless it says that it need not be.
    Asks,
    /// It asks, and nothing that waits for its sender's answer will get one.
    Closes,
    /// It answers the method with this number.
    Answers(u16),
    /// The same, and a message follows.
    Brings(u16),
    /// It stands for itself.
    Tells,
    /// The same, and a message follows.
    Carries,
}
use Part::{Answers, Asks, Brings, Carries, Closes, Tells};

/// An argument; those without a name are not kept.
#[derive(Clone, Copy, Debug)]
enum Argument {
    Number16(&'static str),
    Number32(&'static str),
    Number64(&'static str),
    Text(&'static str),
    /// A table or a long text, which may be a secret: never kept.
    Block,
    /// Flags; those that are set are kept.
    Bits(&'static [&'static str]),
}
use Argument::{Bits, Block, Number16, Number32, Number64, Text};

/// A method.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) class: u16,
    pub(super) id: u16,
    pub(super) sender: Sender,
    pub(super) part: Part,
    arguments: &'static [Argument],
}

/// With it a client says how long frames may be.
pub(super) const TUNE_OK: (u16, u16) = (10, 31);
/// The flag of methods that need not be answered.
const NO_WAIT: &str = "no_wait";
const CLOSE: &[Argument] =
    &[Number16("reply_code"), Text("reply_text"), Number16("class_id"), Number16("method_id")];
const TUNE: &[Argument] = &[Number16("channel_max"), Number32("frame_max"), Number16("heartbeat")];
const EXCHANGE_BIND: &[Argument] = &[
    Number16(""),
    Text("destination"),
    Text("source"),
    Text("routing_key"),
    Bits(&[NO_WAIT]),
    Block,
];
const MESSAGE_COUNT: &[Argument] = &[Number32("message_count")];
const CONSUMER_TAG: &[Argument] = &[Text("consumer_tag")];

const fn method(
    class: u16,
    id: u16,
    sender: Sender,
    part: Part,
    arguments: &'static [Argument],
) -> Method {
    Method { class, id, sender, part, arguments }
}

const fn client(class: u16, id: u16, part: Part, arguments: &'static [Argument]) -> Method {
    method(class, id, Sender::Client, part, arguments)
}

const fn server(class: u16, id: u16, part: Part, arguments: &'static [Argument]) -> Method {
    method(class, id, Sender::Server, part, arguments)
}

const fn both(class: u16, id: u16, part: Part, arguments: &'static [Argument]) -> Method {
    method(class, id, Sender::Both, part, arguments)
}

static METHODS: [Method; 66] = [
    // Connection.
    server(10, 10, Asks, &[Number16(""), Block, Block, Block]),
    client(10, 11, Answers(10), &[Block, Text("mechanism"), Block, Text("locale")]),
    server(10, 20, Asks, &[Block]),
    client(10, 21, Answers(20), &[Block]),
    server(10, 30, Asks, TUNE),
    client(10, 31, Answers(30), TUNE),
    client(10, 40, Asks, &[Text("virtual_host"), Text(""), Bits(&[""])]),
    server(10, 41, Answers(40), &[Text("")]),
    both(10, 50, Closes, CLOSE),
    both(10, 51, Answers(50), &[]),
    server(10, 60, Tells, &[Text("reason")]),
    server(10, 61, Tells, &[]),
    client(10, 70, Asks, &[Block, Text("reason")]),
    server(10, 71, Answers(70), &[]),
    // Channel.
    client(20, 10, Asks, &[Text("")]),
    server(20, 11, Answers(10), &[Block]),
    both(20, 20, Asks, &[Bits(&["active"])]),
    both(20, 21, Answers(20), &[Bits(&["active"])]),
    both(20, 40, Closes, CLOSE),
    both(20, 41, Answers(40), &[]),
    // Access.
    client(30, 10, Asks, &[Text("realm"), Bits(&[])]),
    server(30, 11, Answers(10), &[Number16("")]),
    // Exchange.
    client(
        40,
        10,
        Asks,
        &[
            Number16(""),
            Text("exchange"),
            Text("type"),
            Bits(&["passive", "durable", "auto_delete", "internal", NO_WAIT]),
            Block,
        ],
    ),
    server(40, 11, Answers(10), &[]),
    client(40, 20, Asks, &[Number16(""), Text("exchange"), Bits(&["if_unused", NO_WAIT])]),
    server(40, 21, Answers(20), &[]),
    client(40, 30, Asks, EXCHANGE_BIND),
    server(40, 31, Answers(30), &[]),
    client(40, 40, Asks, EXCHANGE_BIND),
    server(40, 51, Answers(40), &[]),
    // Queue.
    client(
        50,
        10,
        Asks,
        &[
            Number16(""),
            Text("queue"),
            Bits(&["passive", "durable", "exclusive", "auto_delete", NO_WAIT]),
            Block,
        ],
    ),
    server(
        50,
        11,
        Answers(10),
        &[Text("queue"), Number32("message_count"), Number32("consumer_count")],
    ),
    client(
        50,
        20,
        Asks,
        &[
            Number16(""),
            Text("queue"),
            Text("exchange"),
            Text("routing_key"),
            Bits(&[NO_WAIT]),
            Block,
        ],
    ),
    server(50, 21, Answers(20), &[]),
    client(50, 30, Asks, &[Number16(""), Text("queue"), Bits(&[NO_WAIT])]),
    server(50, 31, Answers(30), MESSAGE_COUNT),
    client(50, 40, Asks, &[Number16(""), Text("queue"), Bits(&["if_unused", "if_empty", NO_WAIT])]),
    server(50, 41, Answers(40), MESSAGE_COUNT),
    client(
        50,
        50,
        Asks,
        &[Number16(""), Text("queue"), Text("exchange"), Text("routing_key"), Block],
    ),
    server(50, 51, Answers(50), &[]),
    // Basic.
    client(
        60,
        10,
        Asks,
        &[Number32("prefetch_size"), Number16("prefetch_count"), Bits(&["global"])],
    ),
    server(60, 11, Answers(10), &[]),
    client(
        60,
        20,
        Asks,
        &[
            Number16(""),
            Text("queue"),
            Text("consumer_tag"),
            Bits(&["no_local", "no_ack", "exclusive", NO_WAIT]),
            Block,
        ],
    ),
    server(60, 21, Answers(20), CONSUMER_TAG),
    both(60, 30, Asks, &[Text("consumer_tag"), Bits(&[NO_WAIT])]),
    both(60, 31, Answers(30), CONSUMER_TAG),
    client(
        60,
        40,
        Carries,
        &[Number16(""), Text("exchange"), Text("routing_key"), Bits(&["mandatory", "immediate"])],
    ),
    server(
        60,
        50,
        Carries,
        &[Number16("reply_code"), Text("reply_text"), Text("exchange"), Text("routing_key")],
    ),
    server(
        60,
        60,
        Carries,
        &[
            Text("consumer_tag"),
            Number64("delivery_tag"),
            Bits(&["redelivered"]),
            Text("exchange"),
            Text("routing_key"),
        ],
    ),
    client(60, 70, Asks, &[Number16(""), Text("queue"), Bits(&["no_ack"])]),
    server(
        60,
        71,
        Brings(70),
        &[
            Number64("delivery_tag"),
            Bits(&["redelivered"]),
            Text("exchange"),
            Text("routing_key"),
            Number32("message_count"),
        ],
    ),
    server(60, 72, Answers(70), &[Text("")]),
    both(60, 80, Tells, &[Number64("delivery_tag"), Bits(&["multiple"])]),
    client(60, 90, Tells, &[Number64("delivery_tag"), Bits(&["requeue"])]),
    client(60, 100, Tells, &[Bits(&["requeue"])]),
    client(60, 110, Asks, &[Bits(&["requeue"])]),
    server(60, 111, Answers(110), &[]),
    both(60, 120, Tells, &[Number64("delivery_tag"), Bits(&["multiple", "requeue"])]),
    // Confirm.
    client(85, 10, Asks, &[Bits(&[NO_WAIT])]),
    server(85, 11, Answers(10), &[]),
    // Transactions.
    client(90, 10, Asks, &[]),
    server(90, 11, Answers(10), &[]),
    client(90, 20, Asks, &[]),
    server(90, 21, Answers(20), &[]),
    client(90, 30, Asks, &[]),
    server(90, 31, Answers(30), &[]),
];

impl Method {
    /// The method that a frame's payload begins with.
    pub(super) fn find(mut payload: &[u8]) -> Option<&'static Self> {
        let class = u16::from_be_bytes(number(&mut payload)?);
        let id = u16::from_be_bytes(number(&mut payload)?);
        METHODS.iter().find(|method| (method.class, method.id) == (class, id))
    }

    /// The method that a frame's payload begins with, and its arguments, which have to fill the
    /// rest.
    pub(super) fn read(payload: &[u8]) -> Option<(&'static Self, Arguments)> {
        let method = Self::find(payload)?;
        let mut bytes = payload.get(4..)?;
        let mut arguments = Arguments::new();
        for argument in method.arguments {
            argument.read(&mut bytes, &mut arguments)?;
        }
        bytes.is_empty().then_some((method, arguments))
    }

    /// Overwrites what is content in a frame's payload; none where its arguments do not fill it.
    pub(super) fn mask(payload: &mut Fields<'_>) -> Option<()> {
        let method = Self::find(payload.0)?;
        payload.keep(4)?;
        for argument in method.arguments {
            argument.mask(payload)?;
        }
        payload.0.is_empty().then_some(())
    }
}

/// Whether a method with these arguments need not be answered.
pub(super) fn need_not_be_answered(arguments: &Arguments) -> bool {
    arguments.contains_key(NO_WAIT)
}

impl Argument {
    fn read(self, bytes: &mut &[u8], arguments: &mut Arguments) -> Option<()> {
        let (name, value): (_, Value) = match self {
            Number16(name) => (name, u16::from_be_bytes(number(bytes)?).into()),
            Number32(name) => (name, u32::from_be_bytes(number(bytes)?).into()),
            Number64(name) => (name, u64::from_be_bytes(number(bytes)?).into()),
            Text(name) => {
                let [length] = number(bytes)?;
                (name, std::str::from_utf8(split(bytes, usize::from(length))?).ok()?.into())
            }
            Block => {
                let length = u32::from_be_bytes(number(bytes)?);
                split(bytes, usize::try_from(length).ok()?)?;
                return Some(());
            }
            Bits(names) => {
                let [bits] = number(bytes)?;
                let set = names.iter().enumerate().filter(|(at, _)| bits & 1 << at != 0);
                for (_, name) in set.filter(|(_, name)| !name.is_empty()) {
                    arguments.insert((*name).to_owned(), true.into());
                }
                return Some(());
            }
        };
        if !name.is_empty() {
            arguments.insert(name.to_owned(), value);
        }
        Some(())
    }

    fn mask(self, payload: &mut Fields<'_>) -> Option<()> {
        match self {
            Number16(_) => payload.keep(2).map(drop),
            Number32(_) => payload.keep(4).map(drop),
            Number64(_) => payload.keep(8).map(drop),
            Bits(_) => payload.keep(1).map(drop),
            Text(_) => payload.fill_vector8(),
            Block => payload.fill_vector32(),
        }
    }
}

/// Takes the bytes of a number from the front.
fn number<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn split<'a>(bytes: &mut &'a [u8], at: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(at)?;
    *bytes = rest;
    Some(taken)
}
