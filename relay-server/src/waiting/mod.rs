//! Providers that wait for a service's answer (sync mode): who waits for which delivery, and how an
//! answer gets from the session of an agent to the connection of a provider.
//!
//! Ingress opens an [`Exchange`] before its event is stored, so that whoever is handed the lease knows
//! that somebody waits. The session finds it by the delivery and answers it once, with a head; the
//! body follows through a [`Pipe`], which never holds more than the agent may send ahead. What the
//! provider has taken goes back to the session through its [`Flow`].

mod room;

mod exchange;

mod flow;

mod pipe;

pub(crate) use exchange::{Decision, Exchange, Head, Unanswered};
pub(crate) use flow::{Attempt, Flow, Note};
pub(crate) use pipe::{Cut, Pipe, Reading};
pub(crate) use room::{Full, Limits, Place, Room};
