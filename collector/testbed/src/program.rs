use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A program that is told lines and says lines. It is ended when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Starts one.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdin = child.stdin.take().context("a program without input")?;
        let stdout = BufReader::new(child.stdout.take().context("a program without output")?);
        Ok(Self { child, stdin, stdout })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its successful end; what it says until then.
    pub fn finish(mut self) -> Result<String> {
        let mut said = String::new();
        self.stdout.read_to_string(&mut said)?;
        let status = self.wait()?;
        ensure!(status.success(), "the program ended with {status} after {said:?}");
        Ok(said)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        self.stdin.write_all(line.as_bytes()).with_context(|| format!("cannot tell it {line}"))
    }

    /// The next line that begins with `word`, without it.
    pub fn hear(&mut self, word: &str) -> Result<String> {
        let mut rest = None;
        self.hear_until(|line| {
            rest = line.strip_prefix(word).map(|rest| rest.trim().to_owned());
            rest.is_some()
        })
        .with_context(|| format!("waited for '{word}'"))?;
        Ok(rest.unwrap_or_default())
    }

    /// What it says before the first line that is `last`.
    pub fn hear_until(&mut self, mut is_last: impl FnMut(&str) -> bool) -> Result<Vec<String>> {
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("the program ended after {said:?}");
            }
            let line = line.trim_end();
            if is_last(line) {
                return Ok(said);
            }
            said.push(line.to_owned());
        }
    }

    /// Tells it a line and waits until it says `done`; what it says with it.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.hear("done").with_context(|| format!("told '{line}'"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
