//! What services answered, kept until the relay has it.
//!
//! A lost connection or a kill -9 between the service's answer and the relay's Confirm must not make
//! the service do its work twice. So an outcome is written here before its receipt is sent, is sent
//! again until it is confirmed, and a success is remembered for a while afterwards: it answers every
//! later attempt of that delivery without a call. A failure answers only its own attempt.
//!
//! A record is in the page cache before its receipt is sent, which a kill -9 cannot undo. Syncing to
//! the disk follows in the background: after a power loss the last moments may be missing, and the
//! services concerned are called once more, which is what "at least once" allows.

mod file;

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::Path,
};

use protocol::{
    frame::{Offer, Outcome, Receipt, Settled},
    id::DeliveryId,
};
use tracing::warn;

use file::{JournalFile, Record};

/// How long a success is remembered after the last attempt, in milliseconds: the relay's default
/// retry window is three days.
pub const REMEMBERED_MS: u64 = 72 * 60 * 60 * 1000;

/// How many successes are remembered; beyond that the oldest go.
pub const REMEMBERED_MAX: usize = 64 * 1024;

/// What services answered, kept until the relay has it.
#[derive(Debug)]
pub struct Journal {
    unconfirmed: HashMap<Settled, Receipt>,
    successes: HashMap<DeliveryId, Success>,
    /// The same in the order in which they were recorded.
    oldest: VecDeque<(u64, DeliveryId)>,
    file: Option<JournalFile>,
}

/// A success that answers later attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Success {
    status: u16,
    at_ms: u64,
}

impl Journal {
    /// A journal that ends with the process.
    pub fn in_memory() -> Self {
        Self {
            unconfirmed: HashMap::new(),
            successes: HashMap::new(),
            oldest: VecDeque::new(),
            file: None,
        }
    }

