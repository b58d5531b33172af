//! A file system in memory that forgets, tears and fails like a real one. For tests.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::fs::{JournalFile, JournalFs};

#[derive(Debug, Clone, Default)]
struct SimFile {
    /// What reads see.
    current: Vec<u8>,
    /// What a power loss leaves.
    durable: Vec<u8>,
    /// What may or may not have reached the disk since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Whether the directory knows it for good.
    named: bool,
}

#[derive(Debug, Clone)]
struct Disk {
    files: BTreeMap<u32, SimFile>,
    /// Writes and syncs until everything fails; none for never.
    left: Option<u64>,
    /// Writes and syncs so far.
    made: u64,
    /// Bytes of all files together.
    capacity: u64,
    sync_fails: bool,
}

/// The disk.
#[derive(Debug, Clone)]
pub(crate) struct SimFs(Arc<Mutex<Disk>>);

#[derive(Debug)]
struct Handle {
    number: u32,
    fs: SimFs,
}

fn failure() -> io::Error {
    io::Error::other("the simulated disk failed")
}

impl SimFs {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Disk {
            files: BTreeMap::new(),
            left: None,
            made: 0,
            capacity: u64::MAX / 2,
            sync_fails: false,
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails everything after so many more writes and syncs.
    pub(crate) fn die_after(&self, operations: u64) {
        self.disk().left = Some(operations);
    }

    /// How many writes and syncs were made.
    pub(crate) fn operations(&self) -> u64 {
        self.disk().made
    }

    /// Makes every sync fail.
    pub(crate) fn fail_syncs(&self) {
        self.disk().sync_fails = true;
    }

    /// Sets how many bytes fit.
    pub(crate) fn resize(&self, bytes: u64) {
        self.disk().capacity = bytes;
    }

    /// How many bytes are used.
    pub(crate) fn used(&self) -> u64 {
        self.disk().used()
    }

    /// What is in a file.
    pub(crate) fn bytes(&self, number: u32) -> Vec<u8> {
        self.disk().files[&number].current.clone()
    }

    /// Replaces what is in a file, durably.
    pub(crate) fn put(&self, number: u32, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let file = disk.files.entry(number).or_default();
        file.current.clone_from(&bytes);
        file.durable = bytes;
        file.unsynced.clear();
        file.named = true;
    }

    /// The disk as it would be found after a kill: everything written is there.
    pub(crate) fn after_kill(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.left = None;
        disk.sync_fails = false;
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk after a power loss: of what was not synced, `luck` decides what is left of each write.
    pub(crate) fn after_power_loss(&self, mut luck: impl FnMut(usize) -> usize) -> Self {
        let mut disk = self.disk().clone();
        disk.left = None;
        disk.sync_fails = false;
        disk.files.retain(|_, file| file.named || luck(1) == 1);
        for file in disk.files.values_mut() {
            for (at, bytes) in std::mem::take(&mut file.unsynced) {
                let kept = luck(bytes.len());
                let end = at + kept;
                if file.durable.len() < end {
                    file.durable.resize(end, 0);
                }
                file.durable[at..end].copy_from_slice(&bytes[..kept]);
            }
            file.current.clone_from(&file.durable);
            file.named = true;
        }
        Self(Arc::new(Mutex::new(disk)))
    }
}

impl Disk {
    fn used(&self) -> u64 {
        self.files
            .values()
            .map(|file| file.current.len() as u64)
            .sum()
    }

    fn operate(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => return Err(failure()),
            Some(left) => *left -= 1,
            None => {}
        }
        self.made += 1;
        Ok(())
    }
}

impl JournalFs for SimFs {
    fn list(&self) -> io::Result<Vec<u32>> {
        Ok(self.disk().files.keys().copied().collect())
    }

    fn create(&self, number: u32) -> io::Result<Arc<dyn JournalFile>> {
        let mut disk = self.disk();
        disk.operate()?;
        if disk.files.insert(number, SimFile::default()).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        drop(disk);
        self.open(number)
    }

    fn open(&self, number: u32) -> io::Result<Arc<dyn JournalFile>> {
        if !self.disk().files.contains_key(&number) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let fs = self.clone();
        Ok(Arc::new(Handle { number, fs }))
    }

    fn remove(&self, number: u32) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate()?;
        disk.files.remove(&number);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate()?;
        for file in disk.files.values_mut() {
            file.named = true;
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk.capacity.saturating_sub(disk.used()))
    }
}

impl JournalFile for Handle {
    fn length(&self) -> io::Result<u64> {
        let disk = self.fs.disk();
        let file = disk.files.get(&self.number).ok_or_else(failure)?;
        Ok(file.current.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = self.fs.disk();
        let file = disk.files.get(&self.number).ok_or_else(failure)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = file.current.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.fs.disk();
        disk.operate()?;
        let used = disk.used();
        let capacity = disk.capacity;
        let file = disk.files.get_mut(&self.number).ok_or_else(failure)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        let growth = end.saturating_sub(file.current.len());
        if used + growth as u64 > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if growth > 0 {
            file.current.resize(end, 0);
        }
        file.current[start..end].copy_from_slice(bytes);
        file.unsynced.push((start, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.fs.disk();
        disk.operate()?;
        if disk.sync_fails {
            return Err(failure());
        }
        let file = disk.files.get_mut(&self.number).ok_or_else(failure)?;
        file.durable.clone_from(&file.current);
        file.unsynced.clear();
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.fs.disk();
        disk.operate()?;
        let file = disk.files.get_mut(&self.number).ok_or_else(failure)?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        // Cut in both at once: the journal only cuts what no longer counts.
        file.current.truncate(bytes);
        file.durable.truncate(bytes);
        file.unsynced
            .retain(|(at, written)| at + written.len() <= bytes);
        Ok(())
    }
}
