//! Frames to bytes and back: total, and never panicking.
//!
//! A frame is one WebSocket binary message: a type byte, the length of the JSON header (4 bytes,
//! big-endian), the header, and body bytes up to the end of the message.

use bytes::Bytes;

use crate::frame::{ToAgent, ToRelay};

mod error;

pub use error::DecodeError;

impl ToAgent {
    /// The bytes of this frame.
    pub fn encode(&self) -> Bytes {
        todo!()
    }

    /// Reads a frame from one message; the body is a slice of it, not a copy.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: the peer broke the protocol; close the session. A frame type this version
    /// does not know is [`DecodeError::UnknownType`].
    pub fn decode(_message: Bytes) -> Result<Self, DecodeError> {
        todo!()
    }
}

impl ToRelay {
    /// The bytes of this frame.
    pub fn encode(&self) -> Bytes {
        todo!()
    }

    /// Reads a frame from one message; the body is a slice of it, not a copy.
    ///
    /// # Errors
    ///
    /// See [`ToAgent::decode`].
    pub fn decode(_message: Bytes) -> Result<Self, DecodeError> {
        todo!()
    }
}
