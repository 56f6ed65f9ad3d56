//! What is normal for one feature of one entity: a level and a scale that outliers cannot drag.
//!
//! Everything here happens in a transformed space in which the feature's noise is roughly additive
//! and symmetric (see `detector.rs`). The first windows are only gathered; then the level is their
//! median and the scale their median absolute deviation, so that a rough start does not matter.
//! From there on every window moves both a little: the level by its residual clipped to two
//! standard deviations, the scale by its square clipped to three. A window that is unusual counts a
//! tenth, and while an incident is open it counts nothing: a fault does not become normal.
//!
//! A fresh scale is not believed: a prior scale counts as much as [`PRIOR_WINDOWS`] windows, and the
//! doubt about the level widens the scale by 1.6 / windows.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many windows the prior scale counts as.
const PRIOR_WINDOWS: f64 = 12.0;
/// How many of the newest windows are kept, to learn a new level from when the old one is given up.
const RECENT_WINDOWS: usize = 24;
/// Residuals beyond this many standard deviations move the level no further.
const LEVEL_CLIP: f64 = 2.0;
/// Residuals beyond this many standard deviations widen the scale no further.
const SCALE_CLIP: f64 = 3.0;

/// What is fixed about a feature's baseline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Scale that is assumed before anything is known.
    pub(crate) prior_scale: f64,
    /// The scale is never taken for less: sampling theory allows no less.
    pub(crate) scale_min: f64,
    /// The smallest change worth telling, added to the noise: fixed, and as a share of the level.
    pub(crate) floor: f64,
    /// See `floor`.
    pub(crate) floor_share: f64,
    /// Whether the level is learned here or is zero by construction.
    pub(crate) level: Level,
    /// Windows that are gathered before anything is judged.
    pub(crate) warmup_windows: u32,
    /// Windows over which the past fades.
    pub(crate) memory_windows: u32,
}

/// Where a baseline's level comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// From the values themselves.
    Learned,
    /// The values are residuals already.
    Zero,
}

/// How much a window may teach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Weight {
    /// A usual window.
    Full,
    /// An unusual one: a tenth.
    Tenth,
    /// A window of an incident: nothing.
    None,
}

/// One observed window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed {
    /// The value in the transformed space.
    pub(crate) y: f64,
    /// Its sampling variance relative to that of a typical window.
    pub(crate) variance: f64,
}

/// A learned level and scale.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Baseline {
    gathered: Vec<(f64, f64)>,
    level: f64,
    scale_squared: f64,
    /// Windows that taught since the warm-up began; 0 while it lasts.
    learned: u32,
    recent: VecDeque<(f64, f64)>,
}

impl Baseline {
    /// Whether the warm-up is over.
    pub(crate) fn is_warm(&self) -> bool {
        self.learned > 0
    }

    /// The level in the transformed space.
    pub(crate) fn level(&self) -> f64 {
        self.level
    }

    /// The distance of a window from the level in standard deviations, nothing during the warm-up.
    pub(crate) fn deviation(&self, shape: &Shape, window: Observed) -> Option<f64> {
        self.is_warm().then(|| (window.y - self.level) / self.spread(shape, window.variance))
    }

    /// Learns from a window.
    pub(crate) fn learn(&mut self, shape: &Shape, window: Observed, weight: Weight) {
        self.recent.push_back((window.y, window.variance));
        if self.recent.len() > RECENT_WINDOWS {
            self.recent.pop_front();
        }
        if !self.is_warm() {
            self.gathered.push((window.y, window.variance));
            if self.gathered.len() >= shape.warmup_windows.max(3) as usize {
                let gathered = std::mem::take(&mut self.gathered);
                self.start_from(shape, &gathered);
            }
            return;
        }
        let weight = match weight {
            Weight::Full => 1.0,
            Weight::Tenth => 0.1,
            Weight::None => return,
        };
        let deviation = (window.y - self.level) / self.spread(shape, window.variance);
        let rate = weight
            * (1.0 / f64::from(self.learned + 1)).max(1.0 / f64::from(shape.memory_windows.max(1)));
        let scale = self.scale(shape);
        let residual = (window.y - self.level) / window.variance.sqrt();
        let clipped = residual.clamp(-SCALE_CLIP * scale, SCALE_CLIP * scale);
        self.scale_squared += rate * (clipped * clipped - self.scale_squared);
        if shape.level == Level::Learned {
            let step = deviation.clamp(-LEVEL_CLIP, LEVEL_CLIP);
            self.level += rate * step * self.spread(shape, window.variance);
        }
        if weight >= 1.0 {
            self.learned = self.learned.saturating_add(1);
        }
    }

