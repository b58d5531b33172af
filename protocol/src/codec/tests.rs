//! What must hold for any bytes and any frame.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    frame::{
        Confirm, Credit, Headers, Held, Hello, LeaseToken, Listen, OfferedDestination, Outcome,
        Ping, Refuse, RefuseCode, RequestHead, ResponseHead, Settled,
    },
    id::{AgentId, DeliveryId, EventId, ReplayId, SessionId},
    limits::{HEADER_BYTES_MAX, PREAMBLE_BYTES},
};

fn bytes(bytes_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=bytes_max).prop_map(Bytes::from)
}

fn headers() -> impl Strategy<Value = Headers> {
    vec((bytes(20), bytes(60)), 0..8).prop_map(Headers)
}

fn delivery() -> impl Strategy<Value = DeliveryId> {
    any::<u128>().prop_map(DeliveryId::from_u128)
}

fn lease() -> impl Strategy<Value = LeaseToken> {
    any::<String>().prop_map(LeaseToken)
}

prop_compose! {
    fn request()(method in any::<String>(), target in any::<String>(), headers in headers()) -> RequestHead {
        RequestHead { method, target, headers }
    }
}

prop_compose! {
    fn offer()(
        ids in (delivery(), any::<u128>(), lease(), any::<Option<u128>>()),
        names in any::<(String, String)>(),
        numbers in any::<(u64, u32, u64, u64, u64, u64)>(),
        texts in any::<(Option<String>, Option<String>, Option<String>, bool)>(),
        request in request(),
        body in bytes(300),
    ) -> Box<Offer> {
        Box::new(Offer {
            delivery: ids.0,
            event: EventId::from_u128(ids.1),
            lease: ids.2,
            lease_ms: numbers.0,
            attempt: numbers.1,
            destination: names.0,
            source: names.1,
            received_at_ms: numbers.2,
            event_type: texts.0,
            remote: texts.1,
            public_origin: texts.2,
            replay: ids.3.map(ReplayId::from_u128),
            respond: texts.3,
            request,
            body_bytes: numbers.3,
            used_deliveries: numbers.4,
            used_bytes: numbers.5,
            body,
        })
    }
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    prop_oneof![
        offer().prop_map(ToAgent::Offer),
        (delivery(), lease(), any::<u64>(), bytes(300)).prop_map(
            |(delivery, lease, offset, part)| ToAgent::Chunk(Chunk {
                delivery,
                lease,
                offset,
                part
            })
        ),
        vec((delivery(), any::<u32>()), 0..5).prop_map(|settled| {
            let settled = settled.into_iter();
            let receipts = settled.map(|(delivery, attempt)| Settled { delivery, attempt });
            ToAgent::Confirm(Confirm {
                receipts: receipts.collect(),
            })
        }),
        any::<u64>().prop_map(|nonce| ToAgent::Ping(Ping { nonce })),
        any::<(String, Option<u64>)>().prop_map(|(detail, retry_after_ms)| {
            ToAgent::Refuse(Refuse {
                code: RefuseCode::Limit,
                detail,
                retry_after_ms,
            })
        }),
    ]
}

prop_compose! {
    fn hello()(
        versions in vec(any::<u32>(), 0..4),
        instance in any::<u128>(),
        texts in any::<(String, String)>(),
        destinations in vec(any::<(String, u64, u64)>(), 0..4),
        holding in vec((delivery(), lease(), any::<u32>()), 0..4),
        replaces in vec(any::<u128>(), 0..4),
        listen in option::of(any::<(Vec<String>, Option<String>, u64, u64)>()),
    ) -> Hello {
        Hello {
            versions,
            instance: AgentId::from_u128(instance),
            name: texts.0,
            agent: texts.1,
            destinations: destinations
                .into_iter()
                .map(|(name, deliveries, bytes)| OfferedDestination { name, deliveries, bytes })
                .collect(),
            holding: holding
                .into_iter()
                .map(|(delivery, lease, attempt)| Held { delivery, lease, attempt })
                .collect(),
            replaces: replaces.into_iter().map(SessionId::from_u128).collect(),
            listen: listen.map(|(sources, filter, deliveries, bytes)| Listen {
                sources,
                filter: filter.map(|text| serde_json::json!({ "all": [text, null, 7] })),
                deliveries,
                bytes,
            }),
        }
    }
}

prop_compose! {
    fn receipt()(
        delivery in delivery(),
        lease in lease(),
        numbers in any::<(u32, u64)>(),
        status in any::<u16>(),
        headers in headers(),
        body_bytes in any::<u64>(),
        response_start in bytes(300),
    ) -> Box<Receipt> {
        Box::new(Receipt {
            delivery,
            lease,
            attempt: numbers.0,
            outcome: Outcome::Answered { status, headers, body_bytes },
            elapsed_ms: numbers.1,
            response_start,
        })
    }
}

