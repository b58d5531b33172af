//! What an erasure writes, and what stays of a record once its content is gone.
//!
//! A record is overwritten in its place with less of itself, followed by zeroes, under fresh sums: it goes on
//! saying which deliveries there were and what became of them. Before that happens another record says
//! exactly what goes where, so that an overwriting that was cut off can be done again.

use bytes::{BufMut, Bytes};
use protocol::{frame::Headers, id::TenantId};
use sha2::{Digest, Sha256};

use super::{
    fs::JournalFile,
    payload::{Accept, Park, Requeue, Settle, begin, put_bytes, start},
    record::{HEADER_BYTES, Header, Kind},
    segment::Found,
};
use crate::lifecycle::{AttemptOutcome, OrderKey, Verification};

/// An entry of an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Erasing {
    Begun(Begun),
    /// These records are overwritten now.
    Spots {
        of: u64,
        spots: Vec<Spot>,
    },
    Done {
        of: u64,
    },
}

/// What is erased, by whose wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) tenant: TenantId,
    /// Who wanted it.
    pub(crate) by: String,
    /// What was asked for, without the values.
    pub(crate) what: String,
    /// Everything of the tenant that came before; `events` is empty then.
    pub(crate) all: bool,
    /// Sequences of events.
    pub(crate) events: Vec<u64>,
}

/// A record to overwrite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    pub(crate) time: u64,
    /// How long its payload is and stays.
    pub(crate) payload_bytes: u32,
    /// What the payload begins with now; zeroes follow.
    pub(crate) rest: Bytes,
}

impl Erasing {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(256);
        match self {
            Self::Begun(begun) => {
                to.put_u8(1);
                to.put_u128_le(begun.tenant.as_u128());
                put_bytes(&mut to, begun.by.as_bytes());
                put_bytes(&mut to, begun.what.as_bytes());
                to.put_u8(u8::from(begun.all));
                to.put_u64_le(begun.events.len() as u64);
                for seq in &begun.events {
                    to.put_u64_le(*seq);
                }
            }
            Self::Spots { of, spots } => {
                to.put_u8(2);
                to.put_u64_le(*of);
                to.put_u64_le(spots.len() as u64);
                for spot in spots {
                    to.put_u32_le(spot.segment);
                    to.put_u64_le(spot.offset);
                    to.put_u8(spot.kind as u8);
                    to.put_u64_le(spot.seq);
                    to.put_u64_le(spot.time);
                    to.put_u32_le(spot.payload_bytes);
                    put_bytes(&mut to, &spot.rest);
                }
            }
            Self::Done { of } => {
                to.put_u8(3);
                to.put_u64_le(*of);
            }
        }
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        Some(match from.u8()? {
            1 => {
                let tenant = TenantId::from_u128(from.u128()?);
                let (by, what) = (from.text()?, from.text()?);
                let all = from.u8()? != 0;
                let count = from.u64()?;
                let events = (0..count).map_while(|_| from.u64()).collect::<Vec<_>>();
                if events.len() as u64 != count {
                    return None;
                }
                Self::Begun(Begun {
                    tenant,
                    by,
                    what,
                    all,
                    events,
                })
            }
            2 => {
                let of = from.u64()?;
                let count = from.u64()?;
                let mut spots = Vec::new();
                for _ in 0..count {
                    spots.push(Spot {
                        segment: from.u32()?,
                        offset: from.u64()?,
                        kind: Kind::from_byte(from.u8()?)?,
                        seq: from.u64()?,
                        time: from.u64()?,
                        payload_bytes: from.u32()?,
                        rest: from.bytes()?,
                    });
                }
                Self::Spots { of, spots }
            }
            3 => Self::Done { of: from.u64()? },
            _ => return None,
        })
    }
}

impl Spot {
    /// What becomes of a record; `None` if nothing of it needs to go.
    pub(crate) fn of(segment: u32, found: &Found) -> Option<Self> {
        let payload = &found.payload;
        let mut rest = match found.header.kind {
            Kind::Accept => stripped_accept(Accept::decode(payload)?, payload.len()),
            Kind::Settle => {
                let mut settle = Settle::decode(payload)?;
                strip_outcome(&mut settle.attempt.outcome);
                settle.encode()
            }
            Kind::Deliver => {
                let mut requeue = Requeue::decode(payload)?;
                requeue.order.as_mut().map(strip_order)?;
                requeue.encode()
            }
            Kind::Park => {
                let mut park = Park::decode(payload)?;
                strip_order(&mut park.order);
                park.encode()
            }
            _ => return None,
        };
        if payload.starts_with(&rest) && payload[rest.len()..].iter().all(|byte| *byte == 0) {
            return None;
        }
        rest.truncate(payload.len());
        Some(Self {
            segment,
            offset: found.offset,
            kind: found.header.kind,
            seq: found.header.seq,
            time: found.header.time,
            payload_bytes: found.header.payload_bytes,
            rest,
        })
    }

    /// Overwrites the record in its file, whatever stands there. Not synced.
    pub(crate) fn overwrite(&self, uid: u128, file: &dyn JournalFile) -> std::io::Result<()> {
        let bytes = self.payload_bytes as usize;
        let mut payload = self.rest.to_vec();
        payload.resize(bytes, 0);
        let header = Header {
            kind: self.kind,
            payload_bytes: self.payload_bytes,
            seq: self.seq,
            time: self.time,
            payload_crc: crc32c::crc32c(&payload),
        };
        let mut record = Vec::with_capacity(HEADER_BYTES + bytes);
        record.extend_from_slice(&header.encode(uid));
        record.extend_from_slice(&payload);
        file.write_all_at(&record, self.offset)
    }
}

/// What an event is called by its provider once it is erased: repeats are recognised, the name is gone.
pub(crate) fn erased_id(provider_id: &str) -> String {
    if provider_id.starts_with(ERASED) && provider_id.len() == ERASED.len() + 16 {
        return provider_id.to_owned();
    }
    format!("{ERASED}{}", hex::encode(&Sha256::digest(provider_id)[..8]))
}

const ERASED: &str = "erased:";

fn stripped_accept(mut accept: Accept, bytes_max: usize) -> Bytes {
    let event = &mut accept.event;
    event.method = String::new();
    event.target = String::new();
    event.headers = Headers::default();
    event.body = Bytes::new();
    event.verification = Verification {
        rule: String::new(),
        secret: None,
    };
    event.event_type = None;
    event.remote = None;
    event.provider_id = event.provider_id.as_deref().map(erased_id);
    for delivery in &mut accept.deliveries {
        delivery.order.as_mut().map(strip_order);
    }
    let rest = accept.encode();
    if rest.len() <= bytes_max {
        return rest;
    }
    // No room for it: an event almost without head and body.
    accept.event.provider_id = None;
    accept.encode()
}

/// What stays of an outcome.
pub(crate) fn strip_outcome(outcome: &mut AttemptOutcome) {
    match outcome {
        AttemptOutcome::Answered {
            headers,
            response_start,
            ..
        } => {
            *headers = Headers::default();
            *response_start = Bytes::new();
        }
        AttemptOutcome::Failed { detail, .. } => *detail = String::new(),
        AttemptOutcome::Lost => {}
    }
}

fn strip_order(order: &mut OrderKey) {
    order.text = "".into();
}
