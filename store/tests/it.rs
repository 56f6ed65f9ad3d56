//! The store as its users see it.

#[cfg(test)]
mod it {
    mod crash;
    mod fixture;
    mod interop;
    mod limits;
    mod model;
    mod publish;
    mod race;
    mod speed;
}
