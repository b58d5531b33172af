//! Reading a service's response: its start for the receipt, all of it for a provider that waits.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use protocol::{frame::ResponseHead, limits::RESPONSE_START_BYTES_MAX};

use super::{CallError, Responder, headers};

/// How much of a response is read when nobody waits for it; then the connection is dropped.
pub(super) const RESPONSE_BYTES_MAX: u64 = 1024 * 1024;

/// Responses of at most this length are sent at once, with their head.
const SHORT_BYTES_MAX: u64 = 16 * 1024;

/// The time that a service has left. What an agent waits for itself does not count.
#[derive(Debug)]
pub(super) struct Patience {
    whole: Duration,
    left: Duration,
}

impl Patience {
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, left: whole }
    }

    /// Waits for the service.
    pub(super) async fn wait<T>(
        &mut self,
        answer: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(self.left, answer).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        answer.unwrap_or(Err(CallError::Timeout(self.whole)))
    }
}

/// What was read of a response.
#[derive(Debug, Default)]
pub(super) struct Read {
    start: BytesMut,
    /// How long its body is, as far as it was read.
    pub(super) body_bytes: u64,
}

impl Read {
    /// The start of the body.
    pub(super) fn start(self) -> Bytes {
        self.start.freeze()
    }

    fn count(&mut self, part: &Bytes) {
        self.body_bytes += part.len() as u64;
        let room = RESPONSE_START_BYTES_MAX - self.start.len();
        self.start.extend_from_slice(&part[..part.len().min(room)]);
    }
}

/// Reads a response, and passes it on if somebody waits for it.
pub(super) async fn read(
    head: &Parts,
    mut body: Incoming,
    responder: Option<Responder>,
    patience: &mut Patience,
) -> Result<Read, CallError> {
    let mut read = Read::default();
    if let Some(mut responder) = responder {
        let head = ResponseHead {
            status: head.status.as_u16(),
            headers: headers::passed_back(&head.headers),
        };
        if responder.begin(head).is_ok() {
            pass_on(&mut body, &mut responder, &mut read, patience).await?;
        }
    }
    while read.body_bytes <= RESPONSE_BYTES_MAX
        && let Some(part) = next(&mut body, patience).await?
    {
        read.count(&part);
    }
    Ok(read)
}

/// Sends a response as it comes, until its end or until nobody waits any more.
async fn pass_on(
    body: &mut Incoming,
    responder: &mut Responder,
    read: &mut Read,
    patience: &mut Patience,
) -> Result<(), CallError> {
    let is_short = body
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= SHORT_BYTES_MAX);
    if !is_short && responder.send(Bytes::new(), false).await.is_err() {
        return Ok(());
    }
    let mut held_back = BytesMut::new();
    while let Some(part) = next(body, patience).await? {
        read.count(&part);
        if is_short {
            held_back.extend_from_slice(&part);
        } else if responder.send(part, false).await.is_err() {
            return Ok(());
        }
    }
    // Nobody may wait any more; the response was read to its end all the same.
    let _ = responder.send(held_back.freeze(), true).await;
    Ok(())
}

/// The next part of a body.
async fn next(body: &mut Incoming, patience: &mut Patience) -> Result<Option<Bytes>, CallError> {
    loop {
        let frame = patience
            .wait(async {
                body.frame()
                    .await
                    .transpose()
                    .map_err(|error| CallError::from_hyper(&error))
            })
            .await?;
        match frame.map(http_body::Frame::into_data) {
            Some(Ok(part)) => return Ok(Some(part)),
            // Trailers are not passed on.
            Some(Err(_)) => {}
            None => return Ok(None),
        }
    }
}
