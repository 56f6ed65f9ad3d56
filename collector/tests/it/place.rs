//! The test bed as tests use it: what it cannot do fails the test.

use std::ops::Deref;
use std::process::{Command, ExitStatus};

pub(crate) use undine_testbed::skip;
use undine_testbed::{Server, missing, missing_modules, python};

/// A cgroup and a network of a test's own, for real servers and their clients.
pub(crate) struct Place(undine_testbed::Place);

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        Self(undine_testbed::Place::new(name).unwrap())
    }

    /// Runs a command to its successful end; what it says.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        self.0.run(program, args).unwrap()
    }

    /// Starts a server and waits until it listens.
    pub(crate) fn serve(&self, command: &mut Command, port: u16) -> Server {
        self.0.serve(command, port).unwrap()
    }

    /// Waits until a server listens, without a connection to it.
    pub(crate) fn wait_until_listening(&self, port: u16) {
        self.0.wait_until_listening(port).unwrap();
    }

    /// Waits until a command succeeds, which shows that a server answers.
    pub(crate) fn wait_for(&self, program: &str, args: &[&str]) {
        self.0.wait_for(program, args).unwrap();
    }
}

impl Deref for Place {
    type Target = undine_testbed::Place;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A program that is told lines and says lines. It is ended when this is dropped.
pub(crate) struct Program(undine_testbed::Program);

impl Program {
    /// Starts one and gives what it says before it says `ready`.
    pub(crate) fn starting(command: &mut Command) -> (Self, Vec<String>) {
        let mut program = undine_testbed::Program::start(command).unwrap();
        let said = program.hear_until(|line| line == "ready").unwrap();
        (Self(program), said)
    }

    /// Starts one and waits until it says `ready`.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::starting(command).0
    }

    /// Starts the ignored test `name` of this binary, which `command` names, as a program.
    pub(crate) fn start_test(mut command: Command, name: &str) -> Self {
        let arguments = ["--exact", name, "--ignored", "--nocapture", "--test-threads=1"];
        // Only when it runs is it in its network.
        Self::start(command.args(arguments))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        self.0.tell(line).unwrap();
    }

    /// The next line that begins with `word`, without it.
    pub(crate) fn hear(&mut self, word: &str) -> String {
        self.0.hear(word).unwrap()
    }

    /// Has `line` done, and gives what was said of it.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.0.ask(line).unwrap()
    }
}

/// Runs a command to its successful end; what it says.
pub(crate) fn succeed(command: &mut Command) -> String {
    undine_testbed::succeed(command).unwrap()
}

/// Waits for something that another program does and that nothing tells us of.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    undine_testbed::wait_until(what, || Ok(is_so())).unwrap();
}

/// Whether all programs are installed, which `x` installs for the tests; says which is not. Where
/// `UNDINE_TEST_SERVERS` is `required`, as in CI, that is a failure.
pub(crate) fn are_installed(programs: &[&str]) -> bool {
    let missing = missing(programs);
    if !missing.is_empty() {
        skip(&format!("{missing:?} are not installed"));
    }
    missing.is_empty()
}

/// Whether all programs are there, which Debian does not have; says which is not.
pub(crate) fn happen_to_be_installed(programs: &[&str]) -> bool {
    let missing = missing(programs);
    if !missing.is_empty() {
        println!("skipped: {missing:?} are not installed");
    }
    missing.is_empty()
}

/// A Python that can import all modules, as CI has one; says where there is none. Where
/// `UNDINE_TEST_SERVERS` is `required`, that is a failure.
pub(crate) fn python_with(modules: &[&str]) -> Option<String> {
    let missing = missing_modules(modules);
    if !missing.is_empty() {
        skip(&format!("{} lacks {missing:?}, and UNDINE_TEST_PYTHON names no other", python()));
    }
    missing.is_empty().then(python)
}

/// A Python that can import all modules, of which CI has none; says where there is none.
pub(crate) fn python_that_happens_to_have(modules: &[&str]) -> Option<String> {
    let missing = missing_modules(modules);
    if !missing.is_empty() {
        println!("skipped: {} lacks {missing:?}", python());
    }
    missing.is_empty().then(python)
}
