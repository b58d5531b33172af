//! Live connections of agents: the upgrade, the loop around the state machine, and who holds what.

mod admission;

mod driver;

mod holdings;

mod registry;

mod serving;

mod settling;

mod upgrade;

pub use registry::{Registry, SessionView};
pub use upgrade::Authorised;

pub(crate) use driver::SessionContext;
pub(crate) use upgrade::upgrade;
