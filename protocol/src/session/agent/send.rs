//! What an agent sends, and when.

use std::time::Instant;

use super::{AgentOutput, AgentSession, Phase, Report, held};
use crate::{
    frame::{
        Credit, Held, Hello, LeaseToken, Listen, OfferedDestination, Receipt, Release,
        ReleaseReason, Renew, Settled, ToRelay,
    },
    id::DeliveryId,
    limits::{CREDIT_DELAY_MAX, LEASES_PER_FRAME_MAX, VERSION},
    session::{CloseCode, Window, heartbeat::Beat, window::Intake},
};

impl AgentSession {
    pub(super) fn greet(&mut self, until: Instant) -> Hello {
        let config = &self.config;
        let mut destinations = Vec::with_capacity(config.destinations.len());
        for (name, _) in &config.destinations {
            let initial = self
                .intakes
                .get_mut(name)
                .map_or(Window::NONE, Intake::grant);
            destinations.push(OfferedDestination {
                name: name.clone(),
                deliveries: initial.deliveries,
                bytes: initial.bytes,
            });
        }
        let listen = config.listen.as_ref().map(|(listen, window)| {
            let window = window.clamped();
            Listen {
                deliveries: window.deliveries,
                bytes: window.bytes,
                ..listen.clone()
            }
        });
        self.phase = Phase::Greeting {
            until,
            released: Vec::new(),
            adopted: Vec::new(),
        };
        Hello {
            versions: vec![VERSION],
            instance: self.config.instance,
            name: self.config.name.clone(),
            agent: self.config.agent.clone(),
            destinations,
            holding: self.named().take(LEASES_PER_FRAME_MAX).collect(),
            replaces: std::mem::take(&mut self.replaces),
            listen,
        }
    }

    /// Attempts the relay must not take for lost: those in hand, and those whose receipts are not
    /// confirmed and follow after Welcome.
    fn named(&self) -> impl Iterator<Item = Held> {
        let reported = self.unconfirmed.receipts().map(|receipt| Held {
            delivery: receipt.delivery,
            lease: receipt.lease.clone(),
            attempt: receipt.attempt,
        });
        self.held.iter().map(held).chain(reported)
    }

    /// Asks at once whether the relay is alive, as after a sleep of the machine.
    pub fn probe(&mut self, now: Instant) {
        self.advance(now);
        if let Phase::Open(heartbeat) = &mut self.phase {
            heartbeat.probe(self.now);
            self.beat();
        }
    }

    pub(super) fn beat(&mut self) {
        while let Phase::Open(heartbeat) = &mut self.phase {
            match heartbeat.due(self.now) {
                Some(Beat::Ping(ping)) => {
                    self.send(ToRelay::Ping(ping));
                    self.renew_all();
                }
                Some(Beat::Suspect) => self.outputs.push_back(AgentOutput::Suspect),
                Some(Beat::Silent) => {
                    return self.end_with(CloseCode::Silent, "nothing heard for too long");
                }
                None => return,
            }
        }
    }

    pub(super) fn renew_all(&mut self) {
        let held: Vec<Held> = self.held.iter().map(held).collect();
        self.renew(&held);
    }

    pub(super) fn renew(&mut self, held: &[Held]) {
        for leases in held.chunks(LEASES_PER_FRAME_MAX) {
            self.send(ToRelay::Renew(Renew {
                leases: leases.to_vec(),
            }));
        }
    }

    pub(super) fn send_release(&mut self, leases: Vec<Held>) {
        let reason = if self.is_draining {
            ReleaseReason::Draining
        } else {
            ReleaseReason::Busy
        };
        for leases in leases.chunks(LEASES_PER_FRAME_MAX) {
            self.send(ToRelay::Release(Release {
                leases: leases.to_vec(),
                reason,
            }));
        }
    }

    pub(super) fn next_report(&mut self) -> Option<ToRelay> {
        if !matches!(self.phase, Phase::Open(_)) {
            return None;
        }
        loop {
            match self.reports.pop_front()? {
                Report::Response(chunk) => return Some(ToRelay::ResponseChunk(chunk)),
                Report::Receipt(key) => {
                    if let Some(receipt) = self.unconfirmed.send(key, self.now) {
                        return Some(ToRelay::Receipt(Box::new(receipt)));
                    }
                }
            }
        }
    }

    /// Keeps a receipt until it is confirmed.
    pub(super) fn keep(&mut self, mut receipt: Receipt) -> Settled {
        receipt.clip();
        self.unconfirmed.insert(receipt)
    }

    /// Takes an attempt out of the agent's hands and its window.
    pub(super) fn let_go(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        let key = (delivery, lease.clone());
        self.responses.remove(&key);
        let Some(attempt) = self.held.remove(&key) else {
            return;
        };
        let Some(destination) = attempt.destination else {
            return;
        };
        let Some(intake) = self.intakes.get_mut(&destination) else {
            return;
        };
        intake.free(attempt.body.body_bytes);
        if intake.is_grant_urgent() && self.may_grant() {
            self.grant(destination);
        } else {
            self.grant_soon();
        }
    }

    pub(super) fn grant_soon(&mut self) {
        if self.may_grant() {
            self.credit_due.get_or_insert(self.now + CREDIT_DELAY_MAX);
        }
    }

    pub(super) fn grant_due(&mut self) {
        if self.credit_due.is_none_or(|due| due > self.now) {
            return;
        }
        self.credit_due = None;
        if !self.may_grant() {
            return;
        }
        let waiting = self
            .intakes
            .iter()
            .filter(|(_, intake)| intake.has_ungranted());
        let waiting: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        for destination in waiting {
            self.grant(destination);
        }
    }

    pub(super) fn grant(&mut self, destination: String) {
        if let Some(intake) = self.intakes.get_mut(&destination) {
            let total = intake.grant();
            self.send(ToRelay::Credit(Credit {
                destination,
                deliveries: total.deliveries,
                bytes: total.bytes,
            }));
        }
    }

    /// Nothing more is let in while draining, or while the relay confirms nothing.
    pub(super) fn may_grant(&self) -> bool {
        self.is_open() && !self.is_draining && !self.unconfirmed.is_full()
    }

    pub(super) fn send(&mut self, frame: ToRelay) {
        if !self.is_ended() {
            self.outputs.push_back(AgentOutput::Send(frame));
        }
    }
}
