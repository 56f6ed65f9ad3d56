//! What is wrong with a tracepoint by itself.

use undine_schema::trace::{
    EXPRESSION_BYTES_MAX, NAME_BYTES_MAX, OUTPUTS_MAX, TTL_MAX, TraceError, TraceSubject,
    TraceValue, TracedFunction, Tracepoint,
};

/// Checks what needs no look at processes.
pub(super) fn check(wanted: &Tracepoint) -> Result<(), TraceError> {
    named("the tracepoint's name", &wanted.name)?;
    named("the table's name", &wanted.table)?;
    if wanted.ttl.is_zero() || wanted.ttl > TTL_MAX {
        let reason = format!("a tracepoint cannot live for {:?}", wanted.ttl);
        return Err(TraceError::new(reason, "give a time of at most 24h, such as '5m'"));
    }
    match &wanted.subject {
        TraceSubject::Function(wanted) => function(wanted),
        TraceSubject::Programs(_) => Ok(()),
    }
}

fn named(what: &str, name: &str) -> Result<(), TraceError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        let reason = format!("{what} must have 1 to {NAME_BYTES_MAX} bytes of plain text");
        return Err(TraceError::new(reason, "choose another"));
    }
    Ok(())
}

fn function(wanted: &TracedFunction) -> Result<(), TraceError> {
    named("the function's name", &wanted.function)?;
    let count = wanted.outputs.len();
    if count == 0 || count > OUTPUTS_MAX {
        let reason = format!("a tracepoint with {count} columns is not possible");
        return Err(TraceError::new(reason, format!("give 1 to {OUTPUTS_MAX}")));
    }
    for (at, output) in wanted.outputs.iter().enumerate() {
        named("a column's name", &output.column)?;
        let before = wanted.outputs[..at].iter().any(|other| other.column == output.column);
        if before || matches!(output.column.as_str(), "time_" | "upid") {
            let reason = format!("there are two columns `{}`", output.column);
            return Err(TraceError::new(reason, "every row has time_ and upid besides yours"));
        }
        let (TraceValue::Argument(text) | TraceValue::Returned(text)) = &output.value else {
            continue;
        };
        if text.len() > EXPRESSION_BYTES_MAX {
            let reason = format!("an expression has more than {EXPRESSION_BYTES_MAX} bytes");
            return Err(TraceError::new(reason, "name less"));
        }
    }
    Ok(())
}
