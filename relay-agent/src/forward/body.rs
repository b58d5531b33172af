//! The body of an event on its way to the service.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A body of known length whose start is here and whose rest, if any, is still arriving.
///
/// Parts go to the service as they come; the credit of the protocol bounds how many wait.
#[derive(Debug)]
pub struct EventBody {
    start: Option<Bytes>,
    rest: Option<mpsc::Receiver<Bytes>>,
    /// Bytes that have not been handed on.
    remaining: u64,
}

/// The rest of a body did not come: the link it was arriving on is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rest of the event's body did not arrive")]
pub struct BodyCut;

impl EventBody {
    /// A body that is here as a whole.
    pub fn whole(body: Bytes) -> Self {
        Self {
            remaining: body.len() as u64,
            start: Some(body),
            rest: None,
        }
    }

    /// A body of `body_bytes` in all, of which the start is here.
    pub fn arriving(start: Bytes, rest: mpsc::Receiver<Bytes>, body_bytes: u64) -> Self {
        Self {
            start: Some(start),
            rest: Some(rest),
            remaining: body_bytes,
        }
    }
}

impl EventBody {
    /// The body, if all of it is here.
    pub fn as_whole(&self) -> Option<&Bytes> {
        self.start.as_ref().filter(|_| self.rest.is_none())
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        let part = match (self.start.take(), &mut self.rest) {
            (Some(start), _) if !start.is_empty() => Some(start),
            (_, Some(rest)) => match rest.poll_recv(cx) {
                Poll::Ready(part) => part,
                Poll::Pending => return Poll::Pending,
            },
            (_, None) => None,
        };
        let Some(part) = part else {
            return Poll::Ready(Some(Err(BodyCut)));
        };
        match self.remaining.checked_sub(part.len() as u64) {
            Some(remaining) => {
                self.remaining = remaining;
                Poll::Ready(Some(Ok(Frame::data(part))))
            }
            None => Poll::Ready(Some(Err(BodyCut))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn parts_arrive_in_order_and_the_length_is_known() {
        let (sender, receiver) = mpsc::channel(4);
        let body = EventBody::arriving(Bytes::from_static(b"ab"), receiver, 5);
        assert_eq!(body.size_hint().exact(), Some(5));
        sender.try_send(Bytes::from_static(b"cd")).unwrap();
        sender.try_send(Bytes::from_static(b"e")).unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
    }

    #[tokio::test]
    async fn a_cut_body_is_an_error_and_never_short() {
        let (sender, receiver) = mpsc::channel(4);
        let body = EventBody::arriving(Bytes::from_static(b"ab"), receiver, 5);
        drop(sender);
        assert_eq!(body.collect().await.unwrap_err(), BodyCut);
    }

    #[test]
    fn empty_body_is_at_its_end() {
        assert!(EventBody::whole(Bytes::new()).is_end_stream());
    }
}
