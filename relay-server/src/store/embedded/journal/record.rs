//! One record: a header that names and guards it, and a payload that is checksummed on its own, so
//! that a payload can be erased without losing the record's place.

/// Every record starts at a multiple of this.
pub(crate) const ALIGN: usize = 8;

/// The length of a header, in bytes.
pub(crate) const HEADER_BYTES: usize = 32;

/// The largest payload, in bytes: the largest body, its head, and room to spare.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 72 * 1024 * 1024;

/// What a record says. The numbers are the format;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Begins a batch: everything before it in the journal was durable when it was written.
    Batch = 1,
    /// An event with its deliveries and its dedupe key.
    Accept = 2,
    /// An attempt and what it means.
    Settle = 3,
    /// A dead delivery is owed again.
    Reopen = 4,
    /// A new delivery of a stored event.
    Deliver = 5,
    /// One delivery ended without the service's doing.
    End = 6,
    /// All open deliveries of a destination ended.
    EndDestination = 7,
    /// The provider ids of a source are forgotten.
    ForgetSource = 8,
    /// Events are erased: their records are overwritten.
    Erase = 9,
    /// Records that are lost stood here, says a repair.
    Lost = 10,
    /// A key stops, or goes on.
    Park = 11,
    /// A provider sent an event again.
    Repeat = 12,
    /// Records that nobody needs any more stood here.
    Dropped = 13,
}

impl Kind {
    /// The name in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Accept => "accept",
            Self::Settle => "settle",
            Self::Reopen => "reopen",
            Self::Deliver => "deliver",
            Self::End => "end",
            Self::EndDestination => "end_destination",
            Self::ForgetSource => "forget_source",
            Self::Erase => "erase",
            Self::Lost => "lost",
            Self::Park => "park",
            Self::Repeat => "repeat",
            Self::Dropped => "dropped",
        }
    }

    /// Reads the number of one.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Batch,
            2 => Self::Accept,
            3 => Self::Settle,
            4 => Self::Reopen,
            5 => Self::Deliver,
            6 => Self::End,
            7 => Self::EndDestination,
            8 => Self::ForgetSource,
            9 => Self::Erase,
            10 => Self::Lost,
            11 => Self::Park,
            12 => Self::Repeat,
            13 => Self::Dropped,
            _ => return None,
        })
    }
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the payload is.
    pub(crate) kind: Kind,
    /// Its length, in bytes.
    pub(crate) payload_bytes: u32,
    /// The record's place in the order of everything.
    pub(crate) seq: u64,
    /// When it was written, in milliseconds since 1970.
    pub(crate) time: u64,
    /// CRC32C of the payload.
    pub(crate) payload_crc: u32,
}

impl Header {
    /// The header as it stands in the segment `uid`.
    pub(crate) fn encode(&self, uid: u128) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = header_crc(uid, &bytes);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header of the segment `uid`; `None` if these bytes are not one.
    pub(crate) fn decode(uid: u128, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        if u32_at(bytes, 28) != header_crc(uid, bytes) {
            return None;
        }
        let header = Self {
            kind: Kind::from_byte(bytes[4])?,
            payload_bytes: u32_at(bytes, 0),
            seq: u64_at(bytes, 8),
            time: u64_at(bytes, 16),
            payload_crc: u32_at(bytes, 24),
        };
        (header.payload_bytes as usize <= PAYLOAD_BYTES_MAX).then_some(header)
    }

    /// What the record takes in the segment, padding included, in bytes.
    pub(crate) fn span(&self) -> usize {
        span(self.payload_bytes as usize)
    }
}

/// What a record with such a payload takes in a segment, in bytes.
pub(crate) fn span(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// Adds a whole record to a buffer.
pub(crate) fn write(buffer: &mut Vec<u8>, uid: u128, header: &Header, payload: &[u8]) {
    buffer.extend_from_slice(&header.encode(uid));
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
}

/// The segment's random name is part of the sum, so that no record of another file looks alive.
fn header_crc(uid: u128, bytes: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&uid.to_le_bytes()), &bytes[..28])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        kind: Kind::Accept,
        payload_bytes: 5,
        seq: 0x0102_0304_0506_0708,
        time: 7,
        payload_crc: 0x0a0b_0c0d,
    };

    #[test]
    fn format_is_pinned() {
        let golden = "05000000020000000807060504030201070000000000000\
                      00d0c0b0a";
        let bytes = HEADER.encode(1);

        assert_eq!(hex::encode(&bytes[..28]), golden);
        assert_eq!(Header::decode(1, &bytes), Some(HEADER));
        assert_eq!(HEADER.span(), 40);
    }

    #[test]
    fn every_flipped_bit_and_every_other_segment_is_noticed() {
        let bytes = HEADER.encode(1);

        assert_eq!(Header::decode(2, &bytes), None);
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(1, &damaged), None, "bit {bit}");
        }
        assert_eq!(Header::decode(0, &[0; HEADER_BYTES]), None);
        assert_eq!(Header::decode(1, &bytes[..31]), None);
    }
}
