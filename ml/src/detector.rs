//! One feature of one entity: its transform, its baseline, and how unusual a window is.
//!
//! | feature | transformed | sampling noise known | smallest change worth telling |
//! |---|---|---|---|
//! | throughput | 2 √(n + 3/8), requests n | 1 (Poisson), never less | 5 % |
//! | error ratio | 2 asin √((k + 3/8) / (n + 3/4)) less the same of the usual ratio | 1 / (n + 1/2), never less | none |
//! | latency p50, p99 | ln(latency + resolution) | learned; a window with fewer requests than usual is trusted less | 3 %, 5 % |
//!
//! Two statistics are taken of the residual: its size in this window, and its moving mean, which
//! finds a small shift that stays. The larger of both is calibrated (`calibration.rs`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::baseline::{Baseline, Level, Observed, Shape, Weight, median};
use crate::calibration::Tail;

/// How much the newest window counts in the moving mean of residuals.
const PERSISTENCE: f64 = 0.2;
/// Residuals count as at most this many standard deviations in the moving mean.
const PERSISTENCE_CLIP: f64 = 4.0;
/// Variance of that mean for independent residuals.
const PERSISTENCE_VARIANCE: f64 = PERSISTENCE / (2.0 - PERSISTENCE);
/// How many windows the theoretical variance counts as.
const PERSISTENCE_PRIOR_WINDOWS: f64 = 50.0;
/// A window that deviates by more standard deviations teaches a tenth, and a run of them in the end
/// a new level.
pub(crate) const UNUSUAL: f64 = 3.0;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Requests per second.
    Throughput,
    /// Share of requests that failed.
    ErrorRatio,
    /// Median latency in nanoseconds.
    LatencyP50,
    /// 99th percentile of latency in nanoseconds.
    LatencyP99,
}

impl Feature {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::ErrorRatio => "error_ratio",
            Self::LatencyP50 => "latency_p50",
            Self::LatencyP99 => "latency_p99",
        }
    }

    /// Whether a fault shows as less of it rather than as more.
    const fn falls(self) -> bool {
        matches!(self, Self::Throughput)
    }

    /// What is fixed about its baseline.
    pub(crate) fn shape(self, warmup_windows: u32, memory_windows: u32) -> Shape {
        let shape = Shape {
            prior_scale: 1.0,
            scale_min: 1.0,
            floor: 0.0,
            floor_share: 0.0,
            level: Level::Learned,
            warmup_windows,
            memory_windows,
        };
        match self {
            // 5 % more requests are 2.5 % more of their square root.
            Self::Throughput => Shape { floor_share: 0.025, ..shape },
            Self::ErrorRatio => Shape { level: Level::Zero, ..shape },
            Self::LatencyP50 => Shape { prior_scale: 0.1, scale_min: 0.0, floor: 0.03, ..shape },
            Self::LatencyP99 => Shape { prior_scale: 0.25, scale_min: 0.0, floor: 0.05, ..shape },
        }
    }
}

/// How unusual one window of one feature was.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) feature: Feature,
    /// The pod, empty where the feature is the whole service's.
    pub(crate) pod: String,
    /// What was observed, in the table's unit.
    pub(crate) value: f64,
    /// What was expected.
    pub(crate) expected: f64,
    /// Distance in standard deviations.
    pub(crate) deviation: f64,
    /// How rarely a quiet window is as unusual, to whichever side it deviates.
    pub(crate) p: f64,
    /// The same towards the side on which a fault shows, 1 or nearly so on the other.
    pub(crate) fault_p: f64,
    /// As `fault_p` for this window alone, without the moving mean.
    pub(crate) point_p: f64,
    /// Distance in standard deviations towards the side on which a fault shows.
    pub(crate) fault_deviation: f64,
    /// Requests that it was computed from.
    pub(crate) requests: u64,
}

/// Baseline and calibration of one feature of one entity.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Detector {
    baseline: Baseline,
    up: Tail,
    down: Tail,
    persistent: f64,
    persistent_squared: f64,
    persistent_windows: f64,
    /// How many windows in a row were unusual, give and take.
    unusual_run: u32,
}

impl Detector {
    /// The baseline.
    pub(crate) fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Judges a window; nothing during the warm-up. Values are filled in by the caller.
    pub(crate) fn judge(
        &mut self,
        feature: Feature,
        shape: &Shape,
        window: Observed,
    ) -> Option<Verdict> {
        let deviation = self.baseline.deviation(shape, window)?;
        let clipped = deviation.clamp(-PERSISTENCE_CLIP, PERSISTENCE_CLIP);
        self.persistent += PERSISTENCE * (clipped - self.persistent);
        let lasting = self.persistent / self.persistent_scale();
        let (up, down) = (deviation.max(lasting), (-deviation).max(-lasting));
        let (p_up, p_down) = (self.up.probability(up), self.down.probability(down));
        let (fault_p, point_p, fault_deviation) = if feature.falls() {
            (p_down, self.down.probability(-deviation), -deviation)
        } else {
            (p_up, self.up.probability(deviation), deviation)
        };
        Some(Verdict {
            feature,
            pod: String::new(),
            value: 0.0,
            expected: 0.0,
            deviation,
            p: if deviation < 0.0 { p_down } else { p_up },
            fault_p,
            point_p,
            fault_deviation,
            requests: 0,
        })
    }

