//! The bytes, written as they travel: type, length of the header, header, batch.

use bytes::Bytes;

use super::{Answer, Farewell, Request};
use crate::{
    frame::{Ping, ToAgent, ToRelay},
    id::PipeId,
    limits::POLL_HOLD_MAX,
    poll::AgentPipe,
};

const LINK: PipeId = PipeId::from_u128(0x0192_3456_789a_0000_0000_0000_0000_0000);

fn message(preamble: &[u8; 5], header: &str, batch: &[u8]) -> Bytes {
    [preamble, header.as_bytes(), batch].concat().into()
}

#[track_caller]
fn check_request(request: Request, preamble: &[u8; 5], header: &str, batch: &[u8]) {
    let bytes = message(preamble, header, batch);
    assert_eq!(
        request.encode().escape_ascii().to_string(),
        bytes.escape_ascii().to_string()
    );
    assert_eq!(Request::decode(bytes).unwrap(), request);
}

#[track_caller]
fn check_answer(answer: Answer, preamble: &[u8; 5], header: &str, batch: &[u8]) {
    let bytes = message(preamble, header, batch);
    assert_eq!(
        answer.encode().escape_ascii().to_string(),
        bytes.escape_ascii().to_string()
    );
    assert_eq!(Answer::decode(bytes).unwrap(), answer);
}

fn farewell() -> Farewell {
    Farewell {
        code: 4013,
        reason: "full".to_owned(),
    }
}

#[test]
fn open() {
    check_request(
        Request::Open { link: LINK },
        b"\x71\x00\x00\x00\x29",
        r#"{"link":"pip_01j8t5cy4t0000000000000000"}"#,
        b"",
    );
    check_answer(Answer::Opened, b"\x31\x00\x00\x00\x02", "{}", b"");
}

#[test]
fn up() {
    let frames = vec![
        ToRelay::Ping(Ping { nonce: 7 }).encode(),
        ToRelay::Ping(Ping { nonce: 8 }).encode(),
    ];
    check_request(
        Request::Up {
            link: LINK,
            batch: 3,
            close: None,
            frames,
        },
        b"\x72\x00\x00\x00\x33",
        r#"{"link":"pip_01j8t5cy4t0000000000000000","batch":3}"#,
        b"\x00\x00\x00\x10\x47\x00\x00\x00\x0b{\"nonce\":7}\x00\x00\x00\x10\x47\x00\x00\x00\x0b{\"nonce\":8}",
    );
    check_request(
        Request::Up {
            link: LINK,
            batch: 4,
            close: Some(farewell()),
            frames: Vec::new(),
        },
        b"\x72\x00\x00\x00\x59",
        r#"{"link":"pip_01j8t5cy4t0000000000000000","batch":4,"close":{"code":4013,"reason":"full"}}"#,
        b"",
    );
    check_answer(
        Answer::Taken { batch: 3 },
        b"\x32\x00\x00\x00\x0b",
        r#"{"batch":3}"#,
        b"",
    );
}

#[test]
fn poll() {
    check_request(
        Request::Poll {
            link: LINK,
            received: 8,
            hold_ms: None,
        },
        b"\x73\x00\x00\x00\x36",
        r#"{"link":"pip_01j8t5cy4t0000000000000000","received":8}"#,
        b"",
    );
    assert_eq!(
        AgentPipe::new(LINK).poll(POLL_HOLD_MAX),
        message(
            b"\x73\x00\x00\x00\x46",
            r#"{"link":"pip_01j8t5cy4t0000000000000000","received":0,"hold_ms":20000}"#,
            b""
        )
    );
    check_answer(Answer::NOTHING, b"\x33\x00\x00\x00\x02", "{}", b"");
    check_answer(
        Answer::Down {
            batch: Some(9),
            close: None,
            frames: vec![ToAgent::Ping(Ping { nonce: 7 }).encode()],
        },
        b"\x33\x00\x00\x00\x0b",
        r#"{"batch":9}"#,
        b"\x00\x00\x00\x10\x06\x00\x00\x00\x0b{\"nonce\":7}",
    );
    check_answer(
        Answer::Down {
            batch: Some(10),
            close: Some(farewell()),
            frames: Vec::new(),
        },
        b"\x33\x00\x00\x00\x32",
        r#"{"batch":10,"close":{"code":4013,"reason":"full"}}"#,
        b"",
    );
}

#[test]
fn gone() {
    check_answer(
        Answer::Gone(farewell()),
        b"\x34\x00\x00\x00\x1d",
        r#"{"code":4013,"reason":"full"}"#,
        b"",
    );
}
