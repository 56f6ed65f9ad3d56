//! What servers send: each message belongs to the first request that awaits its answer, or to none.

use super::super::dialogue::{Calls, Side, Step};
use super::super::gap::Cause;
use super::awaited::{Awaited, Kind};
use super::message::{Fields, Head, push_cut, text, value_text};
use super::{FIELD_BYTES_MAX, Pgsql, Request};

/// What stands for rows that the client did not ask for yet.
const SUSPENDED: &str = "<suspended>";
/// Bytes of what a description says of a column after its name.
const COLUMN_BYTES: usize = 18;

/// Bytes of a message's body that are looked at; none of what there is no room for.
pub(super) fn bytes_wanted(tag: u8, calls: &mut Calls<Request>) -> usize {
    let bytes_max = calls.text_bytes_max;
    match tag {
        b'T' | b'D' => match calls.oldest() {
            Some(call) if call.response.len() >= bytes_max => 0,
            Some(call) => bytes_max - call.response.len() + FIELD_BYTES_MAX,
            None => bytes_max + FIELD_BYTES_MAX,
        },
        b'E' | b'V' => bytes_max + FIELD_BYTES_MAX,
        b'C' => FIELD_BYTES_MAX,
        _ => 0,
    }
}

impl Pgsql {
    /// Takes a message of the server.
    pub(super) fn answer(
        &mut self,
        head: Head,
        body: Fields<'_>,
        calls: &mut Calls<Request>,
    ) -> Result<(), Step> {
        let first = self.awaited.first_kind();
        match (head.tag, first) {
            // A server that goes away says so unasked.
            (b'N' | b'A' | b'S', _) | (b'R' | b'K' | b'v', Some(Kind::Startup)) | (b'E', None) => {}
            (b'E', Some(first)) => self.error(first, head, body, calls),
            (b'Z', Some(first)) if first.ends_turn() => self.ready(first, head, calls),
            (_, Some(Kind::Parse | Kind::Bind | Kind::Describe | Kind::Close)) => {
                return self.prepared(head, body, calls.text_bytes_max);
            }
            (_, Some(first @ (Kind::Query | Kind::Execute | Kind::FunctionCall))) => {
                return self.result(first, head, body, calls);
            }
            _ => return Err(Step::Bad(Cause::Unrequested)),
        }
        Ok(())
    }

    /// The server waits for the next turn.
    fn ready(&mut self, first: Kind, head: Head, calls: &mut Calls<Request>) {
        if first.is_call() {
            if let Some(call) = calls.oldest() {
                call.response_size += head.wire_bytes();
            }
            calls.finish_oldest();
        }
        self.awaited.pop();
        self.columns.clear();
        self.prelude[Side::Server as usize] = 0;
    }

    /// Something that prepares an execution was done, or some of it.
    fn prepared(&mut self, head: Head, mut body: Fields<'_>, bytes_max: usize) -> Result<(), Step> {
        match (head.tag, self.awaited.first_kind()) {
            (b'1', Some(Kind::Parse)) | (b'3', Some(Kind::Close)) => {}
            (b'2', Some(Kind::Bind)) | (b'n', Some(Kind::Describe)) => self.columns.clear(),
            (b't', Some(Kind::Describe)) => {
                self.prelude[Side::Server as usize] += head.wire_bytes();
                return Ok(());
            }
            (b'T', Some(Kind::Describe)) => {
                self.columns.clear();
                columns_into(&mut body, bytes_max, &mut self.columns);
            }
            _ => return Err(Step::Bad(Cause::Unrequested)),
        }
        self.prelude[Side::Server as usize] += head.wire_bytes();
        self.awaited.pop();
        Ok(())
    }

