//! What records say, and its bytes. The first byte of every payload is a version.

use std::net::IpAddr;

use bytes::Bytes;
use protocol::{
    frame::{Headers, ServiceFailure},
    id::{AgentId, AttemptId, DeliveryId, DestinationId, EventId, SourceId, TenantId},
};

pub(in super::super) use super::codec::Malformed;
use super::codec::{Decoder, Encoder};
use crate::{
    clock::Timestamp,
    lifecycle::{
        AttemptOutcome, AttemptReport, DeadReason, EndReason, Event, Verdict, Verification,
    },
    store::{DestinationKey, NewDelivery},
};

const VERSION: u8 = 1;

/// An accepted event with what is owed for it.
#[derive(Debug, Clone)]
pub(in super::super) struct Accept {
    pub(in super::super) event: Event,
    pub(in super::super) dedupe_window_ms: u64,
    pub(in super::super) deliveries: Vec<NewDelivery>,
}

/// An attempt and its verdict.
#[derive(Debug, Clone)]
pub(in super::super) struct Settle {
    pub(in super::super) delivery: DeliveryRef,
    pub(in super::super) first_attempt_at: Timestamp,
    pub(in super::super) attempt: AttemptReport,
    pub(in super::super) verdict: Verdict,
}

/// A delivery with the key by which the projection finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct DeliveryRef {
    pub(in super::super) row: u64,
    pub(in super::super) id: DeliveryId,
    pub(in super::super) key: DestinationKey,
}

/// A further delivery of a stored event.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Deliver {
    pub(in super::super) tenant: TenantId,
    pub(in super::super) event: EventId,
    /// Where the event's record is.
    pub(in super::super) position: u64,
    pub(in super::super) delivery: NewDelivery,
}

/// A delivery that ended without the service's doing.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct End {
    pub(in super::super) delivery: DeliveryRef,
    pub(in super::super) reason: EndReason,
}

/// All open deliveries of a destination ended.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct EndDestination {
    pub(in super::super) key: DestinationKey,
    pub(in super::super) reason: EndReason,
}

/// The provider ids of a source are forgotten.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct ForgetSource {
    pub(in super::super) tenant: TenantId,
    pub(in super::super) source: SourceId,
}

impl Accept {
    pub(in super::super) fn encode(&self) -> Bytes {
        let event = &self.event;
        let mut out = Encoder::with_capacity(
            256 + event.headers.bytes_len() + event.headers.0.len() * 8 + event.body.len(),
        );
        out.u8(VERSION)
            .u128(event.id.as_u128())
            .u128(event.tenant.as_u128())
            .u128(event.source.as_u128());
        out.u64(event.received_at.0)
            .bytes(event.method.as_bytes())
            .bytes(event.target.as_bytes());
        out.option(event.event_type.as_deref(), |out, text| {
            drop(out.bytes(text.as_bytes()))
        });
        out.option(event.provider_id.as_deref(), |out, text| {
            drop(out.bytes(text.as_bytes()))
        });
        out.bytes(event.verification.rule.as_bytes());
        out.option(event.verification.secret, |out, index| drop(out.u16(index)));
        out.option(event.remote, |out, remote| match remote {
            IpAddr::V4(v4) => drop(out.bytes(&v4.octets())),
            IpAddr::V6(v6) => drop(out.bytes(&v6.octets())),
        });
        out.u64(self.dedupe_window_ms);
        out.u16(u16::try_from(self.deliveries.len()).unwrap_or(u16::MAX));
        for delivery in &self.deliveries {
            out.u128(delivery.id.as_u128())
                .u128(delivery.destination.as_u128());
        }
        out.u16(u16::try_from(event.headers.0.len()).unwrap_or(u16::MAX));
        for (name, value) in &event.headers.0 {
            out.bytes(name).bytes(value);
        }
        out.bytes(&event.body);
        out.finish()
    }

