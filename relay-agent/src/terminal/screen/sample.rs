//! Events for the tests of the screen.

use std::time::Duration;

use bytes::Bytes;
use protocol::frame::Headers;

use super::record::{Call, CallKind, Record};
use crate::{
    forward::Answer,
    inbox::sample::{lane, offer, service},
};

pub(super) const NOON: jiff::Timestamp = jiff::Timestamp::constant(1_795_433_942, 0);

/// An event of GitHub's with a query, an odd header and a body; answered with `status`.
pub(super) fn record(number: u128, status: Option<u16>) -> Record {
    let mut offer = offer(number, 1);
    offer.request.target = "/a?a=1&b=2".to_owned();
    let fields = [
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("x-hub-signature-256", "sha256=abcdef"),
    ];
    let fields = fields.map(|(name, value)| {
        (
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(value.as_bytes()),
        )
    });
    offer.request.headers = Headers(fields.to_vec());
    let body = Bytes::from_static(br#"{"zen":"it's"}"#);
    offer.body_bytes = body.len() as u64;
    Record {
        offer: Box::new(offer),
        body: Some(body),
        service: service(&lane("http://localhost:3000/hook")),
        timeout: Duration::from_secs(30),
        came_at: NOON,
        calls: status
            .map(|status| call(Some(status)))
            .into_iter()
            .collect(),
        running: u32::from(status.is_none()),
    }
}

/// An answer, or a service that is not there.
pub(super) fn call(status: Option<u16>) -> Call {
    Call {
        kind: CallKind::Attempt(1),
        ended_at: NOON,
        elapsed_ms: 23,
        result: match status {
            Some(status) => Ok(Answer {
                status: status.try_into().unwrap(),
                headers: Headers(vec![(
                    Bytes::from_static(b"content-type"),
                    Bytes::from_static(b"text/plain"),
                )]),
                start: Bytes::from_static(b"thank you\n"),
                body_bytes: 10,
            }),
            None => Err("connection refused".to_owned()),
        },
    }
}
