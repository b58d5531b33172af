//! What a start finds: which records count, what is damaged, and what was not yet known to be durable.
//!
//! Each batch begins with a record that is written only after everything before it was synced. So in
//! the last segment in use, bad bytes before the last batch are damage; after it they are a torn tail,
//! which nobody was told about, and are cut. What follows the last batch may merely sit in the page
//! cache of a failing disk: it is copied to a fresh segment and synced before anything is served.

use std::{io, sync::Arc};

use bytes::Bytes;
use tracing::{error, info, warn};

use super::{
    fs::JournalFs,
    payload::{Accept, Lost},
    record::{self, Kind},
    segment::{self, Bad, DATA_AT, Found, OPENED_AT, Segment, SegmentError},
};

/// Bytes of the journal that are lost, and the records that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// The first sequence lost.
    pub(crate) first: u64,
    /// The first sequence after it that is not lost.
    pub(crate) next: u64,
    /// A repair has written down that they are lost.
    pub(crate) is_known: bool,
}

/// A journal ready to go on.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The segments in use, oldest first; the last one is fresh.
    pub(crate) segments: Vec<Segment>,
    /// Where the next batch goes in the last segment.
    pub(crate) offset: u64,
    /// The next sequence.
    pub(crate) next_seq: u64,
}

/// How many sequence numbers a record takes: one, one per delivery that it creates, or as many as are
/// lost or dropped.
pub(crate) fn numbers(kind: Kind, payload: &Bytes) -> u64 {
    match kind {
        Kind::Accept => Accept::decode(payload).map_or(1, |accept| accept.numbers()),
        Kind::Lost | Kind::Dropped => Lost::decode(payload).map_or(1, |lost| lost.count),
        _ => 1,
    }
}

impl Accept {
    /// How many sequence numbers it takes: its deliveries are told apart by theirs.
    pub(crate) fn numbers(&self) -> u64 {
        (self.deliveries.len() as u64).max(1)
    }
}

/// Brings a journal into a state in which everything it holds is durable.
pub(crate) fn recover(
    fs: &Arc<dyn JournalFs>,
    segment_bytes: u64,
) -> Result<Recovered, SegmentError> {
    let io = |error| SegmentError::Io(0, error);
    let mut numbers_used = fs.list().map_err(io)?;
    numbers_used.sort_unstable();
    let mut segments = Vec::new();
    for number in &numbers_used {
        match Segment::load(&**fs, *number)? {
            Some(segment) if segment.first_seq.is_some() => segments.push(segment),
            // Never taken into use. It may hold an unfinished copy, so it is not kept as a spare.
            _ => fs.remove(*number).map_err(io)?,
        }
    }
    // The order of use; numbers only tell files apart.
    segments.sort_by_key(|segment| (segment.first_seq, segment.number));
    let number = numbers_used.last().map_or(1, |last| last + 1);
    let Some(last) = segments.last().cloned() else {
        return start_afresh(fs, number, segment_bytes);
    };
    let tail = Tail::of(&last)?;
    let mut fresh = copy_tail(fs, number, segment_bytes, &tail)
        .map_err(|error| SegmentError::Io(number, error))?;
    fresh.segment.first_seq = Some(tail.first_seq);
    if tail.offset == DATA_AT {
        fs.remove(last.number).map_err(io)?;
        segments.pop();
    } else {
        truncate(&last, tail.offset);
    }
    info!(
        records = tail.found.len(),
        segment = number,
        "the journal's tail is safe"
    );
    segments.push(fresh.segment);
    Ok(Recovered {
        segments,
        offset: fresh.offset,
        next_seq: tail.next_seq,
    })
}

/// The segments in use, oldest first. The last one is being written.
pub(crate) fn in_use(fs: &dyn JournalFs) -> Result<Vec<Segment>, SegmentError> {
    let numbers = fs.list().map_err(|error| SegmentError::Io(0, error))?;
    let mut segments = Vec::with_capacity(numbers.len());
    for number in numbers {
        segments.extend(Segment::load(fs, number)?.filter(|it| it.first_seq.is_some()));
    }
    segments.sort_by_key(|segment| (segment.first_seq, segment.number));
    Ok(segments)
}

fn start_afresh(
    fs: &Arc<dyn JournalFs>,
    number: u32,
    segment_bytes: u64,
) -> Result<Recovered, SegmentError> {
    let mut segment = Segment::create(&**fs, number, segment_bytes)
        .and_then(|segment| open(&segment, 1).map(|()| segment))
        .map_err(|error| SegmentError::Io(number, error))?;
    segment.first_seq = Some(1);
    Ok(Recovered {
        segments: vec![segment],
        offset: DATA_AT,
        next_seq: 1,
    })
}

fn open(segment: &Segment, first_seq: u64) -> io::Result<()> {
    segment
        .file
        .write_all_at(&segment.opening(first_seq), OPENED_AT)?;
    segment.file.sync()
}

/// The records of the last segment that nothing later vouches for.
struct Tail {
    found: Vec<Found>,
    first_seq: u64,
    next_seq: u64,
    /// Where it begins.
    offset: u64,
}

