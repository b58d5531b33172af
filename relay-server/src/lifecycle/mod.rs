//! The pure rules of an event's life: what it is, the states of its deliveries, and what an
//! attempt means for them. Nothing here does I/O or knows how things are stored or sent.

mod event;

mod delivery;

mod attempt;

mod status;

mod retry;

mod order;

mod lane;

mod breaker;

mod maintenance;

mod verdict;

pub mod filter;

mod route;

mod waiting;

pub use attempt::{AttemptOutcome, AttemptReport, Ending, UnknownEnding};
pub use breaker::{Breaker, BreakerPolicy, BreakerView, Load, Sign};
pub use delivery::{DeadReason, DeliveryState, EndReason};
pub use event::{Event, Verification};
pub use lane::{LIVE_FOR, Lane, Ready, Turns};
pub use maintenance::{Maintenance, MaintenanceMistake};
pub use order::{
    BodyPlace, InvalidOrder, KEY_TEXT_BYTES_MAX, KeyDigest, KeyPlace, OnDead, Order, OrderKey,
};
pub use retry::{RetryPolicy, Spent};
pub use route::RouteDecision;
pub use status::{Meaning, StatusMistake, StatusPolicy, StatusSpec};
pub use verdict::{Excuse, History, JudgePolicy, Verdict, judge};
pub use waiting::Waiting;
