//! The model: learns from every request what is normal for each service, notices when one is not,
//! and says which service is to blame.
//!
//! It follows `http_events` by cursor, so it sees every row and not a sample, and writes `anomalies`,
//! `incidents` and, where it missed rows, `data_loss`. It knows no store: rows come in through
//! [`Feed`](undine_schema::Feed) and go out through [`Append`](undine_schema::Append).
//!
//! ```text
//! Feed ─► features ─► baseline + calibration = detector ─► incidents + blame ─► explanation ─► Append
//! ```
//!
//! No threshold stands on a raw value. A window is unusual by its distance from what the same
//! service usually does, calibrated against how far quiet windows of that service stray.

mod model;
mod learner;
mod features;
mod histogram;
mod detector;
mod baseline;
mod calibration;
mod incidents;
mod blame;
mod explanation;
mod state;
mod stats;
#[cfg(test)]
mod noise;

pub use detector::Feature;
pub use incidents::Silence;
pub use model::{BuildError, Config, Model};
pub use state::Origin;
pub use stats::{Stats, StatsSnapshot};
