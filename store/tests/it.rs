//! The store as its users see it.

#[cfg(test)]
mod it {
    mod bucket;
    mod busy;
    mod crash;
    mod faulty;
    mod feed;
    mod fixture;
    mod fleet;
    mod inspect;
    mod interop;
    mod kinds;
    mod limits;
    mod model;
    mod publish;
    mod race;
    mod servers;
    mod slow;
    mod speed;
}
