//! Deletes what no version needs, where no store runs that would do so itself.

use std::io;
use std::time::Duration;

use undine_schema::TimeNs;

use super::{Folder, InspectError, TierState, UnneededFile, io_error};
use crate::{disk, durable, open};

/// Whether to delete or only to say what would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacuum {
    /// Deletes; nobody else may use the folder meanwhile.
    Delete,
    /// Changes nothing, also beside a running store.
    DryRun,
}

/// What a vacuum deleted, or would have.
#[derive(Clone, Debug, Default)]
pub struct Vacuumed {
    /// The files with the tier's folder below the store's.
    pub files: Vec<(String, UnneededFile)>,
    /// Unneeded files that are too young.
    pub kept: u64,
}

impl Folder {
    /// Deletes files that no version has needed for `grace` before `now`. Of a tier whose catalog
    /// cannot be read nothing is deleted.
    ///
    /// # Errors
    /// Where a store runs on the folder, whose process is named, or a file cannot be deleted.
    pub async fn vacuum(
        &self,
        grace: Duration,
        now: TimeNs,
        vacuum: Vacuum,
    ) -> Result<Vacuumed, InspectError> {
        let lock = match vacuum {
            Vacuum::Delete => Some(open::lock(&self.dir)?),
            Vacuum::DryRun => None,
        };
        let mut done = Vacuumed::default();
        let tiers = self.inspect().await?.tiers;
        for tier in &tiers {
            let (old, young) =
                tier.unneeded.iter().partition::<Vec<_>, _>(|file| now.since(file.since) >= grace);
            let place = self.tables.place(&tier.prefix);
            done.files.extend(old.into_iter().map(|file| (place.clone(), file.clone())));
            done.kept += young.len() as u64;
        }
        if vacuum == Vacuum::Delete {
            self.delete(&tiers, &done.files)?;
        }
        drop(lock);
        Ok(done)
    }

    /// Deletes files in the way of a store that runs: not before the catalogs that do not need them are
    /// on the disk.
    fn delete(
        &self,
        tiers: &[TierState],
        files: &[(String, UnneededFile)],
    ) -> Result<(), InspectError> {
        let dirs = tiers.iter().map(|tier| self.dir.join(self.tables.place(&tier.prefix)));
        durable::settle(dirs.map(|dir| dir.join("_delta_log")))
            .map_err(io_error("sync the catalogs in", &self.dir))?;
        for (tier, file) in files {
            let path = self.dir.join(tier).join(&file.name);
            match disk::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("delete", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
