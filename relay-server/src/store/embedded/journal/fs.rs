//! What the journal asks of a file system: little enough that a test can play it, with all its faults.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The directory that holds the segments.
pub trait JournalFs: fmt::Debug + Send + Sync + 'static {
    /// The numbers of all segments, in any order.
    fn list(&self) -> io::Result<Vec<u32>>;
    /// Makes an empty file; an error if there is one.
    fn create(&self, number: u32) -> io::Result<Arc<dyn JournalFile>>;
    /// Opens a file.
    fn open(&self, number: u32) -> io::Result<Arc<dyn JournalFile>>;
    /// Removes a file.
    fn remove(&self, number: u32) -> io::Result<()>;
    /// Makes creations and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes left on the disk for us.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One segment's file.
pub trait JournalFile: fmt::Debug + Send + Sync + 'static {
    /// Its length, in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills the buffer from an offset.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of it.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// The real one.
#[derive(Debug)]
pub(crate) struct RealFs {
    directory: PathBuf,
}

impl RealFs {
    /// The journal in an existing directory.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08}.seg"))
    }
}

impl JournalFs for RealFs {
    fn list(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let path = Path::new(&name);
            if path.extension().is_some_and(|extension| extension == "seg")
                && let Some(number) = path.file_stem().and_then(|stem| stem.to_str())
                && let Ok(number) = number.parse()
            {
                numbers.push(number);
            }
        }
        Ok(numbers)
    }

    fn create(&self, number: u32) -> io::Result<Arc<dyn JournalFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(number))?;
        Ok(Arc::new(file))
    }

    fn open(&self, number: u32) -> io::Result<Arc<dyn JournalFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(number))?;
        Ok(Arc::new(file))
    }

    fn remove(&self, number: u32) -> io::Result<()> {
        std::fs::remove_file(self.path(number))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl JournalFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }
}
