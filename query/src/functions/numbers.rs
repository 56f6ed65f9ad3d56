//! Rounding, roots and logarithms, and numbers as text.

use super::kernel::{self as k, one, two};
use super::{B, F, I, Registry, S, T};

pub(crate) fn declare(r: &mut Registry) {
    #[expect(clippy::cast_possible_truncation, reason = "doubles become integers as in C")]
    {
        r.plain("floor", &[F], I, one::<k::F, k::I>(|v| v.floor() as i64));
        r.plain("ceil", &[F], I, one::<k::F, k::I>(|v| v.ceil() as i64));
    }
    r.plain("round", &[F, I], S, two::<k::F, k::I, k::S>(round));
    r.plain("abs", &[I], I, one::<k::I, k::I>(i64::wrapping_abs));
    r.plain("abs", &[F], F, one::<k::F, k::F>(f64::abs));
    r.plain("sqrt", &[F], F, one::<k::F, k::F>(f64::sqrt));
    r.plain("exp", &[F], F, one::<k::F, k::F>(f64::exp));
    r.plain("ln", &[F], F, one::<k::F, k::F>(f64::ln));
    r.plain("log2", &[F], F, one::<k::F, k::F>(f64::log2));
    r.plain("log10", &[F], F, one::<k::F, k::F>(f64::log10));
    r.plain("log", &[F, F], F, two::<k::F, k::F, k::F>(|base, v| v.ln() / base.ln()));
    r.plain("pow", &[F, F], F, two::<k::F, k::F, k::F>(f64::powf));
    r.plain("itoa", &[I], S, one::<k::I, k::S>(|v| v.to_string()));
    r.plain("atoi", &[S, I], I, two::<k::S, k::I, k::I>(|s, or| s.parse().unwrap_or(or)));
    r.plain("time_to_int64", &[T], I, one::<k::I, k::I>(|v| v));
    r.plain("int64_to_time", &[I], T, one::<k::I, k::I>(|v| v));
    r.plain("is_nan", &[F], B, one::<k::F, k::B>(f64::is_nan));
}

/// `printf("%.*f", digits, value)`, with at most 100 digits.
fn round(value: f64, digits: i64) -> String {
    let digits = usize::try_from(digits.clamp(0, 100)).unwrap_or(0);
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_gives_text_with_exactly_the_digits_asked_for() {
        assert_eq!(round(1.005, 1), "1.0");
        assert_eq!(round(2.5, 0), "2");
        assert_eq!(round(1.0, -3), "1");
    }
}
