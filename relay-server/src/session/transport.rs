//! What carries the frames of a session: a WebSocket, or requests where none gets through.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use protocol::session::Close;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode as WireCode},
    },
};

/// How long a peer that does not read may block a write.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long to wait for the other side's close frame.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Carries the frames of one session.
pub(super) trait Transport: Send {
    /// Its name for people.
    const NAME: &'static str;

    /// What comes in next. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Incoming> + Send;

    /// Whether it takes another frame now. If not, `next` tells when it does.
    fn has_room(&mut self) -> bool;

    /// Takes a frame, which travels with the next flush at the latest.
    ///
    /// # Errors
    ///
    /// The peer is gone, or does not read.
    fn feed(&mut self, frame: Bytes) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Sends all it was fed.
    ///
    /// # Errors
    ///
    /// The peer is gone, or does not read.
    fn flush(&mut self) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Says why it ends, and waits a little until that was heard.
    fn close(self, close: &Close) -> impl Future<Output = ()> + Send;
}

/// What came in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The bytes of a frame.
    Frame(Bytes),
    /// What can be no frame.
    Malformed,
    /// There is room for frames again.
    Room,
    /// The peer has closed, or is gone.
    Gone,
}

/// Frames do not arrive any more.
#[derive(Debug)]
pub(super) struct Broken;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for WebSocketStream<S> {
    const NAME: &'static str = "websocket";

    async fn next(&mut self) -> Incoming {
        loop {
            return match StreamExt::next(self).await {
                Some(Ok(Message::Binary(bytes))) => Incoming::Frame(bytes),
                Some(Ok(Message::Text(_))) => Incoming::Malformed,
                // WebSocket's own pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => Incoming::Gone,
            };
        }
    }

    /// It waits in `feed` instead.
    fn has_room(&mut self) -> bool {
        true
    }

    async fn feed(&mut self, frame: Bytes) -> Result<(), Broken> {
        in_time(SinkExt::feed(self, Message::Binary(frame))).await
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        in_time(SinkExt::flush(self)).await
    }

    /// Reads until the other side has heard it.
    async fn close(mut self, close: &Close) {
        let frame = CloseFrame {
            code: WireCode::from(close.code.as_u16()),
            reason: close.reason.clone().into(),
        };
        let farewell = async {
            if WebSocketStream::close(&mut self, Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = StreamExt::next(&mut self).await {}
            }
        };
        let _ = time::timeout(CLOSE_MAX, farewell).await;
    }
}

/// Only writes are cut short: what else a session does must not be left half done.
async fn in_time(
    write: impl Future<Output = Result<(), tungstenite::Error>>,
) -> Result<(), Broken> {
    match time::timeout(WRITE_MAX, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Broken),
    }
}
