//! The bytes of every frame, so that the wire cannot change unnoticed.
//!
//! Every case is written as it travels: type, length of the header, header, body. A test that fails
//! here means that agents in the field would no longer understand.

use bytes::Bytes;

use crate::{
    frame::{
        Bye, Cancel, Chunk, Confirm, Credit, Drain, Headers, Held, Hello, LeaseToken, Listen,
        ListenedSource, Listening, Offer, OfferedDestination, Outcome, Ping, Pong, Receipt, Refuse,
        RefuseCode, Release, ReleaseReason, Renew, RequestHead, ResponseChunk, ResponseCredit,
        ResponseHead, ServedDestination, ServiceFailure, Settled, ToAgent, ToRelay, Welcome,
    },
    id::{AgentId, DeliveryId, EventId, ReplayId, SessionId},
};

const MOMENT: u128 = 0x0192_3456_789a_0000_0000_0000_0000_0000;

fn delivery() -> DeliveryId {
    DeliveryId::from_u128(MOMENT + 1)
}

fn lease() -> LeaseToken {
    LeaseToken("3.1042".to_owned())
}

fn headers(fields: &[(&'static str, &'static [u8])]) -> Headers {
    let fields = fields.iter();
    Headers(
        fields
            .map(|(name, value)| {
                (
                    Bytes::from_static(name.as_bytes()),
                    Bytes::from_static(value),
                )
            })
            .collect(),
    )
}

/// The three pieces of a message, one after the other.
fn message(preamble: &[u8; 5], header: &str, body: &[u8]) -> Bytes {
    [preamble, header.as_bytes(), body].concat().into()
}

#[track_caller]
fn check_to_agent(frame: ToAgent, preamble: &[u8; 5], header: &str, body: &[u8]) {
    let bytes = message(preamble, header, body);
    assert_eq!(
        frame.encode().escape_ascii().to_string(),
        bytes.escape_ascii().to_string()
    );
    assert_eq!(ToAgent::decode(bytes).unwrap(), frame);
}

#[track_caller]
fn check_to_relay(frame: ToRelay, preamble: &[u8; 5], header: &str, body: &[u8]) {
    let bytes = message(preamble, header, body);
    assert_eq!(
        frame.encode().escape_ascii().to_string(),
        bytes.escape_ascii().to_string()
    );
    assert_eq!(ToRelay::decode(bytes).unwrap(), frame);
}

#[test]
fn welcome() {
    check_to_agent(
        ToAgent::Welcome(Welcome {
            version: 1,
            session: SessionId::from_u128(MOMENT),
            heartbeat_ms: 15_000,
            silence_ms: 45_000,
            chunk_bytes_max: 262_144,
            destinations: vec![ServedDestination {
                name: "billing".to_owned(),
                timeout_ms: 30_000,
            }],
            node: Some("relay-1:443".to_owned()),
            listening: None,
        }),
        b"\x01\x00\x00\x00\xc5",
        r#"{"version":1,"session":"ses_01j8t5cy4t0000000000000000","heartbeat_ms":15000,"silence_ms":45000,"chunk_bytes_max":262144,"destinations":[{"name":"billing","timeout_ms":30000}],"node":"relay-1:443"}"#,
        b"",
    );
}

#[test]
fn welcome_to_listen() {
    check_to_agent(
        ToAgent::Welcome(Welcome {
            version: 1,
            session: SessionId::from_u128(MOMENT),
            heartbeat_ms: 15_000,
            silence_ms: 45_000,
            chunk_bytes_max: 262_144,
            destinations: Vec::new(),
            node: None,
            listening: Some(Listening {
                destination: "listen-7".to_owned(),
                sources: vec![ListenedSource {
                    name: "github".to_owned(),
                    url: "https://relay.example/in/k".to_owned(),
                }],
            }),
        }),
        b"\x01\x00\x00\x00\xf3",
        r#"{"version":1,"session":"ses_01j8t5cy4t0000000000000000","heartbeat_ms":15000,"silence_ms":45000,"chunk_bytes_max":262144,"destinations":[],"listening":{"destination":"listen-7","sources":[{"name":"github","url":"https://relay.example/in/k"}]}}"#,
        b"",
    );
}

