//! Is everything there, and is it what was written?

use std::{collections::BTreeMap, path::Path};

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::{
    super::journal::{record::Kind, recovery::Replayed, segment::Segment},
    DataDir, UpkeepError, database, next_seq, read,
};
use crate::store::embedded::projection::{self, apply::Change};

/// What was found in a data directory.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// A relay runs on it: the newest segment is still being written.
    pub in_use: bool,
    /// Oldest first.
    pub segments: Vec<SegmentLook>,
    /// Records by kind.
    pub records: BTreeMap<&'static str, u64>,
    /// The first sequence number that is kept.
    pub first_seq: u64,
    /// The last one.
    pub last_seq: u64,
    /// Bytes of the journal on disk.
    pub journal_bytes: u64,
    /// The lists.
    pub projection: ProjectionLook,
    /// What is wrong, in the order of the journal. Empty if everything is whole.
    pub troubles: Vec<Trouble>,
}

/// One file of the journal.
#[derive(Debug, Serialize)]
pub struct SegmentLook {
    /// Its number.
    pub number: u32,
    /// Its length on disk, in bytes.
    pub bytes: u64,
    /// The sequence number of its first record.
    pub first_seq: u64,
    /// How many records it holds.
    pub records: u64,
    /// When its last record was written, in milliseconds since 1970; none without records.
    pub last_at_ms: Option<u64>,
}

/// The state of the projection.
#[derive(Debug, Serialize)]
pub struct ProjectionLook {
    /// How far it is; none if it is missing or of another version and will be rebuilt.
    pub applied_seq: Option<u64>,
    /// Its length with its log, in bytes.
    pub bytes: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trouble {
    /// The first page of a segment is damaged: nothing in it can be read.
    Header {
        /// Which.
        segment: u32,
    },
    /// Bytes that are not what was written.
    Damage {
        /// Where.
        segment: u32,
        /// From which byte on.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Bytes at the very end that nobody was told are stored: the next start cuts them.
    TornTail {
        /// Where.
        segment: u32,
        /// From which byte on.
        offset: u64,
    },
    /// Sequence numbers that are in no segment.
    Missing {
        /// The segment they belong to, or follow.
        segment: u32,
        /// The first.
        first: u64,
        /// The first that is there again.
        next: u64,
    },
    /// A record that checks but cannot be read by this program.
    Unknown {
        /// Where.
        segment: u32,
        /// At which byte.
        offset: u64,
    },
    /// The projection's file is damaged: `store rebuild` makes it anew.
    Projection {
        /// What SQLite says.
        detail: String,
    },
    /// The settings are damaged: restore them from a backup.
    Settings {
        /// What SQLite says.
        detail: String,
    },
}

impl Trouble {
    /// Whether something that was stored is lost.
    pub fn is_loss(&self) -> bool {
        !matches!(self, Self::TornTail { .. } | Self::Projection { .. })
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header { segment } => write!(f, "segment {segment}: the first page is damaged"),
            Self::Damage {
                segment,
                offset,
                bytes,
            } => {
                write!(
                    f,
                    "segment {segment}: {bytes} bytes at {offset} are damaged"
                )
            }
            Self::TornTail { segment, offset } => write!(
                f,
                "segment {segment}: torn tail at {offset}, which nobody was told is stored; the next start cuts it"
            ),
            Self::Missing {
                segment,
                first,
                next,
            } => {
                write!(
                    f,
                    "segment {segment}: records {first} to {} are missing",
                    next - 1
                )
            }
            Self::Unknown { segment, offset } => {
                write!(
                    f,
                    "segment {segment}: the record at {offset} cannot be understood"
                )
            }
            Self::Projection { detail } => write!(f, "projection: {detail}"),
            Self::Settings { detail } => write!(f, "settings: {detail}"),
        }
    }
}

/// Reads everything in a data directory and compares checksums, order and databases. Changes nothing;
/// blocks as long as reading takes.
///
/// # Errors
///
/// There is no store, or it cannot be read. What is damaged is no error but a [`Trouble`].
pub fn check(data_dir: &Path) -> Result<Inspection, UpkeepError> {
    let directory = DataDir::look(data_dir)?;
    let (segments, unreadable) = directory.segments()?;
    let mut look = Inspection {
        in_use: directory.in_use,
        segments: Vec::with_capacity(segments.len()),
        records: BTreeMap::new(),
        first_seq: segments
            .first()
            .and_then(|first| first.first_seq)
            .unwrap_or(0),
        last_seq: 0,
        journal_bytes: 0,
        projection: ProjectionLook {
            applied_seq: None,
            bytes: 0,
        },
        troubles: Vec::new(),
    };
    for segment in unreadable {
        look.troubles.push(Trouble::Header { segment });
    }
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).and_then(|next| next.first_seq);
        look.segment(segment, next)?;
    }
    look.projection(&directory)?;
    if let Some(detail) = unsound(&directory.settings()).map_err(database("the settings"))? {
        look.troubles.push(Trouble::Settings { detail });
    }
    Ok(look)
}

