//! Integers in as few bytes as what lies between the least and the greatest of them needs.

use std::ops::Range;

/// Integers that are read in runs, without a step for each.
#[derive(Debug)]
pub(crate) struct Packed {
    least: i64,
    /// How far each is above the least.
    above: Above,
}

#[derive(Debug)]
enum Above {
    /// All are the same.
    Nothing,
    One(Box<[u8]>),
    Two(Box<[u16]>),
    Four(Box<[u32]>),
    Eight(Box<[u64]>),
}

impl Packed {
    #[expect(clippy::cast_possible_truncation, reason = "the greatest says what all fit in")]
    pub(crate) fn of(values: &[i64]) -> Self {
        let bounds = |(least, most): (i64, i64), &value: &i64| (least.min(value), most.max(value));
        let (least, most) = values.iter().fold((i64::MAX, i64::MIN), bounds);
        let above = |&value: &i64| value.wrapping_sub(least).cast_unsigned();
        let above = match above(&most) {
            _ if least >= most => Above::Nothing,
            0..=0xff => Above::One(values.iter().map(|value| above(value) as u8).collect()),
            0x100..=0xffff => Above::Two(values.iter().map(|value| above(value) as u16).collect()),
            0x1_0000..=0xffff_ffff => {
                Above::Four(values.iter().map(|value| above(value) as u32).collect())
            }
            _ => Above::Eight(values.iter().map(above).collect()),
        };
        Self { least, above }
    }

    /// Those at `range`, which must lie inside, each as `to` makes of it.
    pub(crate) fn range<T>(&self, range: Range<usize>, to: impl Fn(i64) -> T) -> Vec<T> {
        let value = |above: u64| to(self.least.wrapping_add_unsigned(above));
        match &self.above {
            Above::Nothing => range.map(|_| value(0)).collect(),
            Above::One(all) => all[range].iter().map(|&above| value(above.into())).collect(),
            Above::Two(all) => all[range].iter().map(|&above| value(above.into())).collect(),
            Above::Four(all) => all[range].iter().map(|&above| value(above.into())).collect(),
            Above::Eight(all) => all[range].iter().map(|&above| value(above)).collect(),
        }
    }

    /// Memory behind it.
    pub(crate) fn bytes(&self) -> usize {
        match &self.above {
            Above::Nothing => 0,
            Above::One(all) => size_of_val(&**all),
            Above::Two(all) => size_of_val(&**all),
            Above::Four(all) => size_of_val(&**all),
            Above::Eight(all) => size_of_val(&**all),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_are_what_they_were(
            start in any::<i64>(),
            steps in prop::collection::vec(any::<u64>(), 0..20),
            bits in 0_u32..=64,
            cut in any::<prop::sample::Index>(),
        ) {
            let mask = u64::MAX.checked_shr(64 - bits).unwrap_or(0);
            let values: Vec<_> =
                steps.iter().map(|step| start.wrapping_add_unsigned(step & mask)).collect();
            let packed = Packed::of(&values);
            let from = cut.index(values.len() + 1);
            prop_assert_eq!(&packed.range(from..values.len(), |value| value), &values[from..]);
            prop_assert_eq!(&packed.range(0..from, |value| value), &values[..from]);
        }
    }

    #[test]
    fn integers_that_are_near_each_other_take_few_bytes() {
        let far = i64::MIN + 3;
        for (most, bytes) in [(0, 0), (255, 1), (256, 2), (65_536, 4), (1 << 32, 8), (i64::MAX, 8)]
        {
            let values = [far, far.wrapping_add(most), far];
            assert_eq!(Packed::of(&values).bytes(), 3 * bytes, "{most}");
        }
        assert_eq!(Packed::of(&[i64::MIN, i64::MAX]).bytes(), 16);
    }
}
