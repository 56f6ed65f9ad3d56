//! Inputs that are nearly those of a corpus, blindly, and the same ones in every run.

/// The next of a sequence of numbers that look random; the upper bits are the better ones.
pub const fn step(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Makes inputs of others.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// One that does what `seed` says.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.state = step(self.state);
        let number = usize::try_from(self.state >> 33).unwrap_or(0);
        number.checked_rem(bound).unwrap_or(0)
    }

    /// Changes `input` in up to four places, with parts of `other` in some.
    pub fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let length = self.below(16).min(input.len() - at);
            match self.below(7) {
                0 => {
                    input.drain(at..at + length);
                }
                1 => {
                    let byte = self.byte();
                    input.insert(at, byte);
                }
                2 => {
                    let copied = input[at..at + length].to_vec();
                    input.splice(at..at, copied);
                }
                3 => {
                    let from = self.below(other.len() + 1);
                    let taken = self.below(256).min(other.len() - from);
                    input.splice(at..at, other[from..from + taken].iter().copied());
                }
                4 => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                5 => input.truncate(at),
                _ => {
                    let byte = self.byte();
                    if let Some(place) = input.get_mut(at) {
                        *place = byte;
                    }
                }
            }
        }
    }

    /// A byte, more often than not one that numbers and lengths turn at.
    fn byte(&mut self) -> u8 {
        const TURNS: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', 0xfe];
        match self.below(2) {
            0 => TURNS[self.below(TURNS.len())],
            _ => u8::try_from(self.below(256)).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let make = |seed| {
            let mut mutator = Mutator::new(seed);
            let mut input = b"some input".to_vec();
            for _ in 0..50 {
                mutator.mutate(&mut input, b"another");
            }
            input
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }
}
