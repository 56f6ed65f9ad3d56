//! The prepared statements of a connection, so that an execution shows what is executed.

use std::collections::BTreeMap;

use super::packet::Fields;
use super::params::ParamType;
use super::secrets;

/// Most statements of a connection that are known; the oldest are forgotten.
const STATEMENTS_MAX: usize = 1024;
/// Most bytes that they may hold.
const STATEMENTS_BYTES_MAX: usize = 256 * 1024;
/// Stands for the statement that was prepared last, maybe in the same breath.
const LAST_PREPARED: u32 = u32::MAX;
/// Flag of an execution that says how many parameters there are, and what they are called.
const PARAMETER_COUNT_AVAILABLE: u8 = 8;

#[derive(Debug, Default)]
struct Statement {
    sql: String,
    params: u16,
    /// Types of the parameters as they were last bound.
    types: Vec<ParamType>,
    /// Parameters whose values were sent ahead of the execution, one bit each.
    sent_ahead: u64,
}

impl Statement {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.sql.len() + self.types.len() * size_of::<ParamType>()
    }
}

/// The prepared statements of a connection.
#[derive(Debug, Default)]
pub(super) struct Statements {
    /// By id; ids count up.
    known: BTreeMap<u32, Statement>,
    bytes: usize,
    /// Text of the statement that the client prepared last.
    last_prepared: String,
}

