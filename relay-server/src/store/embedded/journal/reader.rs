//! Single records by position, checked.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{
    Position, SEGMENT_HEADER_BYTES,
    fs::{FileSystem, JournalFile},
    record::{Header, RECORD_HEADER_BYTES, SegmentUid},
    segment::{self, FirstPage},
};

/// Segments kept open.
const OPEN_MAX: usize = 64;

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum ReadError {
    /// The disk failed; trying again may help.
    #[error("cannot read {position}: {source}")]
    Io {
        position: Position,
        #[source]
        source: io::Error,
    },
    /// What is there is not what was written.
    #[error("the record at {0} is damaged")]
    Damaged(Position),
}

/// Reads records that are known to be synced.
#[derive(Debug)]
pub(in super::super) struct Reader {
    fs: Arc<dyn FileSystem>,
    open: Mutex<HashMap<u32, OpenSegment>>,
}

#[derive(Debug, Clone)]
struct OpenSegment {
    uid: SegmentUid,
    file: Arc<dyn JournalFile>,
}

impl Reader {
    pub(in super::super) fn new(fs: Arc<dyn FileSystem>) -> Self {
        Self {
            fs,
            open: Mutex::default(),
        }
    }

    /// The header and payload of the record at a position.
    pub(in super::super) fn read(&self, position: Position) -> Result<(Header, Bytes), ReadError> {
        let damaged = || ReadError::Damaged(position);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => ReadError::Damaged(position),
            _ => ReadError::Io { position, source },
        };
        let segment = self
            .segment(position.segment())
            .map_err(failed)?
            .ok_or_else(damaged)?;
        let offset = u64::from(position.offset());
        let mut header = [0; RECORD_HEADER_BYTES];
        segment
            .file
            .read_exact_at(&mut header, offset)
            .map_err(failed)?;
        let header = Header::decode(&header, &segment.uid).ok_or_else(damaged)?;
        let mut payload = vec![0; header.length as usize];
        segment
            .file
            .read_exact_at(&mut payload, offset + RECORD_HEADER_BYTES as u64)
            .map_err(failed)?;
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Err(damaged());
        }
        Ok((header, payload.into()))
    }

    fn segment(&self, number: u32) -> io::Result<Option<OpenSegment>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = open.get(&number) {
            return Ok(Some(segment.clone()));
        }
        let file = self.fs.open(&segment::file_name(number))?;
        let mut page = vec![0; SEGMENT_HEADER_BYTES as usize];
        file.read_exact_at(&mut page, 0)?;
        let FirstPage::Segment(header) = FirstPage::decode(&page) else {
            return Ok(None);
        };
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        let segment = OpenSegment {
            uid: header.uid,
            file,
        };
        open.insert(number, segment.clone());
        Ok(Some(segment))
    }
}
