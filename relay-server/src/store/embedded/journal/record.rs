//! One record: a checksummed header of 32 bytes, a checksummed payload, and zeros up to the next
//! multiple of 8.
//!
//! | bytes | what |
//! |---|---|
//! | 0-3 | length of the payload |
//! | 4 | kind |
//! | 5-7 | zero |
//! | 8-15 | sequence: position in the order of acceptance; a copy keeps it |
//! | 16-23 | time of the batch, in milliseconds since 1970 |
//! | 24-27 | CRC32C of the payload |
//! | 28-31 | CRC32C of the segment's uid and the bytes above |
//!
//! The uid makes what an older file left on the disk look dead. Header and payload have checksums
//! of their own, so that a damaged payload does not hide the records behind it.

use bytes::Bytes;

/// The header of a record, in bytes.
pub(in super::super) const RECORD_HEADER_BYTES: usize = 32;

/// Records start at multiples of this many bytes.
pub(in super::super) const ALIGNMENT: usize = 8;

/// Identifies a segment file, drawn at random.
pub(in super::super) type SegmentUid = [u8; 16];

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum Kind {
    /// Starts every batch: how far the segment was known to be synced.
    Batch = 1,
    /// An event with its deliveries.
    Accept = 2,
    /// An attempt and its verdict.
    Settle = 3,
    /// A dead delivery is owed again.
    Reopen = 4,
    /// A further delivery of a stored event.
    Deliver = 5,
    /// A delivery ended without the service's doing.
    End = 6,
    /// All open deliveries of a destination ended.
    EndDestination = 7,
    /// The provider ids of a source are forgotten.
    ForgetSource = 8,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Batch,
            2 => Self::Accept,
            3 => Self::Settle,
            4 => Self::Reopen,
            5 => Self::Deliver,
            6 => Self::End,
            7 => Self::EndDestination,
            8 => Self::ForgetSource,
            _ => return None,
        })
    }
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Header {
    pub(in super::super) length: u32,
    pub(in super::super) kind: Kind,
    pub(in super::super) sequence: u64,
    pub(in super::super) time_ms: u64,
    pub(in super::super) payload_crc: u32,
}

impl Header {
    pub(in super::super) fn encode(&self, uid: &SegmentUid) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time_ms.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = header_crc(uid, &bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if these bytes are not the header of a record of this segment.
    pub(in super::super) fn decode(
        bytes: &[u8; RECORD_HEADER_BYTES],
        uid: &SegmentUid,
    ) -> Option<Self> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if header_crc(uid, &bytes[..28]) != u32_at(28) {
            return None;
        }
        Some(Self {
            length: u32_at(0),
            kind: Kind::from_u8(bytes[4])?,
            sequence: u64_at(8),
            time_ms: u64_at(16),
            payload_crc: u32_at(24),
        })
    }

    /// Where the next record starts, from the start of this one.
    pub(in super::super) fn stride(&self) -> u64 {
        stride(self.length as usize) as u64
    }
}

/// What a record with this payload occupies.
pub(in super::super) fn stride(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

/// Appends a record to a batch.
pub(in super::super) fn push(
    batch: &mut Vec<u8>,
    uid: &SegmentUid,
    header: &Header,
    payload: &Bytes,
) {
    let start = batch.len();
    batch.extend_from_slice(&header.encode(uid));
    batch.extend_from_slice(payload);
    batch.resize(start + stride(payload.len()), 0);
}

fn header_crc(uid: &SegmentUid, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(uid), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: SegmentUid = [7; 16];

    fn header() -> Header {
        Header {
            length: 5,
            kind: Kind::Accept,
            sequence: 1 << 40,
            time_ms: 99,
            payload_crc: 0xdead_beef,
        }
    }

    #[test]
    fn survives_the_trip_and_no_flipped_bit_does() {
        let bytes = header().encode(&UID);
        assert_eq!(Header::decode(&bytes, &UID), Some(header()));
        assert_eq!(Header::decode(&bytes, &[8; 16]), None, "another segment's");

        for bit in 0..RECORD_HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped, &UID), None, "bit {bit}");
        }
        assert_eq!(
            Header::decode(&[0; RECORD_HEADER_BYTES], &UID),
            None,
            "zeroed space"
        );
    }

    #[test]
    fn records_are_aligned() {
        let mut batch = Vec::new();
        push(&mut batch, &UID, &header(), &Bytes::from_static(b"hello"));
        assert_eq!(batch.len(), 40);
        assert_eq!(header().stride(), 40);
    }
}
