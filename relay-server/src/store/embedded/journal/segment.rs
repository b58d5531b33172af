//! One file of the journal. Its first page names it: what is known when the file is made stands in
//! the first sector and is durable before any record; the second sector is written when the segment
//! comes into use. Records follow from the second page on.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    fs::{JournalFile, JournalFs},
    record::{self, Header, Kind},
};

/// Where records begin.
pub(crate) const DATA_AT: u64 = 4096;

/// Where the second sector begins.
pub(crate) const OPENED_AT: u64 = 512;

/// The version of everything in a segment.
const FORMAT: u32 = 1;

/// What is used of the first sector.
const FIRST_SECTOR_BYTES: u64 = 44;

/// What is used of the second sector.
const OPENED_BYTES: usize = 20;

const MAGIC: &[u8; 8] = b"HKFYJRNL";

const OPENED: &[u8; 8] = b"HKFYOPEN";

/// How much is zeroed in one write.
const ZEROES: usize = 1024 * 1024;

/// A segment's file and names.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    /// Random; in every checksum.
    pub(crate) uid: u128,
    pub(crate) file: Arc<dyn JournalFile>,
    /// The length of the file.
    pub(crate) bytes: u64,
    /// The sequence of its first record; none while it waits to be used.
    pub(crate) first_seq: Option<u64>,
}

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentError {
    /// The disk.
    #[error("segment {0}: {1}")]
    Io(u32, #[source] io::Error),
    /// Not what was written.
    #[error("segment {0} has a damaged header; stop the relay and run `relay-server store repair`")]
    Damaged(u32),
    /// Another program's.
    #[error("segment {number} has format {format}, and this program knows {FORMAT}")]
    Format {
        /// Which.
        number: u32,
        /// What it says.
        format: u32,
    },
}

impl Segment {
    /// Makes a zeroed file with its first sector, all durable.
    pub(crate) fn create(fs: &dyn JournalFs, number: u32, bytes: u64) -> io::Result<Self> {
        let file = fs.create(number)?;
        let uid = rand::random();
        if let Err(error) = prepare(&*file, number, uid, bytes).and_then(|()| fs.sync_dir()) {
            // What cannot be removed is unused, and removed by the next start.
            let _ = fs.remove(number);
            return Err(error);
        }
        Ok(Self {
            number,
            uid,
            file,
            bytes,
            first_seq: None,
        })
    }

    /// Reads the names of a segment. `Ok(None)` for a file that was never finished.
    pub(crate) fn load(fs: &dyn JournalFs, number: u32) -> Result<Option<Self>, SegmentError> {
        let io = |error| SegmentError::Io(number, error);
        let file = fs.open(number).map_err(io)?;
        let bytes = file.length().map_err(io)?;
        let mut page = [0; DATA_AT as usize];
        if bytes < DATA_AT {
            return Ok(None);
        }
        file.read_exact_at(&mut page, 0).map_err(io)?;
        let crc = crc32c::crc32c(&page[..40]);
        if page[..8] != *MAGIC || le_u32(&page[40..44]) != crc {
            return unless_unused(&*file, number, FIRST_SECTOR_BYTES, bytes);
        }
        let format = le_u32(&page[8..12]);
        if format != FORMAT {
            return Err(SegmentError::Format { number, format });
        }
        let mut uid = [0; 16];
        uid.copy_from_slice(&page[16..32]);
        let uid = u128::from_le_bytes(uid);
        if le_u32(&page[12..16]) != number {
            return Err(SegmentError::Damaged(number));
        }
        let opened = &page[OPENED_AT as usize..OPENED_AT as usize + OPENED_BYTES];
        let mut segment = Self {
            number,
            uid,
            file,
            bytes,
            first_seq: None,
        };
        if opened.iter().all(|byte| *byte == 0) {
            return Ok(Some(segment));
        }
        match segment.first_seq_from(opened) {
            Ok(first_seq) => {
                segment.first_seq = Some(first_seq);
                Ok(Some(segment))
            }
            Err(SegmentError::Damaged(_)) => {
                let behind = OPENED_AT + OPENED_BYTES as u64;
                unless_unused(&*segment.file, number, behind, bytes)
            }
            Err(error) => Err(error),
        }
    }

    /// The second sector, or, when that is damaged, the first record.
    fn first_seq_from(&self, opened: &[u8]) -> Result<u64, SegmentError> {
        if opened == self.opened_sector(le_u64(&opened[8..16])) {
            return Ok(le_u64(&opened[8..16]));
        }
        let mut header = [0; record::HEADER_BYTES];
        let read = self.file.read_exact_at(&mut header, DATA_AT);
        read.map_err(|error| SegmentError::Io(self.number, error))?;
        match Header::decode(self.uid, &header) {
            Some(header) => Ok(header.seq),
            None => Err(SegmentError::Damaged(self.number)),
        }
    }

    fn opened_sector(&self, first_seq: u64) -> [u8; OPENED_BYTES] {
        let mut sector = [0; OPENED_BYTES];
        sector[..8].copy_from_slice(OPENED);
        sector[8..16].copy_from_slice(&first_seq.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.uid.to_le_bytes()), &sector[..16]);
        sector[16..].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// What stands between the second sector's start and the first record.
    pub(crate) fn opening(&self, first_seq: u64) -> Vec<u8> {
        let mut bytes = self.opened_sector(first_seq).to_vec();
        bytes.resize((DATA_AT - OPENED_AT) as usize, 0);
        bytes
    }

    /// Everything in it. At start only: it may be large.
    pub(crate) fn read_all(&self) -> io::Result<Bytes> {
        let length = usize::try_from(self.file.length()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(Bytes::from(bytes))
    }
}

/// `Ok(None)` for a file whose first page was torn by a power loss before anything was made durable
/// behind it: both sectors are synced before or with the first record, so that nothing is lost.
fn unless_unused(
    file: &dyn JournalFile,
    number: u32,
    from: u64,
    bytes: u64,
) -> Result<Option<Segment>, SegmentError> {
    let io = |error| SegmentError::Io(number, error);
    let mut rest = vec![0; usize::try_from(bytes.saturating_sub(from)).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut rest, from).map_err(io)?;
    if is_zero(&rest) {
        Ok(None)
    } else {
        Err(SegmentError::Damaged(number))
    }
}

fn prepare(file: &dyn JournalFile, number: u32, uid: u128, bytes: u64) -> io::Result<()> {
    let zeroes = vec![0; ZEROES];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(ZEROES as u64);
        #[expect(clippy::cast_possible_truncation, reason = "at most ZEROES")]
        file.write_all_at(&zeroes[..length as usize], at)?;
        at += length;
    }
    let mut sector = [0; 44];
    sector[..8].copy_from_slice(MAGIC);
    sector[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    sector[12..16].copy_from_slice(&number.to_le_bytes());
    sector[16..32].copy_from_slice(&uid.to_le_bytes());
    sector[32..40].copy_from_slice(&bytes.to_le_bytes());
    let crc = crc32c::crc32c(&sector[..40]);
    sector[40..].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&sector, 0)?;
    file.sync()
}

/// A good record.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) header: Header,
    pub(crate) payload: Bytes,
}

