//! Where tests and evals put real servers and their clients, so that nothing else is watched: a
//! [`Place`] is a cgroup and a network namespace, a [`Server`] a program that ends with its value.

mod installed;
mod place;
mod server;
mod wait;

pub use installed::{find, missing, missing_modules, python};
pub use place::Place;
pub use server::{Server, succeed};
pub use wait::wait_until;
