//! Replay jobs: many stored events delivered again, at a pace, so that it can be planned, watched,
//! paused and cancelled.
//!
//! A job is a document in the settings with a place in the list of what it takes. Its task goes
//! through that list a piece at a time, oldest first, and asks the store to replay each piece; the
//! place is written after the piece. Whatever is asked for twice, after a crash in between, the store
//! makes once, because a job is one replay to it. What a job has made and what became of that is
//! counted by the store, not here.
//!
//! Only some of a job's deliveries are owed at a time, however many match: memory and disk stay
//! bounded, and a pause soon has an effect. They wait in the lane of replays, behind live events.

mod job;

mod documents;

mod plan;

mod counting;

mod service;

mod runner;

pub use counting::Count;
pub use documents::FilterDocument;
pub use job::{Excluded, Exclusion, Item, Job, JobSpec, JobState, Stuck, Take};
pub use service::{Created, NewJob, Progress, ReplayError, Replays};

#[cfg(test)]
mod tests;