prop_compose! {
    fn response_chunk()(
        delivery in delivery(),
        lease in lease(),
        head in option::of((any::<u16>(), headers())),
        place in any::<(u64, bool)>(),
        part in bytes(300),
    ) -> ResponseChunk {
        ResponseChunk {
            delivery,
            lease,
            head: head.map(|(status, headers)| ResponseHead { status, headers }),
            offset: place.0,
            last: place.1,
            part,
        }
    }
}

fn to_relay() -> impl Strategy<Value = ToRelay> {
    prop_oneof![
        hello().prop_map(ToRelay::Hello),
        receipt().prop_map(ToRelay::Receipt),
        response_chunk().prop_map(ToRelay::ResponseChunk),
        any::<(String, u64, u64)>().prop_map(|(destination, deliveries, bytes)| {
            ToRelay::Credit(Credit {
                destination,
                deliveries,
                bytes,
            })
        }),
    ]
}

proptest! {
    #[test]
    fn frames_to_agents_survive_the_wire(frame in to_agent()) {
        prop_assert_eq!(ToAgent::decode(frame.encode()).unwrap(), frame);
    }

    #[test]
    fn frames_to_relays_survive_the_wire(frame in to_relay()) {
        prop_assert_eq!(ToRelay::decode(frame.encode()).unwrap(), frame);
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(message in bytes(200)) {
        let _ = ToAgent::decode(message.clone());
        let _ = ToRelay::decode(message);
    }

    /// Gets past the preamble, which arbitrary bytes rarely do.
    #[test]
    fn any_header_is_a_frame_or_an_error(kind in any::<u8>(), header in "\\PC{0,200}", body in bytes(20)) {
        let message = raw(kind, header.len(), header.as_bytes(), &body);
        let _ = ToAgent::decode(message.clone());
        let _ = ToRelay::decode(message);
    }

    #[test]
    fn a_damaged_frame_is_a_frame_or_an_error(frame in to_relay(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut message = frame.encode().to_vec();
        let at = at.index(message.len());
        message[at] ^= 1u8 << bit;
        let _ = ToRelay::decode(message.into());
    }

    #[test]
    fn a_cut_header_is_an_error(frame in to_agent(), at in any::<prop::sample::Index>()) {
        let message = frame.encode();
        let header_bytes = u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize;
        let cut = message.slice(..at.index(PREAMBLE_BYTES + header_bytes));
        prop_assert!(matches!(ToAgent::decode(cut), Err(DecodeError::Truncated)));
    }
}

fn raw(kind: u8, header_bytes: usize, header: &[u8], body: &[u8]) -> Bytes {
    let header_bytes = u32::try_from(header_bytes).unwrap().to_be_bytes();
    [&[kind], &header_bytes[..], header, body].concat().into()
}

#[track_caller]
fn check_error(message: Bytes, expected: &str) {
    assert_eq!(ToRelay::decode(message).unwrap_err().to_string(), expected);
}

#[test]
fn wrong_messages_are_told_apart() {
    let too_long = "the frame is longer than the protocol allows";
    let truncated = "the frame ends before its header does";
    let ping = br#"{"nonce":1}"#;

    check_error(Bytes::new(), truncated);
    check_error(raw(0x47, 12, ping, b""), truncated);
    check_error(raw(0x47, HEADER_BYTES_MAX + 1, ping, b""), too_long);
    check_error(raw(0x47, u32::MAX as usize, ping, b""), too_long);
    check_error(raw(0x47, 11, ping, &vec![0; CHUNK_BYTES_MAX + 1]), too_long);
    check_error(raw(0x47, 11, ping, b"!"), "frame type 71 has no body");
    check_error(
        raw(0x47, 2, b"{}", b""),
        "the header of frame type 71 is not valid",
    );
    check_error(raw(0x06, 11, ping, b""), "no frame has type 6");
    let response = vec![0; RESPONSE_START_BYTES_MAX + 1];
    check_error(raw(0x43, 2, b"{}", &response), too_long);
}

#[test]
fn unknown_fields_are_ignored() {
    let header = br#"{"future":{"a":[1]},"nonce":1}"#;
    let frame = ToRelay::decode(raw(0x47, header.len(), header, b"")).unwrap();

    assert_eq!(frame, ToRelay::Ping(Ping { nonce: 1 }));
}

#[test]
fn bodies_are_not_copied() {
    let chunk = ToAgent::Chunk(Chunk {
        delivery: DeliveryId::from_u128(1),
        lease: LeaseToken(String::new()),
        offset: 0,
        part: Bytes::from_static(b"part"),
    });
    let message = chunk.encode();
    let range = message.as_ptr_range();
    let ToAgent::Chunk(chunk) = ToAgent::decode(message).unwrap() else {
        panic!("not a chunk");
    };

    assert!(range.contains(&chunk.part.as_ptr()));
}
