//! Of what was recorded of a protocol, the little that is kept as a golden capture.
//!
//! Kept are whole connections, both ends of each, in the order in which they begin, as long as they fit into
//! [`KEPT_BYTES_MAX`]; what belongs to a plaintext goes with the connection that carries it. Of processes
//! their names are kept, not where they are on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use undine::appliance::bare_collector;
use undine_collector::event::{Body, Event, ProcessKey};
use undine_collector::process::Facts;
use undine_collector::recording::{self, Entry, Recorder, Replayer};
use undine_collector::{Pace, SourceConfig};
use undine_testbed::golden::{self, Golden};

use crate::report::Report;
use crate::watch::{Seen, observe};

/// Most bytes of a capture as it is kept, about.
const KEPT_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of one connection of it, so that there are several.
const CONNECTION_BYTES_MAX: usize = 24 * 1024;
/// Most datagrams.
const DATAGRAMS_MAX: usize = 64;

/// What belongs together: the two ports of a connection or of datagrams, whichever end they are seen at.
type Ports = [u16; 2];

/// What is known of a recording before any of it is kept.
#[derive(Default)]
struct Contents {
    /// The ends of each connection, and of each plaintext those of what carries it.
    ports: BTreeMap<u64, Ports>,
    /// The messages about them, by ends, in the order in which those appear.
    bytes: Vec<(Ports, Vec<u8>)>,
}

/// Keeps what fits of the recording at `path` as the capture `name` in `folder`, with the rows that it gives.
pub(super) fn keep(path: &Path, folder: &Path, name: &str, report: &mut Report) -> Result<()> {
    let contents = Contents::read(path)?;
    let chosen = contents.chosen()?;
    let dir = tempfile::tempdir()?;
    let kept = dir.path().join("kept");
    contents.write(&chosen, path, &kept)?;
    let golden = Golden::new(folder, name);
    let bytes = golden.keep_recording(&std::fs::read(&kept)?)?;
    let rows = rows(&kept)?;
    golden.keep_rows(&rows.concat())?;
    report.count(format!("{name}_kept_bytes"), bytes as u64);
    report.count(format!("{name}_kept_rows"), rows.len() as u64);
    report.check(format!("{name}: rows in the capture"), rows.len(), "> 0", !rows.is_empty());
    Ok(())
}

/// The rows that a replay gives.
fn rows(recording: &Path) -> Result<Vec<String>> {
    let source = SourceConfig::Replay { path: recording.to_owned(), pace: Pace::Fast };
    let config = golden::replaying(recording, bare_collector(source));
    let (seen, ()): (Seen, ()) = observe(config, |store| store, || Ok(()), |_| Ok(()))?;
    ensure!(seen.stats.ended, "the recording was not replayed to its end");
    let mut rows = Vec::new();
    let mut tables: Vec<_> = seen.tables().collect();
    tables.sort_unstable_by_key(|(table, _)| *table);
    for (table, batches) in tables {
        if golden::is_kept(table, batches) {
            rows.extend(golden::rows_of(table, batches)?);
        }
    }
    Ok(rows)
}

/// Every entry of a recording, one after the other.
fn each(path: &Path, mut act: impl FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
    let mut replayer = Replayer::open(path)?;
    while let Some(entry) = replayer.next_entry()? {
        act(entry)?;
    }
    Ok(())
}

impl Contents {
    fn read(path: &Path) -> Result<Self> {
        let mut contents = Self::default();
        // A plaintext is known before what carries it, so ends are gathered first.
        each(path, |entry| {
            if let Entry::Message(message) = entry {
                contents.note_ends(&Event::decode(message)?);
            }
            Ok(())
        })?;
        let mut at = BTreeMap::new();
        each(path, |entry| {
            let Entry::Message(message) = entry else { return Ok(()) };
            if let Some(ports) = contents.ports_of(&Event::decode(message)?) {
                let at = *at.entry(ports).or_insert(contents.bytes.len());
                if at == contents.bytes.len() {
                    contents.bytes.push((ports, Vec::new()));
                }
                contents.bytes[at].1.extend_from_slice(message);
            }
            Ok(())
        })?;
        Ok(contents)
    }

    fn note_ends(&mut self, event: &Event<'_>) {
        match &event.body {
            Body::Open(info) => {
                let ports = sorted(info.local_port, info.remote_port);
                self.ports.insert(event.header.conn, ports);
            }
            Body::Tls(tls) => {
                let ports = sorted(tls.info.local_port, tls.info.remote_port);
                self.ports.insert(event.header.conn, ports);
            }
            _ => {}
        }
    }

    /// The ends of the connection that a message is about, unless it is about none.
    fn ports_of(&self, event: &Event<'_>) -> Option<Ports> {
        match &event.body {
            Body::Data { .. } | Body::Open(_) | Body::Close(_) | Body::Tls(_) => {
                self.ports.get(&event.header.conn).copied()
            }
            _ => None,
        }
    }

    /// The ends of the connections that fit.
    fn chosen(&self) -> Result<BTreeSet<Ports>> {
        let mut room = KEPT_BYTES_MAX;
        let mut chosen = BTreeSet::new();
        for (ports, bytes) in &self.bytes {
            let size = golden::packed(bytes)?.len();
            if size <= CONNECTION_BYTES_MAX && size <= room {
                room -= size;
                chosen.insert(*ports);
            }
        }
        Ok(chosen)
    }

    fn write(&self, chosen: &BTreeSet<Ports>, from: &Path, to: &Path) -> Result<()> {
        let mut recorder =
            Recorder::create(&recording::Config::full(to), Replayer::open(from)?.header())?;
        let mut facts: BTreeMap<ProcessKey, Facts> = BTreeMap::new();
        let mut told = BTreeSet::new();
        let mut datagrams = 0;
        each(from, |entry| {
            match entry {
                Entry::Process(key, found) => drop(facts.insert(key, named(found))),
                Entry::Message(message) => {
                    let event = Event::decode(message)?;
                    let is_datagram = matches!(event.body, Body::Datagram { .. });
                    datagrams += usize::from(is_datagram);
                    let of_chosen =
                        self.ports_of(&event).is_some_and(|ports| chosen.contains(&ports));
                    if of_chosen || (is_datagram && datagrams <= DATAGRAMS_MAX) {
                        let key = event.process();
                        if told.insert(key)
                            && let Some(facts) = facts.get(&key)
                        {
                            recorder.process(key, facts)?;
                        }
                        recorder.message(message)?;
                    }
                }
                // These count what is left out, too.
                Entry::Kernel(_) => {}
            }
            Ok(())
        })?;
        recorder.flush()?;
        ensure!(recorder.skipped() == 0, "{} entries found no room", recorder.skipped());
        Ok(())
    }
}

fn sorted(one: u16, other: u16) -> Ports {
    [one.min(other), one.max(other)]
}

/// What a process is called, without where its files are.
fn named(facts: Facts) -> Facts {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let args = facts.args.first().map(|arg| name(arg)).into_iter().collect();
    Facts { comm: facts.comm, exe: name(&facts.exe), args, ..Facts::default() }
}

/// The name of a recording's file, without what it ends with.
pub(super) fn name(path: &Path) -> Result<&str> {
    path.file_stem().and_then(|name| name.to_str()).context("a recording whose name is no text")
}
