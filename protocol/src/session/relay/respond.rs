//! Responses that somebody waits for (sync mode), on their way in.

use super::{RelayOutput, RelaySession};
use crate::{
    frame::{LeaseToken, Receipt, ResponseChunk, ResponseCredit, ToAgent},
    id::DeliveryId,
    session::{
        Violation,
        response::{ResponseIntake, UNWANTED},
    },
};

impl RelaySession {
    /// Somebody waits for the response of an attempt that the agent brought with it from an earlier
    /// session. Offers with `respond` are expected without this.
    pub fn expect_response(&mut self, delivery: DeliveryId, lease: LeaseToken) {
        self.responses
            .entry((delivery, lease))
            .or_insert_with(ResponseIntake::new);
    }

    /// Body bytes of a response have been passed on: as many more may come.
    pub fn response_taken(&mut self, delivery: DeliveryId, lease: &LeaseToken, bytes: u64) {
        let key = (delivery, lease.clone());
        let grant = self
            .responses
            .get_mut(&key)
            .and_then(|response| response.grant(bytes));
        if let Some(bytes_max) = grant {
            let (delivery, lease) = key;
            self.send_response_credit(delivery, lease, bytes_max);
        }
    }

    /// Nobody waits for the response any more; the attempt goes on.
    pub fn forgo_response(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        let key = (delivery, lease.clone());
        if self.responses.remove(&key).is_some() {
            let (delivery, lease) = key;
            self.send_response_credit(delivery, lease, UNWANTED);
        }
    }

    pub(super) fn take_response(&mut self, chunk: ResponseChunk) -> Result<(), Violation> {
        let key = (chunk.delivery, chunk.lease.clone());
        let Some(response) = self.responses.get_mut(&key) else {
            // Of an attempt from before, or nobody waited long enough: the agent need not go on.
            if !chunk.last {
                let (delivery, lease) = key;
                self.send_response_credit(delivery, lease, UNWANTED);
            }
            return Ok(());
        };
        if !response.take(&chunk)? {
            return Ok(());
        }
        if chunk.last {
            self.responses.remove(&key);
        }
        self.outputs.push_back(RelayOutput::ResponseChunk(chunk));
        Ok(())
    }

    /// A receipt may come before the end of a response, but not before its head; and what failed has
    /// no end.
    pub(super) fn take_end_of_attempt(&mut self, receipt: &Receipt) {
        let key = (receipt.delivery, receipt.lease.clone());
        let goes_on = receipt.outcome.is_answered()
            && self
                .responses
                .get(&key)
                .is_some_and(ResponseIntake::has_begun);
        if !goes_on {
            self.cut_response(receipt.delivery, &receipt.lease);
        }
    }

    /// No more of a response comes.
    pub(super) fn cut_response(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        let response = self.responses.remove(&(delivery, lease.clone()));
        if response.is_some_and(|response| response.has_begun()) {
            self.outputs.push_back(RelayOutput::ResponseCut {
                delivery,
                lease: lease.clone(),
            });
        }
    }

    /// The session ends. A response that has not begun may still come over the agent's next one.
    pub(super) fn cut_responses(&mut self) {
        for ((delivery, lease), response) in std::mem::take(&mut self.responses) {
            if response.has_begun() {
                self.outputs
                    .push_back(RelayOutput::ResponseCut { delivery, lease });
            }
        }
    }

    fn send_response_credit(&mut self, delivery: DeliveryId, lease: LeaseToken, bytes_max: u64) {
        self.send_if_open(ToAgent::ResponseCredit(ResponseCredit {
            delivery,
            lease,
            bytes_max,
        }));
    }
}
