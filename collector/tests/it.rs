//! The collector as a whole: on the real kernel, and from recordings.

#[cfg(test)]
mod it {
    mod memory;
    mod http;
    mod kernel;
    mod replay;
}
