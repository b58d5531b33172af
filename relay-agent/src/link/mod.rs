//! The connections to the relay: opened outward, kept alive, replaced when in doubt.
//!
//! `driver` is the one loop that does I/O; what it does is decided by the session's state machine,
//! the inbox, `reconnect` and `carrier`.

mod backoff;

mod reconnect;

mod awake;

mod carrier;

mod dial;

pub(crate) mod proxy;

mod ask;

mod exchange;

mod socket;

mod error;

pub(crate) mod driver;

pub use dial::Dialer;
pub use driver::Driver;
pub use error::DialError;
pub use exchange::Broken;
pub use proxy::ProxyError;
pub(crate) use {
    ask::ask,
    carrier::{Choice, Memory},
    error::for_people,
};

use carrier::{Carrier, Plan};

/// Names a connection for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(crate) u64);