    /// Opens the journal of a directory, which must belong to this process alone. A torn end, as a
    /// crash leaves it, is cut off.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn open(directory: &Path, now_ms: u64) -> io::Result<Self> {
        let mut journal = Self::in_memory();
        let (file, records) = JournalFile::open(directory)?;
        for record in records {
            journal.apply(record);
        }
        journal.forget_old(now_ms);
        journal.file = Some(file);
        Ok(journal)
    }

    /// Keeps outcomes. When it returns they survive the death of this process; if the disk refuses,
    /// work goes on without that promise and the log says so.
    pub fn record(&mut self, receipts: &[Receipt], now_ms: u64) {
        for receipt in receipts {
            if let Some(file) = &mut self.file {
                file.add_receipt(receipt, now_ms);
            }
            self.keep(receipt.clone(), now_ms);
        }
        self.write(now_ms);
    }

    /// The relay has settled these for good.
    pub fn confirm(&mut self, settled: &[Settled], now_ms: u64) {
        for key in settled {
            if self.unconfirmed.remove(key).is_some()
                && let Some(file) = &mut self.file
            {
                file.add_confirmed(*key);
            }
        }
        self.write(now_ms);
    }

    /// The receipt that answers an offer without a call, if its outcome is known.
    pub fn answer(&self, offer: &Offer) -> Option<Receipt> {
        let own = Settled {
            delivery: offer.delivery,
            attempt: offer.attempt,
        };
        if let Some(receipt) = self.unconfirmed.get(&own) {
            return Some(Receipt {
                lease: offer.lease.clone(),
                ..receipt.clone()
            });
        }
        let success = self.successes.get(&offer.delivery)?;
        Some(Receipt {
            delivery: offer.delivery,
            lease: offer.lease.clone(),
            attempt: offer.attempt,
            outcome: Outcome::Answered {
                status: success.status,
                headers: Default::default(),
                body_bytes: 0,
            },
            elapsed_ms: 0,
            response_start: Default::default(),
        })
    }

    /// What a new session has to report.
    pub fn unconfirmed(&self) -> Vec<Receipt> {
        self.unconfirmed.values().cloned().collect()
    }

    /// Whether the relay has everything.
    pub fn is_settled(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    /// Successes that are remembered.
    pub fn remembered(&self) -> usize {
        self.successes.len()
    }

    /// Receipts that the relay has not confirmed.
    pub fn unconfirmed_count(&self) -> usize {
        self.unconfirmed.len()
    }

    /// Size of the file, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, JournalFile::bytes)
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Receipt { receipt, at_ms } => self.keep(*receipt, at_ms),
            Record::Confirmed(key) => {
                self.unconfirmed.remove(&key);
            }
            Record::Success {
                delivery,
                status,
                at_ms,
            } => {
                self.remember(delivery, Success { status, at_ms });
            }
        }
    }

    fn keep(&mut self, receipt: Receipt, at_ms: u64) {
        if let Outcome::Answered {
            status: status @ 200..=299,
            ..
        } = receipt.outcome
        {
            self.remember(receipt.delivery, Success { status, at_ms });
        }
        let key = Settled {
            delivery: receipt.delivery,
            attempt: receipt.attempt,
        };
        self.unconfirmed.insert(key, receipt);
    }

    fn remember(&mut self, delivery: DeliveryId, success: Success) {
        if self.successes.insert(delivery, success).is_none() {
            self.oldest.push_back((success.at_ms, delivery));
        }
        if self.oldest.len() > REMEMBERED_MAX {
            self.forget_oldest();
        }
    }

    fn forget_old(&mut self, now_ms: u64) {
        while let Some(&(at_ms, _)) = self.oldest.front() {
            if at_ms.saturating_add(REMEMBERED_MS) > now_ms {
                break;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, delivery)) = self.oldest.pop_front() {
            self.successes.remove(&delivery);
        }
    }

    fn write(&mut self, now_ms: u64) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write() {
            warn!(%error, "Cannot write the journal: outcomes are in memory only");
        }
        if file.wants_compaction() {
            self.compact(now_ms);
        }
    }

    /// Writes what is still wanted to a fresh file that takes the place of the old one.
    fn compact(&mut self, now_ms: u64) {
        self.forget_old(now_ms);
        let Some(file) = &mut self.file else { return };
        for (at_ms, delivery) in &self.oldest {
            if let Some(success) = self.successes.get(delivery) {
                file.add_success(*delivery, success.status, *at_ms);
            }
        }
        for receipt in self.unconfirmed.values() {
            file.add_receipt(receipt, now_ms);
        }
        if let Err(error) = file.replace() {
            warn!(%error, "Cannot compact the journal");
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::frame::ServiceFailure;

    use super::*;
    use crate::inbox::sample::{offer, receipt};

    fn failed(number: u128, attempt: u32) -> Receipt {
        let mut receipt = receipt(number, attempt, 200);
        receipt.outcome = Outcome::Failed {
            failure: ServiceFailure::Connect,
            detail: "connection refused".to_owned(),
        };
        receipt
    }

    fn key(receipt: &Receipt) -> Settled {
        Settled {
            delivery: receipt.delivery,
            attempt: receipt.attempt,
        }
    }

    #[test]
    fn success_answers_every_attempt_and_failure_its_own() {
        let mut journal = Journal::in_memory();
        journal.record(&[receipt(1, 1, 204), failed(2, 1), receipt(3, 1, 500)], 0);

        let answered = journal.answer(&offer(1, 2)).unwrap();
        assert!(answered.outcome.is_success());
        assert_eq!((answered.attempt, &answered.lease), (2, &offer(1, 2).lease));
        assert_eq!(
            journal.answer(&offer(2, 1)).unwrap().outcome,
            failed(2, 1).outcome
        );
        assert_eq!(journal.answer(&offer(2, 2)), None);
        assert_eq!(journal.answer(&offer(3, 2)), None);
        assert_eq!(journal.answer(&offer(4, 1)), None);
    }

    #[test]
    fn confirmed_outcomes_are_not_sent_again_but_successes_are_remembered() {
        let mut journal = Journal::in_memory();
        journal.record(&[receipt(1, 1, 200), failed(2, 1)], 0);
        journal.confirm(&[key(&receipt(1, 1, 200)), key(&failed(2, 1))], 1);

        assert!(journal.is_settled());
        assert!(journal.answer(&offer(1, 5)).is_some());
        assert_eq!(journal.answer(&offer(2, 1)), None);
    }

    #[test]
    fn what_was_recorded_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path(), 0).unwrap();
        journal.record(&[receipt(1, 1, 200), failed(2, 1), receipt(3, 1, 200)], 5);
        journal.confirm(&[key(&receipt(3, 1, 200))], 6);
        drop(journal);

        let journal = Journal::open(directory.path(), 10).unwrap();
        let mut left: Vec<_> = journal.unconfirmed();
        left.sort_by_key(|receipt| receipt.delivery);
        assert_eq!(left, [receipt(1, 1, 200), failed(2, 1)]);
        assert!(journal.answer(&offer(3, 9)).is_some());

        let later = Journal::open(directory.path(), REMEMBERED_MS + 5).unwrap();
        assert_eq!(later.answer(&offer(3, 9)), None);
    }

    #[test]
    fn torn_end_is_cut_at_every_byte() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path(), 0).unwrap();
        journal.record(&[receipt(1, 1, 200)], 0);
        let path = directory.path().join(file::NAME);
        let whole_first = std::fs::read(&path).unwrap().len();
        journal.record(&[receipt(2, 1, 200)], 0);
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();

        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let mut journal = Journal::open(directory.path(), 0).unwrap();
            let expected = usize::from(length >= whole_first);
            assert_eq!(journal.unconfirmed().len(), expected, "cut at {length}");

            journal.record(&[receipt(3, 1, 200)], 0);
            drop(journal);
            let journal = Journal::open(directory.path(), 0).unwrap();
            assert_eq!(
                journal.unconfirmed().len(),
                expected + 1,
                "appended after {length}"
            );
        }
    }

    #[test]
    fn damaged_record_ends_the_journal() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path(), 0).unwrap();
        journal.record(&[receipt(1, 1, 200), receipt(2, 1, 200)], 0);
        drop(journal);
        let path = directory.path().join(file::NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();

        let journal = Journal::open(directory.path(), 0).unwrap();
        assert_eq!(journal.unconfirmed(), [receipt(1, 1, 200)]);
    }

    #[test]
    fn compaction_keeps_what_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path(), 0).unwrap();
        for number in 0..1000 {
            journal.record(&[receipt(number, 1, 200)], number as u64);
            journal.confirm(&[key(&receipt(number, 1, 200))], number as u64);
        }
        journal.record(&[failed(5000, 2)], 0);
        let path = directory.path().join(file::NAME);
        let before = std::fs::metadata(&path).unwrap().len();
        journal.compact(1000);
        journal.record(&[failed(5001, 2)], 0);
        drop(journal);

        assert!(std::fs::metadata(&path).unwrap().len() < before / 2);
        let journal = Journal::open(directory.path(), 1000).unwrap();
        assert_eq!(journal.unconfirmed().len(), 2);
        assert!((0..1000).all(|number| journal.answer(&offer(number, 7)).is_some()));
    }

    #[test]
    fn memory_is_bounded() {
        let mut journal = Journal::in_memory();
        for number in 0..REMEMBERED_MAX as u128 + 10 {
            let receipt = receipt(number, 1, 200);
            journal.record(std::slice::from_ref(&receipt), 0);
            journal.confirm(&[key(&receipt)], 0);
        }
        assert_eq!(journal.successes.len(), REMEMBERED_MAX);
        assert_eq!(journal.answer(&offer(3, 2)), None);
    }
}
