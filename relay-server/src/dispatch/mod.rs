//! Due deliveries meet sessions with credit.
//!
//! One task asks the store. What to ask for, and who gets what, is decided by a state machine without
//! I/O. It works in rounds: in each, every tenant may hand out an equal share, its destinations in
//! turn, so that no tenant and no destination starves another. A destination can be held back by its
//! agents' credit, by a pause, by its rate, and by a breaker for each agent whose service is down.

mod rules;

mod bucket;

mod fairness;

mod health;

mod line;

mod machine;

mod view;

mod handle;

pub(crate) mod driver;

#[cfg(test)]
mod tests;

pub(crate) use bucket::Bucket;
pub use driver::Dispatcher;
pub use handle::{DispatchHandle, Outlet, Rulebook};
pub use machine::{Assigned, Dispatch, Moment};
pub use rules::{Pause, Rules, TenantRules, Wait};
pub use view::{AgentView, LineView, ServiceView};
