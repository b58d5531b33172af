//! One file of the journal: a page that names it, then records.

use super::record::SegmentUid;

/// The page in front of the records, in bytes.
pub(in super::super) const SEGMENT_HEADER_BYTES: u64 = 4096;

/// The layout of everything in a segment.
const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"HKFYJRNL";

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) uid: SegmentUid,
    pub(super) number: u32,
    /// No record in it has a smaller sequence, copies aside.
    pub(super) first_sequence: u64,
    pub(super) created_ms: u64,
}

/// What the first page of a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstPage {
    /// A segment's header.
    Segment(SegmentHeader),
    /// Zeros: the file was renamed, and then the machine stopped.
    Blank,
    /// A segment of a format this version does not know.
    Newer(u32),
    /// Something else.
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        page.extend_from_slice(MAGIC);
        page.extend_from_slice(&FORMAT.to_le_bytes());
        page.extend_from_slice(&self.uid);
        page.extend_from_slice(&self.number.to_le_bytes());
        page.extend_from_slice(&self.first_sequence.to_le_bytes());
        page.extend_from_slice(&self.created_ms.to_le_bytes());
        let crc = crc32c::crc32c(&page);
        page.extend_from_slice(&crc.to_le_bytes());
        page.resize(SEGMENT_HEADER_BYTES as usize, 0);
        page
    }
}

impl FirstPage {
    pub(super) fn decode(page: &[u8]) -> Self {
        let Some(header) = page.first_chunk::<52>() else {
            return Self::Damaged;
        };
        if header.iter().all(|&byte| byte == 0) {
            return Self::Blank;
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if &header[..8] != MAGIC || crc32c::crc32c(&header[..48]) != u32_at(48) {
            return Self::Damaged;
        }
        if u32_at(8) != FORMAT {
            return Self::Newer(u32_at(8));
        }
        let mut uid = [0; 16];
        uid.copy_from_slice(&header[12..28]);
        Self::Segment(SegmentHeader {
            uid,
            number: u32_at(28),
            first_sequence: u64_at(32),
            created_ms: u64_at(40),
        })
    }
}

/// The file of a segment.
pub(super) fn file_name(number: u32) -> String {
    format!("{number:010}.seg")
}

/// The number of a segment's file; `None` for other files.
pub(super) fn parse_file_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() == 10 {
        digits.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_tells_what_a_file_is() {
        let header = SegmentHeader {
            uid: [3; 16],
            number: 9,
            first_sequence: 1 << 33,
            created_ms: 5,
        };
        let page = header.encode();

        assert_eq!(FirstPage::decode(&page), FirstPage::Segment(header));
        assert_eq!(FirstPage::decode(&[0; 4096]), FirstPage::Blank);
        assert_eq!(FirstPage::decode(&page[..51]), FirstPage::Damaged);
        for bit in 0..52 * 8 {
            let mut flipped = page.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FirstPage::decode(&flipped), FirstPage::Damaged, "bit {bit}");
        }
        assert_eq!(parse_file_name(&file_name(9)), Some(9));
        assert_eq!(parse_file_name("spare-9.seg"), None);
    }
}
