//! Where tests and evals put real servers and their clients, so that nothing else is watched: a
//! [`Place`] is a cgroup and a network namespace, a [`Server`] a program that ends with its value.
//!
//! What a server wrote down itself is given by the call that ends it, because a line may be written
//! after the answer that it is about. What of it is kept for later is a [`golden`] capture.

mod installed;
mod place;
mod wait;
mod server;
mod program;
mod compiled;
mod scene;
pub mod spin;
pub mod http;
pub mod nginx;
pub mod nghttpd;
pub mod mariadb;
pub mod postgres;
pub mod redis;
pub mod dnsmasq;
pub mod brokers;
pub mod mongodb;
pub mod mux;
pub mod golden;

pub use compiled::{WITHOUT_C, compile, compile_go};
pub use installed::{find, missing, missing_modules, python, skip};
pub use place::Place;
pub use program::Program;
pub use scene::{Scene, Wire};
pub use server::{Server, succeed};
pub use wait::wait_until;