    /// Headers and body are slices of the payload, so that an event in memory costs what its record
    /// costs.
    pub(in super::super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut from = open(payload)?;
        let id = EventId::from_u128(from.u128()?);
        let tenant = TenantId::from_u128(from.u128()?);
        let source = SourceId::from_u128(from.u128()?);
        let received_at = Timestamp(from.u64()?);
        let (method, target) = (from.text()?, from.text()?);
        let event_type = from.option(Decoder::text)?;
        let provider_id = from.option(Decoder::text)?;
        let verification = Verification {
            rule: from.text()?,
            secret: from.option(Decoder::u16)?,
        };
        let remote = from.option(decode_ip)?;
        let dedupe_window_ms = from.u64()?;
        let deliveries = (0..from.u16()?)
            .map(|_| decode_new_delivery(&mut from))
            .collect::<Result<_, _>>()?;
        let headers = (0..from.u16()?)
            .map(|_| Ok((from.bytes()?, from.bytes()?)))
            .collect::<Result<_, Malformed>>()?;
        let body = from.bytes()?;
        from.end()?;
        let headers = Headers(headers);
        let event = Event {
            id,
            tenant,
            source,
            received_at,
            method,
            target,
            headers,
            body,
            verification,
            event_type,
            provider_id,
            remote,
        };
        Ok(Self {
            event,
            dedupe_window_ms,
            deliveries,
        })
    }
}

impl Settle {
    pub(in super::super) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(256);
        out.u8(VERSION);
        encode_ref(&mut out, &self.delivery);
        out.u64(self.first_attempt_at.0);
        match self.verdict {
            Verdict::Deliver => out.u8(0),
            Verdict::Retry { at } => out.u8(1).u64(at.0),
            Verdict::Die { reason } => out.u8(2).bytes(reason.as_str().as_bytes()),
        };
        let attempt = &self.attempt;
        out.u128(attempt.id.as_u128()).u32(attempt.number);
        out.option(attempt.agent, |out, agent| drop(out.u128(agent.as_u128())));
        out.u64(attempt.ended_at.0)
            .u64(attempt.elapsed_ms)
            .bytes(&encode_outcome(&attempt.outcome));
        out.finish()
    }

    pub(in super::super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut from = open(payload)?;
        let delivery = decode_ref(&mut from)?;
        let first_attempt_at = Timestamp(from.u64()?);
        let verdict = match from.u8()? {
            0 => Verdict::Deliver,
            1 => Verdict::Retry {
                at: Timestamp(from.u64()?),
            },
            2 => Verdict::Die {
                reason: decode_dead_reason(&from.text()?)?,
            },
            _ => return Err(Malformed),
        };
        let id = AttemptId::from_u128(from.u128()?);
        let number = from.u32()?;
        let agent = from.option(Decoder::u128)?.map(AgentId::from_u128);
        let ended_at = Timestamp(from.u64()?);
        let elapsed_ms = from.u64()?;
        let outcome = decode_outcome(from.bytes()?)?;
        from.end()?;
        let attempt = AttemptReport {
            id,
            number,
            agent,
            ended_at,
            elapsed_ms,
            outcome,
        };
        Ok(Self {
            delivery,
            first_attempt_at,
            attempt,
            verdict,
        })
    }
}

impl Deliver {
    pub(in super::super) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(96);
        out.u8(VERSION)
            .u128(self.tenant.as_u128())
            .u128(self.event.as_u128())
            .u64(self.position);
        out.u128(self.delivery.id.as_u128())
            .u128(self.delivery.destination.as_u128());
        out.finish()
    }

    pub(in super::super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut from = open(payload)?;
        let tenant = TenantId::from_u128(from.u128()?);
        let event = EventId::from_u128(from.u128()?);
        let position = from.u64()?;
        let delivery = decode_new_delivery(&mut from)?;
        from.end()?;
        Ok(Self {
            tenant,
            event,
            position,
            delivery,
        })
    }
}

/// A dead delivery is owed again.
pub(in super::super) fn encode_reopen(delivery: &DeliveryRef) -> Bytes {
    let mut out = Encoder::with_capacity(64);
    out.u8(VERSION);
    encode_ref(&mut out, delivery);
    out.finish()
}

