//! The body of an answer on its way from a session to whoever waits for it.
//!
//! A pipe holds what the agent may send ahead of the slowest reader and no more. There is more than
//! one reader only if a provider repeated its request while the first was held.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::{Attempt, Flow, Place};

/// Parts shorter than this are joined with the one before, so that an agent which sends single bytes
/// costs no more memory than one which sends all at once.
const PART_BYTES_MIN: usize = 4096;

/// How long a provider may take for the whole body.
const BODY_MAX: Duration = Duration::from_mins(15);

/// The body of one answer.
pub(crate) struct Pipe {
    flow: Flow,
    attempt: Attempt,
    /// Who waits for the answer and has not begun to read: until they have, its start is kept.
    seats: Arc<AtomicUsize>,
    inner: Mutex<Inner>,
    /// It ended before it was complete.
    broken: CancellationToken,
}

#[derive(Default)]
struct Inner {
    parts: VecDeque<Bytes>,
    /// How many bytes were dropped in front of `parts`: every reader has them.
    base: u64,
    received: u64,
    end: Option<End>,
    readers: BTreeMap<u64, Reader>,
    readers_made: u64,
    /// There was a reader, and there is none any more.
    is_abandoned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Cut,
}

#[derive(Default)]
struct Reader {
    at: u64,
    waker: Option<Waker>,
}

/// The rest of a body will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rest of the service's answer did not arrive")]
pub(crate) struct Cut;

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}

impl Pipe {
    pub(super) fn new(flow: Flow, attempt: Attempt, seats: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            flow,
            attempt,
            seats,
            inner: Mutex::default(),
            broken: CancellationToken::new(),
        })
    }

    /// Takes the next part. False if nobody reads any more.
    pub(crate) fn push(&self, part: Bytes) -> bool {
        let mut inner = self.inner();
        if inner.is_abandoned {
            return false;
        }
        if !part.is_empty() {
            inner.received += part.len() as u64;
            inner.parts.push_back(part);
            inner.join_short_parts();
            inner.wake();
        }
        true
    }

    /// The body is complete.
    pub(crate) fn complete(&self) {
        self.end(End::Complete);
    }

    /// No more of the body comes.
    pub(crate) fn cut(&self) {
        self.end(End::Cut);
    }

    fn end(&self, end: End) {
        let mut inner = self.inner();
        let end = *inner.end.get_or_insert(end);
        inner.wake();
        drop(inner);
        if end == End::Cut {
            self.broken.cancel();
        }
    }

    /// Waits until it ends before it is complete; for ever, if it never does. Cancel-safe.
    pub(crate) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// Whether it ended before it was complete.
    pub(crate) fn is_cut(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// Whether all of it is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.inner().end == Some(End::Complete)
    }

    /// A reader from the start on; `None` if the start is gone already.
    pub(crate) fn read(self: &Arc<Self>, place: Arc<Place>) -> Option<Reading> {
        let mut inner = self.inner();
        if inner.base > 0 || inner.is_abandoned {
            return None;
        }
        let id = inner.readers_made;
        inner.readers_made += 1;
        inner.readers.insert(id, Reader::default());
        drop(inner);
        Some(Reading {
            pipe: Arc::clone(self),
            id,
            deadline: Box::pin(sleep(BODY_MAX)),
            _place: place,
        })
    }

    /// Drops what every reader has, and tells the session. Without a reader, now or to come, nobody
    /// wants the body.
    pub(super) fn catch_up(&self) {
        let mut inner = self.inner();
        if self.seats.load(Ordering::SeqCst) > 0 {
            return;
        }
        let is_unwanted = inner.readers.is_empty() && !inner.is_abandoned;
        let was_open = inner.end.is_none();
        let taken = inner.advance();
        if is_unwanted {
            inner.is_abandoned = true;
            inner.parts.clear();
        }
        drop(inner);
        if is_unwanted && was_open {
            self.flow.unwanted(&self.attempt);
        } else {
            self.flow.taken(&self.attempt, taken);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&mut self) {
        for reader in self.readers.values_mut() {
            if let Some(waker) = reader.waker.take() {
                waker.wake();
            }
        }
    }

    /// Joins the last parts while both are short and the later one is not the shorter, so that each
    /// byte is copied a few times at most.
    fn join_short_parts(&mut self) {
        while let [.., before, last] = self.parts.make_contiguous()
            && last.len() >= before.len()
            && last.len() < PART_BYTES_MIN
        {
            let mut joined = BytesMut::with_capacity(before.len() + last.len());
            joined.extend_from_slice(before);
            joined.extend_from_slice(last);
            self.parts.truncate(self.parts.len() - 2);
            self.parts.push_back(joined.freeze());
        }
    }

    /// What follows a position, up to the end of its part.
    fn part_at(&self, at: u64) -> Option<Bytes> {
        let mut start = self.base;
        for part in &self.parts {
            let end = start + part.len() as u64;
            if at < end {
                // Within the part, whose length is one of memory.
                return Some(part.slice((at - start) as usize..));
            }
            start = end;
        }
        None
    }

    /// Drops what every reader has; answers how many bytes that were.
    fn advance(&mut self) -> u64 {
        let slowest = self.readers.values().map(|reader| reader.at).min();
        let mut dropped = 0;
        while let (Some(slowest), Some(part)) = (slowest, self.parts.front())
            && self.base + part.len() as u64 <= slowest
        {
            dropped += part.len() as u64;
            self.base += part.len() as u64;
            self.parts.pop_front();
        }
        dropped
    }
}

/// One reader of a pipe: the body of a response.
pub(crate) struct Reading {
    pipe: Arc<Pipe>,
    id: u64,
    deadline: Pin<Box<Sleep>>,
    /// It counts as a held request for as long as it is read.
    _place: Arc<Place>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Cut)));
        }
        let this = &*self;
        let mut inner = this.pipe.inner();
        let Some(at) = inner.readers.get(&this.id).map(|reader| reader.at) else {
            return Poll::Ready(Some(Err(Cut)));
        };
        let part = inner.part_at(at);
        if let (None, Some(end)) = (&part, inner.end) {
            return Poll::Ready(match end {
                End::Complete => None,
                End::Cut => Some(Err(Cut)),
            });
        }
        let Some(reader) = inner.readers.get_mut(&this.id) else {
            return Poll::Ready(Some(Err(Cut)));
        };
        let Some(part) = part else {
            reader.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        reader.at += part.len() as u64;
        drop(inner);
        this.pipe.catch_up();
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.pipe.inner();
        let at = inner.readers.get(&self.id).map(|reader| reader.at);
        inner.end == Some(End::Complete) && at == Some(inner.received)
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.pipe.inner();
        let at = inner.readers.get(&self.id).map(|reader| reader.at);
        match (inner.end, at) {
            (Some(End::Complete), Some(at)) => SizeHint::with_exact(inner.received - at),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.pipe.inner().readers.remove(&self.id);
        self.pipe.catch_up();
    }
}
