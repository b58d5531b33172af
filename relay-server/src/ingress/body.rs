//! Reading a body within bounds: its own size, the memory all bodies share, and time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

/// The unit in which body memory is counted, in bytes.
const UNIT: u64 = 1024;

/// How long a body may take.
#[derive(Debug, Clone, Copy)]
pub struct BodyDeadlines {
    /// All of it.
    pub whole: Duration,
    /// From here on it must come at the least rate.
    pub patience: Duration,
    /// The least rate once patience has ended, in bytes per second.
    pub rate_min: u64,
}

impl Default for BodyDeadlines {
    fn default() -> Self {
        Self {
            whole: Duration::from_secs(30),
            patience: Duration::from_secs(5),
            rate_min: 1024,
        }
    }
}

/// Memory for bodies that are being read or written to the store, shared by all requests.
#[derive(Debug, Clone)]
pub(crate) struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(Semaphore::new(
            usize::try_from(bytes / UNIT).unwrap_or(usize::MAX >> 4),
        )))
    }

    /// Whether nobody else reads anything into it.
    pub(crate) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    fn reserve(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, BodyError> {
        let Ok(units) = u32::try_from(bytes.div_ceil(UNIT)) else {
            return Err(BodyError::NoMemory);
        };
        if units == 0 {
            return Ok(None);
        }
        Arc::clone(&self.0)
            .try_acquire_many_owned(units)
            .map(Some)
            .map_err(|_| BodyError::NoMemory)
    }
}

/// A body, and the memory it occupies until this is dropped.
#[derive(Debug)]
pub(crate) struct ReadBody {
    pub(crate) bytes: Bytes,
    _memory: Vec<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than the source takes.
    TooLarge,
    /// It did not come in time.
    TooSlow,
    /// Bodies being read occupy all the memory there is for them.
    NoMemory,
    /// The connection broke, or the chunks are malformed.
    Broken,
}

/// Reads a body of at most `bytes_max`.
pub(crate) async fn read(
    mut body: Incoming,
    bytes_max: u64,
    memory: &BodyMemory,
    deadlines: BodyDeadlines,
) -> Result<ReadBody, BodyError> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(BodyError::TooLarge);
    }
    let mut permits: Vec<_> = memory
        .reserve(announced.unwrap_or(0))?
        .into_iter()
        .collect();
    let started = Instant::now();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length = 0_u64;
    loop {
        let left = deadlines
            .left(started.elapsed(), length)
            .ok_or(BodyError::TooSlow)?;
        let frame = match time::timeout(left, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(BodyError::Broken),
            Ok(None) => break,
            Err(_) => return Err(BodyError::TooSlow),
        };
        // Trailers end a body and carry nothing that is signed or relayed.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len() as u64;
        if length > bytes_max {
            return Err(BodyError::TooLarge);
        }
        if announced.is_none() {
            permits.extend(memory.reserve(data.len() as u64)?);
        }
        if first.is_empty() {
            // Most bodies come in one piece, which is then used as it is.
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(usize::try_from(announced.unwrap_or(length)).unwrap_or(0));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    let bytes = if rest.is_empty() {
        first
    } else {
        rest.freeze()
    };
    Ok(ReadBody {
        bytes,
        _memory: permits,
    })
}

impl BodyDeadlines {
    /// How long the next piece may take; `None` when the time is over.
    fn left(self, elapsed: Duration, length: u64) -> Option<Duration> {
        let by_rate = self.patience + Duration::from_secs(length / self.rate_min.max(1));
        self.whole
            .min(by_rate)
            .checked_sub(elapsed)
            .filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_cut_off_and_a_stream_is_not() {
        let deadlines = BodyDeadlines::default();
        let check = |elapsed_s, length, expected_s: Option<u64>| {
            let left = deadlines.left(Duration::from_secs(elapsed_s), length);
            assert_eq!(
                left,
                expected_s.map(Duration::from_secs),
                "{elapsed_s} s, {length} bytes"
            );
        };
        check(0, 0, Some(5));
        check(5, 0, None);
        check(6, 1024, None);
        check(6, 10 * 1024, Some(9));
        check(29, 10_000_000, Some(1));
        check(30, 10_000_000, None);
    }

    #[test]
    fn memory_is_shared_and_returned() {
        let memory = BodyMemory::new(4096);

        let first = memory.reserve(3000).unwrap();
        assert!(memory.reserve(0).unwrap().is_none());
        assert_eq!(memory.reserve(2000).unwrap_err(), BodyError::NoMemory);
        drop(first);
        assert!(memory.reserve(4096).is_ok());
        assert_eq!(memory.reserve(u64::MAX).unwrap_err(), BodyError::NoMemory);
    }
}
