//! What records hold, as bytes: little-endian fields, texts with their length before them, a version
//! first. Reading is total: any bytes give a value or `None`.

use std::net::IpAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protocol::{
    frame::{Headers, ServiceFailure},
    id::{
        AgentId, AttemptId, DeliveryId, DestinationId, EventId, ReplayId, RouteId, SourceId,
        TenantId,
    },
};

use crate::{
    clock::Timestamp,
    lifecycle::{
        AttemptOutcome, AttemptReport, DeadReason, EndReason, Ending, Event, KeyDigest, OrderKey,
        RouteDecision, Spent, Verdict, Verification,
    },
    store::{DestinationKey, NewDelivery},
};

const VERSION: u8 = 5;

/// An accepted event with what is owed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) event: Event,
    /// Until when the provider's id is remembered; zero without one.
    pub(crate) remembered_until: Timestamp,
    pub(crate) deliveries: Vec<NewDelivery>,
    pub(crate) decisions: Vec<RouteDecision>,
}

/// An event that its provider sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repeat {
    /// The sequence of the event accepted first.
    pub(crate) event_seq: u64,
}

/// Where a delivery is: its name, its creation, its place in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeliveryRef {
    pub(crate) key: DestinationKey,
    pub(crate) id: DeliveryId,
    /// The sequence of its creation: its row.
    pub(crate) seq: u64,
    /// The sequence by which it waits.
    pub(crate) place: u64,
    /// Where it waits.
    pub(crate) queue: Queue,
}

/// The queues of a destination: replays of what is not ordered wait apart, so that nothing has to
/// be read past them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Main = 0,
    Replays = 1,
}

impl Queue {
    /// The queue of a delivery.
    pub(crate) fn of(is_replay: bool, is_ordered: bool) -> Self {
        if is_replay && !is_ordered {
            Self::Replays
        } else {
            Self::Main
        }
    }

    /// Reads the number of one.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Main),
            1 => Some(Self::Replays),
            _ => None,
        }
    }
}

/// A settled attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settle {
    pub(crate) delivery: DeliveryRef,
    pub(crate) attempt: AttemptReport,
    pub(crate) verdict: Verdict,
    /// If it dies, its key stops.
    pub(crate) parks: bool,
}

/// A delivery of a stored event: a replay, or a dead one that is owed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requeue {
    pub(crate) key: DestinationKey,
    pub(crate) id: DeliveryId,
    /// The row of a reopened delivery; zero for a new one.
    pub(crate) seq: u64,
    pub(crate) event: EventId,
    pub(crate) event_seq: u64,
    /// What asked for a new one; none reopened it.
    pub(crate) replay: Option<ReplayId>,
    /// What a new one is ordered by; a reopened one keeps its key.
    pub(crate) order: Option<OrderKey>,
}

/// The end of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) delivery: DeliveryRef,
    pub(crate) reason: EndReason,
}

/// A key that stops, or goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Park {
    pub(crate) key: DestinationKey,
    pub(crate) order: OrderKey,
    pub(crate) parked: bool,
}

/// The end of all open deliveries of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndDestination {
    pub(crate) key: DestinationKey,
    pub(crate) reason: EndReason,
}

/// Records that stood here and are lost, or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// How many sequence numbers they had.
    pub(crate) count: u64,
}

/// The end of a source's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForgetSource {
    pub(crate) tenant: TenantId,
    pub(crate) source: SourceId,
}

pub(super) fn start(capacity: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(capacity);
    buffer.put_u8(VERSION);
    buffer
}

pub(super) fn begin(bytes: &Bytes) -> Option<Reader> {
    let mut reader = Reader(bytes.clone());
    (reader.u8()? == VERSION).then_some(reader)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "lengths are below the largest payload, which fits 32 bits"
)]
pub(super) fn put_bytes(buffer: &mut BytesMut, bytes: &[u8]) {
    buffer.put_u32_le(bytes.len() as u32);
    buffer.put_slice(bytes);
}

