//! The whole system, over real processes and real sockets. Start with `journey`.
//!
//! `cargo test -p hookferry-tests` builds the programs itself. The tests in `providers` and `resign` need a Python
//! with the providers' libraries: `./tests/run.sh` prepares it and runs everything.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod journey;

mod ingress;

mod malformed;

mod handshakes;

mod bytes;

mod delivery;

mod routing;

mod explain;

mod replay;

mod sync;

mod agent;

mod screen;

mod forward;

mod reload;

mod supervision;

mod admin;

mod upkeep;

mod keeping;

mod providers;

mod resign;

mod faults;

mod outage;

mod chaos;

mod matrix;

mod agents;

mod liveness;

mod soak;

mod doctor;
