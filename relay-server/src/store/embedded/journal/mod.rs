//! The journal: the truth of the embedded store. Records are appended in batches, each durable before
//! anybody hears of it, and read back by position or in order. The format and why it is so:
//! `docs/decisions/0002-journal-format.md`.

pub(crate) mod record;

pub(crate) mod payload;

pub(crate) mod erasing;

pub(crate) mod fs;

pub(crate) mod segment;

pub(crate) mod recovery;

pub(crate) mod space;

pub(crate) mod intake;

pub(crate) mod writer;

#[cfg(test)]
pub(crate) mod sim;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytes::Bytes;

use self::{
    fs::JournalFs,
    record::{HEADER_BYTES, Header},
    segment::Segment,
};

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
}

/// Offsets fit this many bits: no segment is that large.
const OFFSET_BITS: u32 = 31;

impl Position {
    /// As one number, for a database.
    pub(crate) fn pack(self) -> i64 {
        i64::from(self.segment) << OFFSET_BITS | i64::try_from(self.offset).unwrap_or(i64::MAX)
    }

    /// What [`Position::pack`] made.
    pub(crate) fn unpack(packed: i64) -> Self {
        let offset = packed & ((1 << OFFSET_BITS) - 1);
        Self {
            segment: u32::try_from(packed >> OFFSET_BITS).unwrap_or(0),
            offset: u64::try_from(offset).unwrap_or(0),
        }
    }
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The disk failed; the record may be fine.
    #[error("the journal cannot be read: {0}")]
    Io(#[source] io::Error),
    /// The bytes are not what was written.
    #[error("segment {} is damaged at {}", .0.segment, .0.offset)]
    Damaged(Position),
}

/// Files kept open for reading.
const OPEN_MAX: usize = 64;

/// How much is read at once in the hope that it is the whole record.
const GUESS_BYTES: usize = 4096;

/// Reads records by position.
#[derive(Debug)]
pub(crate) struct Reader {
    fs: Arc<dyn JournalFs>,
    open: Mutex<HashMap<u32, Arc<Segment>>>,
    /// Where records of files that are gone are now.
    moved: RwLock<HashMap<u32, HashMap<u64, Position>>>,
}

impl Reader {
    pub(crate) fn new(fs: Arc<dyn JournalFs>) -> Self {
        let (open, moved) = (Mutex::default(), RwLock::default());
        Self { fs, open, moved }
    }

    /// Notes that records of a file are elsewhere from now on: who knows their old place finds them.
    pub(crate) fn moved(&self, segment: u32, places: HashMap<u64, Position>) {
        let mut moved = self.moved.write().unwrap_or_else(PoisonError::into_inner);
        moved.insert(segment, places);
    }

    /// Closes a file that is to be removed.
    pub(crate) fn forget(&self, segment: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&segment);
    }

    /// Where a record is now.
    fn place(&self, mut position: Position) -> Position {
        let moved = self.moved.read().unwrap_or_else(PoisonError::into_inner);
        while let Some(places) = moved.get(&position.segment)
            && let Some(next) = places.get(&position.offset)
        {
            position = *next;
        }
        position
    }

    /// The record at a position, checked. Blocks on the disk.
    pub(crate) fn read(&self, position: Position) -> Result<(Header, Bytes), ReadError> {
        let position = self.place(position);
        let segment = self.segment(position)?;
        let length = segment.file.length().map_err(ReadError::Io)?;
        let left = length.saturating_sub(position.offset);
        let guess = usize::try_from(left).unwrap_or(0).min(GUESS_BYTES);
        let mut bytes = vec![0; guess];
        let read = segment.file.read_exact_at(&mut bytes, position.offset);
        read.map_err(ReadError::Io)?;
        let damaged = ReadError::Damaged(position);
        let Some(header) = Header::decode(segment.uid, &bytes) else {
            return Err(damaged);
        };
        let end = HEADER_BYTES + header.payload_bytes as usize;
        if end as u64 > left {
            return Err(damaged);
        }
        bytes.truncate(end);
        let have = bytes.len();
        bytes.resize(end, 0);
        let rest = position.offset + have as u64;
        let read = segment.file.read_exact_at(&mut bytes[have..], rest);
        read.map_err(ReadError::Io)?;
        let payload = Bytes::from(bytes).slice(HEADER_BYTES..);
        if crc32c::crc32c(&payload) == header.payload_crc {
            Ok((header, payload))
        } else {
            Err(damaged)
        }
    }

    fn segment(&self, position: Position) -> Result<Arc<Segment>, ReadError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = open.get(&position.segment) {
            return Ok(segment.clone());
        }
        let segment = match Segment::load(&*self.fs, position.segment) {
            Ok(Some(segment)) => Arc::new(segment),
            Err(segment::SegmentError::Io(_, error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ReadError::Io(error));
            }
            _ => return Err(ReadError::Damaged(position)),
        };
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(position.segment, segment.clone());
        Ok(segment)
    }
}
