//! The relay's end of a link.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Answer, Farewell, batch::Waiting};
use crate::session::Violation;

/// The relay's end of a link: frames arrive in upward batches and leave in answers to polls.
///
/// It holds at most a batch that has arrived, one that is not acknowledged, and about one that waits.
#[derive(Debug, Default)]
pub struct RelayPipe {
    /// The number of the last upward batch that was taken.
    taken: u64,
    arrived: VecDeque<Bytes>,
    arrived_bytes: usize,
    agent_closed: Option<Farewell>,
    waiting: Waiting,
    /// The number of the last downward batch that was made.
    made: u64,
    /// That batch, as it was answered, until a poll says that it was received.
    unacknowledged: Option<Bytes>,
    /// What is said last, once it is known.
    farewell: Option<Farewell>,
    is_ended: bool,
    newest_poll: u64,
}

/// What is to be done with an upward batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upward {
    /// It is the next one: [`RelayPipe::take`] it.
    Next,
    /// It is the next one, but what came before was not read yet: ask again when it was.
    Full,
    /// It has arrived before, or nobody reads any more: answer that it was taken.
    Repeated,
}

/// A poll that is being held. A later one ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollTicket(Option<u64>);

impl RelayPipe {
    /// Judges an upward batch by its number.
    ///
    /// # Errors
    ///
    /// A [`Violation`]: a batch was left out; close.
    pub fn judge(&self, batch: u64) -> Result<Upward, Violation> {
        if batch <= self.taken || self.is_ended {
            return Ok(Upward::Repeated);
        }
        if batch > self.taken + 1 {
            return Err(Violation("an upward batch was left out"));
        }
        if self.agent_closed.is_some() {
            return Err(Violation("an upward batch came after the last one"));
        }
        Ok(if self.arrived.is_empty() {
            Upward::Next
        } else {
            Upward::Full
        })
    }

    /// Takes the next upward batch.
    pub fn take(&mut self, frames: Vec<Bytes>, close: Option<Farewell>) {
        self.taken += 1;
        self.arrived_bytes += frames.iter().map(Bytes::len).sum::<usize>();
        self.arrived.extend(frames);
        self.agent_closed = close;
    }

    /// The number of the last upward batch that was taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The next frame that arrived.
    pub fn read(&mut self) -> Option<Bytes> {
        let frame = self.arrived.pop_front()?;
        self.arrived_bytes -= frame.len();
        Some(frame)
    }

    /// Bytes of all frames it holds, in both directions.
    pub fn held_bytes(&self) -> usize {
        let unacknowledged = self.unacknowledged.as_ref().map_or(0, Bytes::len);
        self.arrived_bytes + self.waiting.bytes() + unacknowledged
    }

    /// Whether nothing waits for a poll.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the last upward batch was taken, and how the agent closed.
    pub fn agent_closed(&self) -> Option<&Farewell> {
        self.agent_closed.as_ref()
    }

    /// Whether another frame may be pushed. If not, wait for a poll.
    pub fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    /// Queues a frame for the next downward batch.
    pub fn push(&mut self, frame: Bytes) {
        if !self.is_ended {
            self.waiting.push(frame);
        }
    }

    /// The session has ended: what waits still goes, and this is said last. Nothing is read any more.
    pub fn end(&mut self, farewell: Farewell) {
        if !self.is_ended {
            self.is_ended = true;
            self.farewell = Some(farewell);
            self.arrived.clear();
            self.arrived_bytes = 0;
        }
    }

    /// Whether the last word was handed out.
    pub fn is_said(&self) -> bool {
        self.is_ended && self.farewell.is_none()
    }

    /// Whether there is nothing to come any more.
    pub fn is_over(&self) -> bool {
        self.is_said() && self.unacknowledged.is_none()
    }

    /// The agent broke the rules: nothing more of it is read.
    pub fn abandon(&mut self, farewell: Farewell) {
        self.agent_closed.get_or_insert(farewell);
    }

    /// Forgets all there was still to say.
    pub fn clear(&mut self) {
        self.is_ended = true;
        self.farewell = None;
        self.waiting.clear();
        self.unacknowledged = None;
    }

    /// A poll came in, which says what was received. It ends the one held before, unless it is old.
    ///
    /// # Errors
    ///
    /// A [`Violation`]: it says that a batch was received that was never made; close.
    pub fn begin_poll(&mut self, received: u64) -> Result<PollTicket, Violation> {
        if received > self.made {
            return Err(Violation("a poll received what was never sent"));
        }
        if received == self.made {
            self.unacknowledged = None;
        } else if received + 1 < self.made || self.unacknowledged.is_none() {
            // It was delayed on its way, and a later one has said more.
            return Ok(PollTicket(None));
        }
        self.newest_poll += 1;
        Ok(PollTicket(Some(self.newest_poll)))
    }

    /// The answer to a poll, if there is one by now.
    pub fn answer_poll(&mut self, ticket: PollTicket) -> Option<Bytes> {
        if ticket.0 != Some(self.newest_poll) {
            return Some(Answer::NOTHING.encode());
        }
        if self.unacknowledged.is_none() {
            self.make_batch();
        }
        self.unacknowledged.clone()
    }

    fn make_batch(&mut self) {
        if self.waiting.is_empty() && self.farewell.is_none() {
            return;
        }
        let frames = self.waiting.take_batch();
        let close = if self.waiting.is_empty() {
            self.farewell.take()
        } else {
            None
        };
        self.made += 1;
        let answer = Answer::Down {
            batch: Some(self.made),
            close,
            frames,
        };
        self.unacknowledged = Some(answer.encode());
    }
}
