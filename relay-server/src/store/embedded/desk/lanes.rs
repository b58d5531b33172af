//! What one destination can hand out, by lane and place.

use std::collections::BTreeMap;

use protocol::id::DeliveryId;

use crate::lifecycle::{Lane, Ready, Turns};

/// The deliveries that are ready, by place.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Of what is live, what somebody waits for.
    waited_for: BTreeMap<u64, DeliveryId>,
    /// The rest of it.
    live: BTreeMap<u64, DeliveryId>,
    backlog: BTreeMap<u64, DeliveryId>,
    replay: BTreeMap<u64, DeliveryId>,
    turns: Turns,
}

impl Lanes {
    fn lane(&self, lane: Lane) -> &BTreeMap<u64, DeliveryId> {
        match lane {
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
            Lane::Replay => &self.replay,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut BTreeMap<u64, DeliveryId> {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backlog => &mut self.backlog,
            Lane::Replay => &mut self.replay,
        }
    }

    fn ready(&self) -> Ready {
        Ready {
            live: !self.waited_for.is_empty() || !self.live.is_empty(),
            backlog: !self.backlog.is_empty(),
            replay: !self.replay.is_empty(),
        }
    }

    pub(super) fn insert(&mut self, lane: Lane, place: u64, id: DeliveryId) {
        self.lane_mut(lane).insert(place, id);
    }

    /// Lists what is live and waited for.
    pub(super) fn insert_waited_for(&mut self, place: u64, id: DeliveryId) {
        self.waited_for.insert(place, id);
    }

    pub(super) fn remove(&mut self, lane: Lane, place: u64) {
        if self.lane_mut(lane).remove(&place).is_none() && lane == Lane::Live {
            self.waited_for.remove(&place);
        }
    }

    /// How many are ready in a lane. What is waited for does not count: whoever waits is counted.
    pub(super) fn count(&self, lane: Lane) -> usize {
        self.lane(lane).len()
    }

    /// The oldest one that is live.
    pub(super) fn first_live(&self) -> Option<(u64, DeliveryId)> {
        let first = self.live.first_key_value();
        first.map(|(place, id)| (*place, *id))
    }

    /// The oldest one that is waited for.
    pub(super) fn first_waited_for(&self) -> Option<DeliveryId> {
        self.waited_for.first_key_value().map(|(_, id)| *id)
    }

    /// What is handed out next, and from which lane.
    pub(super) fn next(&self) -> Option<(Lane, DeliveryId)> {
        let lane = self.turns.next(self.ready())?;
        let waited_for = self.first_waited_for().filter(|_| lane == Lane::Live);
        let id = waited_for.or_else(|| self.lane(lane).values().next().copied())?;
        Some((lane, id))
    }

    /// Takes note that the next of a lane is being handed out; it is still listed.
    pub(super) fn took(&mut self, lane: Lane) {
        self.turns.took(lane, self.ready());
    }
}