fn put_optional(buffer: &mut BytesMut, text: Option<&str>) {
    buffer.put_u8(u8::from(text.is_some()));
    put_bytes(buffer, text.unwrap_or_default().as_bytes());
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the number of headers is below the largest payload, which fits 32 bits"
)]
fn put_headers(buffer: &mut BytesMut, headers: &Headers) {
    buffer.put_u32_le(headers.0.len() as u32);
    for (name, value) in &headers.0 {
        put_bytes(buffer, name);
        put_bytes(buffer, value);
    }
}

fn put_order(buffer: &mut BytesMut, order: Option<&OrderKey>) {
    buffer.put_u8(u8::from(order.is_some()));
    if let Some(order) = order {
        buffer.put_u64_le(order.digest.0);
        put_bytes(buffer, order.text.as_bytes());
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a source has far fewer routes than 32 bits count"
)]
fn put_decisions(buffer: &mut BytesMut, decisions: &[RouteDecision]) {
    buffer.put_u32_le(decisions.len() as u32);
    for decision in decisions {
        buffer.put_u128_le(decision.route.as_u128());
        put_optional(buffer, decision.unmet.as_deref());
    }
}

fn put_key(buffer: &mut BytesMut, key: DestinationKey) {
    buffer.put_u128_le(key.tenant.as_u128());
    buffer.put_u128_le(key.destination.as_u128());
}

fn put_delivery(buffer: &mut BytesMut, delivery: &DeliveryRef) {
    put_key(buffer, delivery.key);
    buffer.put_u128_le(delivery.id.as_u128());
    buffer.put_u64_le(delivery.seq);
    buffer.put_u64_le(delivery.place);
    buffer.put_u8(delivery.queue as u8);
}

/// Takes fields off the front; slices share the payload's memory.
pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16_le().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.0.try_get_u128_le().ok()
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.u64().map(Timestamp)
    }

    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()? as usize;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    pub(super) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.into()).ok()
    }

    fn optional(&mut self) -> Option<Option<String>> {
        let present = self.u8()? != 0;
        let text = self.text()?;
        Some(present.then_some(text))
    }

    fn headers(&mut self) -> Option<Headers> {
        let count = self.u32()? as usize;
        // Each takes at least its two lengths: a wrong count cannot ask for much memory.
        if count > self.0.len() / 8 {
            return None;
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            headers.push((self.bytes()?, self.bytes()?));
        }
        Some(Headers(headers))
    }

    fn decisions(&mut self) -> Option<Vec<RouteDecision>> {
        let count = self.u32()? as usize;
        // Each takes at least its id and a length, as with headers.
        if count > self.0.len() / 21 {
            return None;
        }
        let mut decisions = Vec::with_capacity(count);
        for _ in 0..count {
            decisions.push(RouteDecision {
                route: RouteId::from_u128(self.u128()?),
                unmet: self.optional()?,
            });
        }
        Some(decisions)
    }

    fn key(&mut self) -> Option<DestinationKey> {
        Some(DestinationKey {
            tenant: TenantId::from_u128(self.u128()?),
            destination: DestinationId::from_u128(self.u128()?),
        })
    }

    fn delivery(&mut self) -> Option<DeliveryRef> {
        Some(DeliveryRef {
            key: self.key()?,
            id: DeliveryId::from_u128(self.u128()?),
            seq: self.u64()?,
            place: self.u64()?,
            queue: Queue::from_number(self.u8()?)?,
        })
    }

    fn order(&mut self) -> Option<Option<OrderKey>> {
        Some(match self.u8()? {
            0 => None,
            1 => Some(OrderKey {
                digest: KeyDigest(self.u64()?),
                text: self.text()?.into(),
            }),
            _ => return None,
        })
    }

    fn remote(&mut self) -> Option<Option<IpAddr>> {
        Some(match self.u8()? {
            0 => None,
            4 => Some(IpAddr::from(self.u32()?.to_be_bytes())),
            6 => Some(IpAddr::from(self.u128()?.to_be_bytes())),
            _ => return None,
        })
    }
}

