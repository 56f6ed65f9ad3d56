//! Where a program's blocks run, and whether that tells of the process that runs there.

use undine_schema::trace::TraceError;

use super::tokens::Cursor;

/// What runs a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// bpftrace itself, for itself.
    Begin,
    /// bpftrace itself, or a clock, whoever runs at that time.
    Nobody,
    /// The process that runs there, or a sample of what it does.
    Process,
    /// The process that runs there, or an interrupt meanwhile: the stack tells which.
    Stack,
    /// The process that runs there, or an interrupt meanwhile, and nothing tells which.
    Unknown,
}

/// Tracepoints that only system calls and the life of processes come to.
const OF_PROCESSES: [&str; 5] = [
    "syscalls",
    "raw_syscalls",
    "sched:sched_process_exec",
    "sched:sched_process_exit",
    "sched:sched_process_fork",
];

/// One attach point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AttachPoint {
    pub(super) text: String,
    pub(super) event: Event,
}

/// Reads what stands before a block: attach points with commas between.
pub(super) fn all(cursor: &mut Cursor<'_>) -> Result<Vec<AttachPoint>, TraceError> {
    let mut points = Vec::new();
    loop {
        cursor.skip_blank()?;
        points.push(one(cursor)?);
        cursor.skip_blank()?;
        if !cursor.rest().starts_with(',') {
            return Ok(points);
        }
        cursor.advance(1);
        cursor.skip_blank()?;
        // A comma behind the last one is allowed.
        if cursor.rest().starts_with(['{', '/']) {
            return Ok(points);
        }
    }
}

fn one(cursor: &mut Cursor<'_>) -> Result<AttachPoint, TraceError> {
    let mut text = String::new();
    loop {
        let plain = cursor
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"_:.*?+-/#@$".contains(&byte));
        text.push_str(plain);
        if !cursor.rest().starts_with('"') {
            break;
        }
        let quoted = cursor.quoted()?;
        if quoted.contains(['"', '\\', '\n', ':']) {
            return Err(cursor.error("a name in quotes holds `\"`, `\\` or `:`"));
        }
        text.push('"');
        text.push_str(&quoted);
        text.push('"');
    }
    let event = event(&text).map_err(|why| cursor.error(&why))?;
    Ok(AttachPoint { text, event })
}

/// What an attach point means.
fn event(text: &str) -> Result<Event, String> {
    let mut parts = text.split(':');
    let provider = parts.next().unwrap_or_default();
    if text.contains("//") || text.contains("/*") || text.ends_with(['/', ':']) {
        return Err(format!("`{text}` is no attach point; put a blank before a predicate"));
    }
    let with_path = matches!(provider, "uprobe" | "u" | "uretprobe" | "ur" | "usdt" | "U");
    // A predicate that is written without a blank would be part of it.
    let is_plain = |part: &str| part.starts_with('"') || !part.contains('/');
    if !parts.clone().skip(usize::from(with_path)).all(is_plain) {
        return Err(format!("`{text}` is no attach point; put a blank before the predicate"));
    }
    let named = parts.clone().count() > 0;
    match provider {
        "BEGIN" | "begin" if !named => Ok(Event::Begin),
        "END" | "end" if !named => Ok(Event::Nobody),
        "interval" | "i" if named => Ok(Event::Nobody),
        "uprobe" | "u" | "uretprobe" | "ur" | "usdt" | "U" | "profile" | "p" | "software" | "s"
        | "hardware" | "h"
            if named =>
        {
            Ok(Event::Process)
        }
        "kprobe" | "k" | "kretprobe" | "kr" if named => Ok(Event::Stack),
        "tracepoint" | "t" if named => {
            let place = text.split_once(':').map_or("", |(_, place)| place);
            let category = place.split(':').next().unwrap_or_default();
            let is_known = OF_PROCESSES.contains(&place) || OF_PROCESSES.contains(&category);
            Ok(if is_known { Event::Process } else { Event::Unknown })
        }
        "kfunc" | "fentry" | "f" | "kretfunc" | "fexit" | "fr" | "rawtracepoint" | "rt"
            if named =>
        {
            Ok(Event::Unknown)
        }
        "iter" | "it" | "watchpoint" | "w" | "asyncwatchpoint" | "aw" => {
            Err(format!("`{provider}` cannot be limited to what Undine watches"))
        }
        _ => Err(format!("`{text}` is no attach point that Undine knows")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Event>, String> {
        let points = all(&mut Cursor::new(text)).map_err(|error| error.reason)?;
        Ok(points.into_iter().map(|point| point.event).collect())
    }

    #[test]
    fn attach_points_are_told_by_who_runs_there() {
        let one = |text| read(text).map(|events| events[0]);
        assert_eq!(one("BEGIN {"), Ok(Event::Begin));
        assert_eq!(one("interval:s:1 {"), Ok(Event::Nobody));
        assert_eq!(one("uprobe:/bin/x:\"a/b.C\" /pid/ {"), Ok(Event::Process));
        assert_eq!(one("kprobe:f+8{"), Ok(Event::Stack));
        assert_eq!(one("tracepoint:syscalls:sys_enter_exec*\n{"), Ok(Event::Process));
        assert_eq!(one("tracepoint:skb:kfree_skb {"), Ok(Event::Unknown));
        let many = "profile:hz:99, // first\n t:sched:sched_process_exec,\n{";
        assert_eq!(read(many), Ok(vec![Event::Process; 2]));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "kprobe:f/pid==1/ {",
            "uprobe:/bin/x:f/@a++/ {",
            "uprobe:/bin/x/ {",
            "uprobe:/bin//x:f {",
            "uprobe:/bin/*/x:f {",
            "uprobe:\"/bin/\\\"\":f {",
            "iter:task {",
            "watchpoint:0x1:8:w {",
            "kprobe {",
            "self:signal:SIGUSR1 {",
            "config = {",
            "macro f() {",
            "{",
            "",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
