//! Scripts over a real store in a temporary folder.

#[cfg(test)]
mod it {
    mod fixture;
    mod answers;
    mod diagnostics;
    mod otel;
    mod tiers;
    mod trace;
}
