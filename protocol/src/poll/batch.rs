//! Frames that travel together: gathered while they wait, bounded when they go.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    codec::DecodeError,
    limits::{BATCH_BYTES_MAX, FRAME_LENGTH_BYTES},
};

/// Bytes of some frames in a batch.
pub(super) fn bytes(frames: &[Bytes]) -> usize {
    frames.iter().map(bytes_of).sum()
}

/// Appends frames, each with its length in front.
pub(super) fn append(message: &mut Vec<u8>, frames: &[Bytes]) {
    for frame in frames {
        // A frame is never longer than a message may be.
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(frame);
    }
}

/// Takes a batch apart; nothing is copied.
pub(super) fn split(mut batch: Bytes) -> Result<Vec<Bytes>, DecodeError> {
    let mut frames = Vec::new();
    while !batch.is_empty() {
        let Some(&length) = batch.first_chunk::<FRAME_LENGTH_BYTES>() else {
            return Err(DecodeError::Truncated);
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let mut rest = batch.split_off(FRAME_LENGTH_BYTES);
        if length == 0 || rest.len() < length {
            return Err(DecodeError::Truncated);
        }
        batch = rest.split_off(length);
        frames.push(rest);
    }
    Ok(frames)
}

/// Frames that wait for the next batch.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += bytes_of(&frame);
        self.frames.push_back(frame);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether less than a batch waits, so that one more frame may be pushed.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < BATCH_BYTES_MAX
    }

    /// As many frames as one batch takes, in order.
    pub(super) fn take_batch(&mut self) -> Vec<Bytes> {
        let mut batch_bytes = 0;
        let mut batch = Vec::new();
        // The first always goes: no frame is longer than a batch.
        while let Some(frame) = self.frames.pop_front_if(|frame| {
            batch_bytes == 0 || batch_bytes + bytes_of(frame) <= BATCH_BYTES_MAX
        }) {
            batch_bytes += bytes_of(&frame);
            batch.push(frame);
        }
        self.bytes -= batch_bytes;
        batch
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn bytes_of(frame: &Bytes) -> usize {
    FRAME_LENGTH_BYTES + frame.len()
}