/// Bytes that are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// All that a segment holds, in order.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) found: Vec<Found>,
    pub(crate) bad: Vec<Bad>,
}

/// Reads every record; resynchronises after bad bytes at the next header that checks.
pub(crate) fn scan(data: &Bytes, uid: u128) -> Scan {
    let mut scan = Scan::default();
    let mut at = DATA_AT as usize;
    while at < data.len() {
        match read_at(data, uid, at) {
            Some((header, payload)) => {
                let end = at + header.span();
                match payload {
                    Some(payload) => scan.found.push(Found {
                        offset: at as u64,
                        header,
                        payload,
                    }),
                    None => scan.bad.push(bad(at, end.min(data.len()))),
                }
                at = end;
            }
            None => {
                let Some(next) = next_header(data, uid, at) else {
                    if !is_zero(&data[at..]) {
                        scan.bad.push(bad(at, data.len()));
                    }
                    break;
                };
                scan.bad.push(bad(at, next));
                at = next;
            }
        }
    }
    scan
}

fn bad(from: usize, to: usize) -> Bad {
    Bad {
        offset: from as u64,
        bytes: (to - from) as u64,
    }
}

/// The header at an offset if it checks, and the payload if that checks too.
fn read_at(data: &Bytes, uid: u128, at: usize) -> Option<(Header, Option<Bytes>)> {
    let header = Header::decode(uid, &data[at..])?;
    let start = at + record::HEADER_BYTES;
    let end = start + header.payload_bytes as usize;
    let payload = (end <= data.len())
        .then(|| data.slice(start..end))
        .filter(|payload| crc32c::crc32c(payload) == header.payload_crc);
    Some((header, payload))
}

/// The next offset after bad bytes where a header checks.
fn next_header(data: &Bytes, uid: u128, bad_at: usize) -> Option<usize> {
    let mut at = bad_at + record::ALIGN;
    while at + record::HEADER_BYTES <= data.len() {
        let zeroes = zero_blocks(&data[at..]);
        if zeroes > 0 {
            at += zeroes * BLOCK.len();
        } else if Header::decode(uid, &data[at..]).is_some() {
            return Some(at);
        } else {
            at += record::ALIGN;
        }
    }
    None
}

const BLOCK: [u8; 4096] = [0; 4096];

/// How many blocks from here on are zero: whole blocks compare fast.
fn zero_blocks(data: &[u8]) -> usize {
    data.chunks(BLOCK.len())
        .take_while(|chunk| **chunk == BLOCK[..chunk.len()])
        .count()
}

fn is_zero(data: &[u8]) -> bool {
    zero_blocks(data) * BLOCK.len() >= data.len()
}

impl Scan {
    /// Where the last batch begins: everything before it was durable.
    pub(crate) fn last_batch(&self) -> Option<u64> {
        self.found
            .iter()
            .rfind(|found| found.header.kind == Kind::Batch)
            .map(|found| found.offset)
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(field)
}

fn le_u64(bytes: &[u8]) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(field)
}
