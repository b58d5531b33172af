//! The one thread that appends.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::error;

use super::{
    Position, SEGMENT_HEADER_BYTES,
    fs::{FileSystem, JournalFile},
    record::{self, Header, Kind, SegmentUid},
    segment::{self, SegmentHeader},
    spares::Spares,
};
use crate::{clock::Clock, store::StoreError};

/// Changes that may wait for the writer.
const QUEUE_MAX: usize = 8192;

/// Changes and bytes in one batch.
const BATCH_OPS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// After this long without a change an empty batch notes that the last one was synced.
const IDLE: Duration = Duration::from_millis(100);

/// How long a provider should wait when the queue is full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A change to write, with what it does and who waits for it.
#[derive(Debug)]
pub(in super::super) struct Op<E> {
    pub(in super::super) kind: Kind,
    pub(in super::super) payload: Bytes,
    /// CRC32C of the payload, computed by the caller so that this thread need not.
    pub(in super::super) payload_crc: u32,
    pub(in super::super) effect: E,
    pub(in super::super) reply: oneshot::Sender<Result<Written, StoreError>>,
}

/// Where a change was written.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Written {
    pub(in super::super) sequence: u64,
    pub(in super::super) position: Position,
    pub(in super::super) time_ms: u64,
}

/// A change that is durable.
#[derive(Debug)]
pub(in super::super) struct Done<E> {
    pub(in super::super) written: Written,
    pub(in super::super) effect: E,
    pub(in super::super) reply: oneshot::Sender<Result<Written, StoreError>>,
}

/// Takes batches as they become durable, in order; it answers the replies itself, after it has
/// carried out the effects.
pub(in super::super) trait Sink<E>: Send + 'static {
    fn synced(&mut self, batch: Vec<Done<E>>);
    /// A batch that was not made durable. Undo what waits for it.
    fn failed(&mut self, effects: &[E]);
}

enum Message<E> {
    Op(Op<E>),
    Stop,
}

/// The callers' end of the writer.
pub(in super::super) struct Writer<E> {
    sender: SyncSender<Message<E>>,
    failure: Arc<Failure>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<E> fmt::Debug for Writer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// Why the journal refuses, once it does.
#[derive(Debug, Default)]
struct Failure {
    failed: AtomicBool,
    reason: Mutex<String>,
}

impl Failure {
    fn check(&self) -> Result<(), StoreError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = self
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Err(StoreError::Unavailable(reason))
    }

    fn set(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.failed.store(true, Ordering::Release);
    }
}

/// Where writing starts.
pub(in super::super) struct Start {
    pub(in super::super) fs: Arc<dyn FileSystem>,
    pub(in super::super) spares: Spares,
    pub(in super::super) segment_bytes: u64,
    pub(in super::super) next_segment: u32,
    pub(in super::super) next_sequence: u64,
    pub(in super::super) clock: Arc<dyn Clock>,
}