fn offer() -> Offer {
    Offer {
        delivery: delivery(),
        event: EventId::from_u128(MOMENT + 2),
        lease: lease(),
        lease_ms: 90_000,
        attempt: 1,
        destination: "billing".to_owned(),
        source: "stripe".to_owned(),
        received_at_ms: 1_727_400_000_000,
        event_type: None,
        remote: None,
        public_origin: None,
        replay: None,
        respond: false,
        request: RequestHead {
            method: "POST".to_owned(),
            target: "/hook?a=%20b".to_owned(),
            headers: headers(&[("content-type", b"text/plain"), ("x-name", b"Z\xfcrich")]),
        },
        body_bytes: 5,
        used_deliveries: 1,
        used_bytes: 5,
        body: Bytes::from_static(b"\x00\xffabc"),
    }
}

#[test]
fn offer_of_one_frame() {
    check_to_agent(
        ToAgent::Offer(Box::new(offer())),
        b"\x02\x00\x00\x01\x72",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","event":"evt_01j8t5cy4t0000000000000002","lease":"3.1042","lease_ms":90000,"attempt":1,"destination":"billing","source":"stripe","received_at_ms":1727400000000,"request":{"method":"POST","target":"/hook?a=%20b","headers":[["content-type","text/plain"],["x-name","Zürich"]]},"body_bytes":5,"used_deliveries":1,"used_bytes":5}"#,
        b"\x00\xffabc",
    );
}

#[test]
fn offer_with_every_field() {
    check_to_agent(
        ToAgent::Offer(Box::new(Offer {
            event_type: Some("invoice.paid".to_owned()),
            remote: Some("203.0.113.7".to_owned()),
            public_origin: Some("https://relay.example".to_owned()),
            replay: Some(ReplayId::from_u128(MOMENT + 3)),
            respond: true,
            ..offer()
        })),
        b"\x02\x00\x00\x02\x06",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","event":"evt_01j8t5cy4t0000000000000002","lease":"3.1042","lease_ms":90000,"attempt":1,"destination":"billing","source":"stripe","received_at_ms":1727400000000,"event_type":"invoice.paid","remote":"203.0.113.7","public_origin":"https://relay.example","replay":"rpl_01j8t5cy4t0000000000000003","respond":true,"request":{"method":"POST","target":"/hook?a=%20b","headers":[["content-type","text/plain"],["x-name","Zürich"]]},"body_bytes":5,"used_deliveries":1,"used_bytes":5}"#,
        b"\x00\xffabc",
    );
}

#[test]
fn chunk() {
    check_to_agent(
        ToAgent::Chunk(Chunk {
            delivery: delivery(),
            lease: lease(),
            offset: 262_144,
            part: Bytes::from_static(b"{\"rest\":1}"),
        }),
        b"\x03\x00\x00\x00\x4e",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","offset":262144}"#,
        b"{\"rest\":1}",
    );
}

/// The page for people who write agents shows this very chunk.
#[test]
fn the_example_of_the_documentation_is_true() {
    let page = include_str!("../../../docs/PROTOCOL.md");
    let example = page
        .split("```")
        .find(|block| block.trim_start().starts_with("03 00"));
    let message: Vec<u8> = example
        .unwrap()
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let Ok(ToAgent::Chunk(chunk)) = ToAgent::decode(message.into()) else {
        panic!("not a chunk");
    };

    assert_eq!((chunk.delivery, chunk.lease), (delivery(), lease()));
    assert_eq!(
        (chunk.offset, &chunk.part[..]),
        (262_144, &b"{\"rest\":1}"[..])
    );
}

#[test]
fn confirm() {
    check_to_agent(
        ToAgent::Confirm(Confirm {
            receipts: vec![Settled {
                delivery: delivery(),
                attempt: 2,
            }],
        }),
        b"\x04\x00\x00\x00\x48",
        r#"{"receipts":[{"delivery":"dlv_01j8t5cy4t0000000000000001","attempt":2}]}"#,
        b"",
    );
}

#[test]
fn cancel() {
    check_to_agent(
        ToAgent::Cancel(Cancel {
            delivery: delivery(),
            lease: lease(),
            reason: "cancelled by a user".to_owned(),
        }),
        b"\x05\x00\x00\x00\x5d",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","reason":"cancelled by a user"}"#,
        b"",
    );
}