    /// Learns from the window that was judged last. `weight` says what the service's state allows;
    /// an unusual window teaches less still. Returns true if the old level was given up after
    /// `relearn_windows` unusual ones.
    pub(crate) fn learn(
        &mut self,
        shape: &Shape,
        window: Observed,
        weight: Weight,
        relearn_windows: u32,
    ) -> bool {
        let Some(deviation) = self.baseline.deviation(shape, window) else {
            self.baseline.learn(shape, window, weight);
            return false;
        };
        let unusual = deviation.abs() >= UNUSUAL;
        let weight = match weight {
            Weight::Full if unusual => Weight::Tenth,
            weight => weight,
        };
        self.unusual_run =
            if unusual { self.unusual_run + 1 } else { self.unusual_run.saturating_sub(2) };
        self.baseline.learn(shape, window, weight);
        if weight != Weight::None {
            let lasting = self.persistent / self.persistent_scale();
            self.up.learn(deviation.max(lasting));
            self.down.learn((-deviation).max(-lasting));
        }
        if weight == Weight::Full {
            self.persistent_windows =
                (self.persistent_windows + 1.0).min(f64::from(shape.memory_windows));
            let limit = 9.0 * self.persistent_scale().powi(2);
            let squared = (self.persistent * self.persistent).min(limit);
            self.persistent_squared +=
                (squared - self.persistent_squared) / self.persistent_windows;
        }
        if self.unusual_run < relearn_windows {
            return false;
        }
        self.start_anew(shape);
        true
    }

    /// Gives up the old level and starts from the newest windows.
    pub(crate) fn start_anew(&mut self, shape: &Shape) {
        self.baseline.start_anew(shape);
        self.unusual_run = 0;
        self.settle();
    }

    /// Forgets the moving mean: what lasted is over, or is explained by another service.
    pub(crate) fn settle(&mut self) {
        self.persistent = 0.0;
    }

    fn persistent_scale(&self) -> f64 {
        let blended = (PERSISTENCE_PRIOR_WINDOWS * PERSISTENCE_VARIANCE
            + self.persistent_windows * self.persistent_squared)
            / (PERSISTENCE_PRIOR_WINDOWS + self.persistent_windows);
        blended.max(PERSISTENCE_VARIANCE).sqrt()
    }
}

/// The usual share of failed requests, never quite zero.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ErrorShare {
    gathered: Vec<(f64, f64)>,
    warm: bool,
    errors: f64,
    requests: f64,
}

/// With no history the ratio is half an error in this many requests.
const PRIOR_REQUESTS: f64 = 100.0;

impl ErrorShare {
    /// Whether its warm-up is over.
    pub(crate) fn is_warm(&self) -> bool {
        self.warm
    }

    /// The usual ratio.
    pub(crate) fn ratio(&self) -> f64 {
        (self.errors + 0.5) / (self.requests + PRIOR_REQUESTS)
    }

    /// The window's ratio less the usual one, both variance-stabilised.
    pub(crate) fn residual(&self, errors: f64, requests: f64) -> f64 {
        stabilised(errors, requests) - stabilised(requests * self.ratio(), requests)
    }

    /// Gathers a window of the warm-up, and when there are enough learns from all of them but the
    /// quarter with the most errors. Returns the windows then, so that their residuals can be
    /// learned from.
    pub(crate) fn gather(&mut self, shape: &Shape, errors: f64, requests: f64) -> Vec<(f64, f64)> {
        self.gathered.push((errors, requests));
        if self.gathered.len() < shape.warmup_windows.max(3) as usize {
            return Vec::new();
        }
        self.gathered.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
        let keep = self.gathered.len() - self.gathered.len() / 4;
        for (errors, requests) in &self.gathered[..keep] {
            self.errors += errors;
            self.requests += requests;
        }
        self.warm = true;
        std::mem::take(&mut self.gathered)
    }

    /// Learns from a window after the warm-up; none adds more errors than two standard deviations
    /// above the usual.
    pub(crate) fn learn(&mut self, shape: &Shape, errors: f64, requests: f64, weight: Weight) {
        let weight = match weight {
            Weight::Full => 1.0,
            Weight::Tenth => 0.1,
            Weight::None => return,
        };
        let usual = requests * self.ratio();
        let errors = errors.min(usual + 2.0 * (usual + 0.25).sqrt());
        let fade = 1.0 - weight / f64::from(shape.memory_windows.max(1));
        self.errors = self.errors * fade + weight * errors;
        self.requests = self.requests * fade + weight * requests;
    }

