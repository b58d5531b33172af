//! A backup becomes a data directory again.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    super::open::{at, make_dir},
    UpkeepError,
    backup::{FORMAT, JOURNAL, LIST, List, Listed, SETTINGS, Summed},
    io_error,
};

/// The list of a backup is at most this long, in bytes: some 100 000 segments.
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What was restored.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// Everything up to this sequence number is there.
    pub last_seq: u64,
    /// Segments of the journal.
    pub segments: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// When the backup was begun, in milliseconds since 1970.
    pub begun_at_ms: u64,
}

/// Makes a data directory of a backup. The directory must be missing or empty, but for the key file. The
/// projection is rebuilt by the next start.
///
/// # Errors
///
/// See [`UpkeepError`]. What was written until then stays, so that it can be looked at; it has no settings
/// and is therefore not taken for a store.
pub fn restore(data_dir: &Path, from: impl Read) -> Result<Restored, UpkeepError> {
    refuse_unless_empty(data_dir)?;
    let journal = data_dir.join("journal");
    make_dir(data_dir)?;
    make_dir(&journal)?;
    // The settings get their name last: without them a directory is no store.
    let unfinished = data_dir.join("settings.db.restoring");
    let mut written = HashMap::new();
    let mut list = None;
    let mut archive = tar::Archive::new(from);
    let unreadable = || io_error("reading the backup");
    for entry in archive.entries().map_err(unreadable())? {
        let mut entry = entry.map_err(unreadable())?;
        let name = entry
            .path()
            .map_err(unreadable())?
            .to_string_lossy()
            .into_owned();
        if name == LIST {
            list = Some(read_list(&mut entry)?);
            continue;
        }
        let to = match name.as_str() {
            SETTINGS => unfinished.clone(),
            _ => segment_path(&journal, &name)?,
        };
        let listed = write(&mut entry, &name, &to)?;
        written.insert(name, listed);
    }
    let list =
        list.ok_or_else(|| UpkeepError::Backup("it is cut off: its list is missing".to_owned()))?;
    compare(&list, &written)?;
    let settings = data_dir.join(SETTINGS);
    std::fs::rename(&unfinished, &settings).map_err(at(&settings))?;
    for directory in [&journal, data_dir] {
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(at(directory))?;
    }
    Ok(Restored {
        last_seq: list.last_seq,
        segments: list.files.len() - 1,
        bytes: list.files.iter().map(|file| file.bytes).sum(),
        begun_at_ms: list.begun_at_ms,
    })
}

/// A key file may be there, with retired ones beside it: they are kept apart from backups and put back
/// first.
fn refuse_unless_empty(data_dir: &Path) -> Result<(), UpkeepError> {
    let entries = match std::fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(data_dir)(error).into()),
    };
    for entry in entries {
        let name = entry.map_err(at(data_dir))?.file_name();
        if !name.as_encoded_bytes().starts_with(b"secret_key") {
            return Err(UpkeepError::NotEmpty(data_dir.to_owned()));
        }
    }
    Ok(())
}

/// Only names that a backup gives: nothing in it decides where files go.
fn segment_path(journal: &Path, name: &str) -> Result<PathBuf, UpkeepError> {
    let number = name
        .strip_prefix(JOURNAL)
        .and_then(|name| name.strip_suffix(".seg"))
        .filter(|number| number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|number| number.parse::<u32>().ok());
    match number {
        Some(number) => Ok(journal.join(format!("{number:08}.seg"))),
        None => Err(UpkeepError::Backup(format!(
            "it holds the unknown file {name:?}"
        ))),
    }
}

fn read_list(entry: &mut impl Read) -> Result<List, UpkeepError> {
    let mut text = Vec::new();
    entry
        .take(LIST_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(io_error("reading the backup's list"))?;
    let list: List = serde_json::from_slice(&text)
        .map_err(|error| UpkeepError::Backup(format!("its list cannot be read: {error}")))?;
    if list.format != FORMAT {
        return Err(UpkeepError::Backup(format!(
            "it has format {} ({}), and this program knows {FORMAT}",
            list.format, list.program
        )));
    }
    Ok(list)
}

fn write(entry: &mut impl Read, name: &str, to: &Path) -> Result<Listed, UpkeepError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(at(to))?;
    let mut summed = Summed {
        from: entry,
        sum: Sha256::new(),
        bytes: 0,
    };
    io::copy(&mut summed, &mut file)
        .and_then(|_| file.flush())
        .and_then(|()| file.sync_all())
        .map_err(at(to))?;
    Ok(Listed {
        name: name.to_owned(),
        bytes: summed.bytes,
        sha256: hex::encode(summed.sum.finalize()),
    })
}

fn compare(list: &List, written: &HashMap<String, Listed>) -> Result<(), UpkeepError> {
    for listed in &list.files {
        if written.get(&listed.name) != Some(listed) {
            let name = &listed.name;
            return Err(UpkeepError::Backup(format!("{name} is missing or damaged")));
        }
    }
    let has_settings = list.files.iter().any(|file| file.name == SETTINGS);
    if written.len() != list.files.len() || !has_settings {
        return Err(UpkeepError::Backup(
            "its files are not those of its list".to_owned(),
        ));
    }
    Ok(())
}
