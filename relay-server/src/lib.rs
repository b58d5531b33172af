//! The relay: accepts providers' webhooks, makes them durable, and hands them to agents.
//!
//! The modules stand in the order of the journey: from the command line to a relay that serves, then
//! what an event passes, then what all of it stands on. `docs/ARCHITECTURE.md` is the map.

pub mod args;

pub mod command;

pub mod config;

pub mod serve;

pub mod relay;

pub mod listener;

pub mod ingress;

pub mod verify;

pub mod outbound;

pub mod lifecycle;

pub mod store;

pub mod dispatch;

pub mod session;

pub(crate) mod waiting;

pub mod settle;

pub mod tenancy;

pub mod replays;

pub mod api;

pub mod problem;

mod json;

pub mod telemetry;

pub mod shutdown;

pub mod supervisor;

pub mod clock;

pub mod ids;

#[cfg(test)]
mod simulation;
