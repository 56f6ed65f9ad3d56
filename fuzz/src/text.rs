//! Any text where a client's or a user's is read: targets of requests, bodies, patterns, scopes.
//!
//! An input is two texts with a zero byte between them.

use undine_collector::process::Facts;
use undine_collector::redaction::{body_into, header_value_into, target_into};
use undine_collector::service_name::{Place, glob};
use undine_collector::{Mode, Target};
use undine_schema::path_template::{SEGMENTS_MAX, template};

/// Longest marker that stands for a value, in bytes.
const MARKER_BYTES_MAX: usize = 64;

/// Checks two texts.
///
/// # Panics
/// Where something does not hold.
pub fn check(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (first, second) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let (first, second) = (String::from_utf8_lossy(first), String::from_utf8_lossy(second));
    check_path(&first);
    check_redaction(&first, &second);
    check_pattern(&first, &second);
    check_names(&first, &second);
}

fn check_path(path: &str) {
    let folded = template(path);
    assert!(folded.len() <= path.len() + 1, "{folded} is longer than {path}");
    assert!(folded.matches('/').count() <= path.matches('/').count() + 1);
    if folded.starts_with('/') {
        assert!(folded.matches('/').count() <= SEGMENTS_MAX + 1, "{folded}");
    }
}

fn check_redaction(first: &str, second: &str) {
    let mut out = String::new();
    for mode in [Mode::Full, Mode::Redacted, Mode::Pii] {
        out.clear();
        target_into(mode, first, &mut out);
        header_value_into(mode, first, second, &mut out);
        body_into(mode, first.as_bytes(), first.len() as u64, &mut out);
        let parts = first.matches(['&', '?']).count() + first.len() + second.len() + 3;
        assert!(out.len() <= parts * MARKER_BYTES_MAX, "{} bytes", out.len());
    }
}

fn check_pattern(pattern: &str, text: &str) {
    assert!(glob("*", text));
    assert!(glob(&text.replace(['*', '?'], "?"), text), "{text:?} is no pattern of its own");
    assert!(glob(&format!("*{text}*").replace("??", "*"), text) || text.contains('*'));
    let _matches: bool = glob(pattern, text);
}

fn check_names(first: &str, second: &str) {
    if let Ok(target) = first.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    let args = second.split(' ').map(str::to_owned).collect();
    let facts = Facts { cgroup: first.to_owned(), args, ..Facts::default() };
    let place = Place::of(&facts);
    assert!(place.container_name().len() <= first.len());
    let (name, _) = undine_collector::service_name::service_name(&[], &facts, Some(80));
    assert!(name.len() <= first.len() + second.len() + "pod-".len(), "{name}");
}
