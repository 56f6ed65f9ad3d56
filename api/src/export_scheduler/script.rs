//! What is exported, and how often; read from a folder of files.
//!
//! `NAME.toml` describes the script `NAME.pxl` beside it:
//!
//! ```toml
//! name = "Requests per service"
//! frequency = "10s"
//! enabled = true              # the default
//! script = "requests.pxl"     # default: the file of the same name
//!
//! [endpoint]                  # for px.otel.Data without an endpoint of its own
//! url = "localhost:4317"
//! insecure = true
//! headers = { api-key = "…" }
//! timeout = "5s"
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::otlp_export::Endpoint;

/// A script that is run for one window of time after another.
#[derive(Clone, Debug)]
pub struct ExportScript {
    /// Names its state and its rows in `deliveries`: letters, digits, `-` and `_`, at most 64.
    pub id: String,
    /// For people.
    pub name: String,
    /// The script in `PxL`, with `px.plugin.start_time` and `px.plugin.end_time`.
    pub script: String,
    /// Length of a window.
    pub frequency: Duration,
    /// Where it exports to unless the script says so itself.
    pub endpoint: Option<Endpoint>,
    /// Whether it is run at all.
    pub enabled: bool,
}

/// Why a folder of scripts cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or the folder cannot be read.
    #[error("cannot read {path}; check that it exists and may be read")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A description is not what it should be.
    #[error("{path} does not describe an export script")]
    Description {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        cause: Box<toml::de::Error>,
    },
    /// A length of time is not one.
    #[error("{path}: {key} = {text:?} is not a length of time such as \"10s\" or \"5m\"")]
    Duration {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it says.
        text: String,
        /// Why it is not.
        #[source]
        cause: humantime::DurationError,
    },
    /// There are more scripts than are taken.
    #[error("{path} holds more than {scripts_max} export scripts")]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// The limit.
        scripts_max: usize,
    },
}

/// Most scripts that one folder may hold.
const SCRIPTS_MAX: usize = 1_000;

/// Reads every description in `dir`, sorted by id, which is the file's name without its end.
///
/// # Errors
/// See [`LoadError`].
pub fn load(dir: &Path) -> Result<Vec<ExportScript>, LoadError> {
    let read = |cause| LoadError::Read { path: dir.to_owned(), cause };
    let mut paths = BTreeMap::new();
    for file in fs::read_dir(dir).map_err(read)? {
        let path = file.map_err(read)?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        if let (Some("toml"), Some(id)) = (path.extension().and_then(|end| end.to_str()), stem) {
            paths.insert(id, path);
        }
    }
    if paths.len() > SCRIPTS_MAX {
        return Err(LoadError::TooMany { path: dir.to_owned(), scripts_max: SCRIPTS_MAX });
    }
    paths.into_iter().map(|(id, path)| load_one(id, &path)).collect()
}

fn load_one(id: String, path: &Path) -> Result<ExportScript, LoadError> {
    let description: Description = toml::from_str(&read(path)?).map_err(|cause| {
        LoadError::Description { path: path.to_owned(), cause: Box::new(cause) }
    })?;
    let duration = |key, text: &str| {
        humantime::parse_duration(text).map_err(|cause| LoadError::Duration {
            path: path.to_owned(),
            key,
            text: text.to_owned(),
            cause,
        })
    };
    let frequency = duration("frequency", &description.frequency)?;
    let endpoint = match description.endpoint {
        None => None,
        Some(endpoint) => Some(Endpoint {
            timeout: duration("endpoint.timeout", endpoint.timeout.as_deref().unwrap_or("0s"))?,
            url: endpoint.url,
            headers: endpoint.headers.into_iter().collect(),
            insecure: endpoint.insecure,
        }),
    };
    let script = match &description.script {
        Some(file) => path.with_file_name(file),
        None => path.with_extension("pxl"),
    };
    Ok(ExportScript {
        name: description.name.unwrap_or_else(|| id.clone()),
        script: read(&script)?,
        frequency,
        endpoint,
        enabled: description.enabled,
        id,
    })
}

fn read(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(|cause| LoadError::Read { path: path.to_owned(), cause })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: Option<String>,
    frequency: String,
    #[serde(default = "enabled")]
    enabled: bool,
    script: Option<String>,
    endpoint: Option<EndpointDescription>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointDescription {
    url: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    timeout: Option<String>,
}

const fn enabled() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_descriptions_becomes_scripts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("b.toml", "frequency = '1m'\nscript = 'a.pxl'\nenabled = false");
        write(
            "a.toml",
            "name = 'A'\nfrequency = '10s'\n[endpoint]\nurl = 'localhost:4317'\ninsecure = true\n\
             headers = { api-key = 'k' }",
        );
        write("a.pxl", "import px");
        let scripts = load(dir.path()).unwrap();
        let [a, b] = scripts.as_slice() else { panic!("{scripts:?}") };
        assert_eq!((&*a.id, &*a.name, &*a.script), ("a", "A", "import px"));
        assert_eq!(a.frequency, Duration::from_secs(10));
        let endpoint = a.endpoint.as_ref().unwrap();
        assert_eq!(endpoint.headers, [("api-key".to_owned(), "k".to_owned())]);
        assert!(endpoint.insecure && a.enabled && !b.enabled);
        assert_eq!((&*b.id, &*b.name, b.frequency), ("b", "b", Duration::from_mins(1)));
    }

    #[test]
    fn a_wrong_description_names_its_file_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let error = |text: &str| {
            fs::write(&path, text).unwrap();
            let error = load(dir.path()).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
                .replace(&dir.path().display().to_string(), "DIR")
        };
        expect_test::expect![[r#"DIR/x.toml: frequency = "soon" is not a length of time such as "10s" or "5m": expected number at 0"#]].assert_eq(&error("frequency = 'soon'"));
        expect_test::expect![[r"
            DIR/x.toml does not describe an export script: TOML parse error at line 2, column 1
              |
            2 | frequencey = '2s'
              | ^^^^^^^^^^
            unknown field `frequencey`, expected one of `name`, `frequency`, `enabled`, `script`, `endpoint`
        "]].assert_eq(&error("frequency = '1s'\nfrequencey = '2s'"));
        expect_test::expect!["cannot read DIR/x.pxl; check that it exists and may be read: No such file or directory (os error 2)"].assert_eq(&error("frequency = '1s'"));
    }
}
