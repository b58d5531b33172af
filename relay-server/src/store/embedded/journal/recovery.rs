//! What a journal says after a stop of any kind, and making sure of it.
//!
//! A bad record below a point that a later batch knew to be synced is damage: it is reported, and
//! what follows is still read. Above it, it is the torn end of a batch that was never answered, and
//! is cut. What stands above the last such point but is whole may only have reached the page cache,
//! so it is copied to a fresh segment and synced before anything is served.

use std::{io, sync::Arc};

use bytes::Bytes;
use tracing::{error, info, warn};

use super::{
    Position, SEGMENT_HEADER_BYTES,
    fs::{FileSystem, JournalFile},
    record::{ALIGNMENT, Header, Kind, RECORD_HEADER_BYTES, SegmentUid},
    segment::{self, FirstPage, SegmentHeader},
};

/// A journal that cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The disk failed.
    #[error("cannot read the journal: {0}")]
    Io(#[from] io::Error),
    /// Written by a newer version.
    #[error(
        "{file} has format {format}, which this version does not know; use the version that wrote it"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        format: u32,
    },
}

/// A record found by a scan.
#[derive(Debug, Clone)]
pub(in super::super) struct Found {
    pub(in super::super) header: Header,
    pub(in super::super) position: Position,
    pub(in super::super) payload: Bytes,
}

/// A place that does not hold what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Damage {
    pub(in super::super) position: Position,
    pub(in super::super) bytes: u64,
    /// What the header still says, if only the payload is damaged.
    pub(in super::super) header: Option<Header>,
}

/// What a journal holds.
#[derive(Debug, Default)]
pub(in super::super) struct Recovered {
    /// The number for the next segment.
    pub(in super::super) next_segment: u32,
    /// The sequence for the next record.
    pub(in super::super) next_sequence: u64,
    /// Records that may never have been synced: write them again.
    pub(in super::super) tail: Vec<Found>,
    pub(in super::super) damage: Vec<Damage>,
}

/// Reads every record after `applied` in order and hands it to `visit`, cuts a torn end, and tells
/// what has to be written again. Records of the tail are not visited.
pub(in super::super) fn recover(
    fs: &Arc<dyn FileSystem>,
    applied: u64,
    mut visit: impl FnMut(Found),
) -> Result<Recovered, RecoveryError> {
    let segments = list(fs)?;
    let mut recovered = Recovered {
        next_sequence: applied + 1,
        ..Recovered::default()
    };
    // A segment is needed if the next one starts after what is applied; the last one always is.
    let needed = segments.partition_point(|segment| {
        segment
            .header
            .is_none_or(|header| header.first_sequence <= applied)
    });
    let needed = needed.saturating_sub(1);
    recovered.next_segment = segments.last().map_or(1, |last| last.number + 1);
    let count = segments.len();
    for (index, listed) in segments.into_iter().enumerate().skip(needed) {
        let Some(header) = listed.header else {
            continue;
        };
        let scan = Scan::of(listed.number, &header.uid, &listed.read()?);
        let is_last = index + 1 == count;
        let settled = scan.settle(is_last, &mut recovered.damage);
        if settled.end < scan.end {
            warn!(
                segment = listed.number,
                offset = settled.end,
                "cut the torn end of the journal"
            );
        }
        if is_last {
            listed.file.truncate(settled.end)?;
        }
        for found in scan
            .found
            .into_iter()
            .filter(|found| u64::from(found.position.offset()) < settled.end)
        {
            if found.header.kind == Kind::Batch
                || recovered
                    .damage
                    .iter()
                    .any(|one| one.position == found.position)
            {
                continue;
            }
            recovered.next_sequence = recovered.next_sequence.max(found.header.sequence + 1);
            if u64::from(found.position.offset()) >= settled.synced {
                recovered.tail.push(found);
            } else if found.header.sequence > applied {
                visit(found);
            }
        }
    }
    for damage in &recovered.damage {
        error!(position = %damage.position, bytes = damage.bytes, "the journal is damaged here");
    }
    info!(
        tail = recovered.tail.len(),
        next = recovered.next_sequence,
        "read the journal"
    );
    Ok(recovered)
}

#[derive(Debug)]
struct Listed {
    number: u32,
    file: Arc<dyn JournalFile>,
    header: Option<SegmentHeader>,
}

impl Listed {
    fn read(&self) -> io::Result<Bytes> {
        let length = usize::try_from(self.file.len()?).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.into())
    }
}

