//! The store as its users see it.

#[cfg(test)]
mod it {
    mod crash;
    mod fixture;
    mod inspect;
    mod interop;
    mod limits;
    mod model;
    mod race;
    mod speed;
}
