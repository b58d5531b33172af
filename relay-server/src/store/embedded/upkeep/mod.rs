//! What operators do to a data directory besides serving from it: look whether it is whole, repair
//! what is not, copy it while a relay runs on it, and bring a copy back.
//!
//! Nothing here needs a running relay. [`check`](check::check) and [`back_up`](backup::back_up) only read and may run beside
//! one; the others want the directory for themselves.

mod backup;

mod check;

mod repair;

mod restore;

#[cfg(test)]
mod tests;

pub use backup::{BackedUp, back_up};
pub use check::{Inspection, ProjectionLook, SegmentLook, Trouble, check};
pub use repair::{Rebuilt, Repaired, rebuild, repair};
pub use restore::{Restored, restore};

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    journal::{
        fs::{JournalFs, RealFs},
        recovery,
        segment::{self, Scan, Segment, SegmentError},
    },
    open::{OpenError, at, take_lock},
};

/// Why upkeep failed.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no store.
    #[error("{path} holds no store; --data-dir names the directory of a relay", path = .0.display())]
    NoStore(PathBuf),
    /// Something would be overwritten.
    #[error("{path} is not empty; a backup is restored into a new directory", path = .0.display())]
    NotEmpty(PathBuf),
    /// Reading or writing.
    #[error("{what}: {source}")]
    Io {
        /// What was read or written.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A database.
    #[error("{what}: {source}")]
    Database {
        /// Which.
        what: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// A backup that is not one, or not whole.
    #[error("the backup cannot be used: {0}")]
    Backup(String),
}

impl From<SegmentError> for UpkeepError {
    fn from(error: SegmentError) -> Self {
        Self::Open(error.into())
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> UpkeepError {
    let what = what.into();
    move |source| UpkeepError::Io { what, source }
}

fn database(what: &'static str) -> impl Fn(rusqlite::Error) -> UpkeepError {
    move |source| UpkeepError::Database { what, source }
}

/// The files of a store.
#[derive(Debug)]
struct DataDir {
    path: PathBuf,
    /// A relay runs on it.
    in_use: bool,
    /// Held by who wants it alone.
    _lock: Option<File>,
}

impl DataDir {
    /// A directory to look at. It is not locked: a relay may run on it, and may start meanwhile.
    fn look(path: &Path) -> Result<Self, UpkeepError> {
        let path = of_a_store(path)?;
        let in_use = match take_lock(&path) {
            Ok(_) => false,
            Err(OpenError::InUse(_)) => true,
            Err(error) => return Err(error.into()),
        };
        let _lock = None;
        Ok(Self {
            path,
            in_use,
            _lock,
        })
    }

    /// A directory that nobody else uses until this is dropped.
    fn own(path: &Path) -> Result<Self, UpkeepError> {
        let path = of_a_store(path)?;
        let _lock = Some(take_lock(&path)?);
        let in_use = false;
        Ok(Self {
            path,
            in_use,
            _lock,
        })
    }

    fn settings(&self) -> PathBuf {
        self.path.join("settings.db")
    }

    fn projection(&self) -> PathBuf {
        self.path.join("projection.db")
    }

    fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    fn journal_fs(&self) -> Arc<dyn JournalFs> {
        Arc::new(RealFs::new(self.journal()))
    }

    /// The numbers of all segments, in order.
    fn numbers(&self) -> Result<Vec<u32>, UpkeepError> {
        if !self.journal().is_dir() {
            return Ok(Vec::new());
        }
        let mut numbers = self.journal_fs().list().map_err(at(&self.journal()))?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The segments that hold records, oldest first, and those whose first page is damaged.
    fn segments(&self) -> Result<(Vec<Segment>, Vec<u32>), UpkeepError> {
        let fs = self.journal_fs();
        let (mut used, mut unreadable) = (Vec::new(), Vec::new());
        for number in self.numbers()? {
            match Segment::load(&*fs, number) {
                Ok(Some(segment)) if segment.first_seq.is_some() => used.push(segment),
                Ok(_) => {}
                Err(SegmentError::Damaged(number)) => unreadable.push(number),
                // Dropped by the relay meanwhile.
                Err(SegmentError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        used.sort_by_key(|segment| (segment.first_seq, segment.number));
        Ok((used, unreadable))
    }
}

fn of_a_store(path: &Path) -> Result<PathBuf, UpkeepError> {
    match path.join("settings.db").is_file() {
        true => Ok(path.to_owned()),
        false => Err(UpkeepError::NoStore(path.to_owned())),
    }
}

/// One segment, read whole.
struct Read {
    scan: Scan,
    /// Where its good records end.
    end: u64,
}

fn read(segment: &Segment) -> Result<Read, UpkeepError> {
    let what = format!("journal segment {}", segment.number);
    let data = segment.read_all().map_err(io_error(what))?;
    let scan = segment::scan(&data, segment.uid);
    let end = scan.found.last().map_or(segment::DATA_AT, |found| {
        found.offset + found.header.span() as u64
    });
    Ok(Read { scan, end })
}

/// The sequence after a record.
fn next_seq(found: &segment::Found) -> u64 {
    found.header.seq + recovery::numbers(found.header.kind, &found.payload)
}
