//! The agent: it dials out to a relay, replays each webhook to a service of the private network,
//! and reports what that service answered.
//!
//! Modules in the order in which an event meets them:
//!
//! - [`args`], [`config`]: what the agent was told, checked once;
//! - [`agent`]: the wiring, and the life of the process;
//! - [`link`]: the connection to the relay, kept alive and replaced when in doubt;
//! - [`inbox`]: which offers are taken, and how many at a time;
//! - [`journal`]: what services answered, kept until the relay has it;
//! - [`forward`]: the call to the service;
//! - [`report`]: what came of it, for the relay;
//! - [`terminal`], [`status`]: the same for people and for supervisors;
//! - [`doctor`]: what is wrong, hop by hop;
//! - [`send`]: a test event, made by the relay on request;
//! - [`install`]: the agent as a service of the operating system;
//! - [`explain`]: every error code in words.
//!
//! [`logs`] is what operators read. [`net`] and [`tls`] are the two things that `link` and `forward` share; [`shutdown`] is being asked to
//! stop.

pub mod args;

pub mod config;

pub mod agent;

pub mod link;

pub mod inbox;

pub mod journal;

pub mod forward;

pub mod report;

pub mod terminal;

pub mod status;

pub mod send;

pub mod doctor;

pub mod install;

pub mod explain;

pub mod logs;

pub mod net;

pub mod tls;

pub mod shutdown;
