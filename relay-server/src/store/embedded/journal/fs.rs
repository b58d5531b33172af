//! The files of the journal behind a small trait, so that tests can lose, tear and refuse writes.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::Arc,
};

/// Zeros are written in pieces of this many bytes.
const ZEROS: &[u8] = &[0; 1024 * 1024];

/// A directory of journal files.
pub(in super::super) trait FileSystem: fmt::Debug + Send + Sync + 'static {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates a file of zeros, durable with its directory entry when this returns. Leaves nothing
    /// behind when it fails.
    fn create_zeroed(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// Opens a file for reading and writing in place.
    fn open(&self, name: &str) -> io::Result<Arc<dyn JournalFile>>;

    /// Renames a file; durable when this returns.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// What is left on the disk, in bytes.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One file, written in place.
pub(in super::super) trait JournalFile:
    fmt::Debug + Send + Sync + 'static
{
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// `fdatasync`. After a failure nothing is known about what was written (never retry).
    fn sync(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file; durable when this returns.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
}

/// A real directory.
#[derive(Debug)]
pub(in super::super) struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// Uses a directory that exists.
    pub(in super::super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl FileSystem for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create_zeroed(&self, name: &str, bytes: u64) -> io::Result<()> {
        let path = self.directory.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let zeroed = write_zeros(&file, bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| self.sync_directory());
        if zeroed.is_err() {
            let _ = fs::remove_file(&path);
        }
        zeroed
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn JournalFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.directory.join(name))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))?;
        self.sync_directory()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let piece =
            usize::try_from(bytes - offset).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        FileExt::write_all_at(file, &ZEROS[..piece], offset)?;
        offset += piece as u64;
    }
    Ok(())
}

impl JournalFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)?;
        self.sync_all()
    }
}
