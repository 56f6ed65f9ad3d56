//! Opens the dashboard in a real browser, over a demo that really captures.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::shell::{built, command, is_installed, root, run, say};
use crate::steps::Outcome;

/// The one package that drives the browser, in its last version for Debian 12's Node 18; the browser
/// itself is Debian's.
const DRIVER: &str = "playwright-core@1.61.0";

/// Runs `api/tests/ui/page.mjs` against a short demo.
pub(crate) fn check() -> Result<Outcome> {
    for program in ["node", "npm", "chromium"] {
        if !is_installed(program) {
            return Ok(Outcome::Skipped(format!("{program} is not installed")));
        }
    }
    let driver = root().join("target/ui-test");
    std::fs::create_dir_all(&driver)?;
    run(command("npm", &["install", "--no-save", "--no-audit", "--no-fund", "--prefix"])
        .arg(&driver)
        .arg(DRIVER))?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut demo = Demo::start(&address)?;
    // The script looks for the driver in the folder that it is run in.
    let result = run(command("node", &[])
        .arg(root().join("api/tests/ui/page.mjs"))
        .arg(format!("http://{address}"))
        .current_dir(&driver));
    demo.stop()?;
    result.map(|()| Outcome::Passed)
}

struct Demo(Child);

impl Demo {
    /// Starts a demo and waits until it names its page.
    fn start(address: &str) -> Result<Self> {
        let mut process = built("undine", &["demo", "--seconds", "100", "--listen", address])?
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the demo; build it first")?;
        let output = process.stdout.take().context("the demo has no output")?;
        let mut lines = BufReader::new(output).lines();
        let page = lines.by_ref().map_while(Result::ok).find(|line| line.contains(address));
        ensure!(page.is_some(), "the demo ended before it named its page");
        // The pipe must stay open and empty for as long as the demo writes to it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(Self(process))
    }

    /// Interrupts the demo, which then ends what it started.
    fn stop(&mut self) -> Result<()> {
        run(&mut command("kill", &["-INT", &self.0.id().to_string()]))?;
        let status = self.0.wait()?;
        say(format!("the demo behind the page ended with {status}"));
        Ok(())
    }
}
