//! A response on its way back to a provider that waits for it (sync mode).
//!
//! The call reads its service's response no faster than the relay lets it come: a [`Valve`] tells it how
//! many bytes may have been sent in all. Once nobody waits any more the valve is closed, and the call
//! ends as any other.

use bytes::Bytes;
use protocol::{
    frame::ResponseHead,
    id::DeliveryId,
    limits::{HEAD_BYTES_MAX, RESPONSE_BYTES_INITIAL},
};
use tokio::sync::{mpsc, watch};

/// Parts of all responses that may wait for the driver.
pub(crate) const PARTS_MAX: usize = 256;

/// Part of a response.
#[derive(Debug, PartialEq)]
pub(crate) struct ResponsePart {
    pub(crate) delivery: DeliveryId,
    /// Tells the calls of one delivery apart.
    pub(crate) call: u64,
    /// Status and headers, in the first part only.
    pub(crate) head: Option<ResponseHead>,
    pub(crate) bytes: Bytes,
    /// Whether the response is complete.
    pub(crate) is_last: bool,
}

/// The driver's end: how much may come.
#[derive(Debug)]
pub(crate) struct Valve(watch::Sender<u64>);

/// The call's end: where parts go, as far as the valve allows.
#[derive(Debug)]
pub(crate) struct Responder {
    delivery: DeliveryId,
    call: u64,
    parts: mpsc::Sender<ResponsePart>,
    valve: watch::Receiver<u64>,
    head: Option<ResponseHead>,
    sent: u64,
}

/// Nobody waits for the response any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unwanted;

/// Both ends for one call. Parts go into `parts`.
pub(crate) fn respond(
    delivery: DeliveryId,
    call: u64,
    parts: mpsc::Sender<ResponsePart>,
) -> (Valve, Responder) {
    let (valve, limit) = watch::channel(RESPONSE_BYTES_INITIAL);
    let responder = Responder {
        delivery,
        call,
        parts,
        valve: limit,
        head: None,
        sent: 0,
    };
    (Valve(valve), responder)
}

impl Valve {
    /// So many body bytes may come in all.
    pub(crate) fn open_to(&self, bytes_max: u64) {
        self.0.send_if_modified(|limit| {
            let is_more = bytes_max > *limit;
            *limit = bytes_max.max(*limit);
            is_more
        });
    }
}

impl Responder {
    /// Takes the head, which travels with the first part.
    ///
    /// # Errors
    ///
    /// [`Unwanted`] if it cannot be passed on.
    pub(crate) fn begin(&mut self, head: ResponseHead) -> Result<(), Unwanted> {
        if head.headers.bytes_len() > HEAD_BYTES_MAX {
            return Err(Unwanted);
        }
        self.head = Some(head);
        Ok(())
    }

    /// Sends part of the body, as fast as it may go.
    ///
    /// # Errors
    ///
    /// [`Unwanted`]: read the rest without sending it.
    pub(crate) async fn send(&mut self, mut bytes: Bytes, is_last: bool) -> Result<(), Unwanted> {
        loop {
            let part = match bytes.is_empty() {
                true => Bytes::new(),
                false => {
                    let room = self.room().await?;
                    bytes.split_to(bytes.len().min(room))
                }
            };
            self.sent += part.len() as u64;
            let is_last = is_last && bytes.is_empty();
            let part = ResponsePart {
                delivery: self.delivery,
                call: self.call,
                head: self.head.take(),
                bytes: part,
                is_last,
            };
            self.parts.send(part).await.map_err(|_| Unwanted)?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Waits until at least one byte may be sent.
    async fn room(&mut self) -> Result<usize, Unwanted> {
        let sent = self.sent;
        // The driver drops its end when nobody waits any more.
        let limit = self.valve.wait_for(|limit| *limit > sent).await;
        let limit = *limit.map_err(|_| Unwanted)?;
        if self.valve.has_changed().is_err() {
            return Err(Unwanted);
        }
        Ok(usize::try_from(limit - sent).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::frame::Headers;

    use super::*;

    fn head() -> ResponseHead {
        ResponseHead {
            status: 200,
            headers: Headers::default(),
        }
    }

    #[tokio::test]
    async fn a_response_goes_as_far_as_it_may_and_no_further() {
        let (parts, mut received) = mpsc::channel(PARTS_MAX);
        let (valve, mut responder) = respond(DeliveryId::from_u128(1), 7, parts);
        responder.begin(head()).unwrap();
        let whole = Bytes::from(vec![7; 3 * RESPONSE_BYTES_INITIAL as usize]);
        let sending = tokio::spawn(async move { responder.send(whole, true).await });

        let first = received.recv().await.unwrap();
        assert_eq!((first.head, first.call), (Some(head()), 7));
        assert_eq!(first.bytes.len() as u64, RESPONSE_BYTES_INITIAL);
        let more = tokio::time::timeout(Duration::from_millis(20), received.recv()).await;
        assert!(more.is_err(), "it waits for credit");
        valve.open_to(RESPONSE_BYTES_INITIAL);
        valve.open_to(3 * RESPONSE_BYTES_INITIAL);
        let rest = received.recv().await.unwrap();
        assert_eq!(rest.bytes.len() as u64, 2 * RESPONSE_BYTES_INITIAL);
        assert!(rest.head.is_none() && rest.is_last && !first.is_last);
        assert_eq!(sending.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_closed_valve_ends_the_wait() {
        let (parts, mut received) = mpsc::channel(PARTS_MAX);
        let (valve, mut responder) = respond(DeliveryId::from_u128(1), 7, parts);
        responder.begin(head()).unwrap();
        let whole = Bytes::from(vec![7; 3 * RESPONSE_BYTES_INITIAL as usize]);
        let sending = tokio::spawn(async move { responder.send(whole, true).await });
        received.recv().await.unwrap();
        drop(valve);
        assert_eq!(sending.await.unwrap(), Err(Unwanted));
    }

    #[tokio::test]
    async fn an_empty_response_is_one_part() {
        let (parts, mut received) = mpsc::channel(PARTS_MAX);
        let (valve, mut responder) = respond(DeliveryId::from_u128(1), 7, parts);
        responder.begin(head()).unwrap();
        assert_eq!(responder.send(Bytes::new(), true).await, Ok(()));
        let part = received.recv().await.unwrap();
        assert!(part.is_last && part.bytes.is_empty() && part.head.is_some());
        drop(valve);
    }

    #[test]
    fn a_head_that_no_frame_can_hold_is_not_sent() {
        let (parts, _received) = mpsc::channel(PARTS_MAX);
        let (_valve, mut responder) = respond(DeliveryId::from_u128(1), 7, parts);
        let field = ("x".into(), vec![b'x'; HEAD_BYTES_MAX].into());
        let heavy = ResponseHead {
            headers: Headers(vec![field]),
            ..head()
        };
        assert_eq!(responder.begin(heavy), Err(Unwanted));
    }
}