impl<E: Send + 'static> Writer<E> {
    /// Writes the `tail` of an earlier run again under its old sequences, syncs it, and starts the
    /// thread. Tells where each record of the tail is now.
    pub(in super::super) fn start(
        start: Start,
        tail: &[(Header, Bytes)],
        sink: impl Sink<E>,
    ) -> io::Result<(Self, Vec<Position>)> {
        let failure = Arc::new(Failure::default());
        let mut appender = Appender::new(start)?;
        let positions = appender.write_again(tail)?;
        let (sender, receiver) = mpsc::sync_channel(QUEUE_MAX);
        let writing = Writing {
            appender,
            sink: Box::new(sink),
            failure: Arc::clone(&failure),
        };
        let thread = thread::Builder::new()
            .name("journal".into())
            .spawn(move || writing.run(&receiver))?;
        Ok((
            Self {
                sender,
                failure,
                thread: Mutex::new(Some(thread)),
            },
            positions,
        ))
    }

    /// Queues a change.
    pub(in super::super) fn submit(&self, op: Op<E>) -> Result<(), StoreError> {
        self.failure.check()?;
        self.sender
            .try_send(Message::Op(op))
            .map_err(|error| match error {
                TrySendError::Full(_) => StoreError::Overloaded {
                    retry_after: RETRY_AFTER,
                },
                TrySendError::Disconnected(_) => {
                    StoreError::Unavailable("the journal is closed".to_owned())
                }
            })
    }

    /// Whether the journal still takes changes.
    pub(in super::super) fn check(&self) -> Result<(), StoreError> {
        self.failure.check()
    }

    /// Writes what is queued and stops. Blocks.
    pub(in super::super) fn close(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = self.sender.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

/// The thread.
struct Writing<E> {
    appender: Appender,
    sink: Box<dyn Sink<E>>,
    failure: Arc<Failure>,
}

impl<E: 'static> Writing<E> {
    fn run(mut self, receiver: &Receiver<Message<E>>) {
        let mut stopping = false;
        while !stopping {
            let first = if self.appender.is_noted() {
                receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                receiver.recv_timeout(IDLE)
            };
            match first {
                Ok(Message::Op(op)) => {
                    let (batch, stop) = gather(op, receiver);
                    stopping = stop;
                    self.commit(batch);
                }
                Err(RecvTimeoutError::Timeout) => self.note_synced(),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => stopping = true,
            }
        }
        self.note_synced();
    }

    fn commit(&mut self, batch: Vec<Op<E>>) {
        if let Err(error) = self.failure.check() {
            return self.refuse(batch, &error);
        }
        let records = batch
            .iter()
            .map(|op| (op.kind, op.payload_crc, &op.payload));
        match self.appender.append(records) {
            Ok(written) => {
                let done = batch.into_iter().zip(written);
                let done = done.map(|(op, written)| Done {
                    written,
                    effect: op.effect,
                    reply: op.reply,
                });
                self.sink.synced(done.collect());
            }
            Err(AppendError::NoSpace(error)) => {
                error!(%error, "no space for another journal segment");
                self.refuse(batch, &StoreError::Full);
            }
            Err(AppendError::Fatal(error)) => {
                let reason = format!(
                    "the journal could not be written ({error}); look at the disk, then restart the relay"
                );
                error!(%error, "the journal could not be written; it refuses everything until a restart");
                self.failure.set(reason.clone());
                self.refuse(batch, &StoreError::Indeterminate(reason));
            }
        }
    }

    fn refuse(&mut self, batch: Vec<Op<E>>, error: &StoreError) {
        let mut effects = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        for op in batch {
            effects.push(op.effect);
            replies.push(op.reply);
        }
        self.sink.failed(&effects);
        for reply in replies {
            let _ = reply.send(Err(clone_error(error)));
        }
    }

    fn note_synced(&mut self) {
        if self.appender.is_noted() || self.failure.check().is_err() {
            return;
        }
        if let Err(AppendError::Fatal(error)) = self.appender.append(std::iter::empty()) {
            self.failure
                .set(format!("the journal could not be written ({error})"));
        }
    }
}

fn clone_error(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full => StoreError::Full,
        StoreError::Overloaded { retry_after } => StoreError::Overloaded {
            retry_after: *retry_after,
        },
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::Indeterminate(why) => StoreError::Indeterminate(why.clone()),
        StoreError::Corrupt(why) => StoreError::Corrupt(why.clone()),
    }
}

/// Everything that has arrived, within the bounds of a batch.
fn gather<E>(first: Op<E>, receiver: &Receiver<Message<E>>) -> (Vec<Op<E>>, bool) {
    let mut bytes = first.payload.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_OPS_MAX && bytes < BATCH_BYTES_MAX {
        match receiver.try_recv() {
            Ok(Message::Op(op)) => {
                bytes += op.payload.len();
                batch.push(op);
            }
            Ok(Message::Stop) => return (batch, true),
            Err(_) => break,
        }
    }
    (batch, false)
}

enum AppendError {
    /// Nothing was written.
    NoSpace(io::Error),
    /// Nobody knows what was written.
    Fatal(io::Error),
}

/// The end of the journal.
struct Appender {
    start: Start,
    segment: Option<Segment>,
    buffer: Vec<u8>,
    /// Whether the last batch is known to be synced by a batch behind it.
    noted: bool,
}

struct Segment {
    number: u32,
    uid: SegmentUid,
    file: Arc<dyn JournalFile>,
    capacity: u64,
    offset: u64,
}

impl Appender {
    fn new(start: Start) -> io::Result<Self> {
        Ok(Self {
            start,
            segment: None,
            buffer: Vec::new(),
            noted: true,
        })
    }

    fn is_noted(&self) -> bool {
        self.noted
    }

