//! Whether lanes are kept: live before backlog before replays, and none of them starves.

use protocol::id::DeliveryId;

use crate::{
    clock::Timestamp,
    lifecycle::{LIVE_FOR, Lane},
};

/// Turns in a row that a lane behind may have while a lane before it waits.
const AHEAD_MAX: u32 = 2;

/// Turns that pass a lane by while it waits.
const PASSED_MAX: u32 = 8;

/// One destination's turns.
#[derive(Debug, Default)]
pub(super) struct LaneBooks {
    /// Turns in a row in which somebody behind a waiting lane went first: live, backlog.
    overtaken: [u32; 2],
    /// Turns in a row that passed by: backlog, replays.
    passed: [u32; 2],
}

impl LaneBooks {
    /// One of those that are ready is handed out: each with whether it is a replay, and since when it
    /// is owed.
    pub(super) fn takes(
        &mut self,
        taken: DeliveryId,
        ready: &[(DeliveryId, bool, Timestamp)],
        now: Timestamp,
    ) -> Result<(), String> {
        let lane = |(_, is_replay, since): &(DeliveryId, bool, Timestamp)| {
            if *is_replay {
                Lane::Replay
            } else if now.since(*since) < LIVE_FOR {
                Lane::Live
            } else {
                Lane::Backlog
            }
        };
        let Some(mine) = ready.iter().find(|one| one.0 == taken).map(lane) else {
            return Ok(());
        };
        let waits = |of: Lane| ready.iter().any(|one| one.0 != taken && lane(one) == of);
        for (at, of) in [Lane::Live, Lane::Backlog].into_iter().enumerate() {
            self.overtaken[at] = match mine > of && waits(of) {
                true => self.overtaken[at] + 1,
                false if mine < of => self.overtaken[at],
                false => 0,
            };
        }
        for (at, of) in [Lane::Backlog, Lane::Replay].into_iter().enumerate() {
            self.passed[at] = match mine != of && waits(of) {
                true => self.passed[at] + 1,
                false => 0,
            };
        }
        if self.overtaken.iter().any(|count| *count > AHEAD_MAX) {
            return Err(format!(
                "{} goes before what comes first, again",
                mine.as_str()
            ));
        }
        if self.passed.iter().any(|count| *count > PASSED_MAX) {
            return Err("a lane behind it starves".to_owned());
        }
        Ok(())
    }
}
