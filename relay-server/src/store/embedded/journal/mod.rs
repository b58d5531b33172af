//! The journal: the truth of the embedded store. Appended to by one thread that takes everything
//! which arrived while the previous sync ran, writes it once, syncs once, and then answers all.

mod codec;

pub(super) mod fs;

pub(super) mod payload;

pub(super) mod record;

mod segment;

pub(super) mod reader;

pub(super) mod recovery;

pub(super) mod spares;

pub(super) mod writer;

pub(super) use segment::SEGMENT_HEADER_BYTES;

/// Where a record stands: the segment's number in the upper half, the offset in the lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position(pub(super) u64);

impl Position {
    pub(super) fn new(segment: u32, offset: u32) -> Self {
        Self(u64::from(segment) << 32 | u64::from(offset))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the upper half")]
    pub(super) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(super) fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {} offset {}", self.segment(), self.offset())
    }
}
