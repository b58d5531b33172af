//! What an agent makes of the relay's frames.

use std::time::Duration;

use super::{AgentOutput, AgentSession, Attempt, Phase, Report, held};
use crate::{
    frame::{Cancel, Chunk, Held, LeaseToken, Offer, Settled, ToAgent, ToRelay, Welcome},
    id::DeliveryId,
    limits::{LEASES_PER_FRAME_MAX, VERSION},
    session::{
        Close, Violation, check::check_lease, heartbeat::Heartbeat, response::ResponseOutlet,
        transfer::Incoming, window::Intake,
    },
};

impl AgentSession {
    pub(super) fn take(&mut self, frame: ToAgent) -> Result<(), Violation> {
        match (&mut self.phase, frame) {
            (_, ToAgent::Refuse(refuse)) => {
                self.end_as(Close::of_refusal(&refuse));
                Ok(())
            }
            (Phase::New { .. }, _) => Err(Violation("a frame came before Hello was sent")),
            (
                Phase::Greeting {
                    released, adopted, ..
                },
                ToAgent::Welcome(welcome),
            ) => {
                let (released, adopted) = (std::mem::take(released), std::mem::take(adopted));
                self.take_welcome(welcome, released, &adopted)
            }
            (Phase::Greeting { .. }, _) => Err(Violation("a frame came before Welcome")),
            (Phase::Open(heartbeat), ToAgent::Ping(ping)) => {
                let pong = heartbeat.answer(ping, self.now)?;
                self.send(ToRelay::Pong(pong));
                Ok(())
            }
            (Phase::Open(heartbeat), ToAgent::Pong(pong)) => {
                let rtt = heartbeat.take_answer(pong, self.now);
                self.outputs.extend(rtt.map(AgentOutput::Rtt));
                Ok(())
            }
            (Phase::Open(_), frame) => self.take_work(frame),
        }
    }

    fn take_work(&mut self, frame: ToAgent) -> Result<(), Violation> {
        match frame {
            ToAgent::Offer(offer) => self.take_offer(offer)?,
            ToAgent::Chunk(chunk) => self.take_chunk(chunk)?,
            ToAgent::Confirm(confirm) => self.take_confirm(confirm.receipts)?,
            ToAgent::Cancel(cancel) => self.take_cancel(cancel),
            ToAgent::ResponseCredit(credit) => self.take_response_credit(credit),
            ToAgent::Drain(drain) => self.outputs.push_back(AgentOutput::Drain {
                reason: drain.reason,
                reconnect_after: Duration::from_millis(drain.reconnect_after_ms),
            }),
            ToAgent::Welcome(_) => return Err(Violation("a second Welcome")),
            ToAgent::Ping(_) | ToAgent::Pong(_) | ToAgent::Refuse(_) => {}
        }
        Ok(())
    }

    fn take_welcome(
        &mut self,
        welcome: Welcome,
        released: Vec<Held>,
        adopted: &[Held],
    ) -> Result<(), Violation> {
        if welcome.version != VERSION {
            return Err(Violation("Welcome names a version that Hello did not"));
        }
        if let (Some(listening), Some((_, window))) = (&welcome.listening, &self.config.listen) {
            let mut intake = Intake::new(*window);
            intake.grant();
            self.intakes.insert(listening.destination.clone(), intake);
        }
        self.intakes.retain(|name, _| {
            welcome
                .destinations
                .iter()
                .any(|served| served.name == *name)
        });
        self.phase = Phase::Open(Heartbeat::new(
            Duration::from_millis(welcome.heartbeat_ms),
            Duration::from_millis(welcome.silence_ms),
            self.now,
        ));
        self.outputs
            .push_back(AgentOutput::Welcome(Box::new(welcome)));
        // Hello named the first ones only; what it named and was handed back since is released.
        if self.held.len() > LEASES_PER_FRAME_MAX {
            self.renew_all();
        } else {
            self.renew(adopted);
        }
        if !released.is_empty() {
            self.send_release(released);
        }
        self.reports
            .extend(self.unconfirmed.keys().map(Report::Receipt));
        // Attempts that ended since Hello have left room.
        self.credit_due = Some(self.now);
        Ok(())
    }

