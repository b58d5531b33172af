//! Several sessions of one agent: they share its windows, and one may take over what another had.

use super::{AgentSession, Attempt, Phase};
use crate::{
    frame::Held,
    session::{transfer::Incoming, window::Intake},
};

impl AgentSession {
    /// So many sessions serve the destinations together, and each takes its part of the deliveries. What
    /// was granted already stays so.
    pub fn share(&mut self, sessions: u64) {
        for intake in self.intakes.values_mut() {
            intake.share(sessions);
        }
        if self.intakes.values().any(Intake::has_ungranted) {
            self.grant_soon();
        }
    }

    /// Takes over an attempt whose offer came over another session, with its complete body: it counts
    /// against the window, and its lease is renewed over this one from now on.
    pub fn adopt(&mut self, held: Held, destination: &str, body_bytes: u64) {
        let key = (held.delivery, held.lease.clone());
        if self.is_ended() || self.held.contains_key(&key) {
            return;
        }
        let intake = self.intakes.get_mut(destination);
        let attempt = Attempt {
            number: held.attempt,
            destination: intake.map(|intake| {
                intake.hold(body_bytes);
                destination.to_owned()
            }),
            body: Incoming::whole(body_bytes),
        };
        self.held.insert(key, attempt);
        match &mut self.phase {
            Phase::New { .. } => {}
            Phase::Greeting { adopted, .. } => adopted.push(held),
            Phase::Open(_) => self.renew(&[held]),
        }
    }

    /// Whether an attempt is in hand here.
    pub fn holds(&self, held: &Held) -> bool {
        self.held.contains_key(&(held.delivery, held.lease.clone()))
    }

    /// Whether nothing is in hand, and all that was reported is confirmed.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.unconfirmed.is_empty()
    }
}
