//! Responses that a provider waits for (sync mode), on their way out.

use super::{AgentOutput, AgentSession, Report};
use crate::{
    frame::{Held, LeaseToken, ResponseChunk, ResponseCredit},
    id::DeliveryId,
    limits::CHUNK_BYTES_MAX,
    session::response::{ResponseOutlet, UNWANTED},
};

/// Part of a response that was not sent: nobody waits for it (any more), or it does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSent;

impl AgentSession {
    /// The provider may still wait for the response of an attempt of `holding`, of which nothing was
    /// sent over an earlier session. After [`Self::new`].
    pub fn may_respond(&mut self, held: &Held) {
        let key = (held.delivery, held.lease.clone());
        if self.held.contains_key(&key) {
            self.responses.insert(key, ResponseOutlet::new());
        }
    }

    /// How many body bytes of a response may be sent now; `None` if nobody waits for it.
    pub fn response_room(&self, delivery: DeliveryId, lease: &LeaseToken) -> Option<u64> {
        let response = self.responses.get(&(delivery, lease.clone()))?;
        Some(response.room())
    }

    /// Sends part of a response, in several frames if it is long, once the session is open; its place
    /// among receipts is kept. The first part brings the head, the end is marked `last`; `offset` is
    /// filled in here.
    ///
    /// # Errors
    ///
    /// [`NotSent`] unless it fits [`Self::response_room`]; then send nothing more of that response.
    pub fn respond(&mut self, chunk: ResponseChunk) -> Result<(), NotSent> {
        let key = (chunk.delivery, chunk.lease.clone());
        let is_ended = self.is_ended();
        let response = self.responses.get_mut(&key).filter(|_| !is_ended);
        let response = response.ok_or(NotSent)?;
        let mut rest = chunk;
        if !response.stamp(&mut rest) {
            return Err(NotSent);
        }
        if rest.last {
            self.responses.remove(&key);
        }
        while rest.part.len() > CHUNK_BYTES_MAX {
            let after = rest.part.split_off(CHUNK_BYTES_MAX);
            let next = ResponseChunk {
                head: None,
                offset: rest.offset.saturating_add(rest.part.len() as u64),
                part: after,
                ..rest.clone()
            };
            rest.last = false;
            self.reports.push_back(Report::Response(rest));
            rest = next;
        }
        self.reports.push_back(Report::Response(rest));
        Ok(())
    }

    pub(super) fn take_response_credit(&mut self, credit: ResponseCredit) {
        let key = (credit.delivery, credit.lease);
        if credit.bytes_max == UNWANTED {
            self.drop_response(key.0, &key.1);
            return;
        }
        let response = self.responses.get_mut(&key);
        if response.is_some_and(|response| response.grant(credit.bytes_max)) {
            let (delivery, lease) = key;
            self.outputs.push_back(AgentOutput::ResponseRoom {
                delivery,
                lease,
                bytes_max: credit.bytes_max,
            });
        }
    }

    /// Nobody waits for a response any more.
    pub(super) fn drop_response(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        if self.responses.remove(&(delivery, lease.clone())).is_some() {
            self.outputs.push_back(AgentOutput::ResponseUnwanted {
                delivery,
                lease: lease.clone(),
            });
        }
    }
}