impl Inspection {
    /// Looks at one segment. `next` is where the following one takes over.
    fn segment(&mut self, segment: &Segment, next: Option<u64>) -> Result<(), UpkeepError> {
        let number = segment.number;
        let first_seq = segment.first_seq.unwrap_or(0);
        let read = read(segment)?;
        let mut expected = first_seq;
        let vouched = read.scan.last_batch();
        for bad in &read.scan.bad {
            // Behind the last batch of the last segment nothing was ever answered.
            let is_tail = next.is_none() && vouched.is_none_or(|batch| bad.offset >= batch);
            match is_tail {
                true if self.in_use => {}
                true => self.troubles.push(Trouble::TornTail {
                    segment: number,
                    offset: bad.offset,
                }),
                false => self.troubles.push(Trouble::Damage {
                    segment: number,
                    offset: bad.offset,
                    bytes: bad.bytes,
                }),
            }
        }
        let mut records = 0;
        let mut last_at_ms = None;
        for found in read.scan.found {
            let seq = found.header.seq;
            if next.is_some_and(|next| seq >= next) {
                break;
            }
            if seq > expected {
                self.missing(number, expected, seq);
            }
            expected = next_seq(&found);
            records += 1;
            last_at_ms = Some(found.header.time);
            *self.records.entry(found.header.kind.as_str()).or_default() += 1;
            if found.header.kind == Kind::Lost {
                continue;
            }
            let offset = found.offset;
            let is_plain = matches!(found.header.kind, Kind::Batch | Kind::Dropped);
            let replayed = Replayed {
                segment: number,
                found,
            };
            if !is_plain && Change::from_record(&replayed).is_none() {
                self.troubles.push(Trouble::Unknown {
                    segment: number,
                    offset,
                });
            }
        }
        if let Some(next) = next.filter(|next| *next > expected) {
            self.missing(number, expected, next);
        }
        self.last_seq = self.last_seq.max(expected.saturating_sub(1));
        self.journal_bytes += segment.bytes;
        self.segments.push(SegmentLook {
            number,
            bytes: segment.bytes,
            first_seq,
            records,
            last_at_ms,
        });
        Ok(())
    }

    fn missing(&mut self, segment: u32, first: u64, next: u64) {
        self.troubles.push(Trouble::Missing {
            segment,
            first,
            next,
        });
    }

    fn projection(&mut self, directory: &DataDir) -> Result<(), UpkeepError> {
        let path = directory.projection();
        self.projection.bytes = ["", "-wal"]
            .iter()
            .filter_map(|suffix| {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                std::fs::metadata(name).ok()
            })
            .map(|file| file.len())
            .sum();
        if self.projection.bytes == 0 {
            return Ok(());
        }
        if let Some(detail) = unsound(&path).map_err(database("the projection"))? {
            self.troubles.push(Trouble::Projection { detail });
            return Ok(());
        }
        self.projection.applied_seq = projection::applied_in(&path);
        Ok(())
    }
}

/// What SQLite finds wrong with a database; nothing is written to it.
fn unsound(path: &Path) -> rusqlite::Result<Option<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let checked = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.query_row("PRAGMA integrity_check(1)", [], |row| {
            row.get::<_, String>(0)
        })
    });
    match checked {
        Ok(answer) if answer == "ok" => Ok(None),
        Ok(answer) => Ok(Some(answer)),
        Err(error) => match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Ok(Some(error.to_string()))
            }
            _ => Err(error),
        },
    }
}
