//! The one thread that writes: everything that arrived during the last sync goes out in one write and
//! one sync, and only then is anybody told.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tracing::error;

use super::{
    Position,
    intake::{Intake, Op},
    record::{self, Header, Kind},
    recovery,
    segment::{DATA_AT, OPENED_AT, Segment},
    space::Space,
};
use crate::{clock::Clock, store::StoreError};

/// Records written at once.
const BATCH_RECORDS_MAX: usize = 1024;

/// Bytes written at once.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A quiet journal vouches for its last batch after this long.
const IDLE: Duration = Duration::from_millis(100);

/// The payload of a batch record: how far everything was durable.
const BATCH_PAYLOAD_BYTES: usize = 8;

/// A record that is durable.
#[derive(Debug)]
pub(crate) struct Written<E> {
    pub(crate) seq: u64,
    pub(crate) time: u64,
    pub(crate) position: Position,
    pub(crate) effect: E,
}

/// Who is told what became of records.
pub(crate) trait Sink<E>: Send + Sync + 'static {
    /// They are durable, in this order.
    fn written(&self, batch: Vec<Written<E>>);
    /// They are not written, or nobody knows.
    fn refused(&self, effects: Vec<E>, error: &StoreError);
}

/// Writes until its intake closes.
pub(crate) struct Writer<E, S> {
    pub(crate) intake: Arc<Intake<E>>,
    pub(crate) sink: Arc<S>,
    pub(crate) space: Arc<Space>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Set once, by the first failure; nothing is written after.
    pub(crate) failed: Arc<OnceLock<String>>,
    pub(crate) segment: Segment,
    pub(crate) offset: u64,
    pub(crate) next_seq: u64,
    pub(crate) buffer: Vec<u8>,
}

impl<E, S: Sink<E>> Writer<E, S> {
    pub(crate) fn run(mut self) {
        // A start copies records behind one batch record: vouch for them too.
        let mut vouched = false;
        loop {
            let patience = (!vouched).then_some(IDLE);
            let Some(ops) = self
                .intake
                .take(BATCH_RECORDS_MAX, BATCH_BYTES_MAX, patience)
            else {
                break;
            };
            vouched = ops.is_empty();
            self.space.measure();
            self.write_all(ops);
        }
        if !vouched {
            self.write_all(Vec::new());
        }
        if self.failed.get().is_none() {
            recovery::truncate(&self.segment, self.offset);
        }
    }

    /// Writes in as many batches as segments ask for.
    pub(crate) fn write_all(&mut self, mut ops: Vec<Op<E>>) {
        loop {
            if self.failed.get().is_some() {
                self.refuse(ops, &self.unavailable());
                return;
            }
            let mut room = self.room();
            let mut fitting = 0;
            for op in &ops {
                let span = op.span() as u64;
                if span > room {
                    break;
                }
                room -= span;
                fitting += 1;
            }
            if fitting == 0 && (!ops.is_empty() || self.room() == 0) {
                let first = ops.first().map_or(0, Op::span) as u64;
                if let Err(error) = self.roll(first) {
                    self.refuse(ops, &error);
                    return;
                }
                continue;
            }
            let rest = ops.split_off(fitting);
            self.write_batch(ops);
            if rest.is_empty() {
                return;
            }
            ops = rest;
        }
    }

    /// Room for records after a batch record, in bytes.
    fn room(&self) -> u64 {
        let batch = record::span(BATCH_PAYLOAD_BYTES) as u64;
        self.segment.bytes.saturating_sub(self.offset + batch)
    }

    /// Goes on in another segment, with room for a record of `span` bytes.
    fn roll(&mut self, span: u64) -> Result<(), StoreError> {
        let bytes = DATA_AT + record::span(BATCH_PAYLOAD_BYTES) as u64 + span;
        let segment = self.space.segment(bytes).map_err(|error| {
            if error.kind() == io::ErrorKind::StorageFull {
                StoreError::Full
            } else {
                StoreError::Unavailable(format!("no new journal segment: {error}"))
            }
        })?;
        recovery::truncate(&self.segment, self.offset);
        self.segment = segment;
        self.offset = DATA_AT;
        Ok(())
    }

    fn write_batch(&mut self, ops: Vec<Op<E>>) {
        let time = self.clock.now().0;
        self.buffer.clear();
        let opens = self.segment.first_seq.is_none();
        let at = if opens {
            self.buffer
                .extend_from_slice(&self.segment.opening(self.next_seq));
            self.segment.first_seq = Some(self.next_seq);
            OPENED_AT
        } else {
            self.offset
        };
        let synced_upto = (self.next_seq - 1).to_le_bytes();
        let crc = crc32c::crc32c(&synced_upto);
        self.add(Kind::Batch, &synced_upto, crc, 1, time);
        let mut written = Vec::with_capacity(ops.len());
        for op in ops {
            let position = Position {
                segment: self.segment.number,
                offset: at + self.buffer.len() as u64,
            };
            let seq = self.add(op.kind, &op.payload, op.crc, op.numbers, time);
            let effect = op.effect;
            written.push(Written {
                seq,
                time,
                position,
                effect,
            });
        }
        let result = self.segment.file.write_all_at(&self.buffer, at);
        match result.and_then(|()| self.segment.file.sync()) {
            Ok(()) => {
                self.offset = at + self.buffer.len() as u64;
                self.sink.written(written);
            }
            Err(error) => self.fail(&error, written),
        }
        // One large batch must not hold its memory for ever.
        self.buffer.shrink_to(BATCH_BYTES_MAX);
    }

    /// Adds a record to the batch and returns its sequence.
    fn add(&mut self, kind: Kind, payload: &[u8], crc: u32, numbers: u64, time: u64) -> u64 {
        let seq = self.next_seq;
        self.next_seq += numbers;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "payloads are limited when they are submitted"
        )]
        let header = Header {
            kind,
            payload_bytes: payload.len() as u32,
            seq,
            time,
            payload_crc: crc,
        };
        record::write(&mut self.buffer, self.segment.uid, &header, payload);
        seq
    }

    /// What a failed sync has reached the disk nobody can tell, and a second sync would lie about it.
    fn fail(&self, cause: &io::Error, written: Vec<Written<E>>) {
        error!(error = %cause, segment = self.segment.number,
            "the journal cannot be written: events are refused until the relay is restarted");
        let _ = self.failed.set(cause.to_string());
        let effects = written.into_iter().map(|written| written.effect).collect();
        let error = StoreError::Indeterminate(format!("the journal failed: {cause}"));
        self.sink.refused(effects, &error);
    }

    fn refuse(&self, ops: Vec<Op<E>>, error: &StoreError) {
        if !ops.is_empty() {
            let effects = ops.into_iter().map(|op| op.effect).collect();
            self.sink.refused(effects, error);
        }
    }

    fn unavailable(&self) -> StoreError {
        unavailable(self.failed.get())
    }
}

pub(crate) fn unavailable(cause: Option<&String>) -> StoreError {
    let cause = cause.map_or("", String::as_str);
    StoreError::Unavailable(format!(
        "the journal failed ({cause}); restart the relay once the disk is healthy"
    ))
}
