//! The call to the service: the request as the provider made it, but for what only concerns one hop.
//!
//! Only URLs of the agent's own configuration are ever called. The relay gives the part behind them.

mod body;

mod client;

mod error;

mod headers;

mod route;

pub use body::EventBody;
pub use client::{Answer, Attempt, Forwarder, Outcome};
pub use error::CallError;
pub(crate) use headers::request_headers;
pub use route::{RouteError, Target};