fn list(fs: &Arc<dyn FileSystem>) -> Result<Vec<Listed>, RecoveryError> {
    let mut numbers: Vec<_> = fs
        .list()?
        .iter()
        .filter_map(|name| segment::parse_file_name(name))
        .collect();
    numbers.sort_unstable();
    let mut segments = Vec::with_capacity(numbers.len());
    for number in numbers {
        let name = segment::file_name(number);
        let file = fs.open(&name)?;
        let mut page = vec![0; usize::try_from(file.len()?.min(SEGMENT_HEADER_BYTES)).unwrap_or(0)];
        file.read_exact_at(&mut page, 0)?;
        let header = match FirstPage::decode(&page) {
            FirstPage::Segment(header) => Some(header),
            FirstPage::Blank => None,
            FirstPage::Newer(format) => return Err(RecoveryError::Newer { file: name, format }),
            FirstPage::Damaged => {
                error!(
                    file = name,
                    "the first page of a journal segment is damaged; its records cannot be read"
                );
                None
            }
        };
        segments.push(Listed {
            number,
            file,
            header,
        });
    }
    Ok(segments)
}

/// Everything of one segment, judged later.
#[derive(Debug)]
struct Scan {
    number: u32,
    found: Vec<Found>,
    /// Records whose payload is bad, and gaps without a readable header.
    bad: Vec<Damage>,
    /// The highest point a batch knew to be synced.
    synced: u64,
    end: u64,
}

struct Settled {
    synced: u64,
    end: u64,
}

impl Scan {
    fn of(number: u32, uid: &SegmentUid, bytes: &Bytes) -> Self {
        let mut scan = Self {
            number,
            found: Vec::new(),
            bad: Vec::new(),
            synced: 0,
            end: SEGMENT_HEADER_BYTES,
        };
        while let Some(next) = scan.step(uid, bytes) {
            scan.end = next;
        }
        scan
    }

    /// Reads what stands at the end so far; the offset after it, or `None` if nothing follows.
    fn step(&mut self, uid: &SegmentUid, bytes: &Bytes) -> Option<u64> {
        let offset = self.end;
        let Some((header, payload)) = record_at(bytes, offset, uid) else {
            let next = next_record(bytes, offset, uid)?;
            self.bad.push(Damage {
                position: self.at(offset),
                bytes: next - offset,
                header: None,
            });
            return Some(next);
        };
        if crc32c::crc32c(&payload) == header.payload_crc {
            if header.kind == Kind::Batch
                && let Ok(synced) = <[u8; 8]>::try_from(payload.as_ref())
            {
                self.synced = self.synced.max(u64::from_le_bytes(synced));
            }
            self.found.push(Found {
                header,
                position: self.at(offset),
                payload,
            });
        } else {
            self.bad.push(Damage {
                position: self.at(offset),
                bytes: header.stride(),
                header: Some(header),
            });
        }
        Some(offset + header.stride())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "segments are smaller than 4 GiB"
    )]
    fn at(&self, offset: u64) -> Position {
        Position::new(self.number, offset as u32)
    }

    /// Tells damage from a torn end. A segment that is not the last was synced to its end before
    /// the next one was begun.
    fn settle(&self, is_last: bool, damage: &mut Vec<Damage>) -> Settled {
        let synced = if is_last { self.synced } else { self.end };
        let is_torn = |bad: &&Damage| u64::from(bad.position.offset()) >= synced;
        damage.extend(self.bad.iter().filter(|bad| !is_torn(bad)));
        let torn = self
            .bad
            .iter()
            .find(is_torn)
            .map(|bad| u64::from(bad.position.offset()));
        Settled {
            synced,
            end: torn.unwrap_or(self.end),
        }
    }
}

fn record_at(bytes: &Bytes, offset: u64, uid: &SegmentUid) -> Option<(Header, Bytes)> {
    let start = usize::try_from(offset).ok()?;
    let header = bytes.get(start..)?.first_chunk::<RECORD_HEADER_BYTES>()?;
    let header = Header::decode(header, uid)?;
    let from = start + RECORD_HEADER_BYTES;
    let to = from.checked_add(header.length as usize)?;
    (to <= bytes.len()).then(|| (header, bytes.slice(from..to)))
}

/// The next place at which a record can be read.
fn next_record(bytes: &Bytes, offset: u64, uid: &SegmentUid) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    let rest = bytes.get(start..)?;
    let last = rest.iter().rposition(|&byte| byte != 0)?;
    (ALIGNMENT..=last)
        .step_by(ALIGNMENT)
        .map(|step| offset + step as u64)
        .find(|&at| record_at(bytes, at, uid).is_some())
}