    fn take_offer(&mut self, offer: Box<Offer>) -> Result<(), Violation> {
        check_lease(&offer.lease)?;
        if offer.attempt == 0 {
            return Err(Violation("attempts are counted from 1"));
        }
        let body = Incoming::start(&offer)?;
        let key = (offer.delivery, offer.lease.clone());
        let Some(intake) = self.intakes.get_mut(&offer.destination) else {
            return Err(Violation("an offer for a destination that is not served"));
        };
        intake.arrive(&offer)?;
        if self.held.contains_key(&key) || self.is_answered(&offer) {
            self.grant_soon();
            return Ok(());
        }
        if self.is_draining {
            let (delivery, lease) = key;
            let attempt = offer.attempt;
            self.send_release(vec![Held {
                delivery,
                lease,
                attempt,
            }]);
            return Ok(());
        }
        self.abandon_incomplete(offer.delivery);
        self.take_in_hand(key, &offer, body);
        self.outputs.push_back(AgentOutput::Offer(offer));
        Ok(())
    }

    fn take_in_hand(&mut self, key: (DeliveryId, LeaseToken), offer: &Offer, body: Incoming) {
        if let Some(intake) = self.intakes.get_mut(&offer.destination) {
            intake.hold(offer.body_bytes);
            // What was lost on the way leaves room again.
            if intake.has_ungranted() {
                self.grant_soon();
            }
        }
        let attempt = Attempt {
            number: offer.attempt,
            destination: Some(offer.destination.clone()),
            body,
        };
        if offer.respond {
            self.responses.insert(key.clone(), ResponseOutlet::new());
        }
        self.held.insert(key, attempt);
    }

    fn take_chunk(&mut self, chunk: Chunk) -> Result<(), Violation> {
        // A chunk may have been on its way while its attempt ended.
        let Some(attempt) = self.held.get_mut(&(chunk.delivery, chunk.lease.clone())) else {
            return Ok(());
        };
        if attempt.body.take(&chunk)? {
            self.outputs.push_back(AgentOutput::Body {
                delivery: chunk.delivery,
                part: chunk.part,
            });
        }
        Ok(())
    }

    fn take_confirm(&mut self, receipts: Vec<Settled>) -> Result<(), Violation> {
        if receipts.len() > LEASES_PER_FRAME_MAX {
            return Err(Violation("a frame confirms too many receipts"));
        }
        let was_full = self.unconfirmed.is_full();
        for key in &receipts {
            self.unconfirmed.remove(*key);
        }
        if was_full {
            self.grant_soon();
        }
        self.outputs.push_back(AgentOutput::Confirmed(receipts));
        Ok(())
    }

    fn take_cancel(&mut self, cancel: Cancel) {
        let key = (cancel.delivery, cancel.lease.clone());
        let incomplete = self
            .held
            .get_key_value(&key)
            .filter(|(_, attempt)| !attempt.body.is_complete())
            .map(held);
        self.drop_response(key.0, &key.1);
        self.outputs.push_back(AgentOutput::Cancel(cancel));
        if let Some(held) = incomplete {
            self.release(held);
        }
    }

    /// Whether the answer to this very attempt is already on its way.
    fn is_answered(&self, offer: &Offer) -> bool {
        let key = Settled {
            delivery: offer.delivery,
            attempt: offer.attempt,
        };
        self.unconfirmed
            .get(key)
            .is_some_and(|receipt| receipt.lease == offer.lease)
    }

    /// A delivery that is offered anew under another lease: what came of its body is of no use.
    fn abandon_incomplete(&mut self, delivery: DeliveryId) {
        let incomplete = self
            .held
            .range((delivery, LeaseToken(String::new()))..)
            .take_while(|((other, _), _)| *other == delivery)
            .find(|(_, attempt)| !attempt.body.is_complete())
            .map(held);
        if let Some(held) = incomplete {
            self.outputs.push_back(AgentOutput::Cancel(Cancel {
                delivery,
                lease: held.lease.clone(),
                reason: "offered anew before its body was complete".to_owned(),
            }));
            self.release(held);
        }
    }
}