    /// Copies records under their old sequences.
    fn write_again(&mut self, tail: &[(Header, Bytes)]) -> io::Result<Vec<Position>> {
        let mut positions = Vec::with_capacity(tail.len());
        for records in tail.chunks(BATCH_OPS_MAX) {
            let headers: Vec<_> = records
                .iter()
                .map(|(header, payload)| (*header, payload))
                .collect();
            match self.write(&headers) {
                Ok(written) => positions.extend(written),
                Err(AppendError::NoSpace(error) | AppendError::Fatal(error)) => return Err(error),
            }
        }
        Ok(positions)
    }

    /// Gives records their sequences and makes them durable together.
    fn append<'a>(
        &mut self,
        records: impl Iterator<Item = (Kind, u32, &'a Bytes)>,
    ) -> Result<Vec<Written>, AppendError> {
        let time_ms = self.start.clock.now().0;
        let mut sequence = self.start.next_sequence;
        let headers: Vec<_> = records
            .map(|(kind, payload_crc, payload)| {
                let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                let header = Header {
                    length,
                    kind,
                    sequence,
                    time_ms,
                    payload_crc,
                };
                sequence += 1;
                (header, payload)
            })
            .collect();
        let positions = self.write(&headers)?;
        self.start.next_sequence = sequence;
        self.noted = headers.is_empty();
        let written = headers.iter().zip(positions);
        Ok(written
            .map(|((header, _), position)| Written {
                sequence: header.sequence,
                position,
                time_ms,
            })
            .collect())
    }

    fn write(&mut self, records: &[(Header, &Bytes)]) -> Result<Vec<Position>, AppendError> {
        let batch_bytes = record::stride(size_of::<u64>());
        let bytes = batch_bytes
            + records
                .iter()
                .map(|(_, payload)| record::stride(payload.len()))
                .sum::<usize>();
        self.make_room(bytes as u64)?;
        let Some(segment) = &mut self.segment else {
            return Err(AppendError::Fatal(io::Error::other("there is no segment")));
        };
        self.buffer.clear();
        let synced = Bytes::copy_from_slice(&segment.offset.to_le_bytes());
        let batch = Header {
            length: 8,
            kind: Kind::Batch,
            sequence: records
                .first()
                .map_or(self.start.next_sequence, |(header, _)| header.sequence),
            time_ms: self.start.clock.now().0,
            payload_crc: crc32c::crc32c(&synced),
        };
        record::push(&mut self.buffer, &segment.uid, &batch, &synced);
        let mut positions = Vec::with_capacity(records.len());
        for (header, payload) in records {
            let offset = segment.offset + self.buffer.len() as u64;
            positions.push(Position::new(
                segment.number,
                u32::try_from(offset).unwrap_or(u32::MAX),
            ));
            record::push(&mut self.buffer, &segment.uid, header, payload);
        }
        segment
            .file
            .write_all_at(&self.buffer, segment.offset)
            .map_err(AppendError::Fatal)?;
        segment.file.sync().map_err(AppendError::Fatal)?;
        segment.offset += self.buffer.len() as u64;
        // One huge event must not keep its memory for ever.
        self.buffer.shrink_to(2 * BATCH_BYTES_MAX);
        Ok(positions)
    }

    /// Begins another segment if this one has no room for so many bytes.
    fn make_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        if self
            .segment
            .as_ref()
            .is_some_and(|segment| segment.offset + bytes <= segment.capacity)
        {
            return Ok(());
        }
        let number = self.start.next_segment;
        let name = segment::file_name(number);
        let wanted = SEGMENT_HEADER_BYTES + bytes;
        self.start
            .spares
            .take(&name, wanted)
            .map_err(AppendError::NoSpace)?;
        self.start.next_segment += 1;
        let file = self.start.fs.open(&name).map_err(AppendError::Fatal)?;
        let header = SegmentHeader {
            uid: rand::random(),
            number,
            first_sequence: self.start.next_sequence,
            created_ms: self.start.clock.now().0,
        };
        file.write_all_at(&header.encode(), 0)
            .map_err(AppendError::Fatal)?;
        let capacity = wanted.max(self.start.segment_bytes);
        self.segment = Some(Segment {
            number,
            uid: header.uid,
            file,
            capacity,
            offset: SEGMENT_HEADER_BYTES,
        });
        Ok(())
    }
}
