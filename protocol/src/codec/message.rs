//! One message: preamble, header, body.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::DecodeError;
use crate::limits::{CHUNK_BYTES_MAX, HEADER_BYTES_MAX, PREAMBLE_BYTES};

/// Room for a usual header, so that most frames are written without growing the buffer.
const HEADER_BYTES_USUAL: usize = 1024;

/// Writes a message in one buffer.
pub(super) fn write(kind: u8, header: &impl Serialize, body: &[u8]) -> Bytes {
    let mut message = write_header(kind, header, body.len());
    message.extend_from_slice(body);
    message.into()
}

/// The start of a message, with room for its body.
pub(crate) fn write_header(kind: u8, header: &impl Serialize, body_bytes: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(PREAMBLE_BYTES + HEADER_BYTES_USUAL + body_bytes);
    message.extend_from_slice(&[kind, 0, 0, 0, 0]);
    serde_json::to_writer(&mut message, header)
        .expect("headers have text keys and a Vec takes all");
    // A header beyond 4 GiB cannot be held; saturating only makes the peer refuse it, as it should.
    let header_bytes = u32::try_from(message.len() - PREAMBLE_BYTES).unwrap_or(u32::MAX);
    message[1..PREAMBLE_BYTES].copy_from_slice(&header_bytes.to_be_bytes());
    message
}

/// A message taken apart; nothing is copied.
pub(crate) struct Message {
    pub(crate) kind: u8,
    header: Bytes,
    pub(crate) body: Bytes,
}

impl Message {
    /// Takes a frame apart and checks its lengths.
    pub(super) fn read(message: Bytes) -> Result<Self, DecodeError> {
        Self::read_within(message, HEADER_BYTES_MAX, CHUNK_BYTES_MAX)
    }

    /// Takes a message apart whose header and body may be this long.
    pub(crate) fn read_within(
        mut message: Bytes,
        header_bytes_max: usize,
        body_bytes_max: usize,
    ) -> Result<Self, DecodeError> {
        let Some(&[kind, a, b, c, d]) = message.first_chunk::<PREAMBLE_BYTES>() else {
            return Err(DecodeError::Truncated);
        };
        let header_bytes = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if header_bytes > header_bytes_max {
            return Err(DecodeError::TooLong);
        }
        let body_start = PREAMBLE_BYTES + header_bytes;
        if message.len() < body_start {
            return Err(DecodeError::Truncated);
        }
        if message.len() - body_start > body_bytes_max {
            return Err(DecodeError::TooLong);
        }
        let body = message.split_off(body_start);
        let header = message.split_off(PREAMBLE_BYTES);
        Ok(Self { kind, header, body })
    }

    /// The header of a frame that has no body.
    pub(crate) fn bare<T: DeserializeOwned>(self) -> Result<T, DecodeError> {
        if !self.body.is_empty() {
            return Err(DecodeError::UnexpectedBody(self.kind));
        }
        self.header()
    }

    /// The header and body of a frame whose body may be this long.
    pub(super) fn with_body<T: DeserializeOwned>(
        self,
        body_bytes_max: usize,
    ) -> Result<(T, Bytes), DecodeError> {
        if self.body.len() > body_bytes_max {
            return Err(DecodeError::TooLong);
        }
        Ok((self.header()?, self.body))
    }

    pub(crate) fn header<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        serde_json::from_slice(&self.header).map_err(|source| DecodeError::Header {
            kind: self.kind,
            source,
        })
    }
}