    /// Gives up the old level and starts from the newest windows.
    pub(crate) fn start_anew(&mut self, shape: &Shape) {
        let recent: Vec<_> = self.recent.iter().copied().collect();
        if !recent.is_empty() {
            self.start_from(shape, &recent);
        }
    }

    fn start_from(&mut self, shape: &Shape, windows: &[(f64, f64)]) {
        self.level = match shape.level {
            Level::Learned => median(windows.iter().map(|(y, _)| *y).collect()),
            Level::Zero => 0.0,
        };
        let level = self.level;
        let spread = median(windows.iter().map(|(y, v)| (y - level).abs() / v.sqrt()).collect());
        // The factor makes a median absolute deviation a standard deviation.
        self.scale_squared = (1.4826 * spread).powi(2);
        self.learned = u32::try_from(windows.len()).unwrap_or(u32::MAX);
    }

    fn scale(&self, shape: &Shape) -> f64 {
        let windows = f64::from(self.learned);
        let prior = shape.prior_scale * shape.prior_scale;
        let blended =
            (PRIOR_WINDOWS * prior + windows * self.scale_squared) / (PRIOR_WINDOWS + windows);
        blended.sqrt().max(shape.scale_min)
    }

    fn spread(&self, shape: &Shape, variance: f64) -> f64 {
        let scale = self.scale(shape);
        let doubt = 1.0 + 1.6 / f64::from(self.learned.max(1));
        let floor = shape.floor + shape.floor_share * self.level.abs();
        (scale * scale * variance * doubt + floor * floor).sqrt()
    }
}

/// The median; zero of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        prior_scale: 0.1,
        scale_min: 0.0,
        floor: 0.0,
        floor_share: 0.0,
        level: Level::Learned,
        warmup_windows: 12,
        memory_windows: 120,
    };

    fn taught(values: impl Iterator<Item = f64>) -> Baseline {
        let mut baseline = Baseline::default();
        for y in values {
            baseline.learn(&SHAPE, Observed { y, variance: 1.0 }, Weight::Full);
        }
        baseline
    }

    fn wave(step: u32) -> f64 {
        5.0 + 0.1 * f64::from(step % 7) - 0.3
    }

    #[test]
    fn a_rough_start_does_not_move_the_level() {
        let clean = taught((0..12).map(wave));
        let rough = taught((0..12).map(|step| if step < 4 { 50.0 } else { wave(step) }));
        assert!(
            (clean.level() - rough.level()).abs() < 0.35,
            "{} {}",
            clean.level(),
            rough.level()
        );
    }

    #[test]
    fn a_fault_of_five_minutes_is_not_learned_even_where_it_counts_a_tenth() {
        let mut baseline = taught((0..200).map(wave));
        let fault = Observed { y: 8.0, variance: 1.0 };
        let before = baseline.deviation(&SHAPE, fault).unwrap();
        for _ in 0..60 {
            baseline.learn(&SHAPE, fault, Weight::Tenth);
        }
        let after = baseline.deviation(&SHAPE, fault).unwrap();
        assert!(before > 10.0 && after > 0.5 * before, "{before} before, {after} after");
    }

    #[test]
    fn a_slow_drift_is_followed() {
        let drift = |step: u32| wave(step) + f64::from(step) * 0.0005;
        let baseline = taught((0..4000).map(drift));
        let now = Observed { y: drift(4000), variance: 1.0 };
        let deviation = baseline.deviation(&SHAPE, now).unwrap();
        assert!(deviation.abs() < 2.5, "{deviation}");
    }

    #[test]
    fn nothing_is_judged_before_the_warm_up_is_over() {
        let baseline = taught((0..11).map(wave));
        assert_eq!(baseline.deviation(&SHAPE, Observed { y: 99.0, variance: 1.0 }), None);
    }

    #[test]
    fn a_new_level_is_taken_from_the_newest_windows() {
        let mut baseline = taught((0..200).map(wave));
        for step in 0..24 {
            let window = Observed { y: wave(step) + 4.0, variance: 1.0 };
            baseline.learn(&SHAPE, window, Weight::None);
        }
        baseline.start_anew(&SHAPE);
        assert!((baseline.level() - 9.0).abs() < 0.3, "{}", baseline.level());
    }
}
