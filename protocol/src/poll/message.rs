//! The bodies of requests and answers. Each is a message like a frame: a type byte, the length of a
//! JSON header, the header, and here a batch of frames, each with its length in front.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::batch;
use crate::{
    codec::{DecodeError, kind, message},
    id::PipeId,
    limits::{BATCH_BYTES_MAX, CLOSE_REASON_BYTES_MAX, POLL_HEADER_BYTES_MAX},
    session::Close,
};

/// How an end closes: what a WebSocket says in its close frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// The close code.
    pub code: u16,
    /// The same in words.
    pub reason: String,
}

impl From<&Close> for Farewell {
    fn from(close: &Close) -> Self {
        let end = close.reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
        Self {
            code: close.code.as_u16(),
            reason: close.reason[..end].to_owned(),
        }
    }
}

/// What an agent posts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opens a link; harmless when it is open already.
    Open {
        /// The link.
        link: PipeId,
    },
    /// The next upward batch, or the same again.
    Up {
        /// The link.
        link: PipeId,
        /// Its number, from 1.
        batch: u64,
        /// The agent closes after this batch.
        close: Option<Farewell>,
        /// The frames.
        frames: Vec<Bytes>,
    },
    /// Asks for the next downward batch.
    Poll {
        /// The link.
        link: PipeId,
        /// The number of the last batch that was received; 0 before the first.
        received: u64,
        /// How long the relay may hold the request, in milliseconds, if that is less than it would.
        hold_ms: Option<u64>,
    },
}

/// What a relay answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The link is open.
    Opened,
    /// All upward batches up to this one have arrived.
    Taken {
        /// The number.
        batch: u64,
    },
    /// A downward batch, or nothing.
    Down {
        /// Its number, from 1; none if there was nothing to say.
        batch: Option<u64>,
        /// The relay closes after this batch.
        close: Option<Farewell>,
        /// The frames.
        frames: Vec<Bytes>,
    },
    /// There is no such link, or not any more.
    Gone(Farewell),
}

#[derive(Serialize, Deserialize)]
struct OpenHeader {
    link: PipeId,
}

#[derive(Serialize, Deserialize)]
struct UpHeader {
    link: PipeId,
    batch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    close: Option<Farewell>,
}

#[derive(Serialize, Deserialize)]
struct PollHeader {
    link: PipeId,
    received: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct OpenedHeader {}

#[derive(Serialize, Deserialize)]
struct TakenHeader {
    batch: u64,
}

#[derive(Serialize, Deserialize)]
struct DownHeader {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    close: Option<Farewell>,
}

impl Request {
    /// The link it is about.
    pub fn link(&self) -> PipeId {
        match self {
            Self::Open { link } | Self::Up { link, .. } | Self::Poll { link, .. } => *link,
        }
    }

    /// The bytes of this request.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Open { link } => write(kind::OPEN, &OpenHeader { link: *link }, &[]),
            Self::Up {
                link,
                batch,
                close,
                frames,
            } => {
                let header = UpHeader {
                    link: *link,
                    batch: *batch,
                    close: close.clone(),
                };
                write(kind::UP, &header, frames)
            }
            Self::Poll {
                link,
                received,
                hold_ms,
            } => {
                let header = PollHeader {
                    link: *link,
                    received: *received,
                    hold_ms: *hold_ms,
                };
                write(kind::POLL, &header, &[])
            }
        }
    }

    /// Reads a request; frames are slices of it, not copies.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: this is no request of the fall-back transport.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let message = read(body)?;
        Ok(match message.kind {
            kind::OPEN => {
                let OpenHeader { link } = message.bare()?;
                Self::Open { link }
            }
            kind::UP => {
                let UpHeader { link, batch, close } = message.header()?;
                Self::Up {
                    link,
                    batch,
                    close,
                    frames: batch::split(message.body)?,
                }
            }
            kind::POLL => {
                let PollHeader {
                    link,
                    received,
                    hold_ms,
                } = message.bare()?;
                Self::Poll {
                    link,
                    received,
                    hold_ms,
                }
            }
            unknown => return Err(DecodeError::UnknownType(unknown)),
        })
    }
}

impl Answer {
    /// A poll was held for nothing.
    pub const NOTHING: Self = Self::Down {
        batch: None,
        close: None,
        frames: Vec::new(),
    };

    /// The bytes of this answer.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Opened => write(kind::OPENED, &OpenedHeader {}, &[]),
            Self::Taken { batch } => write(kind::TAKEN, &TakenHeader { batch: *batch }, &[]),
            Self::Down {
                batch,
                close,
                frames,
            } => {
                let header = DownHeader {
                    batch: *batch,
                    close: close.clone(),
                };
                write(kind::DOWN, &header, frames)
            }
            Self::Gone(farewell) => write(kind::GONE, farewell, &[]),
        }
    }

    /// Reads an answer; frames are slices of it, not copies.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: whoever answered was no relay.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let message = read(body)?;
        Ok(match message.kind {
            kind::OPENED => {
                let OpenedHeader {} = message.bare()?;
                Self::Opened
            }
            kind::TAKEN => {
                let TakenHeader { batch } = message.bare()?;
                Self::Taken { batch }
            }
            kind::DOWN => {
                let DownHeader { batch, close } = message.header()?;
                Self::Down {
                    batch,
                    close,
                    frames: batch::split(message.body)?,
                }
            }
            kind::GONE => Self::Gone(message.bare()?),
            unknown => return Err(DecodeError::UnknownType(unknown)),
        })
    }
}

fn write(kind: u8, header: &impl Serialize, frames: &[Bytes]) -> Bytes {
    let mut message = message::write_header(kind, header, batch::bytes(frames));
    batch::append(&mut message, frames);
    message.into()
}

fn read(body: Bytes) -> Result<message::Message, DecodeError> {
    message::Message::read_within(body, POLL_HEADER_BYTES_MAX, BATCH_BYTES_MAX)
}
