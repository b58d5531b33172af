//! The call to the service: the request as the provider made it, but for what only concerns one hop.
//!
//! Only URLs of the agent's own configuration are ever called. The relay gives the part behind them.

mod allow;

mod body;

mod connect;

mod service;

mod read;

mod respond;

mod error;

mod headers;

mod route;

pub use allow::{AllowTargets, Entry, Forbidden};
pub use body::EventBody;
pub(crate) use connect::reach;
pub use error::CallError;
pub(crate) use headers::request_headers;
pub(crate) use respond::{PARTS_MAX, Responder, ResponsePart, Valve, respond};
pub use route::{Place, RouteError, Target};
pub use service::{Answer, Attempt, Outcome, Service};