pub(in super::super) fn decode_reopen(payload: Bytes) -> Result<DeliveryRef, Malformed> {
    let mut from = open(payload)?;
    let delivery = decode_ref(&mut from)?;
    from.end()?;
    Ok(delivery)
}

impl End {
    pub(in super::super) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(64);
        out.u8(VERSION);
        encode_ref(&mut out, &self.delivery);
        out.u8(end_reason_code(self.reason));
        out.finish()
    }

    pub(in super::super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut from = open(payload)?;
        let delivery = decode_ref(&mut from)?;
        let reason = decode_end_reason(from.u8()?)?;
        from.end()?;
        Ok(Self { delivery, reason })
    }
}

impl EndDestination {
    pub(in super::super) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(40);
        out.u8(VERSION)
            .u128(self.key.tenant.as_u128())
            .u128(self.key.destination.as_u128());
        out.u8(end_reason_code(self.reason));
        out.finish()
    }

    pub(in super::super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut from = open(payload)?;
        let key = decode_key(&mut from)?;
        let reason = decode_end_reason(from.u8()?)?;
        from.end()?;
        Ok(Self { key, reason })
    }
}

impl ForgetSource {
    pub(in super::super) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(40);
        out.u8(VERSION)
            .u128(self.tenant.as_u128())
            .u128(self.source.as_u128());
        out.finish()
    }

    pub(in super::super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut from = open(payload)?;
        let (tenant, source) = (
            TenantId::from_u128(from.u128()?),
            SourceId::from_u128(from.u128()?),
        );
        from.end()?;
        Ok(Self { tenant, source })
    }
}

/// The outcome of an attempt, as journal and projection keep it.
pub(in super::super) fn encode_outcome(outcome: &AttemptOutcome) -> Bytes {
    let mut out = Encoder::with_capacity(64);
    match outcome {
        AttemptOutcome::Answered {
            status,
            headers,
            body_bytes,
            response_start,
        } => {
            out.u8(0).u16(*status).u64(*body_bytes);
            out.u16(u16::try_from(headers.0.len()).unwrap_or(u16::MAX));
            for (name, value) in &headers.0 {
                out.bytes(name).bytes(value);
            }
            out.bytes(response_start);
        }
        AttemptOutcome::Failed { failure, detail } => {
            out.u8(1)
                .u8(failure_code(*failure))
                .bytes(detail.as_bytes());
        }
        AttemptOutcome::Lost => {
            out.u8(2);
        }
    }
    out.finish()
}

pub(in super::super) fn decode_outcome(bytes: Bytes) -> Result<AttemptOutcome, Malformed> {
    let mut from = Decoder(bytes);
    let outcome = match from.u8()? {
        0 => {
            let (status, body_bytes) = (from.u16()?, from.u64()?);
            let headers = (0..from.u16()?)
                .map(|_| Ok((from.bytes()?, from.bytes()?)))
                .collect::<Result<_, Malformed>>()?;
            AttemptOutcome::Answered {
                status,
                body_bytes,
                headers: Headers(headers),
                response_start: from.bytes()?,
            }
        }
        1 => AttemptOutcome::Failed {
            failure: decode_failure(from.u8()?),
            detail: from.text()?,
        },
        2 => AttemptOutcome::Lost,
        _ => return Err(Malformed),
    };
    from.end()?;
    Ok(outcome)
}

fn open(payload: Bytes) -> Result<Decoder, Malformed> {
    let mut from = Decoder(payload);
    if from.u8()? == VERSION {
        Ok(from)
    } else {
        Err(Malformed)
    }
}

fn encode_ref(out: &mut Encoder, delivery: &DeliveryRef) {
    out.u64(delivery.row).u128(delivery.id.as_u128());
    out.u128(delivery.key.tenant.as_u128())
        .u128(delivery.key.destination.as_u128());
}

fn decode_ref(from: &mut Decoder) -> Result<DeliveryRef, Malformed> {
    Ok(DeliveryRef {
        row: from.u64()?,
        id: DeliveryId::from_u128(from.u128()?),
        key: decode_key(from)?,
    })
}

