//! A copy of a store at one position, taken while a relay runs on it.
//!
//! The copy is a tar file: the segments of the journal, the settings, and at its end a list of all
//! sums, without which it counts as cut off. The journal goes first. Settings that are a little newer
//! than it do no harm: a start ends what belongs to what was deleted meanwhile.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{DataDir, UpkeepError, database, io_error, read};

/// The version of the form of backups.
pub(super) const FORMAT: u32 = 1;

/// The list of everything, last in a backup.
pub(super) const LIST: &str = "hookferry-backup.json";

/// The name of the settings in a backup.
pub(super) const SETTINGS: &str = "settings.db";

/// Where segments are in a backup.
pub(super) const JOURNAL: &str = "journal/";

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct List {
    pub(super) format: u32,
    /// The program that made it.
    pub(super) program: String,
    /// When it was begun, in milliseconds since 1970.
    pub(super) begun_at_ms: u64,
    /// Everything up to this sequence number is in it.
    pub(super) last_seq: u64,
    pub(super) files: Vec<Listed>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// SHA-256, in hexadecimal.
    pub(super) sha256: String,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BackedUp {
    /// Everything up to this sequence number is in the backup.
    pub last_seq: u64,
    /// Segments of the journal.
    pub segments: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Copies a store to a stream, at one position of its journal. Blocks as long as that takes; a relay may
/// run on it. The key file is not in it: keep it apart.
///
/// # Errors
///
/// See [`UpkeepError`]. The stream then ends without its list, and [`restore`](super::restore()) refuses it.
pub fn back_up(data_dir: &Path, now_ms: u64, to: impl Write) -> Result<BackedUp, UpkeepError> {
    let directory = DataDir::look(data_dir)?;
    let mut list = List {
        format: FORMAT,
        program: concat!("relay-server/", env!("CARGO_PKG_VERSION")).to_owned(),
        begun_at_ms: now_ms,
        last_seq: 0,
        files: Vec::new(),
    };
    let mut archive = Builder::new(to);
    let (segments, unreadable) = directory.segments()?;
    if let Some(number) = unreadable.first() {
        let damaged = format!(
            "journal segment {number} is damaged; see `relay-server store check` before this overwrites a better backup"
        );
        return Err(UpkeepError::Backup(damaged));
    }
    for segment in &segments {
        // What is written to the newest one from now on is not in the backup.
        let read = read(segment)?;
        if let Some(last) = read.scan.found.last() {
            list.last_seq = list.last_seq.max(super::next_seq(last) - 1);
        }
        let name = format!("{JOURNAL}{:08}.seg", segment.number);
        let file = FileAt {
            file: &*segment.file,
            at: 0,
        };
        add(&mut archive, &mut list, name, read.end, file)?;
    }
    add_settings(&mut archive, &mut list, &directory)?;
    let backed_up = BackedUp {
        last_seq: list.last_seq,
        segments: segments.len(),
        bytes: list.files.iter().map(|file| file.bytes).sum(),
    };
    let text =
        serde_json::to_vec_pretty(&list).map_err(|error| UpkeepError::Backup(error.to_string()))?;
    let wrote = || io_error("writing the backup");
    let mut header = header(text.len() as u64);
    archive
        .append_data(&mut header, LIST, text.as_slice())
        .map_err(wrote())?;
    archive
        .into_inner()
        .and_then(|mut to| to.flush())
        .map_err(wrote())?;
    Ok(backed_up)
}

fn add_settings(
    archive: &mut Builder<impl Write>,
    list: &mut List,
    directory: &DataDir,
) -> Result<(), UpkeepError> {
    let failed = database("copying the settings");
    let copy = tempfile_in(&directory.path).map_err(io_error("a file beside the settings"))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.settings(), flags).map_err(&failed)?;
    connection
        .busy_timeout(std::time::Duration::from_secs(30))
        .map_err(&failed)?;
    // One transaction: a whole and consistent file, whatever the relay changes meanwhile.
    let name = copy.0.to_string_lossy().into_owned();
    connection
        .execute("VACUUM INTO ?1", [name])
        .map_err(&failed)?;
    let file = File::open(&copy.0).map_err(io_error("the copy of the settings"))?;
    let bytes = file
        .metadata()
        .map_err(io_error("the copy of the settings"))?
        .len();
    add(archive, list, SETTINGS.to_owned(), bytes, file)
}

/// A name that is free, for a file that is removed in the end.
fn tempfile_in(directory: &Path) -> io::Result<Removed> {
    let path = directory.join(format!("settings-copy-{:016x}.db", rand::random::<u64>()));
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(Removed(path))
}

struct Removed(std::path::PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a temporary file stays behind");
        }
    }
}

fn header(bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_entry_type(EntryType::Regular);
    header
}

fn add(
    archive: &mut Builder<impl Write>,
    list: &mut List,
    name: String,
    bytes: u64,
    from: impl Read,
) -> Result<(), UpkeepError> {
    let mut summed = Summed {
        from: from.take(bytes),
        sum: Sha256::new(),
        bytes: 0,
    };
    archive
        .append_data(&mut header(bytes), &name, &mut summed)
        .map_err(io_error(format!("copying {name}")))?;
    if summed.bytes != bytes {
        return Err(UpkeepError::Backup(format!(
            "{name} became shorter while it was copied"
        )));
    }
    list.files.push(Listed {
        name,
        bytes,
        sha256: hex::encode(summed.sum.finalize()),
    });
    Ok(())
}

/// Counts and sums what is read.
pub(super) struct Summed<R> {
    pub(super) from: R,
    pub(super) sum: Sha256,
    pub(super) bytes: u64,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.sum.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Reads a segment's file from its start.
struct FileAt<'a> {
    file: &'a dyn super::super::journal::fs::JournalFile,
    at: u64,
}

impl Read for FileAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.length()?.saturating_sub(self.at);
        let read = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.read_exact_at(&mut buffer[..read], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
