//! undine
fn main() {}
