//! What clients of HTTP/1 read over plain sockets, so that what goes over the wire is known to the
//! byte.

use std::io::{BufRead, Read};

use anyhow::{Context, Result, ensure};

/// The head of a response whose body was read.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Response {
    /// Reads one to its end, the answer to a request with `method`.
    pub fn read(stream: &mut impl BufRead, method: &str) -> Result<Self> {
        let status = line(stream)?.split(' ').nth(1).context("no status line")?.parse()?;
        let mut response = Self { status, headers: Vec::new() };
        while let Some((name, value)) = line(stream)?.split_once(": ") {
            response.headers.push((name.to_owned(), value.to_owned()));
        }
        response.read_body(stream, method)?;
        Ok(response)
    }

    fn read_body(&self, stream: &mut impl BufRead, method: &str) -> Result<()> {
        if method == "HEAD" || self.status == 204 || self.status == 304 {
            return Ok(());
        }
        if self.header("transfer-encoding").is_none() {
            let length = self.header("content-length").context("neither a length nor chunks")?;
            return skip(stream, length.parse()?);
        }
        loop {
            let size = u64::from_str_radix(&line(stream)?, 16)?;
            skip(stream, size + 2)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// A line without its end.
fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    ensure!(stream.read_line(&mut line)? > 0, "the connection ended inside a response");
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn skip(stream: &mut impl BufRead, bytes: u64) -> Result<()> {
    let skipped = std::io::copy(&mut stream.take(bytes), &mut std::io::sink())?;
    ensure!(skipped == bytes, "the body ended early");
    Ok(())
}