#[test]
fn heartbeats() {
    let (ping, pong) = (Ping { nonce: 7 }, Pong { nonce: 7 });
    let header = r#"{"nonce":7}"#;

    check_to_agent(ToAgent::Ping(ping), b"\x06\x00\x00\x00\x0b", header, b"");
    check_to_agent(ToAgent::Pong(pong), b"\x07\x00\x00\x00\x0b", header, b"");
    check_to_relay(ToRelay::Ping(ping), b"\x47\x00\x00\x00\x0b", header, b"");
    check_to_relay(ToRelay::Pong(pong), b"\x48\x00\x00\x00\x0b", header, b"");
}

#[test]
fn response_credit() {
    check_to_agent(
        ToAgent::ResponseCredit(ResponseCredit {
            delivery: delivery(),
            lease: lease(),
            bytes_max: 1_048_576,
        }),
        b"\x08\x00\x00\x00\x52",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","bytes_max":1048576}"#,
        b"",
    );
}

#[test]
fn drain() {
    check_to_agent(
        ToAgent::Drain(Drain {
            reason: "upgrade".to_owned(),
            reconnect_after_ms: 500,
        }),
        b"\x09\x00\x00\x00\x2d",
        r#"{"reason":"upgrade","reconnect_after_ms":500}"#,
        b"",
    );
}

#[test]
fn refuse() {
    check_to_agent(
        ToAgent::Refuse(Refuse {
            code: RefuseCode::UnknownDestination,
            detail: "no destination is called bling".to_owned(),
            retry_after_ms: Some(60_000),
        }),
        b"\x0a\x00\x00\x00\x5f",
        r#"{"code":"unknown_destination","detail":"no destination is called bling","retry_after_ms":60000}"#,
        b"",
    );
}

#[test]
fn refuse_codes() {
    for (code, name) in [
        (RefuseCode::TokenRevoked, "token_revoked"),
        (RefuseCode::Forbidden, "forbidden"),
        (RefuseCode::UnknownDestination, "unknown_destination"),
        (RefuseCode::UnknownSource, "unknown_source"),
        (RefuseCode::InvalidFilter, "invalid_filter"),
        (RefuseCode::Version, "version"),
        (RefuseCode::Limit, "limit"),
        (RefuseCode::Unavailable, "unavailable"),
        (RefuseCode::Violation, "violation"),
        (RefuseCode::Other, "other"),
    ] {
        assert_eq!(serde_json::to_value(code).unwrap(), name);
    }
}

#[test]
fn hello() {
    check_to_relay(
        ToRelay::Hello(Hello {
            versions: vec![1],
            instance: AgentId::from_u128(MOMENT + 3),
            name: "berlin-1".to_owned(),
            agent: "relay-agent/0.1.0".to_owned(),
            destinations: vec![OfferedDestination {
                name: "billing".to_owned(),
                deliveries: 64,
                bytes: 8_388_608,
            }],
            holding: vec![held()],
            replaces: vec![SessionId::from_u128(MOMENT + 4)],
            listen: None,
        }),
        b"\x41\x00\x00\x01\x33",
        r#"{"versions":[1],"instance":"agt_01j8t5cy4t0000000000000003","name":"berlin-1","agent":"relay-agent/0.1.0","destinations":[{"name":"billing","deliveries":64,"bytes":8388608}],"holding":[{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","attempt":2}],"replaces":["ses_01j8t5cy4t0000000000000004"]}"#,
        b"",
    );
}

#[test]
fn hello_to_listen() {
    check_to_relay(
        ToRelay::Hello(Hello {
            versions: vec![1, 2],
            instance: AgentId::from_u128(MOMENT + 3),
            name: "laptop".to_owned(),
            agent: "relay-agent/0.1.0".to_owned(),
            destinations: Vec::new(),
            holding: Vec::new(),
            replaces: Vec::new(),
            listen: Some(Listen {
                sources: vec!["*".to_owned()],
                filter: Some(serde_json::json!({"event_type": "push"})),
                deliveries: 8,
                bytes: 1_048_576,
            }),
        }),
        b"\x41\x00\x00\x00\xd5",
        r#"{"versions":[1,2],"instance":"agt_01j8t5cy4t0000000000000003","name":"laptop","agent":"relay-agent/0.1.0","destinations":[],"listen":{"sources":["*"],"filter":{"event_type":"push"},"deliveries":8,"bytes":1048576}}"#,
        b"",
    );
}