impl Statements {
    /// Bytes that they hold.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes + self.last_prepared.len()
    }

    /// The client wants `sql` to be prepared.
    pub(super) fn prepares(&mut self, sql: &str) {
        self.last_prepared.clear();
        self.last_prepared.push_str(sql);
    }

    /// The server prepared `sql`, which has so many parameters.
    pub(super) fn prepared(&mut self, id: u32, sql: &str, params: u16) {
        self.close(id);
        let statement = Statement { sql: sql.to_owned(), params, ..Statement::default() };
        self.bytes += statement.bytes();
        self.known.insert(id, statement);
        self.shed();
    }

    /// Forgets the oldest while there are too many.
    fn shed(&mut self) {
        while (self.bytes > STATEMENTS_BYTES_MAX && self.known.len() > 1)
            || self.known.len() > STATEMENTS_MAX
        {
            let Some((_, oldest)) = self.known.pop_first() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    /// The client is done with a statement.
    pub(super) fn close(&mut self, id: u32) {
        if let Some(statement) = self.known.remove(&id) {
            self.bytes -= statement.bytes();
        }
    }

    /// The connection starts anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A parameter's value is sent ahead of the execution.
    pub(super) fn sends_ahead(&mut self, id: u32, param: u16) {
        if let Some(statement) = self.known.get_mut(&id) {
            statement.sent_ahead |= bit(param);
        }
    }

    /// What was sent ahead is forgotten.
    pub(super) fn reset(&mut self, id: u32) {
        if let Some(statement) = self.known.get_mut(&id) {
            statement.sent_ahead = 0;
        }
    }

    /// Text of a statement, empty where it is not known.
    pub(super) fn sql(&self, id: u32) -> &str {
        match self.known.get(&id) {
            Some(statement) => &statement.sql,
            None if id == LAST_PREPARED => &self.last_prepared,
            None => "",
        }
    }

    /// What an execution says, as upstream writes it: `payload` is what follows the command byte,
    /// the first of `length` bytes. Values that cannot be read are left out.
    pub(super) fn execution(&mut self, payload: &[u8], length: u64) -> String {
        let mut fields = Fields(payload);
        let Some(id) = fields.u32() else { return String::new() };
        let sql = self.sql(id).to_owned();
        if sql.is_empty() {
            return sql;
        }
        let mut values = Vec::new();
        if let Some(statement) = self.known.get_mut(&id) {
            self.bytes -= statement.bytes();
            let is_secret = secrets::speaks_of_secrets(&sql);
            let is_read = statement.values(fields, &mut values).is_some();
            // What was read of a payload that is cut off is right all the same.
            if is_secret || (!is_read && payload.len() as u64 == length) {
                values.clear();
            }
            statement.sent_ahead = 0;
            self.bytes += statement.bytes();
            self.shed();
        }
        format!("query=[{sql}] params=[{}]", values.join(", "))
    }
}

impl Statement {
    /// Reads the values of an execution, whose id was taken already; `None` where they are not all
    /// that it says.
    fn values(&mut self, mut fields: Fields<'_>, values: &mut Vec<String>) -> Option<()> {
        let flags = fields.byte()?;
        fields.u32()?;
        let named = flags & PARAMETER_COUNT_AVAILABLE != 0;
        let count = if named { u16::try_from(fields.length_encoded()?).ok()? } else { self.params };
        let nulls = fields.bytes(usize::from(count).div_ceil(8))?;
        if count > 0 && fields.byte()? == 1 {
            self.types.clear();
            for _ in 0..count {
                self.types.push(ParamType::next(&mut fields, named)?);
            }
        }
        for (at, kind) in (0..count).zip(&self.types) {
            let sent_ahead = self.sent_ahead & bit(at) != 0;
            let value = match is_null(nulls, at) {
                _ if sent_ahead => "[sent ahead]".to_owned(),
                true => "NULL".to_owned(),
                false => kind.value(&mut fields)?,
            };
            // Attributes of the query follow its parameters.
            if at < self.params {
                values.push(value);
            }
        }
        fields.0.is_empty().then_some(())
    }
}

/// Whether a parameter is null.
fn is_null(nulls: &[u8], param: u16) -> bool {
    nulls.get(usize::from(param / 8)).is_some_and(|byte| byte & (1 << (param % 8)) != 0)
}

/// The bit of a parameter; of the many after the 64th it is the same one.
const fn bit(param: u16) -> u64 {
    1 << if param < 64 { param } else { 63 }
}

/// The text of a query without the attributes that may go before it.
pub(super) fn query_text(payload: &[u8]) -> &[u8] {
    // A count of attributes and a count of their sets, which is one: no text starts like that.
    let [count, 1, rest @ ..] = payload else { return payload };
    if *count == 0 {
        return rest;
    }
    after_attributes(u16::from(*count), Fields(rest)).unwrap_or_default()
}

fn after_attributes(count: u16, mut fields: Fields<'_>) -> Option<&[u8]> {
    let nulls = fields.bytes(usize::from(count).div_ceil(8))?;
    fields.byte()?;
    let mut types = Vec::new();
    for _ in 0..count {
        types.push(ParamType::next(&mut fields, true)?);
    }
    for (at, kind) in (0..count).zip(types) {
        if !is_null(nulls, at) {
            kind.value(&mut fields)?;
        }
    }
    Some(fields.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An execution of statement 7 with a number and a text.
    const EXECUTION: &[u8] =
        &[7, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0x03, 0, 0xfd, 0, 5, 0, 0, 0, 2, b'h', b'i'];

    fn execute(statements: &mut Statements, payload: &[u8]) -> String {
        statements.execution(payload, payload.len() as u64)
    }

    #[test]
    fn an_execution_shows_the_statement_with_its_values() {
        let mut statements = Statements::default();
        assert_eq!(execute(&mut statements, EXECUTION), "", "not known");
        statements.prepared(7, "SELECT ? + ?", 2);
        let mut check = |payload: &[u8], length: usize, params: &str| {
            let expected = format!("query=[SELECT ? + ?] params=[{params}]");
            assert_eq!(statements.execution(payload, length as u64), expected);
        };
        check(EXECUTION, EXECUTION.len(), "5, hi");
        // The types are those of the time before, the second value is none.
        let again = [7, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 6, 0, 0, 0];
        check(&again, again.len(), "6, NULL");
        check(&EXECUTION[..20], EXECUTION.len(), "5");
        check(&EXECUTION[..20], 20, "");
        check(&[EXECUTION, &[0]].concat(), EXECUTION.len() + 1, "");
        statements.sends_ahead(7, 1);
        let ahead = [7, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 6, 0, 0, 0];
        let shown = execute(&mut statements, &ahead);
        assert_eq!(shown, "query=[SELECT ? + ?] params=[6, [sent ahead]]");
        statements.close(7);
        assert_eq!(execute(&mut statements, EXECUTION), "");
        statements.clear();
        assert_eq!(statements.bytes(), 0);
    }

    #[test]
    fn the_statement_that_was_prepared_last_needs_no_id() {
        let mut statements = Statements::default();
        statements.prepares("SELECT 1");
        let last = [0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0];
        assert_eq!(execute(&mut statements, &last), "query=[SELECT 1] params=[]");
    }

    #[test]
    fn attributes_of_the_query_are_not_its_parameters() {
        let mut statements = Statements::default();
        statements.prepared(7, "SELECT ?", 1);
        let payload = [&[7, 0, 0, 0, 8, 1, 0, 0, 0, 2, 0, 1, 1, 0, 0, 1, 0, 1][..], b"n\x05\x06"];
        assert_eq!(execute(&mut statements, &payload.concat()), "query=[SELECT ?] params=[5]");
    }

    #[test]
    fn values_of_secrets_are_not_shown() {
        let mut statements = Statements::default();
        statements.prepared(7, "SELECT ? FROM users WHERE password = ?", 2);
        let shown = execute(&mut statements, EXECUTION);
        assert_eq!(shown, "query=[SELECT ? FROM users WHERE password = ?] params=[]");
    }

    #[test]
    fn only_so_many_statements_are_kept_and_the_oldest_are_forgotten() {
        let mut statements = Statements::default();
        for id in 0..5000 {
            statements.prepared(id, "SELECT 1", 0);
        }
        assert_eq!(statements.known.len(), STATEMENTS_MAX);
        assert_eq!((statements.sql(0), statements.sql(4999)), ("", "SELECT 1"));
        let long = "x".repeat(STATEMENTS_BYTES_MAX / 4);
        for id in 5000..5010 {
            statements.prepared(id, &long, 0);
        }
        assert!(statements.bytes() <= STATEMENTS_BYTES_MAX, "{}", statements.bytes());
        assert_eq!(statements.sql(5009), long);
    }

    #[test]
    fn attributes_go_before_the_text_of_a_query() {
        assert_eq!(query_text(b"SELECT 1"), b"SELECT 1");
        assert_eq!(query_text(b"\x00\x01SELECT 1"), b"SELECT 1");
        let one = b"\x01\x01\x00\x01\xfd\x00\x01n\x02hiSELECT 1";
        assert_eq!(query_text(one), b"SELECT 1");
        assert_eq!(query_text(&one[..8]), b"");
    }
}
