//! The harness: a relay and agents as real processes, a provider and a service in the test, and a
//! network that can be cut between them. Start reading at `it/journey.rs`.
//!
//! Everything binds a port of its own and lives in a temporary directory; every process ends with
//! the value that started it, and shows its output when its test fails.

#![expect(
    clippy::unwrap_used,
    reason = "a harness that cannot go on fails its test"
)]

pub mod binaries;

pub mod eventually;

pub mod ports;

pub mod process;

pub mod terminal;

pub mod wire;

pub mod sign;

pub mod provider;

pub mod relay;

pub mod api;

pub mod agent;

pub mod posting;

pub mod network;

pub mod proxy;

pub mod namespace;

pub mod seed;

pub mod service;

pub mod supervisor;

pub mod disk;

pub mod certificate;

pub mod python;

/// Tells whoever runs the tests something, also when the test passes and its output is hidden.
pub fn note(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether the full size of a test was asked for: minutes instead of seconds.
pub fn is_full_size() -> bool {
    std::env::var_os("HOOKFERRY_TEST_FULL").is_some()
}

pub use agent::Agent;
pub use api::{Api, Journey, Source, Tenant};
pub use eventually::{eventually, pass, within};
pub use namespace::Namespace;
pub use network::Network;
pub use provider::{Connection, Provider, Request};
pub use proxy::Proxy;
pub use relay::Relay;
pub use service::{Answer, Received, Service};
pub use supervisor::Supervisor;
pub use wire::Reply;
