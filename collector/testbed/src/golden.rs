//! Golden captures: small recordings of real servers and clients, each with the rows that come of it.
//!
//! `NAME.undine.zst` is the recording, compressed; `NAME.rows` is what a replay gives, as a text that people
//! can read and compare. Times in it are those of the recording.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use undine_collector::{Config, Mode, Pace, Programs, Redaction, SourceConfig};

/// How the names of compressed recordings end.
const RECORDING: &str = ".undine.zst";
/// How the names of their rows end.
const ROWS: &str = ".rows";
/// Most bytes of a recording that is not compressed.
const RECORDING_BYTES_MAX: u64 = 64 << 20;
/// How hard zstd tries: as hard as it does without needing more memory to unpack.
const COMPRESSION_LEVEL: i32 = 19;
/// Most bytes that the rows keep of a text: enough for every usual one, and some are cut.
const TEXT_BYTES_MAX: usize = 512;
/// Rows that are shown where they differ.
const SHOWN_MAX: usize = 3;

/// A golden capture in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Golden {
    folder: PathBuf,
    name: String,
}

impl Golden {
    /// The one called `name` in `folder`, whether or not it is there.
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { folder: folder.to_owned(), name: name.to_owned() }
    }

    /// All that are in `folder`, by name.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let files = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut all = Vec::new();
        for file in files {
            let file = file?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(RECORDING));
            all.extend(name.map(|name| Self::new(folder, name)));
        }
        all.sort();
        Ok(all)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, end: &str) -> PathBuf {
        self.folder.join(format!("{}{end}", self.name))
    }

    /// The recording as a collector replays it.
    ///
    /// # Errors
    /// Where the file is not there, or not compressed as it should be.
    pub fn recording(&self) -> Result<Vec<u8>> {
        let path = self.path(RECORDING);
        let read = || {
            let mut recording = Vec::new();
            let file = zstd::Decoder::new(std::fs::File::open(&path)?)?;
            file.take(RECORDING_BYTES_MAX).read_to_end(&mut recording)?;
            anyhow::Ok(recording)
        };
        read().with_context(|| path.display().to_string())
    }

    /// Keeps a recording; how many bytes that takes.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep_recording(&self, recording: &[u8]) -> Result<usize> {
        let packed = packed(recording)?;
        std::fs::write(self.path(RECORDING), &packed)?;
        Ok(packed.len())
    }

    /// Keeps rows as those that a replay has to give.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn keep_rows(&self, rows: &str) -> Result<()> {
        Ok(std::fs::write(self.path(ROWS), rows)?)
    }

    /// Requires that a replay gave the rows that were kept.
    ///
    /// # Errors
    /// Where it did not; it names the first that differ.
    pub fn require_rows(&self, rows: &str) -> Result<()> {
        let path = self.path(ROWS);
        let kept = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let differences = differences(&kept, rows);
        ensure!(
            differences.is_empty(),
            "{} has other rows than a replay gives:\n{differences}",
            path.display()
        );
        Ok(())
    }
}

/// A recording as it is kept.
///
/// # Errors
/// Where there is no memory for it.
pub fn packed(recording: &[u8]) -> Result<Vec<u8>> {
    Ok(zstd::encode_all(recording, COMPRESSION_LEVEL)?)
}

/// A collector that replays the recording at `path`, always in the same way; the clock, which no row that
/// is compared depends on, is that of `like`.
pub fn replaying(path: &Path, like: Config) -> Config {
    Config {
        source: SourceConfig::Replay { path: path.to_owned(), pace: Pace::Fast },
        node: "golden".to_owned(),
        asid: 1,
        connections_max: 4096,
        body_bytes_max: TEXT_BYTES_MAX,
        redaction: Redaction { headers: Mode::Full, bodies: Mode::Full },
        service_rules: Vec::new(),
        // Longer than any of them: counters of connections are told once, at the end.
        conn_stats_interval: Duration::from_hours(1),
        flush_interval: Duration::from_millis(100),
        profiler: None,
        recording: None,
        programs: Programs::Refuse,
        clock: like.clock,
    }
}

/// The rows of a table, each as its columns that are not empty, in the order in which they came.
///
/// # Errors
/// Where a column is of a type that has no text.
pub fn rows_of(table: &str, batches: &[RecordBatch]) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let options = FormatOptions::default();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, values)| {
            anyhow::Ok((field.name().as_str(), ArrayFormatter::try_new(values.as_ref(), &options)?))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let mut text = format!("{table}\n");
            for (name, values) in &columns {
                let value = values.value(row).try_to_string()?;
                let is_empty = matches!(value.as_str(), "" | "0" | "false");
                if !is_empty && *name != "node" {
                    text.push_str(&format!("  {name}: {}\n", escaped(&value)));
                }
            }
            rows.push(text);
        }
    }
    Ok(rows)
}

/// Whether the rows of a table are those of requests or of connections, which depend on a recording only.
pub fn is_kept(table: &str, batches: &[RecordBatch]) -> bool {
    let has_latency = batches.iter().any(|batch| batch.column_by_name("latency").is_some());
    has_latency || table == "conn_stats"
}

/// A value in a line of its own.
fn escaped(value: &str) -> String {
    value
        .chars()
        .flat_map(|c| {
            let is_special = c.is_control() || c == '\\';
            let escaped = is_special.then(|| c.escape_default());
            escaped.into_iter().flatten().chain((!is_special).then_some(c))
        })
        .collect()
}

/// The first rows that differ; nothing where none does.
pub fn differences(kept: &str, given: &str) -> String {
    let (kept, given) = (split(kept), split(given));
    let mut text = String::new();
    let mut shown = 0;
    for at in 0..kept.len().max(given.len()) {
        let (kept, given) = (kept.get(at), given.get(at));
        if kept == given {
            continue;
        }
        shown += 1;
        if shown <= SHOWN_MAX {
            let [kept, given] = [kept, given].map(|row| row.map_or("nothing\n", String::as_str));
            text.push_str(&format!("row {at} was\n{kept}and is\n{given}"));
        }
    }
    if shown > SHOWN_MAX {
        text.push_str(&format!("and {} further rows\n", shown - SHOWN_MAX));
    }
    text
}

/// The rows in a text: each begins with the only line that is not indented.
fn split(text: &str) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for line in text.lines() {
        match rows.last_mut().filter(|_| line.starts_with(' ')) {
            Some(row) => row.push_str(line),
            None => rows.push(line.to_owned()),
        }
        if let Some(row) = rows.last_mut() {
            row.push('\n');
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rows_that_differ_are_shown() {
        let kept = "a\n  x: 1\nb\n  x: 2\n";
        assert_eq!(differences(kept, kept), "");
        assert_eq!(
            differences(kept, "a\n  x: 1\nb\n  x: 3\nc\n"),
            "row 1 was\nb\n  x: 2\nand is\nb\n  x: 3\nrow 2 was\nnothing\nand is\nc\n"
        );
    }

    #[test]
    fn a_value_takes_one_line() {
        assert_eq!(escaped("a\nb\\\u{e9}\0"), "a\\nb\\\\\u{e9}\\u{0}");
    }

    #[test]
    fn a_recording_is_kept_as_it_is() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let golden = Golden::new(dir.path(), "one");
        golden.keep_recording(b"bytes, bytes, bytes")?;
        assert_eq!(golden.recording()?, b"bytes, bytes, bytes");
        assert_eq!(Golden::all(dir.path())?, [golden]);
        Ok(())
    }
}
