//! The store as its users see it.

mod it {
    mod crash;
    mod fixture;
    mod interop;
    mod limits;
    mod model;
    mod race;
}
