//! From a deviation to a probability: how rarely was a quiet window as unusual as this one?
//!
//! Each feature of each entity keeps its own tail: how often a deviation exceeds [`EDGE`] and by how
//! much on average, both fading. Beyond the edge the tail is a generalised Pareto one with a fixed
//! shape, so that its answers are cautious far out, where there is no history. Before there is
//! history, a prior stands for it.
//!
//! Teaching is *censored*: a deviation whose probability is below [`CENSOR_P`] enters with little
//! weight and no further out than where it was cut. So anomalies don't teach the tail that
//! anomalies are usual, and a series that is honestly heavy-tailed still gets there.
//!
//! The false alarm rate is governed in this calibrated space only: an incident opens on
//! accumulated evidence in decades (`incidents.rs`), with one threshold for everything. At its
//! recommended 5 decades and five-second windows it aims at less than one false incident per service
//! in twenty days; the test `clean_services_are_left_alone_for_days` measures it.

use serde::{Deserialize, Serialize};

/// Where the tail begins, in standard deviations.
const EDGE: f64 = 2.0;
/// Share of quiet windows beyond the edge, before anything is known (Gaussian: 0.023).
const PRIOR_RATE: f64 = 0.03;
/// Mean excess over the edge before anything is known (Gaussian: 0.37).
const PRIOR_EXCESS: f64 = 0.5;
/// How many windows the prior counts as.
const PRIOR_WINDOWS: f64 = 200.0;
/// Shape of the tail: 0 is exponential, 0.15 lets a five-sigma deviation of heavy-tailed noise pass.
const SHAPE: f64 = 0.15;
/// Windows over which the past fades.
const MEMORY_WINDOWS: f64 = 5_000.0;
/// Less probable deviations teach only with [`CENSORED_WEIGHT`].
const CENSOR_P: f64 = 1e-3;
/// How much a censored deviation counts.
const CENSORED_WEIGHT: f64 = 0.03;
/// No probability is given as less.
const P_MIN: f64 = 1e-9;

/// The tail of one side of one feature's deviations.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tail {
    windows: f64,
    beyond: f64,
    excess: f64,
}

impl Tail {
    /// The probability that a quiet window deviates at least this far to this side.
    pub(crate) fn probability(&self, deviation: f64) -> f64 {
        let rate = self.rate();
        if deviation <= 0.0 {
            return 1.0;
        }
        if deviation <= EDGE {
            // One at the level, the tail's own rate at the edge, log-linear between.
            return rate.powf(deviation / EDGE);
        }
        let scale = self.mean_excess() * (1.0 - SHAPE);
        let beyond = 1.0 + SHAPE * (deviation - EDGE) / scale;
        (rate * beyond.powf(-1.0 / SHAPE)).max(P_MIN)
    }

    /// Learns from a window outside any incident.
    pub(crate) fn learn(&mut self, deviation: f64) {
        let fade = 1.0 - 1.0 / MEMORY_WINDOWS;
        self.windows *= fade;
        self.beyond *= fade;
        self.excess *= fade;
        let (weight, deviation) = if self.probability(deviation) < CENSOR_P {
            (CENSORED_WEIGHT, deviation.min(self.deviation_at(CENSOR_P)))
        } else {
            (1.0, deviation)
        };
        self.windows += weight;
        if deviation > EDGE {
            self.beyond += weight;
            self.excess += weight * (deviation - EDGE);
        }
    }

    fn rate(&self) -> f64 {
        (PRIOR_RATE * PRIOR_WINDOWS + self.beyond) / (PRIOR_WINDOWS + self.windows)
    }

    fn mean_excess(&self) -> f64 {
        let prior = PRIOR_RATE * PRIOR_WINDOWS;
        (PRIOR_EXCESS * prior + self.excess) / (prior + self.beyond)
    }

    fn deviation_at(&self, probability: f64) -> f64 {
        let scale = self.mean_excess() * (1.0 - SHAPE);
        let ratio = (probability / self.rate()).min(1.0);
        EDGE + scale / SHAPE * (ratio.powf(-SHAPE) - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;

    #[test]
    fn probabilities_fall_with_the_deviation_and_meet_at_the_edge() {
        let tail = Tail::default();
        let mut last = 1.0;
        for step in 0..200 {
            let p = tail.probability(f64::from(step) * 0.1);
            assert!(p <= last, "{step}");
            last = p;
        }
        let (below, above) = (tail.probability(EDGE), tail.probability(EDGE + 1e-9));
        assert!((below - above).abs() < 1e-6, "{below} {above}");
    }

    #[test]
    fn quiet_noise_is_called_rare_about_as_often_as_it_is() {
        for (name, heavy) in [("gaussian", false), ("heavy", true)] {
            let mut noise = Noise::new(7);
            let mut draw = || {
                let z = noise.gaussian();
                if heavy { z * (1.0 + 0.5 * noise.gaussian().abs()) } else { z }
            };
            let mut tail = Tail::default();
            for _ in 0..20_000 {
                tail.learn(draw());
            }
            let windows = 200_000;
            let mut rare = [0_u32; 2];
            for _ in 0..windows {
                let p = tail.probability(draw());
                rare[0] += u32::from(p < 1e-2);
                rare[1] += u32::from(p < 1e-3);
            }
            let share = rare.map(|count| f64::from(count) / f64::from(windows));
            println!("{name}: p<1e-2 in {:.5}, p<1e-3 in {:.5}", share[0], share[1]);
            assert!((0.003..0.02).contains(&share[0]), "{name}: {share:?}");
            assert!(share[1] < 0.003, "{name}: {share:?}");
        }
    }

    #[test]
    fn an_hour_of_fault_does_not_make_the_fault_probable() {
        let mut noise = Noise::new(3);
        let mut tail = Tail::default();
        for _ in 0..5_000 {
            tail.learn(noise.gaussian());
        }
        let before = tail.probability(8.0);
        for _ in 0..720 {
            tail.learn(8.0);
        }
        assert!(
            before < 1e-4 && tail.probability(8.0) < 1e-2,
            "{before} {}",
            tail.probability(8.0)
        );
    }
}
