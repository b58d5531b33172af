//! The file behind the journal: records that are appended, a torn end that is cut, and a fresh copy
//! once most of it is no longer wanted.
//!
//! A record is its length (4 bytes), the CRC32C of its content (4 bytes), and its content: a kind
//! byte and what belongs to it, numbers little-endian. A receipt is kept as the very frame that will
//! be sent again, so every later version that speaks the protocol can read it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use protocol::{
    frame::{Receipt, Settled, ToRelay},
    id::DeliveryId,
};

/// The name of the file in the data directory.
pub(super) const NAME: &str = "journal";

/// Size from which a copy is considered, in bytes.
const COMPACT_FROM_BYTES: u64 = 32 * 1024 * 1024;

/// A copy is made when the file has grown by this factor since the last one.
const COMPACT_FACTOR: u64 = 4;

/// Largest content of a record, in bytes. What claims to be larger is damage.
const RECORD_BYTES_MAX: usize = protocol::limits::MESSAGE_BYTES_MAX + 64;

/// Pause between two syncs: what is written meanwhile shares the next one.
const SYNC_INTERVAL: Duration = Duration::from_millis(20);

const KIND_RECEIPT: u8 = 1;
const KIND_CONFIRMED: u8 = 2;
const KIND_SUCCESS: u8 = 3;

/// One thing that was written.
#[derive(Debug)]
pub(super) enum Record {
    Receipt {
        receipt: Box<Receipt>,
        at_ms: u64,
    },
    Confirmed(Settled),
    Success {
        delivery: DeliveryId,
        status: u16,
        at_ms: u64,
    },
}

#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    file: Arc<File>,
    /// Length of the file up to the last whole record.
    length: u64,
    length_after_copy: u64,
    /// Records that were added and not yet written.
    pending: Vec<u8>,
    sync: mpsc::SyncSender<Arc<File>>,
}

impl JournalFile {
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Vec<Record>)> {
        let path = directory.join(NAME);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (records, length) = read_records(Bytes::from(bytes));
        file.set_len(length)?;
        let opened = Self {
            path,
            file: Arc::new(file),
            length,
            // Unknown after a restart: a long file is copied at the first chance.
            length_after_copy: 0,
            pending: Vec::new(),
            sync: start_syncing()?,
        };
        Ok((opened, records))
    }

    pub(super) fn add_receipt(&mut self, receipt: &Receipt, at_ms: u64) {
        let frame = ToRelay::Receipt(Box::new(receipt.clone())).encode();
        self.add(&[&[KIND_RECEIPT], &at_ms.to_le_bytes(), &frame]);
    }

    pub(super) fn add_confirmed(&mut self, key: Settled) {
        let delivery = key.delivery.as_u128().to_le_bytes();
        self.add(&[&[KIND_CONFIRMED], &delivery, &key.attempt.to_le_bytes()]);
    }

    pub(super) fn add_success(&mut self, delivery: DeliveryId, status: u16, at_ms: u64) {
        let delivery = delivery.as_u128().to_le_bytes();
        self.add(&[
            &[KIND_SUCCESS],
            &delivery,
            &status.to_le_bytes(),
            &at_ms.to_le_bytes(),
        ]);
    }

    fn add(&mut self, parts: &[&[u8]]) {
        let start = self.pending.len();
        self.pending.extend_from_slice(&[0; 8]);
        for part in parts {
            self.pending.extend_from_slice(part);
        }
        let content = &self.pending[start + 8..];
        let (length, checksum) = (content.len() as u32, crc32c::crc32c(content));
        self.pending[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.pending[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Hands what was added to the operating system in one write, and asks for a sync soon.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = (&*self.file).write_all(&self.pending);
        let added = self.pending.len() as u64;
        self.pending.clear();
        if let Err(error) = written {
            // Half a record would hide every later one.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += added;
        // Full means that a sync is already asked for, and it comes after this write.
        let _ = self.sync.try_send(self.file.clone());
        Ok(())
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.length
    }

    pub(super) fn wants_compaction(&self) -> bool {
        self.length >= COMPACT_FROM_BYTES && self.length >= self.length_after_copy * COMPACT_FACTOR
    }

    /// Writes what was added to a fresh file and puts it in the place of the old one.
    pub(super) fn replace(&mut self) -> io::Result<()> {
        let content = std::mem::take(&mut self.pending);
        let fresh_path = self.path.with_extension("new");
        let mut fresh = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&fresh_path)?;
        fresh.write_all(&content)?;
        fresh.sync_data()?;
        std::fs::rename(&fresh_path, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.file = Arc::new(OpenOptions::new().append(true).open(&self.path)?);
        self.length = content.len() as u64;
        self.length_after_copy = self.length;
        Ok(())
    }
}

/// A thread that syncs what it is given, at most once per interval. It ends with its sender.
fn start_syncing() -> io::Result<mpsc::SyncSender<Arc<File>>> {
    let (sender, receiver) = mpsc::sync_channel::<Arc<File>>(1);
    std::thread::Builder::new()
        .name("journal-sync".to_owned())
        .spawn(move || {
            while let Ok(file) = receiver.recv() {
                if let Err(error) = file.sync_data() {
                    tracing::warn!(%error, "Cannot sync the journal");
                }
                std::thread::sleep(SYNC_INTERVAL);
            }
        })?;
    Ok(sender)
}

/// The whole records at the start of a file, and how far they reach.
fn read_records(bytes: Bytes) -> (Vec<Record>, u64) {
    let mut records = Vec::new();
    let mut position = 0;
    while let Some((record, end)) = read_record(&bytes, position) {
        records.push(record);
        position = end;
    }
    (records, position as u64)
}

fn read_record(bytes: &Bytes, start: usize) -> Option<(Record, usize)> {
    let header = bytes.get(start..start + 8)?;
    let length = u32::from_le_bytes(header[..4].try_into().ok()?) as usize;
    let checksum = u32::from_le_bytes(header[4..].try_into().ok()?);
    let content_start = start + 8;
    let end = content_start.checked_add(length)?;
    if length > RECORD_BYTES_MAX || end > bytes.len() {
        return None;
    }
    let content = bytes.slice(content_start..end);
    if crc32c::crc32c(&content) != checksum {
        return None;
    }
    Some((decode(content)?, end))
}

fn decode(content: Bytes) -> Option<Record> {
    let (&kind, rest) = content.split_first()?;
    let delivery = || {
        Some(DeliveryId::from_u128(u128::from_le_bytes(
            rest.get(..16)?.try_into().ok()?,
        )))
    };
    match kind {
        KIND_RECEIPT => {
            let at_ms = u64::from_le_bytes(rest.get(..8)?.try_into().ok()?);
            let Ok(ToRelay::Receipt(receipt)) = ToRelay::decode(content.slice(9..)) else {
                return None;
            };
            Some(Record::Receipt { receipt, at_ms })
        }
        KIND_CONFIRMED => {
            let attempt = u32::from_le_bytes(rest.get(16..20)?.try_into().ok()?);
            Some(Record::Confirmed(Settled {
                delivery: delivery()?,
                attempt,
            }))
        }
        KIND_SUCCESS => Some(Record::Success {
            delivery: delivery()?,
            status: u16::from_le_bytes(rest.get(16..18)?.try_into().ok()?),
            at_ms: u64::from_le_bytes(rest.get(18..26)?.try_into().ok()?),
        }),
        _ => None,
    }
}
