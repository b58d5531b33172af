//! Frames over a WebSocket.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use protocol::{codec::DecodeError, frame::ToAgent, session::Close};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{FAREWELL_MAX, Incoming};
use crate::net;

/// Frames that wait to be written before reading pauses. What the session wants to say is bounded by
/// what it is asked, so a peer that does not read is not listened to either.
const OUTGOING_MAX: usize = 256;

/// A connection to the relay.
#[derive(Debug)]
pub(in crate::link) struct WebSocket {
    stream: WebSocketStream<net::Stream>,
    outgoing: VecDeque<Message>,
    is_flushed: bool,
}

impl WebSocket {
    pub(in crate::link) fn new(stream: WebSocketStream<net::Stream>) -> Self {
        Self {
            stream,
            outgoing: VecDeque::new(),
            is_flushed: true,
        }
    }

    /// Queues a frame; it travels with the next [`Self::poll_flush`].
    pub(super) fn send(&mut self, frame: Bytes) {
        self.outgoing.push_back(Message::Binary(frame));
    }

    /// The next thing that came in.
    pub(super) fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if self.outgoing.len() >= OUTGOING_MAX {
            if let Poll::Ready(gone) = self.poll_flush(cx) {
                return Poll::Ready(gone);
            }
            if self.outgoing.len() >= OUTGOING_MAX {
                return Poll::Pending;
            }
        }
        loop {
            let message = match self.stream.poll_next_unpin(cx) {
                Poll::Ready(message) => message,
                Poll::Pending => return Poll::Pending,
            };
            return Poll::Ready(match message {
                Some(Ok(Message::Binary(bytes))) => match ToAgent::decode(bytes) {
                    Ok(frame) => Incoming::Frame(frame),
                    Err(error) => Incoming::Malformed(error),
                },
                Some(Ok(Message::Close(Some(frame)))) => Incoming::Closed {
                    code: frame.code.into(),
                    reason: frame.reason.as_str().to_owned(),
                },
                Some(Ok(Message::Close(None))) | None => {
                    Incoming::Gone("the relay hung up".to_owned())
                }
                Some(Ok(Message::Text(_))) => Incoming::Malformed(DecodeError::Truncated),
                // The library answers pings itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => Incoming::Gone(error.to_string()),
            });
        }
    }

    /// Writes what is queued. Ready only when the connection is gone.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        match self.poll_write(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Incoming::Gone(error.to_string())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.outgoing.is_empty() {
            std::task::ready!(self.stream.poll_ready_unpin(cx))?;
            if let Some(message) = self.outgoing.pop_front() {
                self.is_flushed = false;
                self.stream.start_send_unpin(message)?;
            }
        }
        if !self.is_flushed {
            std::task::ready!(self.stream.poll_flush_unpin(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is queued and the close, and reads until the relay has closed too. Returns whether
    /// it did.
    pub(super) async fn farewell(mut self, close: Close) -> bool {
        let mut is_answered = false;
        let goodbye = async {
            while let Some(message) = self.outgoing.pop_front() {
                self.stream.feed(message).await?;
            }
            let frame = CloseFrame {
                code: CloseCode::from(close.code.as_u16()),
                reason: close.reason.as_str().into(),
            };
            self.stream.send(Message::Close(Some(frame))).await?;
            while let Some(message) = self.stream.next().await {
                // What comes after it may be an error: the end of TCP without that of TLS.
                is_answered |= message?.is_close();
            }
            Ok::<_, Error>(())
        };
        // The peer may be gone already.
        let _ = tokio::time::timeout(FAREWELL_MAX, goodbye).await;
        is_answered
    }
}