impl Tail {
    fn of(last: &Segment) -> Result<Self, SegmentError> {
        let data = last
            .read_all()
            .map_err(|error| SegmentError::Io(last.number, error))?;
        let scan = segment::scan(&data, last.uid);
        let offset = scan.last_batch().unwrap_or(DATA_AT);
        let torn = scan.bad.iter().find(|bad| bad.offset >= offset);
        if let Some(torn) = torn {
            warn!(
                segment = last.number,
                offset = torn.offset,
                "cut a torn tail: nobody was told that it was stored"
            );
        }
        let cut = torn.map_or(u64::MAX, |bad| bad.offset);
        let found: Vec<Found> = scan
            .found
            .into_iter()
            .filter(|found| found.offset >= offset && found.offset < cut)
            .collect();
        let first_seq = found
            .first()
            .map_or(last.first_seq.unwrap_or(1), |found| found.header.seq);
        let next_seq = found.last().map_or(first_seq, |found| {
            found.header.seq + numbers(found.header.kind, &found.payload)
        });
        Ok(Self {
            found,
            first_seq,
            next_seq,
            offset,
        })
    }
}

struct Fresh {
    segment: Segment,
    offset: u64,
}

/// The records come first and the second sector after: a crash in between leaves the old ones valid.
fn copy_tail(
    fs: &Arc<dyn JournalFs>,
    number: u32,
    segment_bytes: u64,
    tail: &Tail,
) -> io::Result<Fresh> {
    let spans: usize = tail.found.iter().map(|found| found.header.span()).sum();
    let bytes = segment_bytes.max(DATA_AT + spans as u64);
    let segment = Segment::create(&**fs, number, bytes)?;
    let mut buffer = Vec::with_capacity(spans);
    for found in &tail.found {
        record::write(&mut buffer, segment.uid, &found.header, &found.payload);
    }
    segment.file.write_all_at(&buffer, DATA_AT)?;
    segment.file.sync()?;
    open(&segment, tail.first_seq)?;
    let offset = DATA_AT + buffer.len() as u64;
    Ok(Fresh { segment, offset })
}

/// Gives back the zeroes of a finished segment. What fails here is only space.
pub(crate) fn truncate(segment: &Segment, bytes: u64) {
    if let Err(error) = segment.file.set_len(bytes) {
        warn!(segment = segment.number, %error, "could not shorten a finished segment");
    }
}

/// One record as a replay sees it.
pub(crate) struct Replayed {
    pub(crate) segment: u32,
    pub(crate) found: Found,
}

/// Reads one segment in order. `next_first_seq` is where the next segment takes over: later copies win.
pub(crate) fn replay(
    segment: &Segment,
    next_first_seq: Option<u64>,
    mut each: impl FnMut(Replayed),
) -> Result<Vec<Damage>, SegmentError> {
    let data = segment
        .read_all()
        .map_err(|error| SegmentError::Io(segment.number, error))?;
    let scan = segment::scan(&data, segment.uid);
    let end = next_first_seq.unwrap_or(u64::MAX);
    let mut expected = segment.first_seq.unwrap_or(1);
    let mut damages = Vec::new();
    let mut bad = scan.bad.iter().copied().peekable();
    for found in scan.found {
        let seq = found.header.seq;
        if seq >= end {
            break;
        }
        if seq > expected {
            damages.push(damage(segment, &mut bad, found.offset, expected, seq));
        }
        expected = seq + numbers(found.header.kind, &found.payload);
        if found.header.kind == Kind::Lost {
            damages.push(Damage {
                segment: segment.number,
                offset: found.offset,
                bytes: 0,
                first: seq,
                next: expected,
                is_known: true,
            });
            continue;
        }
        if found.header.kind == Kind::Dropped {
            continue;
        }
        let segment = segment.number;
        each(Replayed { segment, found });
    }
    if let Some(end) = next_first_seq
        && expected < end
    {
        damages.push(damage(segment, &mut bad, u64::MAX, expected, end));
    }
    for damage in damages.iter().filter(|damage| !damage.is_known) {
        error!(
            segment = damage.segment,
            offset = damage.offset,
            bytes = damage.bytes,
            records = damage.next - damage.first,
            "the journal is damaged: these records are lost; `relay-server store check` says more"
        );
    }
    Ok(damages)
}

fn damage(
    segment: &Segment,
    bad: &mut std::iter::Peekable<impl Iterator<Item = Bad>>,
    before: u64,
    first: u64,
    next: u64,
) -> Damage {
    let mut range: Option<Bad> = None;
    while let Some(one) = bad.next_if(|bad| bad.offset < before) {
        let start = range.map_or(one.offset, |range| range.offset);
        range = Some(Bad {
            offset: start,
            bytes: one.offset + one.bytes - start,
        });
    }
    Damage {
        segment: segment.number,
        offset: range.map_or(DATA_AT, |range| range.offset),
        bytes: range.map_or(0, |range| range.bytes),
        first,
        next,
        is_known: false,
    }
}