    /// Takes the newest windows for normal.
    pub(crate) fn start_anew(&mut self, errors: f64, requests: f64) {
        let requests = requests.max(1.0);
        let weight = self.requests.max(requests);
        self.errors = errors / requests * weight;
        self.requests = weight;
    }
}

fn stabilised(errors: f64, requests: f64) -> f64 {
    2.0 * ((errors + 0.375) / (requests + 0.75)).sqrt().min(1.0).asin()
}

/// A throughput as its detector sees it.
pub(crate) fn throughput(requests: f64) -> Observed {
    Observed { y: 2.0 * (requests + 0.375).sqrt(), variance: 1.0 }
}

/// The number of requests that a throughput baseline's level stands for.
pub(crate) fn throughput_of(level: f64) -> f64 {
    (level * level / 4.0 - 0.375).max(0.0)
}

/// A latency as its detector sees it: below `resolution` differences fade.
pub(crate) fn latency(
    latency_ns: f64,
    resolution: Duration,
    requests: f64,
    usual: f64,
) -> Observed {
    let y = (latency_ns + nanos(resolution)).ln();
    Observed { y, variance: (usual / requests.max(1.0)).max(1.0) }
}

/// The latency that a latency baseline's level stands for, in nanoseconds.
pub(crate) fn latency_of(level: f64, resolution: Duration) -> f64 {
    (level.exp() - nanos(resolution)).max(0.0)
}

/// An error residual as its detector sees it.
pub(crate) fn error_ratio(residual: f64, requests: f64, usual: f64) -> Observed {
    let trusted = requests.min(2.0 * usual.max(1.0));
    Observed { y: residual, variance: 1.0 / (trusted + 0.5) }
}

/// A duration in nanoseconds as a double.
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// A typical value of something observed once a window: the median of what came first, then a
/// slow mean.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Typical {
    first: Vec<f64>,
    mean: f64,
}

impl Typical {
    const FIRST: usize = 8;

    /// Takes in a window and returns what is typical now.
    pub(crate) fn take(&mut self, value: f64) -> f64 {
        if self.first.len() < Self::FIRST {
            self.first.push(value);
            self.mean = median(self.first.clone());
        } else {
            self.mean += (value.min(4.0 * self.mean.max(1.0)) - self.mean) / 64.0;
        }
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;

    #[test]
    fn no_errors_for_hours_and_then_one_is_no_alarm_but_a_tenth_of_all_is() {
        let shape = Feature::ErrorRatio.shape(12, 120);
        let (mut share, mut detector) = (ErrorShare::default(), Detector::default());
        while !share.is_warm() {
            share.gather(&shape, 0.0, 300.0);
        }
        let mut judge = |errors: f64| {
            let window = error_ratio(share.residual(errors, 300.0), 300.0, 300.0);
            let verdict = detector.judge(Feature::ErrorRatio, &shape, window);
            share.learn(&shape, errors, 300.0, Weight::Full);
            detector.learn(&shape, window, Weight::Full, 1000);
            verdict
        };
        for _ in 0..2000 {
            judge(0.0);
        }
        let (one, tenth) = (judge(1.0).unwrap(), judge(30.0).unwrap());
        assert!(one.fault_p > 1e-3, "{one:?}");
        assert!(tenth.fault_p < 1e-4, "{tenth:?}");
    }

    #[test]
    fn five_requests_that_are_slow_alarm_less_than_five_hundred() {
        let shape = Feature::LatencyP99.shape(12, 120);
        let mut noise = Noise::new(5);
        let mut detector = Detector::default();
        let resolution = Duration::from_millis(1);
        for _ in 0..300 {
            let window = latency(2e7 * (0.1 * noise.gaussian()).exp(), resolution, 500.0, 500.0);
            detector.judge(Feature::LatencyP99, &shape, window);
            detector.learn(&shape, window, Weight::Full, 1000);
        }
        let of = |requests| {
            detector
                .clone()
                .judge(Feature::LatencyP99, &shape, latency(4e7, resolution, requests, 500.0))
                .unwrap()
        };
        assert!(of(500.0).deviation > 4.0, "{:?}", of(500.0));
        assert!(of(5.0).deviation < 1.5, "{:?}", of(5.0));
    }

    #[test]
    fn the_level_stands_for_the_throughput_and_latency_it_was_learned_from() {
        assert!((throughput_of(throughput(250.0).y) - 250.0).abs() < 1e-9);
        let resolution = Duration::from_millis(1);
        let level = latency(5e6, resolution, 1.0, 1.0).y;
        assert!((latency_of(level, resolution) - 5e6).abs() < 1.0);
    }
}
