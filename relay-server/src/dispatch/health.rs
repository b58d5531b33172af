//! One agent at one destination: how its service is doing and what it has in hand. Pure.

use std::time::Instant;

use crate::lifecycle::{Breaker, BreakerPolicy, Load, Sign};

use protocol::id::DeliveryId;

/// Attempts of one delivery that an outage excuses when the delivery itself may be the cause: a
/// time-out, an error. So an event that a service cannot digest does not hide behind the outage it
/// makes for ever.
const EXCUSED_MAX: u32 = 1000;

/// An agent at a destination. It outlives the agent's sessions for a while.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) breaker: Breaker,
    /// Deliveries handed out whose outcome is not known.
    pub(super) in_hand: u32,
}

impl Health {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            breaker: Breaker::new(now),
            in_hand: 0,
        }
    }

    /// How many more it may get.
    pub(super) fn room(&self, now: Instant) -> u32 {
        self.breaker.room(self.in_hand, now)
    }

    pub(super) fn handle_hand_out(&mut self, delivery: DeliveryId, until: Instant) {
        self.in_hand = self.in_hand.saturating_add(1);
        self.breaker.handle_hand_out(delivery, until);
    }

    pub(super) fn handle_return(&mut self, delivery: DeliveryId, now: Instant) {
        self.in_hand = self.in_hand.saturating_sub(1);
        self.breaker.handle_return(delivery, now);
    }

    /// `free` is what its sessions would take besides what it has in hand.
    pub(super) fn handle_sign(
        &mut self,
        policy: &BreakerPolicy,
        delivery: DeliveryId,
        sign: Sign,
        free: u64,
        now: Instant,
        luck: f64,
    ) {
        let load = Load {
            in_hand: self.in_hand,
            capacity: u64::from(self.in_hand).saturating_add(free),
        };
        self.in_hand = self.in_hand.saturating_sub(1);
        self.breaker
            .handle_sign(policy, delivery, sign, load, now, luck);
    }

    /// Whether an outage excuses an attempt that ended so.
    pub(super) fn excuses(&self, sign: Sign, excused_before: u32) -> bool {
        let may_be_the_cause = sign != Sign::Unreachable;
        sign.is_bad()
            && self.breaker.is_open()
            && !(may_be_the_cause && excused_before >= EXCUSED_MAX)
    }

    /// Whether there is nothing to remember about it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.in_hand == 0 && self.breaker.is_at_rest()
    }
}
