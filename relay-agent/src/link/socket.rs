//! Frames to and from the relay, whatever carries them.

mod poll;

mod websocket;

pub(super) use poll::PollSocket;
pub(super) use websocket::WebSocket;

use std::{
    task::{Context, Poll},
    time::Duration,
};

use protocol::{
    codec::DecodeError,
    frame::{ToAgent, ToRelay},
    session::Close,
};

use super::Carrier;

/// How long the end of a connection may take.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// A connection to the relay.
#[derive(Debug)]
pub(super) enum Socket {
    WebSocket(Box<WebSocket>),
    Poll(Box<PollSocket>),
}

/// What came in.
#[derive(Debug)]
pub(super) enum Incoming {
    Frame(ToAgent),
    /// Not a frame.
    Malformed(DecodeError),
    /// The relay said good-bye.
    Closed {
        code: u16,
        reason: String,
    },
    /// The connection is gone.
    Gone(String),
}

impl Socket {
    /// What carries its frames.
    pub(super) fn carrier(&self) -> Carrier {
        match self {
            Self::WebSocket(_) => Carrier::WebSocket,
            Self::Poll(_) => Carrier::Poll,
        }
    }

    /// Queues a frame; it travels with the next [`Self::poll_flush`].
    pub(super) fn send(&mut self, frame: &ToRelay) {
        match self {
            Self::WebSocket(socket) => socket.send(frame.encode()),
            Self::Poll(socket) => socket.send(frame.encode()),
        }
    }

    /// The next thing that came in.
    pub(super) fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        match self {
            Self::WebSocket(socket) => socket.poll_incoming(cx),
            Self::Poll(socket) => socket.poll_incoming(cx),
        }
    }

    /// Writes what is queued. Ready only when the connection is gone.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        match self {
            Self::WebSocket(socket) => socket.poll_flush(cx),
            Self::Poll(socket) => socket.poll_flush(cx),
        }
    }

    /// Writes what is queued and the close, and waits a little until the relay has heard it.
    /// Returns whether it has.
    pub(super) async fn farewell(self, close: Close) -> bool {
        match self {
            Self::WebSocket(socket) => socket.farewell(close).await,
            Self::Poll(socket) => socket.farewell(close).await,
        }
    }
}