impl Accept {
    pub(crate) fn encode(&self) -> Bytes {
        let event = &self.event;
        let texts = event.method.len() + event.target.len() + event.verification.rule.len();
        let heads = event.headers.bytes_len() + event.headers.0.len() * 8;
        let optional = event.event_type.as_ref().map_or(0, String::len)
            + event.provider_id.as_ref().map_or(0, String::len);
        let keys = self
            .deliveries
            .iter()
            .filter_map(|delivery| delivery.order.as_ref());
        let keys: usize = keys.map(|key| 12 + key.text.len()).sum();
        let deliveries = self.deliveries.len() * 33 + keys;
        let unmet = self.decisions.iter().filter_map(|it| it.unmet.as_ref());
        let decisions = self.decisions.len() * 21 + unmet.map(String::len).sum::<usize>();
        let capacity = 164 + texts + heads + optional + event.body.len() + deliveries + decisions;
        let mut to = start(capacity);
        to.put_u128_le(event.id.as_u128());
        to.put_u128_le(event.tenant.as_u128());
        to.put_u128_le(event.source.as_u128());
        to.put_u64_le(event.received_at.0);
        to.put_u64_le(self.remembered_until.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a source has far fewer routes than 32 bits count"
        )]
        to.put_u32_le(self.deliveries.len() as u32);
        for delivery in &self.deliveries {
            to.put_u128_le(delivery.id.as_u128());
            to.put_u128_le(delivery.destination.as_u128());
            put_order(&mut to, delivery.order.as_ref());
        }
        put_bytes(&mut to, event.method.as_bytes());
        put_bytes(&mut to, event.target.as_bytes());
        put_bytes(&mut to, event.verification.rule.as_bytes());
        to.put_u8(u8::from(event.verification.secret.is_some()));
        to.put_u16_le(event.verification.secret.unwrap_or_default());
        put_optional(&mut to, event.event_type.as_deref());
        put_optional(&mut to, event.provider_id.as_deref());
        match event.remote {
            None => to.put_u8(0),
            Some(IpAddr::V4(ip)) => {
                to.put_u8(4);
                to.put_u32_le(u32::from(ip));
            }
            Some(IpAddr::V6(ip)) => {
                to.put_u8(6);
                to.put_u128_le(u128::from(ip));
            }
        }
        put_headers(&mut to, &event.headers);
        put_decisions(&mut to, &self.decisions);
        put_bytes(&mut to, &event.body);
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        let id = EventId::from_u128(from.u128()?);
        let tenant = TenantId::from_u128(from.u128()?);
        let source = SourceId::from_u128(from.u128()?);
        let received_at = from.time()?;
        let remembered_until = from.time()?;
        let count = from.u32()? as usize;
        if count > from.0.len() / 33 {
            return None;
        }
        let mut deliveries = Vec::with_capacity(count);
        for _ in 0..count {
            deliveries.push(NewDelivery {
                id: DeliveryId::from_u128(from.u128()?),
                destination: DestinationId::from_u128(from.u128()?),
                order: from.order()?,
            });
        }
        let method = from.text()?;
        let target = from.text()?;
        let rule = from.text()?;
        let has_secret = from.u8()? != 0;
        let secret = Some(from.u16()?).filter(|_| has_secret);
        let (event_type, provider_id) = (from.optional()?, from.optional()?);
        let (remote, headers) = (from.remote()?, from.headers()?);
        let decisions = from.decisions()?;
        let event = Event {
            id,
            tenant,
            source,
            received_at,
            method,
            target,
            verification: Verification { rule, secret },
            event_type,
            provider_id,
            remote,
            headers,
            body: from.bytes()?,
        };
        Some(Self {
            event,
            remembered_until,
            deliveries,
            decisions,
        })
    }
}

