//! JSON in text: members by key, elements by index, lists from text.

use serde_json::Value;

use super::kernel::{self as k, one, two};
use super::{F, I, Registry, S};

pub(crate) fn declare(r: &mut Registry) {
    r.plain("pluck", &[S, S], S, two::<k::S, k::S, k::S>(pluck));
    r.plain("pluck_int64", &[S, S], I, two::<k::S, k::S, k::I>(pluck_int64));
    r.plain("pluck_float64", &[S, S], F, two::<k::S, k::S, k::F>(pluck_float64));
    r.plain("pluck_array", &[S, I], S, two::<k::S, k::I, k::S>(pluck_array));
    r.plain("split", &[S, S], S, two::<k::S, k::S, k::S>(split));
    r.plain("_json_string", &[S], S, one::<k::S, k::S>(|s| Value::from(s).to_string()));
}

fn member(json: &str, key: &str) -> Option<Value> {
    match serde_json::from_str(json).ok()? {
        Value::Object(mut object) => object.remove(key),
        _ => None,
    }
}

/// Strings without quotes, anything else as compact JSON, null as nothing.
fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn pluck(json: &str, key: &str) -> String {
    member(json, key).map_or_else(String::new, text)
}

fn pluck_int64(json: &str, key: &str) -> i64 {
    member(json, key).and_then(|value| value.as_i64()).unwrap_or(0)
}

/// Only a number written with a point or an exponent counts.
fn pluck_float64(json: &str, key: &str) -> f64 {
    member(json, key).filter(Value::is_f64).and_then(|value| value.as_f64()).unwrap_or(0.0)
}

fn pluck_array(json: &str, at: i64) -> String {
    let element = match serde_json::from_str(json) {
        Ok(Value::Array(mut list)) => {
            usize::try_from(at).ok().filter(|&at| at < list.len()).map(|at| list.swap_remove(at))
        }
        _ => None,
    };
    element.map_or_else(String::new, text)
}

fn split(text: &str, delimiter: &str) -> String {
    let parts: Vec<&str> =
        if delimiter.is_empty() { vec![text] } else { text.split(delimiter).collect() };
    Value::from(parts).to_string()
}

/// Whether `services`, a name or a JSON list of names, holds `name`.
pub(crate) fn has_service_name(services: &str, name: &str) -> bool {
    services == name || members(services).is_some_and(|list| list.iter().any(|s| s == name))
}

/// The texts of a JSON list of texts.
pub(crate) fn members(json: &str) -> Option<Vec<String>> {
    if !json.starts_with('[') {
        return None;
    }
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plucking_is_strict_about_types_and_lenient_about_absence() {
        assert_eq!(pluck(r#"{"a":"x","b":{"c":1}}"#, "a"), "x");
        assert_eq!(pluck(r#"{"a":"x","b":{"z":1,"c":2}}"#, "b"), r#"{"z":1,"c":2}"#);
        assert_eq!(pluck(r#"{"a":null}"#, "a"), "");
        assert_eq!(pluck("[1]", "a"), "");
        assert_eq!(pluck("nonsense", "a"), "");
        assert_eq!(pluck_float64(r#"{"a":10}"#, "a").to_bits(), 0.0_f64.to_bits());
        assert_eq!(pluck_float64(r#"{"a":10.0}"#, "a").to_bits(), 10.0_f64.to_bits());
        assert_eq!(pluck_int64(r#"{"a":10.5}"#, "a"), 0);
        assert_eq!(pluck_array(r#"["a",2]"#, 1), "2");
        assert_eq!(pluck_array(r#"["a",2]"#, 2), "");
    }

    #[test]
    fn a_service_is_found_alone_and_in_a_list() {
        assert!(has_service_name("ns/a", "ns/a"));
        assert!(has_service_name(r#"["ns/a","ns/b"]"#, "ns/b"));
        assert!(!has_service_name(r#"["ns/ab"]"#, "ns/a"));
    }
}