    /// Some of what a statement gives.
    fn result(
        &mut self,
        first: Kind,
        head: Head,
        mut body: Fields<'_>,
        calls: &mut Calls<Request>,
    ) -> Result<(), Step> {
        let bytes_max = calls.text_bytes_max;
        let Some(call) = calls.oldest() else { return Err(Step::Bad(Cause::Unrequested)) };
        call.response_size += head.wire_bytes();
        let response = &mut call.response;
        if first == Kind::Execute && !self.columns.is_empty() {
            push_cut(&std::mem::take(&mut self.columns), bytes_max, response);
        }
        match (head.tag, first) {
            (b'V', Kind::FunctionCall) => {
                if let Some((length, value)) = body.value() {
                    push_cut(&value_text(length, value), bytes_max, response);
                }
                return Ok(());
            }
            (_, Kind::FunctionCall) => return Err(Step::Bad(Cause::Unrequested)),
            (b'T', Kind::Query) => {
                new_line(bytes_max, response);
                columns_into(&mut body, bytes_max, response);
                return Ok(());
            }
            (b'D', _) => {
                new_line(bytes_max, response);
                body.values_into(",", bytes_max, response);
                return Ok(());
            }
            (b'G', _) => {
                self.copies_in = true;
                if first == Kind::Execute {
                    // The server reads them as part of the copy.
                    self.awaited.drop_next_syncs();
                }
                return Ok(());
            }
            (b'H' | b'd' | b'c', _) => return Ok(()),
            // Replication: both sides talk as they please.
            (b'W', _) => return Err(Step::Opaque),
            (b'C', _) => {
                new_line(bytes_max, response);
                push_cut(&text(body.text()), bytes_max, response);
            }
            (b's', Kind::Execute) => {
                new_line(bytes_max, response);
                push_cut(SUSPENDED, bytes_max, response);
            }
            (b'I', _) => {}
            _ => return Err(Step::Bad(Cause::Unrequested)),
        }
        self.copies_in = false;
        if first == Kind::Execute {
            self.executed(calls);
        }
        Ok(())
    }

    /// An execution is over.
    fn executed(&mut self, calls: &mut Calls<Request>) {
        if let Some(call) = calls.oldest() {
            call.response_size += std::mem::take(&mut self.prelude[Side::Server as usize]);
        }
        calls.finish_oldest();
        self.awaited.pop();
    }

    fn error(&mut self, first: Kind, head: Head, body: Fields<'_>, calls: &mut Calls<Request>) {
        let (response, is_last) = error_text(body, calls.text_bytes_max);
        let response_size = head.wire_bytes();
        self.copies_in = false;
        if first.is_call()
            && let Some(call) = calls.oldest()
        {
            (call.response, call.failed) = (response, true);
            call.response_size += response_size;
        } else if first != Kind::Startup
            && let Some(failed) = self.awaited.first()
        {
            let (kind, request_size) = (failed.kind, failed.size);
            let text = failed_text(failed);
            let call = Request { kind, text, response, request_size, response_size, failed: true };
            calls.finish_undecided(failed.arrival, call);
        }
        match first {
            Kind::Startup => drop(self.awaited.pop()),
            Kind::Query | Kind::FunctionCall if is_last => self.executed(calls),
            // The server says that it is ready.
            Kind::Query | Kind::FunctionCall | Kind::Sync => {}
            Kind::Execute => {
                self.executed(calls);
                self.skip_turn(calls);
            }
            Kind::Parse | Kind::Bind | Kind::Describe | Kind::Close => {
                if let Some(failed) = self.awaited.pop() {
                    self.keep_name(failed);
                }
                self.skip_turn(calls);
            }
        }
    }

    /// After an error the server looks at nothing before the next `Sync`.
    fn skip_turn(&mut self, calls: &mut Calls<Request>) {
        while let Some(skipped) = self.awaited.pop_before_sync() {
            self.skip(skipped, calls);
        }
        self.skips = self.awaited.first().is_none();
    }
}

/// What a request that failed is about, as its kind has it.
fn failed_text(failed: &Awaited) -> String {
    match (&failed.about, failed.kind) {
        (Some(about), Kind::Bind) => about.bound(),
        (Some(about), _) => about.sql.as_ref().to_owned(),
        (None, _) => String::new(),
    }
}

/// Severity, code and message of an error, and whether the server says nothing more after it.
fn error_text(mut body: Fields<'_>, bytes_max: usize) -> (String, bool) {
    let (mut severity, mut code, mut message) = (String::new(), String::new(), String::new());
    let mut is_last = false;
    while let Some(field) = body.byte().filter(|field| *field > 0) {
        let value = body.text();
        match field {
            b'S' => severity = text(value),
            // The severity, whatever language the server speaks.
            b'V' => is_last = matches!(value, b"FATAL" | b"PANIC"),
            b'C' => code = text(value),
            b'M' => message = text(value),
            _ => {}
        }
    }
    let mut error = String::new();
    push_cut(&format!("{severity} {code}: {message}"), bytes_max, &mut error);
    (error, is_last)
}

/// Appends the names of columns.
fn columns_into(body: &mut Fields<'_>, bytes_max: usize, out: &mut String) {
    for at in 0..body.short().unwrap_or(0) {
        if body.0.is_empty() {
            return;
        }
        if at > 0 {
            push_cut(",", bytes_max, out);
        }
        push_cut(&text(body.text()), bytes_max, out);
        body.bytes(COLUMN_BYTES);
    }
}

fn new_line(bytes_max: usize, out: &mut String) {
    if !out.is_empty() {
        push_cut("\n", bytes_max, out);
    }
}
