//! What clients send: each request takes its place among those that await their answer.

use super::super::dialogue::{Calls, Side};
use super::awaited::{Awaited, Kind};
use super::message::{Fields, Head, text};
use super::names::{Statement, distinct};
use super::secret::without_passwords;
use super::{FIELD_BYTES_MAX, Opening, Pgsql, Request};

/// Bytes of a message's body that are looked at; of passwords and of a table's rows none.
pub(super) const fn bytes_wanted(tag: u8, calls: &Calls<Request>) -> usize {
    match tag {
        b'Q' | b'P' | b'B' | b'F' => calls.text_bytes_max + FIELD_BYTES_MAX,
        b'D' | b'E' | b'C' => FIELD_BYTES_MAX,
        _ => 0,
    }
}

impl Pgsql {
    /// Takes a message of the client.
    pub(super) fn ask(&mut self, head: Head, mut body: Fields<'_>, calls: &mut Calls<Request>) {
        self.opening = Opening::Over;
        match head.tag {
            b'Q' => {
                // It replaces what has no name.
                self.statements.remove(b"");
                self.portals.remove(b"");
                let sql = sql(&mut body, calls.text_bytes_max);
                self.call(Kind::Query, sql, head, calls);
            }
            b'F' => {
                let request = function_call(&mut body, calls.text_bytes_max);
                self.call(Kind::FunctionCall, request, head, calls);
            }
            b'P' => self.parse(head, &mut body, calls),
            b'B' => self.bind(head, &mut body, calls),
            b'D' => {
                let about = self.described(&mut body);
                self.prepare(Awaited { about, ..awaited(Kind::Describe, head, calls) }, calls);
            }
            b'C' => self.close(head, &mut body, calls),
            b'E' => {
                let name = body.text();
                let request = match self.portals.get(name) {
                    Some(portal) => portal.bound(),
                    None => format!("query=[{}] params=[]", unknown("portal", name)),
                };
                self.call(Kind::Execute, request, head, calls);
            }
            b'S' if !self.copies_in => {
                (self.skips, self.prelude) = (false, [0; 2]);
                self.expect(awaited(Kind::Sync, head, calls), calls);
            }
            b'c' | b'f' => {
                count_copied(head, calls);
                self.copies_in = false;
            }
            b'd' => count_copied(head, calls),
            // Secrets at the startup, `Flush`, `Terminate`.
            _ => {}
        }
    }

    fn parse(&mut self, head: Head, body: &mut Fields<'_>, calls: &mut Calls<Request>) {
        let name = body.text();
        let statement = Statement::of(sql(body, calls.text_bytes_max));
        let before = self.statements.set(name, statement.clone());
        let parse = Awaited {
            about: Some(statement),
            renamed: before.map(|before| (distinct(name).into(), before)),
            ..awaited(Kind::Parse, head, calls)
        };
        self.prepare(parse, calls);
    }

    fn bind(&mut self, head: Head, body: &mut Fields<'_>, calls: &mut Calls<Request>) {
        let (portal, name) = (body.text(), body.text());
        let mut params = String::new();
        if body.shorts().is_some() {
            body.values_into(", ", calls.text_bytes_max, &mut params);
        }
        let sql = match self.statements.get(name) {
            Some(statement) => statement.sql,
            None => unknown("statement", name).into(),
        };
        let bound = Statement { sql, params: params.into() };
        self.portals.set(portal, bound.clone());
        self.prepare(Awaited { about: Some(bound), ..awaited(Kind::Bind, head, calls) }, calls);
    }

    /// What a `Describe` is about.
    fn described(&mut self, body: &mut Fields<'_>) -> Option<Statement> {
        match body.byte()? {
            b'S' => self.statements.get(body.text()),
            _ => self.portals.get(body.text()),
        }
    }

    fn close(&mut self, head: Head, body: &mut Fields<'_>, calls: &mut Calls<Request>) {
        let (what, name) = (body.byte(), body.text());
        let mut close = awaited(Kind::Close, head, calls);
        if what == Some(b'S') {
            close.renamed =
                self.statements.remove(name).map(|before| (distinct(name).into(), before));
        } else {
            self.portals.remove(name);
        }
        self.prepare(close, calls);
    }

    /// Takes a request that is a row in any case.
    fn call(&mut self, kind: Kind, text: String, head: Head, calls: &mut Calls<Request>) {
        let prelude = std::mem::take(&mut self.prelude[Side::Client as usize]);
        let request_size = head.wire_bytes() + prelude;
        calls.begin(0, Request { kind, text, request_size, ..Request::default() });
        self.expect(awaited(kind, head, calls), calls);
    }

    /// Takes a request that prepares an execution.
    fn prepare(&mut self, awaited: Awaited, calls: &mut Calls<Request>) {
        self.prelude[Side::Client as usize] += awaited.size;
        self.expect(awaited, calls);
    }

    fn expect(&mut self, awaited: Awaited, calls: &mut Calls<Request>) {
        if self.skips {
            self.skip(awaited, calls);
        } else {
            self.awaited.push(awaited);
        }
    }

    /// Ends what the server does not look at because of an error before it.
    pub(super) fn skip(&mut self, skipped: Awaited, calls: &mut Calls<Request>) {
        if skipped.kind.is_call() {
            if let Some(call) = calls.oldest() {
                call.failed = true;
            }
            calls.finish_oldest();
        }
        self.keep_name(skipped);
    }

    /// A name keeps the meaning that it had before a `Parse` or `Close` that did not happen.
    pub(super) fn keep_name(&mut self, undone: Awaited) {
        if let Some((name, before)) = undone.renamed {
            self.statements.set(&name, before);
        }
    }
}

fn awaited(kind: Kind, head: Head, calls: &Calls<Request>) -> Awaited {
    Awaited::new(kind, head.wire_bytes(), calls.arrival())
}

/// SQL as far as it is kept.
fn sql(body: &mut Fields<'_>, bytes_max: usize) -> String {
    let sql = body.text();
    without_passwords(text(&sql[..sql.len().min(bytes_max)]))
}

/// A function by its number, with its arguments.
fn function_call(body: &mut Fields<'_>, bytes_max: usize) -> String {
    let mut request = format!("{}(", body.long().unwrap_or(0));
    if body.shorts().is_some() {
        body.values_into(", ", bytes_max, &mut request);
    }
    request.push(')');
    request
}

/// What stands for the SQL of a name that was given before capture began, or long ago.
fn unknown(what: &str, name: &[u8]) -> String {
    match text(distinct(name)) {
        name if name.is_empty() => format!("<unknown {what}>"),
        name => format!("<unknown {what} {name}>"),
    }
}

/// Counts a part of a table that is copied to the server.
fn count_copied(head: Head, calls: &mut Calls<Request>) {
    if let Some(call) = calls.oldest() {
        call.request_size += head.wire_bytes();
    }
}
