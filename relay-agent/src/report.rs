//! Outcomes become receipts, held in the journal until the relay has confirmed them.

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::frame::{Held, Offer, Outcome as Reported, Receipt, Settled};

use crate::{
    forward::{Answer, CallError, Outcome},
    journal::Journal,
};

/// Turns outcomes into receipts and remembers them.
#[derive(Debug)]
pub struct Report {
    journal: Journal,
}

impl Report {
    /// Reports with this journal.
    pub fn new(journal: Journal) -> Self {
        Self { journal }
    }

    /// The receipts of some calls, safe in the journal, in the same order.
    pub fn record(&mut self, calls: Vec<(Held, Outcome)>) -> Vec<Receipt> {
        let receipts: Vec<_> = calls
            .into_iter()
            .map(|(held, outcome)| receipt(held, outcome))
            .collect();
        self.journal.record(&receipts, now_ms());
        receipts
    }

    /// The receipt that answers an offer without a call.
    pub fn answer(&self, offer: &Offer) -> Option<Receipt> {
        self.journal.answer(offer)
    }

    /// The relay has settled these for good.
    pub fn confirm(&mut self, settled: &[Settled]) {
        self.journal.confirm(settled, now_ms());
    }

    /// What a new session has to report.
    pub fn unconfirmed(&self) -> Vec<Receipt> {
        self.journal.unconfirmed()
    }

    /// The receipts of attempts that the agent gave up, safe in the journal.
    pub fn give_up(&mut self, held: Vec<Held>, error: &CallError) -> Vec<Receipt> {
        let receipts: Vec<_> = held.into_iter().map(|held| given_up(held, error)).collect();
        self.journal.record(&receipts, now_ms());
        receipts
    }

    /// What is kept, and where.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whether the relay has everything.
    pub fn is_settled(&self) -> bool {
        self.journal.is_settled()
    }
}

/// The receipt of an attempt that the agent gave up.
fn given_up(held: Held, error: &CallError) -> Receipt {
    Receipt {
        delivery: held.delivery,
        lease: held.lease,
        attempt: held.attempt,
        outcome: failed(error),
        elapsed_ms: 0,
        response_start: Default::default(),
    }
}

fn receipt(held: Held, outcome: Outcome) -> Receipt {
    let elapsed_ms = outcome.elapsed.as_millis() as u64;
    let answer = match outcome.result {
        Ok(answer) => answer,
        Err(error) => {
            return Receipt {
                elapsed_ms,
                ..given_up(held, &error)
            };
        }
    };
    let Answer {
        status,
        headers,
        start,
        body_bytes,
    } = answer;
    Receipt {
        delivery: held.delivery,
        lease: held.lease,
        attempt: held.attempt,
        outcome: Reported::Answered {
            status: status.as_u16(),
            headers,
            body_bytes,
        },
        elapsed_ms,
        response_start: start,
    }
}

fn failed(error: &CallError) -> Reported {
    Reported::Failed {
        failure: error.failure(),
        detail: error.to_string(),
    }
}

/// Wall time, for what outlives the process.
fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}