impl Settle {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(256);
        put_delivery(&mut to, &self.delivery);
        let attempt = &self.attempt;
        to.put_u128_le(attempt.id.as_u128());
        to.put_u32_le(attempt.number);
        to.put_u8(u8::from(attempt.agent.is_some()));
        to.put_u128_le(attempt.agent.map_or(0, AgentId::as_u128));
        to.put_u64_le(attempt.ended_at.0);
        to.put_u64_le(attempt.elapsed_ms);
        match self.verdict {
            Verdict::Deliver => to.put_u8(1),
            Verdict::Retry { at, spent } => {
                to.put_u8(2);
                to.put_u64_le(at.0);
                to.put_u32_le(spent.attempts);
                to.put_u64_le(spent.window_ms);
            }
            Verdict::Die { reason } => {
                to.put_u8(3);
                to.put_u8(match reason {
                    DeadReason::RetriesExhausted => 1,
                    DeadReason::Permanent => 2,
                });
                to.put_u8(u8::from(self.parks));
            }
        }
        put_bytes(&mut to, &encode_outcome(&attempt.outcome));
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        let delivery = from.delivery()?;
        let id = AttemptId::from_u128(from.u128()?);
        let number = from.u32()?;
        let has_agent = from.u8()? != 0;
        let agent = Some(AgentId::from_u128(from.u128()?)).filter(|_| has_agent);
        let ended_at = from.time()?;
        let elapsed_ms = from.u64()?;
        let mut parks = false;
        let verdict = match from.u8()? {
            1 => Verdict::Deliver,
            2 => Verdict::Retry {
                at: from.time()?,
                spent: Spent {
                    attempts: from.u32()?,
                    window_ms: from.u64()?,
                },
            },
            3 => {
                let reason = match from.u8()? {
                    1 => DeadReason::RetriesExhausted,
                    2 => DeadReason::Permanent,
                    _ => return None,
                };
                parks = from.u8()? != 0;
                Verdict::Die { reason }
            }
            _ => return None,
        };
        let attempt = AttemptReport {
            id,
            number,
            agent,
            ended_at,
            elapsed_ms,
            outcome: decode_outcome(&from.bytes()?)?,
        };
        Some(Self {
            delivery,
            attempt,
            verdict,
            parks,
        })
    }
}

/// Failures by their code on disk: append only.
const FAILURES: [ServiceFailure; 9] = [
    ServiceFailure::Other,
    ServiceFailure::Dns,
    ServiceFailure::Connect,
    ServiceFailure::Tls,
    ServiceFailure::Timeout,
    ServiceFailure::Broken,
    ServiceFailure::Protocol,
    ServiceFailure::Refused,
    ServiceFailure::Abandoned,
];

/// A status as itself; anything else below the lowest status.
pub(crate) fn ending_number(ending: Ending) -> i64 {
    match ending {
        Ending::Answered(status) => i64::from(status),
        Ending::Failed(failure) => {
            let code = FAILURES.iter().position(|it| *it == failure).unwrap_or(0);
            i64::try_from(code).unwrap_or(0) + 1
        }
        Ending::Lost => 0,
    }
}

/// What [`ending_number`] made.
pub(crate) fn ending_of(number: i64) -> Option<Ending> {
    let number = u16::try_from(number).ok()?;
    Some(match number {
        0 => Ending::Lost,
        1..100 => Ending::Failed(*FAILURES.get(usize::from(number) - 1)?),
        status => Ending::Answered(status),
    })
}

/// An outcome on its own: the projection keeps it in the same form.
pub(crate) fn encode_outcome(outcome: &AttemptOutcome) -> Bytes {
    let mut to = start(64);
    match outcome {
        AttemptOutcome::Answered {
            status,
            headers,
            body_bytes,
            response_start,
        } => {
            to.put_u8(1);
            to.put_u16_le(*status);
            put_headers(&mut to, headers);
            to.put_u64_le(*body_bytes);
            put_bytes(&mut to, response_start);
        }
        AttemptOutcome::Failed { failure, detail } => {
            to.put_u8(2);
            let code = FAILURES.iter().position(|it| it == failure).unwrap_or(0);
            to.put_u8(u8::try_from(code).unwrap_or(0));
            put_bytes(&mut to, detail.as_bytes());
        }
        AttemptOutcome::Lost => to.put_u8(3),
    }
    to.freeze()
}

