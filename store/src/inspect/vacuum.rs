//! Deletes what no version needs, where no store runs that would do so itself.

use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use undine_schema::TimeNs;

use super::{Folder, InspectError, UnneededFile, object_error};
use crate::open;

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
        for tier in self.inspect().await?.tiers {
            for file in &tier.unneeded {
                if now.since(file.since) < grace {
                    done.kept += 1;
                    continue;
                }
                if vacuum == Vacuum::Delete {
                    let parts = file.name.split('/');
                    let path: ObjectPath =
                        tier.prefix.parts().chain(parts.map(Into::into)).collect();
                    match self.tables.objects.delete(&path).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(error) => return Err(object_error("delete", path.as_ref())(error)),
                    }
                }
                done.files.push((self.tables.place(&tier.prefix), file.clone()));
            }
        }
        drop(lock);
        Ok(done)
    }
}
