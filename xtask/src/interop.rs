//! Lets other engines, from Python's package index, read what the store wrote.

use anyhow::Result;

use crate::python::environment;
use crate::shell::{cargo, is_installed, root, run};
use crate::steps::Outcome;

/// A module of Python and the package that brings it.
type Engine = (&'static str, &'static str);

const ENGINES: [Engine; 3] =
    [("duckdb", "duckdb==2.0.0"), ("deltalake", "deltalake==1.6.6"), ("chdb", "chdb==4.4.0")];

/// Runs the store's tests of other engines, with an environment of their own.
pub(crate) fn check() -> Result<Outcome> {
    if !is_installed("python3") {
        return Ok(Outcome::Skipped("python3 is not installed".to_owned()));
    }
    let packages: Vec<_> = ENGINES.iter().map(|(_, package)| *package).collect();
    let python = environment(&root().join("target/interop-test"), &packages)?;
    let modules: Vec<_> = ENGINES.iter().map(|(module, _)| *module).collect();
    let tests = ["test", "--release", "--locked", "--workspace", "--test", "it", "--", "interop::"];
    run(cargo(&tests)
        .env("UNDINE_TEST_PYTHON", python)
        .env("UNDINE_TEST_ENGINES", modules.join(",")))?;
    Ok(Outcome::Passed)
}
