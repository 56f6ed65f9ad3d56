//! Any target under libFuzzer; `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::sync::OnceLock;

use fuzz::Target;

/// What `UNDINE_FUZZ_TARGET` names: a target, or one whose inputs are stretched.
static CHECK: OnceLock<(Target, Kind)> = OnceLock::new();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Checked,
    Stretched,
}

#[expect(clippy::disallowed_methods, reason = "libFuzzer owns the command line")]
fn choose() {
    let name = std::env::var("UNDINE_FUZZ_TARGET").unwrap_or_default();
    let (name, kind) = match name.strip_prefix("stretch:") {
        Some(name) => (name, Kind::Stretched),
        None => (name.as_str(), Kind::Checked),
    };
    let Some(target) = Target::named(name) else { panic!("there is no target '{name}'") };
    CHECK.get_or_init(|| (target, kind));
}

libfuzzer_sys::fuzz_target!(
    init: choose(),
    |input: &[u8]| {
        match CHECK.get() {
            Some((target, Kind::Checked)) => target.check(input),
            Some((Target::Talk(code), Kind::Stretched)) => fuzz::stretch::report(*code, input),
            Some((_, Kind::Stretched)) | None => {}
        }
    }
);
