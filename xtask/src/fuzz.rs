//! Guided fuzzing of the collector's parsers; `fuzz/` says what is checked.
//!
//! libFuzzer is built with the machine's C++ compiler, and our own crates with LLVM's coverage
//! counters, which stable Rust can ask for. This program is then the wrapper through which cargo calls
//! the compiler for them, so that dependencies are those of every other build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{self, cargo, is_installed, root, say};
use crate::steps::Outcome;

/// How long each target runs unless another time is given.
const SECONDS: u64 = 600;
/// Longest input, in bytes.
const INPUT_BYTES_MAX: u32 = 8192;
/// How long one input may take, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// Most memory that a target may use. The counters, the inputs and libFuzzer's own tables are in it.
const MEMORY_MB_MAX: u32 = 1024;
/// Most bytes of a corpus that libFuzzer made; fourteen of them are in the repository.
const CORPUS_BYTES_MAX: u64 = 150 * 1024;
/// Most inputs of it.
const CORPUS_INPUTS_MAX: usize = 200;
/// What is asked of the compiler: counters as libFuzzer wants them, and that what is asserted is
/// checked.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=yes",
];
/// The crates for which that is asked. Programs that run while building must not have it.
const COUNTED: [&str; 4] = ["undine_collector", "undine_schema", "fuzz", "guided"];

/// What is done with the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// New inputs are looked for, for so many seconds.
    Search(u64),
    /// The committed corpus becomes the fewest inputs that reach what all known ones do.
    Merge,
    /// Committed inputs are made long, and those that take long are named.
    Stretch,
}

/// `cargo xtask fuzz` with these arguments.
pub(crate) fn fuzz(args: &[String]) -> Result<()> {
    let mut task = Task::Search(SECONDS);
    let mut chosen = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => {
                let seconds = args.next().context("--seconds wants a number")?;
                let seconds = seconds.parse().with_context(|| format!("'{seconds}' seconds"))?;
                task = Task::Search(seconds);
            }
            "--merge" => task = Task::Merge,
            "--stretch" => task = Task::Stretch,
            option if option.starts_with('-') => bail!("there is no option '{option}'"),
            name => chosen.push(name.to_owned()),
        }
    }
    let targets = targets(&chosen)?;
    let program = build()?;
    let mut failed = Vec::new();
    for target in &targets {
        say(format!("\n=== {target}"));
        if let Err(error) = run(&program, target, task) {
            say(format!("{error:#}"));
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("{} failed; what did it is in {}", failed.join(", "), folder("found").display());
    }
    Ok(())
}

/// A minute of each target.
pub(crate) fn step() -> Result<Outcome> {
    if !is_installed("c++") {
        return Ok(Outcome::Skipped(
            "libFuzzer needs a C++ compiler, as in Debian's g++".to_owned(),
        ));
    }
    fuzz(&["--seconds".to_owned(), "60".to_owned()]).map(|()| Outcome::Passed)
}

/// The targets, each of which has a corpus, or those of them that are `chosen`.
fn targets(chosen: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(corpora()).context("cannot list fuzz/corpus")? {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    if let Some(unknown) = chosen.iter().find(|name| !all.contains(name)) {
        bail!("there is no target '{unknown}'; the targets are {}", all.join(", "));
    }
    Ok(if chosen.is_empty() { all } else { chosen.to_vec() })
}

fn corpora() -> PathBuf {
    root().join("fuzz/corpus")
}

/// A folder of what is built and found.
fn folder(name: &str) -> PathBuf {
    root().join("target/fuzz").join(name)
}

/// Builds the guided program; where it is.
fn build() -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--locked", "--package", "fuzz"]);
    build.args(["--bin", "guided", "--features", "guided"]);
    let wrapper = std::env::current_exe().context("cannot tell where this program is")?;
    shell::run(build.env("RUSTC_WORKSPACE_WRAPPER", &wrapper))?;
    Ok(wrapper.with_file_name("guided"))
}

/// Whether cargo calls this program as the wrapper of `program`.
pub(crate) fn is_compiler(program: &str) -> bool {
    Path::new(program).file_stem().is_some_and(|name| name == "rustc")
}

/// Compiles as cargo asks, with counters where the crate is to have them.
pub(crate) fn compile(program: &str, args: &[String]) -> Result<()> {
    let name = args.windows(2).find(|pair| pair[0] == "--crate-name").map(|pair| pair[1].as_str());
    let flags = if name.is_some_and(|name| COUNTED.contains(&name)) { &FLAGS[..] } else { &[] };
    shell::run(Command::new(program).args(args).args(flags))
}

fn run(program: &Path, target: &str, task: Task) -> Result<()> {
    let committed = corpora().join(target);
    let fresh = folder("found").join(target);
    fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    let mut guided = Command::new(program);
    guided
        .current_dir(root())
        .env("UNDINE_FUZZ_TARGET", target)
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB_MAX}"))
        .arg(format!("-artifact_prefix={}-", fresh.display()));
    match task {
        Task::Search(seconds) => {
            guided.args(["-print_final_stats=1", &format!("-max_total_time={seconds}")]);
            shell::run(guided.arg(&fresh).arg(&committed))
        }
        Task::Stretch => {
            guided.env("UNDINE_FUZZ_TARGET", format!("stretch:{target}"));
            shell::run(guided.args(["-runs=0", "-timeout=600"]).arg(&committed))
        }
        Task::Merge => {
            let merged = folder("merged").join(target);
            if merged.exists() {
                fs::remove_dir_all(&merged)?;
            }
            fs::create_dir_all(&merged)?;
            guided.arg("-set_cover_merge=1").args([&merged, &committed, &fresh]);
            shell::run(&mut guided)?;
            replace(&committed, &merged)
        }
    }
}

/// Puts the inputs in `merged`, some of each length if they are too many, in the place of those in
/// `committed`, but for those with a name that a person gave.
fn replace(committed: &Path, merged: &Path) -> Result<()> {
    for (path, _) in inputs(committed)? {
        if path.file_name().is_some_and(|name| is_hash(&name.to_string_lossy())) {
            fs::remove_file(path)?;
        }
    }
    let mut bytes = 0;
    let merged = inputs(merged)?;
    let step = merged.len().div_ceil(CORPUS_INPUTS_MAX).max(1);
    for (path, length) in merged.into_iter().step_by(step) {
        bytes += length;
        if bytes <= CORPUS_BYTES_MAX
            && let Some(name) = path.file_name()
        {
            fs::copy(&path, committed.join(name))?;
        }
    }
    Ok(())
}

/// The inputs in a folder with their lengths, the shortest first.
fn inputs(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        inputs.push((entry.path(), entry.metadata()?.len()));
    }
    inputs.sort_by_key(|(_, length)| *length);
    Ok(inputs)
}

/// Whether libFuzzer gave the name.
fn is_hash(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
