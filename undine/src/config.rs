//! From text to a configuration that can no longer be wrong.
//!
//! `default.toml` holds and documents every default; a user's file is laid over it, then the command
//! line's flags. This is the only place that reads the environment.

mod raw;
mod size;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

pub(crate) use raw::{
    Capture, Evict, Export, Hooks, HotTable, Plugins, Profiler, RawConfig, Webhook, WebhookFormat,
};
pub(crate) use size::ByteSize;

pub(crate) const DEFAULTS: &str = include_str!("../default.toml");

/// Settings that may be given but have no default.
const OPTIONAL: [&str; 2] = ["webhook", "export"];

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {path}; check the path and its permissions")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{origin} is not valid TOML: {source}")]
    Syntax {
        origin: String,
        #[source]
        source: toml::de::Error,
    },
    #[error("{origin} has a setting '{key}' that does not exist{hint}")]
    UnknownKey { origin: String, key: String, hint: String },
    #[error("setting '{key}' in {origin} cannot be used: {problem}")]
    Value { origin: String, key: String, problem: String },
}

/// Reads the defaults, lays the file at `path` over them if there is one, and then `flags`, which
/// are pairs of a dotted key and a value.
///
/// # Errors
/// Names the file, the key and what to write instead.
pub(crate) fn load(
    path: Option<&Path>,
    flags: Vec<(&str, Value)>,
) -> Result<RawConfig, ConfigError> {
    let defaults = parse("the built-in defaults", DEFAULTS)?;
    let mut merged = defaults.clone();
    let mut origins = BTreeMap::new();
    if let Some(path) = path {
        let origin = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        let file = parse(&origin, &text)?;
        check_keys(&origin, &file, &defaults, "")?;
        overlay(&mut merged, file, "", &origin, &mut origins);
    }
    for (key, value) in flags {
        set(&mut merged, key, value);
        origins.insert(key.to_owned(), "the command line".to_owned());
    }
    serde_path_to_error::deserialize(Value::Table(merged)).map_err(|error| {
        let key = error.path().to_string();
        let origin = origins
            .iter()
            .filter(|(known, _)| {
                key == **known
                    || key.starts_with(&format!("{known}["))
                    || key.starts_with(&format!("{known}."))
            })
            .map(|(_, origin)| origin.clone())
            .next()
            .unwrap_or_else(|| "the built-in defaults".to_owned());
        ConfigError::Value { origin, key, problem: error.into_inner().message().to_owned() }
    })
}

/// Whether the environment forbids watching more than named targets (`UNDINE_SCOPE=required`).
pub(crate) fn scope_is_required() -> bool {
    variable("UNDINE_SCOPE").is_some_and(|value| value == "required")
}

/// Where Undine's own telemetry goes if the configuration does not say (`OTEL_EXPORTER_OTLP_ENDPOINT`).
pub(crate) fn otlp_endpoint() -> Option<String> {
    variable("OTEL_EXPORTER_OTLP_ENDPOINT")
}

fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this is config.rs")]
    let value = std::env::var(name).ok();
    value.filter(|text| !text.is_empty())
}

fn parse(origin: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|source| ConfigError::Syntax { origin: origin.to_owned(), source })
}

fn check_keys(origin: &str, file: &Table, known: &Table, prefix: &str) -> Result<(), ConfigError> {
    for (name, value) in file {
        if prefix.is_empty() && OPTIONAL.contains(&name.as_str()) {
            continue;
        }
        let key = format!("{prefix}{name}");
        match (value, known.get(name)) {
            // The keys of an empty table are the user's.
            (Value::Table(_), Some(Value::Table(known))) if known.is_empty() => {}
            (Value::Table(inner), Some(Value::Table(known))) => {
                check_keys(origin, inner, known, &format!("{key}."))?;
            }
            (_, Some(_)) => {}
            (_, None) => {
                let names = known
                    .keys()
                    .map(String::as_str)
                    .chain(OPTIONAL.into_iter().filter(|_| prefix.is_empty()));
                return Err(ConfigError::UnknownKey {
                    origin: origin.to_owned(),
                    key,
                    hint: hint(name, names),
                });
            }
        }
    }
    Ok(())
}

fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    match known.iter().min_by_key(|other| strsim::levenshtein(name, other)) {
        Some(close) if strsim::levenshtein(name, close) <= 3 => {
            format!("; did you mean '{close}'?")
        }
        _ => format!("; there are {}", known.join(", ")),
    }
}

fn overlay(
    base: &mut Table,
    over: Table,
    prefix: &str,
    origin: &str,
    origins: &mut BTreeMap<String, String>,
) {
    for (name, value) in over {
        let key = format!("{prefix}{name}");
        match (base.get_mut(&name), value) {
            (Some(Value::Table(base)), Value::Table(over)) => {
                overlay(base, over, &format!("{key}."), origin, origins);
            }
            (_, value) => {
                origins.insert(key, origin.to_owned());
                base.insert(name, value);
            }
        }
    }
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                set(inner, rest, value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undine.toml");
        fs::write(&path, text).unwrap();
        let message = load(Some(&path), Vec::new()).unwrap_err().to_string();
        message.replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn the_shipped_defaults_are_valid() {
        let config = load(None, Vec::new()).unwrap();
        assert_eq!(config.store.hot_size_max, ByteSize::mebibytes(512));
    }

    #[test]
    fn a_file_changes_only_what_it_names_and_a_flag_wins_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undine.toml");
        fs::write(&path, "[store]\nhot_size_max = \"1GiB\"\nseal_interval = \"5s\"\n").unwrap();
        let flags = vec![("store.seal_interval", Value::String("2s".to_owned()))];
        let config = load(Some(&path), flags).unwrap();
        assert_eq!(config.store.hot_size_max, ByteSize::mebibytes(1024));
        assert_eq!(config.store.seal_interval.as_secs(), 2);
        assert_eq!(config.store.log_sync_interval.as_millis(), 200);
    }

    #[test]
    fn a_misspelt_key_is_named_with_the_one_that_was_meant() {
        assert_eq!(
            refusal("[store]\nhot_size_mx = \"1GiB\"\n"),
            "FILE has a setting 'store.hot_size_mx' that does not exist; did you mean 'hot_size_max'?"
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_what_to_write() {
        assert_eq!(
            refusal("[store]\nhot_size_max = \"ten apples\"\n"),
            "setting 'store.hot_size_max' in FILE cannot be used: 'ten apples' is not a size; write \
             a number with a unit, such as \"512MiB\""
        );
        let message = refusal("[server]\nlisten = \"localhost\"\n");
        assert!(message.starts_with("setting 'server.listen' in FILE cannot be used"), "{message}");
    }

    #[test]
    fn broken_toml_is_shown_with_its_line() {
        let message = refusal("[store\n");
        assert!(
            message.contains("FILE is not valid TOML") && message.contains("line 1"),
            "{message}"
        );
    }
}
