//! Making a damaged store whole: what can still be read is copied to fresh segments, what cannot is
//! written down as lost, and the damaged files are set aside.

use std::{collections::HashMap, fs, path::Path};

use serde::Serialize;

use super::{
    super::{
        journal::{
            Position,
            fs::JournalFs,
            payload::Lost,
            record::{self, Header, Kind},
            segment::{DATA_AT, Found, OPENED_AT, Segment},
        },
        open::{OpenError, at, bring_up_to_date, make_dir, secret_file},
        projection,
    },
    DataDir, Trouble, UpkeepError,
    check::check,
    database, io_error, next_seq, read,
};

/// What a repair did.
#[derive(Debug, Serialize)]
pub struct Repaired {
    /// What was wrong before.
    pub troubles: Vec<Trouble>,
    /// Segments that were copied or could not be read; they are in `journal/damaged` now.
    pub set_aside: Vec<u32>,
    /// How many sequence numbers are lost for good.
    pub lost: u64,
    /// The projection was removed; the next start rebuilds it.
    pub projection_removed: bool,
}

/// What a rebuild did.
#[derive(Debug, Serialize)]
pub struct Rebuilt {
    /// Changes that were applied.
    pub changes: u64,
    /// How far the projection is now.
    pub applied_seq: u64,
}

/// Repairs a data directory that no relay runs on. A store that is whole is left alone. Settings that
/// are damaged are not touched: only a backup has them.
///
/// # Errors
///
/// See [`UpkeepError`]. It can be run again: each segment is replaced in one step.
pub fn repair(data_dir: &Path) -> Result<Repaired, UpkeepError> {
    let troubles = check(data_dir)?.troubles;
    let directory = DataDir::own(data_dir)?;
    let mut repaired = Repaired {
        troubles,
        set_aside: Vec::new(),
        lost: 0,
        projection_removed: false,
    };
    if repaired
        .troubles
        .iter()
        .any(|trouble| matches!(trouble, Trouble::Projection { .. }))
    {
        projection::remove(&directory.projection());
        repaired.projection_removed = true;
    }
    let (segments, unreadable) = directory.segments()?;
    let mut number = directory.numbers()?.last().map_or(1, |last| last + 1);
    for (index, segment) in segments.iter().enumerate() {
        let next = segments.get(index + 1).and_then(|next| next.first_seq);
        if next == segment.first_seq {
            // An earlier repair was cut off behind its copy.
            set_aside(&directory, segment.number)?;
            continue;
        }
        // The tail of the last one is the next start's business.
        let Some(plan) = Plan::of(segment, next)? else {
            continue;
        };
        let moved = plan.write(&*directory.journal_fs(), number)?;
        number += 1;
        if !repaired.projection_removed {
            projection::move_events(&directory.projection(), &moved)
                .map_err(database("the projection"))?;
        }
        set_aside(&directory, segment.number)?;
        repaired.set_aside.push(segment.number);
        repaired.lost += plan.lost;
    }
    for segment in unreadable {
        set_aside(&directory, segment)?;
        repaired.set_aside.push(segment);
    }
    Ok(repaired)
}

/// A segment as it is to be.
struct Plan {
    found: Vec<Found>,
    first_seq: u64,
    lost: u64,
}

impl Plan {
    /// `None` if the segment is whole.
    fn of(segment: &Segment, next: Option<u64>) -> Result<Option<Self>, UpkeepError> {
        let scan = read(segment)?.scan;
        let vouched = scan.last_batch();
        let first_seq = segment.first_seq.unwrap_or(1);
        let mut plan = Self {
            found: Vec::with_capacity(scan.found.len()),
            first_seq,
            lost: 0,
        };
        let mut expected = first_seq;
        for found in scan.found {
            let seq = found.header.seq;
            if next.is_some_and(|next| seq >= next) {
                break;
            }
            if next.is_none() && vouched.is_none_or(|batch| found.offset >= batch) {
                // Behind the last batch: as it is, torn or not. A start decides about it.
                if plan.lost == 0 {
                    return Ok(None);
                }
            }
            plan.bridge(expected, seq, found.header.time);
            expected = next_seq(&found);
            plan.found.push(found);
        }
        if let Some(next) = next {
            let time = plan.found.last().map_or(0, |found| found.header.time);
            plan.bridge(expected, next, time);
        }
        Ok((plan.lost > 0).then_some(plan))
    }

    /// Writes down that what would stand between two sequence numbers is lost.
    fn bridge(&mut self, from: u64, to: u64, time: u64) {
        if to <= from {
            return;
        }
        let count = to - from;
        let payload = Lost { count }.encode();
        self.lost += count;
        self.found.push(Found {
            offset: 0,
            header: Header {
                kind: Kind::Lost,
                #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
                payload_bytes: payload.len() as u32,
                seq: from,
                time,
                payload_crc: crc32c::crc32c(&payload),
            },
            payload,
        });
    }

    /// Makes the fresh segment durable, and tells where its events are now, by sequence number.
    fn write(&self, fs: &dyn JournalFs, number: u32) -> Result<HashMap<u64, i64>, UpkeepError> {
        let what = || io_error(format!("journal segment {number}"));
        let spans: usize = self.found.iter().map(|found| found.header.span()).sum();
        let segment = Segment::create(fs, number, DATA_AT + spans as u64).map_err(what())?;
        let mut buffer = Vec::with_capacity(spans);
        let mut moved = HashMap::new();
        for found in &self.found {
            if found.header.kind == Kind::Accept {
                let position = Position {
                    segment: number,
                    offset: DATA_AT + buffer.len() as u64,
                };
                moved.insert(found.header.seq, position.pack());
            }
            record::write(&mut buffer, segment.uid, &found.header, &found.payload);
        }
        let file = &segment.file;
        file.write_all_at(&buffer, DATA_AT)
            .and_then(|()| file.sync())
            // Only now it counts, and as the later copy it wins.
            .and_then(|()| file.write_all_at(&segment.opening(self.first_seq), OPENED_AT))
            .and_then(|()| file.sync())
            .map_err(what())?;
        Ok(moved)
    }
}

/// Moves a file out of the journal, where nothing reads it any more.
fn set_aside(directory: &DataDir, number: u32) -> Result<(), UpkeepError> {
    let damaged = directory.journal().join("damaged");
    make_dir(&damaged)?;
    let name = format!("{number:08}.seg");
    let (from, to) = (directory.journal().join(&name), damaged.join(&name));
    fs::rename(&from, &to).map_err(at(&from))?;
    let synced = directory.journal_fs().sync_dir();
    Ok(synced.map_err(at(&directory.journal()))?)
}

/// Makes the projection anew from the journal. `progress` hears how many changes were applied so far.
///
/// # Errors
///
/// See [`UpkeepError`]. The journal is not changed; a start finishes what this left.
pub fn rebuild(data_dir: &Path, mut progress: impl FnMut(u64)) -> Result<Rebuilt, UpkeepError> {
    let directory = DataDir::own(data_dir)?;
    projection::remove(&directory.projection());
    let path = secret_file(&directory.projection())?;
    let mut projector = projection::open(&path).map_err(OpenError::from)?;
    let (segments, _) = directory.segments()?;
    let mut changes = 0;
    bring_up_to_date(&mut projector, &segments, |applied| {
        changes += applied;
        progress(changes);
    })?;
    let applied_seq = projector.applied();
    projector.finish();
    Ok(Rebuilt {
        changes,
        applied_seq,
    })
}
