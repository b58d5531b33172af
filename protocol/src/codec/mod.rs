//! Frames to bytes and back: total, and never panicking.
//!
//! A frame is one WebSocket binary message: a type byte, the length of the JSON header (4 bytes,
//! big-endian), the header, and body bytes up to the end of the message.

use bytes::Bytes;

use crate::{
    frame::{Chunk, Offer, Receipt, ResponseChunk, ToAgent, ToRelay},
    limits::{CHUNK_BYTES_MAX, RESPONSE_START_BYTES_MAX},
};

pub(crate) mod message;

pub(crate) mod kind;

mod error;

pub use error::DecodeError;

use message::Message;

impl ToAgent {
    /// The bytes of this frame.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Welcome(frame) => message::write(kind::WELCOME, frame, &[]),
            Self::Offer(frame) => message::write(kind::OFFER, frame, &frame.body),
            Self::Chunk(frame) => message::write(kind::CHUNK, frame, &frame.part),
            Self::Confirm(frame) => message::write(kind::CONFIRM, frame, &[]),
            Self::Cancel(frame) => message::write(kind::CANCEL, frame, &[]),
            Self::Ping(frame) => message::write(kind::RELAY_PING, frame, &[]),
            Self::Pong(frame) => message::write(kind::RELAY_PONG, frame, &[]),
            Self::ResponseCredit(frame) => message::write(kind::RESPONSE_CREDIT, frame, &[]),
            Self::Drain(frame) => message::write(kind::DRAIN, frame, &[]),
            Self::Refuse(frame) => message::write(kind::REFUSE, frame, &[]),
        }
    }

    /// Reads a frame from one message; the body is a slice of it, not a copy.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: the peer broke the protocol; close the session. A frame type this version
    /// does not know is [`DecodeError::UnknownType`].
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let message = Message::read(message)?;
        Ok(match message.kind {
            kind::WELCOME => Self::Welcome(message.bare()?),
            kind::OFFER => {
                let (mut offer, body) = message.with_body::<Box<Offer>>(CHUNK_BYTES_MAX)?;
                offer.body = body;
                Self::Offer(offer)
            }
            kind::CHUNK => {
                let (header, part) = message.with_body::<Chunk>(CHUNK_BYTES_MAX)?;
                Self::Chunk(Chunk { part, ..header })
            }
            kind::CONFIRM => Self::Confirm(message.bare()?),
            kind::CANCEL => Self::Cancel(message.bare()?),
            kind::RELAY_PING => Self::Ping(message.bare()?),
            kind::RELAY_PONG => Self::Pong(message.bare()?),
            kind::RESPONSE_CREDIT => Self::ResponseCredit(message.bare()?),
            kind::DRAIN => Self::Drain(message.bare()?),
            kind::REFUSE => Self::Refuse(message.bare()?),
            unknown => return Err(DecodeError::UnknownType(unknown)),
        })
    }
}

impl ToRelay {
    /// The bytes of this frame.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Hello(frame) => message::write(kind::HELLO, frame, &[]),
            Self::Credit(frame) => message::write(kind::CREDIT, frame, &[]),
            Self::Receipt(frame) => message::write(kind::RECEIPT, frame, &frame.response_start),
            Self::ResponseChunk(frame) => message::write(kind::RESPONSE_CHUNK, frame, &frame.part),
            Self::Renew(frame) => message::write(kind::RENEW, frame, &[]),
            Self::Release(frame) => message::write(kind::RELEASE, frame, &[]),
            Self::Ping(frame) => message::write(kind::AGENT_PING, frame, &[]),
            Self::Pong(frame) => message::write(kind::AGENT_PONG, frame, &[]),
            Self::Bye(frame) => message::write(kind::BYE, frame, &[]),
        }
    }

    /// Reads a frame from one message; the body is a slice of it, not a copy.
    ///
    /// # Errors
    ///
    /// See [`ToAgent::decode`].
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let message = Message::read(message)?;
        Ok(match message.kind {
            kind::HELLO => Self::Hello(message.bare()?),
            kind::CREDIT => Self::Credit(message.bare()?),
            kind::RECEIPT => {
                let (mut receipt, body) =
                    message.with_body::<Box<Receipt>>(RESPONSE_START_BYTES_MAX)?;
                receipt.response_start = body;
                Self::Receipt(receipt)
            }
            kind::RESPONSE_CHUNK => {
                let (header, part) = message.with_body::<ResponseChunk>(CHUNK_BYTES_MAX)?;
                Self::ResponseChunk(ResponseChunk { part, ..header })
            }
            kind::RENEW => Self::Renew(message.bare()?),
            kind::RELEASE => Self::Release(message.bare()?),
            kind::AGENT_PING => Self::Ping(message.bare()?),
            kind::AGENT_PONG => Self::Pong(message.bare()?),
            kind::BYE => Self::Bye(message.bare()?),
            unknown => return Err(DecodeError::UnknownType(unknown)),
        })
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests;
