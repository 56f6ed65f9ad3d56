//! What no reader can need any more: files that went, commits that a checkpoint stands for.

use std::io;
use std::time::Duration;

use undine_schema::TimeNs;

use super::{DeltaLog, checkpoint};
use crate::backend::Entry;
use crate::durable;

/// How often old commits are looked for, and in a bucket files that no version names.
const LOOKED_AT_EVERY: Duration = Duration::from_hours(1);

impl DeltaLog {
    /// Deletes files that went more than `keep` ago, and files older than that which no version has
    /// ever named.
    pub(crate) fn collect_garbage(&mut self, now: TimeNs, keep: Duration) -> io::Result<u64> {
        if self.stopped.is_some() {
            return Ok(0);
        }
        let mut deleted = 0;
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.state.removed)
            .into_iter()
            .partition(|(_, at)| now.since(*at) >= keep);
        self.state.removed = kept;
        for (name, _) in &gone {
            deleted += u64::from(self.dir.delete(name)?);
        }
        self.collect_commits(now, keep)?;
        let looked = self.orphans_collected.is_some_and(|at| now.since(at) < LOOKED_AT_EVERY);
        if looked && self.dir.is_remote() {
            return Ok(deleted);
        }
        self.orphans_collected = Some(now);
        for Entry { name, changed } in self.dir.list()? {
            let known = self.state.files.iter().any(|file| file.name == name)
                || self.state.removed.iter().any(|(removed, _)| *removed == name);
            let ours = [".parquet", ".tmp"].iter().any(|end| name.ends_with(end));
            if ours && !known && now.since(changed) >= keep {
                deleted += u64::from(self.dir.delete(&name)?);
            }
        }
        Ok(deleted)
    }

    /// Deletes old commits and checkpoints that the newest checkpoint stands for.
    fn collect_commits(&mut self, now: TimeNs, keep: Duration) -> io::Result<()> {
        let last = self.state.next_version.saturating_sub(1);
        let newest = last - last % checkpoint::INTERVAL;
        let looked = self.commits_collected.is_some_and(|at| now.since(at) < LOOKED_AT_EVERY);
        if looked || newest == 0 || !checkpoint::is_newest(&self.log_dir, newest)? {
            return Ok(());
        }
        self.commits_collected = Some(now);
        for Entry { name, changed } in self.log_dir.list()? {
            let version = name.get(..20).and_then(|digits| digits.parse::<u64>().ok());
            let goes =
                durable::is_unfinished(&name) || version.is_some_and(|version| version < newest);
            if goes && now.since(changed) >= keep {
                self.log_dir.delete(&name)?;
            }
        }
        Ok(())
    }
}