fn decode_key(from: &mut Decoder) -> Result<DestinationKey, Malformed> {
    Ok(DestinationKey {
        tenant: TenantId::from_u128(from.u128()?),
        destination: DestinationId::from_u128(from.u128()?),
    })
}

fn decode_new_delivery(from: &mut Decoder) -> Result<NewDelivery, Malformed> {
    Ok(NewDelivery {
        id: DeliveryId::from_u128(from.u128()?),
        destination: DestinationId::from_u128(from.u128()?),
    })
}

fn decode_ip(from: &mut Decoder) -> Result<IpAddr, Malformed> {
    let bytes = from.bytes()?;
    let v4 = <[u8; 4]>::try_from(bytes.as_ref()).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_ref()).map(IpAddr::from))
        .map_err(|_| Malformed)
}

fn decode_dead_reason(text: &str) -> Result<DeadReason, Malformed> {
    let known = [DeadReason::RetriesExhausted, DeadReason::Permanent];
    known
        .into_iter()
        .find(|reason| reason.as_str() == text)
        .ok_or(Malformed)
}

fn end_reason_code(reason: EndReason) -> u8 {
    match reason {
        EndReason::Cancelled => 1,
        EndReason::Expired => 2,
        EndReason::Quarantined => 3,
    }
}

fn decode_end_reason(code: u8) -> Result<EndReason, Malformed> {
    Ok(match code {
        1 => EndReason::Cancelled,
        2 => EndReason::Expired,
        3 => EndReason::Quarantined,
        _ => return Err(Malformed),
    })
}

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

fn failure_code(failure: ServiceFailure) -> u8 {
    let index = FAILURES.iter().position(|&known| known == failure);
    index
        .and_then(|index| u8::try_from(index).ok())
        .unwrap_or(0)
}

fn decode_failure(code: u8) -> ServiceFailure {
    FAILURES
        .get(usize::from(code))
        .copied()
        .unwrap_or(ServiceFailure::Other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accept() -> Accept {
        let event = Event {
            id: EventId::from_u128(1),
            tenant: TenantId::from_u128(2),
            source: SourceId::from_u128(3),
            received_at: Timestamp(4),
            method: "POST".into(),
            target: "/a?b=%20".into(),
            headers: Headers(vec![(
                Bytes::from_static(b"x"),
                Bytes::from_static(b"\xff\x00"),
            )]),
            body: Bytes::from_static(b"\x00\x01body"),
            verification: Verification {
                rule: "stripe".into(),
                secret: Some(1),
            },
            event_type: Some("push".into()),
            provider_id: None,
            remote: Some(IpAddr::from([192, 0, 2, 1])),
        };
        let deliveries = vec![NewDelivery {
            id: DeliveryId::from_u128(5),
            destination: DestinationId::from_u128(6),
        }];
        Accept {
            event,
            dedupe_window_ms: 7,
            deliveries,
        }
    }

    #[test]
    fn an_event_survives_the_trip() {
        let decoded = Accept::decode(accept().encode()).unwrap();
        assert_eq!(decoded.event, accept().event);
        assert_eq!(decoded.deliveries, accept().deliveries);
    }

    #[test]
    fn outcomes_survive_the_trip() {
        for failure in FAILURES {
            let outcome = AttemptOutcome::Failed {
                failure,
                detail: "why".into(),
            };
            assert_eq!(decode_outcome(encode_outcome(&outcome)), Ok(outcome));
        }
        assert_eq!(
            decode_outcome(encode_outcome(&AttemptOutcome::Lost)),
            Ok(AttemptOutcome::Lost)
        );
    }

    proptest! {
        #[test]
        fn decoding_is_total(bytes: Vec<u8>) {
            let payload = Bytes::from(bytes);
            let _ = Accept::decode(payload.clone());
            let _ = Settle::decode(payload.clone());
            let _ = Deliver::decode(payload.clone());
            let _ = decode_reopen(payload.clone());
            let _ = decode_outcome(payload);
        }

        #[test]
        fn every_truncation_is_refused(cut in 0_usize..200) {
            let whole = accept().encode();
            prop_assume!(cut < whole.len());
            prop_assert!(Accept::decode(whole.slice(..cut)).is_err());
        }
    }
}
