//! Whether an object store keeps the promises on which the catalog rests.
//!
//! A single attempt proves little: one server tested here refuses a second create that comes alone and
//! lets most of sixteen that come at once succeed. So writers race, several times.

use std::sync::Arc;

use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::bucket::list_all;

/// The folder of the files that a probe makes and deletes.
const SCRATCH: &str = "_undine_probe";

/// How much a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoroughness {
    /// 20 rounds of 16 writers, for a store that was never seen before.
    Full,
    /// Two rounds of 8 writers, for one that passed.
    Brief,
}

/// Why a probe failed.
pub(super) enum Failure {
    /// What was seen.
    Broken(String),
    Away(object_store::Error),
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        Self::Away(error)
    }
}

/// Probes the store and deletes what it made.
pub(super) async fn run(
    objects: &Arc<dyn ObjectStore>,
    thoroughness: Thoroughness,
) -> Result<(), Failure> {
    let dir = Path::from(format!("{SCRATCH}/{}", ulid::Ulid::generate()));
    let mut made = Vec::new();
    let probed = probe(objects, &dir, thoroughness, &mut made).await;
    match (probed, clean(objects, &made).await) {
        (Err(failure), _) => Err(failure),
        (Ok(()), cleaned) => cleaned.map_err(Failure::Away),
    }
}

async fn probe(
    objects: &Arc<dyn ObjectStore>,
    dir: &Path,
    thoroughness: Thoroughness,
    made: &mut Vec<Path>,
) -> Result<(), Failure> {
    let (rounds, racers) = match thoroughness {
        Thoroughness::Full => (20, 16),
        Thoroughness::Brief => (2, 8),
    };
    for round in 0..rounds {
        let path = dir.clone().join(format!("{round:04}"));
        made.push(path.clone());
        let won = race(objects, &path, racers).await?;
        if won.len() > 1 {
            return Err(Failure::Broken(format!(
                "{} of {racers} writers made the same file at once (round {} of {rounds})",
                won.len(),
                round + 1
            )));
        }
        let found = match objects.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Failure::Broken("a file that was written is not found".to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        // None won where the answer to the one that did was lost and it was tried again.
        if won.first().is_some_and(|winner| *winner != found) {
            let observed = "a file does not hold what its only maker wrote";
            return Err(Failure::Broken(observed.to_owned()));
        }
    }
    let mut listed = list_all(objects, dir).await?;
    listed.sort_unstable();
    if listed != *made {
        let (listed, made) = (listed.len(), made.len());
        let observed = format!("a list right after {made} writes names {listed} of the files");
        return Err(Failure::Broken(observed));
    }
    Ok(())
}

/// What those writers wrote who were told that they made the file.
async fn race(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    racers: usize,
) -> Result<Vec<bytes::Bytes>, Failure> {
    let attempts = join_all((0..racers).map(|racer| async move {
        let text = bytes::Bytes::from(format!("{racer} {}", ulid::Ulid::generate()));
        let put = objects.put_opts(path, PutPayload::from(text.clone()), PutMode::Create.into());
        put.await.map(|_| text)
    }));
    let mut won = Vec::new();
    for attempt in attempts.await {
        match attempt {
            Ok(text) => won.push(text),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => {}
            Err(
                object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => {
                let observed = "it does not offer conditional writes";
                return Err(Failure::Broken(observed.to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(won)
}

/// Deletes what a probe made, by name, since a list may be what is wrong.
async fn clean(objects: &Arc<dyn ObjectStore>, made: &[Path]) -> object_store::Result<()> {
    for path in made {
        match objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
