//! Live connections of agents: how they are opened, the loop around the state machine, and who holds
//! what.

mod authorised;

mod upgrade;

mod poll;

mod pipes;

mod transport;

mod admission;

mod driver;

pub(crate) mod holdings;

mod registry;

mod serving;

mod settling;

mod answers;

mod signatures;

pub use authorised::Authorised;
pub use registry::{Registry, SessionView};

pub(crate) use driver::SessionContext;
pub(crate) use pipes::{POLL, Pipes};
pub(crate) use poll::poll;
pub(crate) use upgrade::upgrade;
