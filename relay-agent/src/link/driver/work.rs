//! Frames in, calls out, receipts back.

use std::time::Instant;

use protocol::{
    frame::{Held, Offer, ToAgent},
    session::AgentOutput,
};
use tokio::task::{Id, JoinError};
use tracing::debug;

use super::Driver;
use crate::{
    forward::{Attempt, CallError, Outcome},
    inbox::Admission,
    link::{LinkId, socket::Incoming},
    terminal::News,
};

/// Calls that are reported together, at most.
const CALLS_AT_ONCE_MAX: usize = 256;

impl Driver {
    /// Feeds a session with what came in.
    pub(super) fn receive(&mut self, id: LinkId, incoming: Incoming) {
        let Some(link) = self.link(id) else { return };
        let now = Instant::now();
        match incoming {
            Incoming::Frame(frame) => {
                if let ToAgent::Refuse(refuse) = &frame {
                    link.refuse = Some(refuse.clone());
                }
                // A violation has queued its own close.
                if let Err(violation) = link.session.handle_frame(frame, now) {
                    debug!(%violation, "The relay broke the protocol");
                }
            }
            Incoming::Malformed(error) => {
                debug!(%error, "The relay sent what is no frame");
                link.session.handle_malformed(now);
            }
            Incoming::Closed { code, reason } => link.session.handle_close(code, &reason),
            Incoming::Gone(reason) => {
                debug!(reason, "The connection ended");
                link.session.handle_disconnect();
            }
        }
    }

    /// Carries out what the sessions want.
    pub(super) fn perform_outputs(&mut self) {
        loop {
            let next = self.links.iter_mut().find_map(|link| {
                let output = link.session.poll_output()?;
                Some((link.id, output))
            });
            match next {
                Some((id, output)) => self.perform(id, output),
                None => return,
            }
        }
    }

    fn perform(&mut self, id: LinkId, output: AgentOutput) {
        match output {
            AgentOutput::Send(frame) => {
                if let Some(link) = self.link(id) {
                    link.socket.send(&frame);
                }
            }
            AgentOutput::Offer(offer) => self.offered(id, offer),
            AgentOutput::Body { delivery, part } => self.inbox.body(delivery, id, part),
            AgentOutput::Confirmed(settled) => {
                self.report.confirm(&settled);
                self.leave_finished();
            }
            AgentOutput::Cancel(cancel) => {
                if let Some(held) = self.inbox.cancel(&cancel) {
                    self.release(&held);
                }
                self.start_ready();
            }
            AgentOutput::Welcome(welcome) => self.welcomed(id, &welcome),
            AgentOutput::Rtt(rtt) => {
                self.news(&News::Heartbeat { rtt });
                self.answered(id);
            }
            AgentOutput::Suspect => self.suspect(id),
            AgentOutput::Drain {
                reason,
                reconnect_after,
            } => {
                self.relay_drains(id, &reason, reconnect_after);
                self.leave_finished();
            }
            AgentOutput::ResponseRoom {
                delivery,
                lease,
                bytes_max,
            } => self.response_room(delivery, &lease, bytes_max),
            AgentOutput::ResponseUnwanted { delivery, lease } => {
                self.response_unwanted(delivery, &lease);
            }
            AgentOutput::Close(close) => self.ended(id, close),
        }
    }

    fn offered(&mut self, id: LinkId, offer: Box<Offer>) {
        if let Some(receipt) = self.report.answer(&offer) {
            debug!(delivery = %offer.delivery, "Answered again from the journal");
            self.status.answered_again();
            self.send([receipt]);
            return;
        }
        if self.inbox.serves(&offer.destination) {
            self.status.offered(&offer.destination);
        }
        match self.inbox.admit(offer, id) {
            Admission::Start(attempt) => self.start(attempt),
            Admission::Waits => {}
            // The work goes on under the newer lease; whoever offered the older keeps no room for it.
            Admission::Adopted { older } => self.release(&older),
            Admission::Unserved(offer) => {
                let held = Held {
                    delivery: offer.delivery,
                    lease: offer.lease,
                    attempt: offer.attempt,
                };
                let receipts = self.report.give_up(vec![held], &CallError::NoTarget);
                self.send(receipts);
            }
        }
    }

    fn start(&mut self, attempt: Box<Attempt>) {
        let delivery = attempt.offer.delivery;
        self.view.started(&attempt);
        let call = self.calls.spawn(attempt.call());
        self.inbox.running(delivery, call);
    }

    /// Starts what has its turn because something else was dropped.
    pub(super) fn start_ready(&mut self) {
        while let Some(attempt) = self.inbox.next_ready() {
            self.start(attempt);
        }
    }

    /// Reports a call, and all that have ended meanwhile.
    pub(super) fn called(&mut self, first: Result<(Id, Outcome), JoinError>) {
        // A receipt comes after its response.
        self.respond_all();
        let mut calls = Vec::new();
        let mut next = Some(first);
        while let Some(call) = next {
            if let Some((held, outcome)) = self.take_call(call) {
                self.status.forwarded(&outcome);
                self.view.delivered(&outcome);
                calls.push((held, outcome));
            }
            if calls.len() >= CALLS_AT_ONCE_MAX {
                break;
            }
            next = self.calls.try_join_next_with_id();
            self.respond_all();
        }
        let receipts = self.report.record(calls);
        self.send(receipts);
        self.leave_finished();
    }

    fn take_call(&mut self, call: Result<(Id, Outcome), JoinError>) -> Option<(Held, Outcome)> {
        let (id, outcome) = match call {
            Ok(ended) => ended,
            Err(error) => {
                // Aborted calls are not in hand any more; what is, panicked.
                let delivery = self.inbox.called_by(error.id())?;
                let (in_hand, next) = self.inbox.finished(delivery, error.id())?;
                next.into_iter().for_each(|attempt| self.start(attempt));
                tracing::error!(%delivery, "A call ended in a panic");
                let receipts = self
                    .report
                    .give_up(vec![in_hand.held], &CallError::Internal);
                self.send(receipts);
                return None;
            }
        };
        let (in_hand, next) = self.inbox.finished(outcome.offer.delivery, id)?;
        next.into_iter().for_each(|attempt| self.start(attempt));
        Some((in_hand.held, outcome))
    }
}
