//! The connection to the relay: opened outward, kept alive, replaced when in doubt.
//!
//! `driver` is the one loop that does I/O; what it does is decided by the session's state machine,
//! the inbox and `reconnect`.

mod backoff;

mod ask;

mod dial;

pub(crate) mod driver;

pub(crate) mod proxy;

mod error;

mod reconnect;

mod socket;

pub use dial::Dialer;
pub use driver::Driver;
pub use error::DialError;
pub use proxy::ProxyError;
pub(crate) use {ask::ask, error::for_people};

/// Names a connection for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId(pub(crate) u64);
