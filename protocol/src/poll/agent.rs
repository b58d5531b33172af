//! The agent's end of a link.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::{Farewell, Request, batch::Waiting};
use crate::{id::PipeId, session::Violation};

/// The agent's end of a link: frames leave in upward batches, one at a time, and arrive in answers to
/// polls.
#[derive(Debug)]
pub struct AgentPipe {
    link: PipeId,
    waiting: Waiting,
    /// Said with the last batch.
    close: Option<Farewell>,
    /// The number of the last upward batch that was made.
    made: u64,
    /// That batch, until it was taken.
    under_way: Option<Bytes>,
    /// The number of the last downward batch that was received.
    received: u64,
    arrived: VecDeque<Bytes>,
    relay_closed: Option<Farewell>,
}

impl AgentPipe {
    /// A link that is not open yet.
    pub fn new(link: PipeId) -> Self {
        Self {
            link,
            waiting: Waiting::default(),
            close: None,
            made: 0,
            under_way: None,
            received: 0,
            arrived: VecDeque::new(),
            relay_closed: None,
        }
    }

    /// The link.
    pub fn link(&self) -> PipeId {
        self.link
    }

    /// The first request.
    pub fn open(&self) -> Bytes {
        Request::Open { link: self.link }.encode()
    }

    /// Whether another frame may be pushed. If not, wait until a batch was taken.
    pub fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    /// Queues a frame for the next upward batch.
    pub fn push(&mut self, frame: Bytes) {
        self.waiting.push(frame);
    }

    /// Says this with the last batch, after all that was pushed.
    pub fn close(&mut self, farewell: Farewell) {
        self.close = Some(farewell);
    }

    /// The request that brings the next batch, or the same again until it was taken.
    pub fn next_up(&mut self) -> Option<Bytes> {
        if self.under_way.is_none() && !(self.waiting.is_empty() && self.close.is_none()) {
            let frames = self.waiting.take_batch();
            let close = if self.waiting.is_empty() {
                self.close.take()
            } else {
                None
            };
            self.made += 1;
            let up = Request::Up {
                link: self.link,
                batch: self.made,
                close,
                frames,
            };
            self.under_way = Some(up.encode());
        }
        self.under_way.clone()
    }

    /// Whether all that was pushed was taken, the farewell too.
    pub fn has_said_all(&self) -> bool {
        self.waiting.is_empty() && self.close.is_none() && self.under_way.is_none()
    }

    /// The relay has taken all batches up to this one.
    ///
    /// # Errors
    ///
    /// A [`Violation`]: it was never sent; close.
    pub fn taken(&mut self, batch: u64) -> Result<(), Violation> {
        if batch > self.made {
            return Err(Violation("the relay took what was never sent"));
        }
        if batch == self.made {
            self.under_way = None;
        }
        Ok(())
    }

    /// The request that asks for the next downward batch.
    pub fn poll(&self, hold: Duration) -> Bytes {
        let poll = Request::Poll {
            link: self.link,
            received: self.received,
            hold_ms: u64::try_from(hold.as_millis()).ok(),
        };
        poll.encode()
    }

    /// Takes a downward batch; one that was received before changes nothing.
    ///
    /// # Errors
    ///
    /// A [`Violation`]: a batch was left out; close.
    pub fn take(
        &mut self,
        batch: u64,
        frames: Vec<Bytes>,
        close: Option<Farewell>,
    ) -> Result<(), Violation> {
        if batch <= self.received {
            return Ok(());
        }
        if batch > self.received + 1 {
            return Err(Violation("a downward batch was left out"));
        }
        self.received = batch;
        self.arrived.extend(frames);
        self.relay_closed = close;
        Ok(())
    }

    /// The next frame that arrived.
    pub fn read(&mut self) -> Option<Bytes> {
        self.arrived.pop_front()
    }

    /// Whether all that arrived was read: only then ask for more, so that a slow reader holds up the
    /// relay and not the memory.
    pub fn is_read(&self) -> bool {
        self.arrived.is_empty()
    }

    /// How the relay has closed, once it did.
    pub fn relay_closed(&self) -> Option<&Farewell> {
        self.relay_closed.as_ref()
    }
}