/// Reads what [`encode_outcome`] wrote.
pub(crate) fn decode_outcome(bytes: &Bytes) -> Option<AttemptOutcome> {
    let mut from = begin(bytes)?;
    Some(match from.u8()? {
        1 => AttemptOutcome::Answered {
            status: from.u16()?,
            headers: from.headers()?,
            body_bytes: from.u64()?,
            response_start: from.bytes()?,
        },
        2 => AttemptOutcome::Failed {
            failure: *FAILURES.get(usize::from(from.u8()?))?,
            detail: from.text()?,
        },
        3 => AttemptOutcome::Lost,
        _ => return None,
    })
}

impl Requeue {
    /// Where a new delivery waits.
    pub(crate) fn queue(&self) -> Queue {
        Queue::of(self.replay.is_some(), self.order.is_some())
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(112);
        put_key(&mut to, self.key);
        to.put_u128_le(self.id.as_u128());
        to.put_u64_le(self.seq);
        to.put_u128_le(self.event.as_u128());
        to.put_u64_le(self.event_seq);
        to.put_u8(u8::from(self.replay.is_some()));
        to.put_u128_le(self.replay.map_or(0, ReplayId::as_u128));
        put_order(&mut to, self.order.as_ref());
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        let mut requeue = Self {
            key: from.key()?,
            id: DeliveryId::from_u128(from.u128()?),
            seq: from.u64()?,
            event: EventId::from_u128(from.u128()?),
            event_seq: from.u64()?,
            replay: None,
            order: None,
        };
        let is_replay = from.u8()? != 0;
        requeue.replay = Some(ReplayId::from_u128(from.u128()?)).filter(|_| is_replay);
        requeue.order = from.order()?;
        Some(requeue)
    }
}

fn reason_code(reason: EndReason) -> u8 {
    match reason {
        EndReason::Cancelled => 1,
        EndReason::Expired => 2,
        EndReason::Quarantined => 3,
        EndReason::Skipped => 4,
        EndReason::DeadLettered => 5,
    }
}

fn reason_of(code: u8) -> Option<EndReason> {
    Some(match code {
        1 => EndReason::Cancelled,
        2 => EndReason::Expired,
        3 => EndReason::Quarantined,
        4 => EndReason::Skipped,
        5 => EndReason::DeadLettered,
        _ => return None,
    })
}

impl End {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(96);
        put_delivery(&mut to, &self.delivery);
        to.put_u8(reason_code(self.reason));
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        Some(Self {
            delivery: from.delivery()?,
            reason: reason_of(from.u8()?)?,
        })
    }
}

impl Park {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(64 + self.order.text.len());
        put_key(&mut to, self.key);
        put_order(&mut to, Some(&self.order));
        to.put_u8(u8::from(self.parked));
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        Some(Self {
            key: from.key()?,
            order: from.order()??,
            parked: from.u8()? != 0,
        })
    }
}

impl EndDestination {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(40);
        put_key(&mut to, self.key);
        to.put_u8(reason_code(self.reason));
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        Some(Self {
            key: from.key()?,
            reason: reason_of(from.u8()?)?,
        })
    }
}

impl Repeat {
    pub(crate) fn encode(self) -> Bytes {
        let mut to = start(16);
        to.put_u64_le(self.event_seq);
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        Some(Self {
            event_seq: from.u64()?,
        })
    }
}

impl ForgetSource {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(40);
        to.put_u128_le(self.tenant.as_u128());
        to.put_u128_le(self.source.as_u128());
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        Some(Self {
            tenant: TenantId::from_u128(from.u128()?),
            source: SourceId::from_u128(from.u128()?),
        })
    }
}

impl Lost {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = start(9);
        to.put_u64_le(self.count);
        to.freeze()
    }

    pub(crate) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = begin(payload)?;
        Some(Self { count: from.u64()? })
    }
}
