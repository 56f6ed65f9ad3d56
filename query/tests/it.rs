//! Scripts over a real store in a temporary folder.

#[cfg(test)]
mod it {
    mod fixture;
    mod every_table;
    mod answers;
    mod diagnostics;
    mod otel;
    mod tiers;
    mod model;
    mod reach;
    mod scripts;
    mod sql_summaries;
    mod upstream_names;
    mod trace;
}