#[test]
fn credit() {
    check_to_relay(
        ToRelay::Credit(Credit {
            destination: "billing".to_owned(),
            deliveries: 80,
            bytes: 8_400_000,
        }),
        b"\x42\x00\x00\x00\x39",
        r#"{"destination":"billing","deliveries":80,"bytes":8400000}"#,
        b"",
    );
}

#[test]
fn receipt_of_an_answer() {
    check_to_relay(
        ToRelay::Receipt(Box::new(Receipt {
            delivery: delivery(),
            lease: lease(),
            attempt: 1,
            outcome: Outcome::Answered {
                status: 429,
                headers: headers(&[("retry-after", b"30")]),
                body_bytes: 9,
            },
            elapsed_ms: 12,
            response_start: Bytes::from_static(b"slow down"),
        })),
        b"\x43\x00\x00\x00\xb5",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","attempt":1,"outcome":{"kind":"answered","status":429,"headers":[["retry-after","30"]],"body_bytes":9},"elapsed_ms":12}"#,
        b"slow down",
    );
}

#[test]
fn receipt_of_a_failure() {
    check_to_relay(
        ToRelay::Receipt(Box::new(Receipt {
            delivery: delivery(),
            lease: lease(),
            attempt: 1,
            outcome: Outcome::Failed {
                failure: ServiceFailure::Connect,
                detail: "connection refused".to_owned(),
            },
            elapsed_ms: 3,
            response_start: Bytes::new(),
        })),
        b"\x43\x00\x00\x00\xa7",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","attempt":1,"outcome":{"kind":"failed","failure":"connect","detail":"connection refused"},"elapsed_ms":3}"#,
        b"",
    );
}

#[test]
fn service_failures() {
    for (failure, name) in [
        (ServiceFailure::Dns, "dns"),
        (ServiceFailure::Connect, "connect"),
        (ServiceFailure::Tls, "tls"),
        (ServiceFailure::Timeout, "timeout"),
        (ServiceFailure::Broken, "broken"),
        (ServiceFailure::Protocol, "protocol"),
        (ServiceFailure::Refused, "refused"),
        (ServiceFailure::Abandoned, "abandoned"),
        (ServiceFailure::Other, "other"),
    ] {
        assert_eq!(serde_json::to_value(failure).unwrap(), name);
    }
}

#[test]
fn response_chunk() {
    check_to_relay(
        ToRelay::ResponseChunk(ResponseChunk {
            delivery: delivery(),
            lease: lease(),
            head: Some(ResponseHead {
                status: 200,
                headers: headers(&[("content-type", b"text/plain")]),
            }),
            offset: 0,
            last: true,
            part: Bytes::from_static(b"ok"),
        }),
        b"\x44\x00\x00\x00\x95",
        r#"{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","head":{"status":200,"headers":[["content-type","text/plain"]]},"offset":0,"last":true}"#,
        b"ok",
    );
}

fn held() -> Held {
    Held {
        delivery: delivery(),
        lease: lease(),
        attempt: 2,
    }
}

#[test]
fn renew() {
    check_to_relay(
        ToRelay::Renew(Renew {
            leases: vec![held()],
        }),
        b"\x45\x00\x00\x00\x57",
        r#"{"leases":[{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","attempt":2}]}"#,
        b"",
    );
}

#[test]
fn release() {
    check_to_relay(
        ToRelay::Release(Release {
            leases: vec![held()],
            reason: ReleaseReason::Draining,
        }),
        b"\x46\x00\x00\x00\x6b",
        r#"{"leases":[{"delivery":"dlv_01j8t5cy4t0000000000000001","lease":"3.1042","attempt":2}],"reason":"draining"}"#,
        b"",
    );
}

#[test]
fn bye() {
    check_to_relay(
        ToRelay::Bye(Bye {
            reason: "shutting down".to_owned(),
        }),
        b"\x49\x00\x00\x00\x1a",
        r#"{"reason":"shutting down"}"#,
        b"",
    );
}
