//! What there is to see: services that run now, or the recording of some that ran once.

use std::collections::BTreeMap;

use anyhow::Result;

use super::children::Children;
use super::footage::Truth;
use super::report::Capture;

/// What the demo watches.
#[derive(Debug)]
pub(super) enum Scene {
    /// Services of its own.
    Live(Children),
    /// A recording, and what the recorded services said of themselves.
    Recorded(Truth),
}

impl Scene {
    /// Makes the faulty service slow and unreliable; in a recording it becomes so by itself.
    pub(super) fn inject(&self) -> Result<()> {
        match self {
            Self::Live(children) => children.inject(),
            Self::Recorded(_) => Ok(()),
        }
    }

    /// Lets it recover.
    pub(super) fn lift(&self) -> Result<()> {
        match self {
            Self::Live(children) => children.lift(),
            Self::Recorded(_) => Ok(()),
        }
    }

    /// Ends the load, then the services, which write their final records.
    pub(super) fn stop(&mut self) -> Result<()> {
        match self {
            Self::Live(children) => {
                children.stop_load()?;
                children.stop_services()
            }
            Self::Recorded(_) => Ok(()),
        }
    }

    /// Requests that each service recorded itself. A recording tells the sum over all of it only, so
    /// there is none before it `has_ended`.
    pub(super) fn requests(&self, has_ended: bool) -> Option<BTreeMap<String, u64>> {
        match self {
            Self::Live(children) => Some(children.requests()),
            Self::Recorded(truth) => has_ended.then(|| truth.requests.clone()),
        }
    }

    pub(super) fn capture(&self) -> Capture {
        match self {
            Self::Live(_) => Capture::Ebpf,
            Self::Recorded(_) => Capture::Replay,
        }
    }
}
