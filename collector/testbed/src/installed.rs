use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders of programs that a user's path may lack.
const MORE_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Where a program is, in the path or where Debian keeps those of administrators.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    #[expect(clippy::disallowed_methods, reason = "the search path is where programs are")]
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(MORE_FOLDERS);
    folders.map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}

/// The programs of these that are not installed.
pub fn missing(programs: &[&str]) -> Vec<String> {
    let missing = programs.iter().filter(|program| find(program).is_none());
    missing.map(|program| (*program).to_owned()).collect()
}

/// The Python that `UNDINE_TEST_PYTHON` names, or the system's.
pub fn python() -> String {
    #[expect(clippy::disallowed_methods, reason = "tests and evals have no configuration")]
    std::env::var("UNDINE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// The modules of these that Python cannot import.
pub fn missing_modules(modules: &[&str]) -> Vec<String> {
    let lacks = |module: &&&str| {
        let import = format!("import {module}");
        let mut python = Command::new(python());
        let imported = python.args(["-c", &import]).stderr(Stdio::null()).status();
        !imported.is_ok_and(|status| status.success())
    };
    modules.iter().filter(lacks).map(|module| format!("Python's {module}")).collect()
}

/// Says why a test cannot be run. Where `UNDINE_TEST_SERVERS` is `required`, as in CI, that is a failure.
///
/// # Panics
/// There.
#[expect(clippy::print_stdout, reason = "who reads a test's output is to see it")]
pub fn skip(why: &str) {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let required = std::env::var("UNDINE_TEST_SERVERS").is_ok_and(|value| value == "required");
    assert!(!required, "UNDINE_TEST_SERVERS=required, but {why}; run ./x setup test");
    println!("skipped: {why}");
}
