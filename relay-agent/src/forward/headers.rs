//! Which header fields reach the service.
//!
//! All that the relay received, in order, repeats and odd bytes included; without those that concern
//! one hop only (RFC 9110 7.6.1), and with ours, which nobody outside can forge.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use protocol::frame::{Headers, Offer};

/// The event a request replays.
pub(crate) const EVENT_ID: HeaderName = HeaderName::from_static("hookferry-event-id");
/// The number of the attempt, from 1.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("hookferry-attempt");
/// The name of the source that accepted it.
pub(crate) const SOURCE: HeaderName = HeaderName::from_static("hookferry-source");
/// When the relay accepted it (RFC 3339, milliseconds).
pub(crate) const RECEIVED_AT: HeaderName = HeaderName::from_static("hookferry-received-at");
/// What an operator asked for, if the request is a replay.
pub(crate) const REPLAY: HeaderName = HeaderName::from_static("hookferry-replay");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Response headers that a receipt reports.
static REPORTED: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::RETRY_AFTER,
    header::LOCATION,
    header::SERVER,
    header::DATE,
    HeaderName::from_static("x-request-id"),
];

/// Longest value of a reported response header, in bytes; longer ones are left out.
const REPORTED_VALUE_BYTES_MAX: usize = 1024;

/// A header field that cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header field of the event cannot be sent unchanged")]
pub struct InvalidHeader;

/// The header fields of the call. Host is left to the client, as it is that of the target.
///
/// # Errors
///
/// [`InvalidHeader`]: the call is refused, never altered.
pub(crate) fn request_headers(offer: &Offer) -> Result<HeaderMap, InvalidHeader> {
    let received = &offer.request.headers;
    let listed = listed_by_connection(received);
    let mut headers = HeaderMap::with_capacity(received.0.len() + 8);
    let mut had_length = offer.body_bytes > 0;
    for (name, value) in &received.0 {
        let name = HeaderName::from_bytes(name).map_err(|_| InvalidHeader)?;
        had_length |= name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING;
        if is_dropped(&name) || listed.contains(&name) {
            continue;
        }
        let value = HeaderValue::from_maybe_shared(value.clone()).map_err(|_| InvalidHeader)?;
        headers.append(name, value);
    }
    if had_length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(offer.body_bytes));
    }
    insert_ours(&mut headers, offer)?;
    Ok(headers)
}

fn insert_ours(headers: &mut HeaderMap, offer: &Offer) -> Result<(), InvalidHeader> {
    headers.insert(EVENT_ID, value(offer.event.to_string())?);
    headers.insert(ATTEMPT, HeaderValue::from(offer.attempt));
    headers.insert(SOURCE, value(offer.source.clone())?);
    headers.insert(RECEIVED_AT, value(rfc3339_ms(offer.received_at_ms))?);
    if let Some(replay) = offer.replay {
        headers.insert(REPLAY, value(replay.to_string())?);
    }
    if let Some(remote) = &offer.remote {
        headers.insert(FORWARDED_FOR, value(remote.clone())?);
    }
    let origin = offer
        .public_origin
        .as_deref()
        .and_then(|origin| origin.split_once("://"));
    if let Some((scheme, host)) = origin {
        headers.insert(FORWARDED_PROTO, value(scheme.to_owned())?);
        headers.insert(FORWARDED_HOST, value(host.to_owned())?);
    }
    Ok(())
}

fn value(text: String) -> Result<HeaderValue, InvalidHeader> {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| InvalidHeader)
}

/// A moment as `2026-11-23T11:39:02.114Z`.
pub(crate) fn rfc3339_ms(since_1970_ms: u64) -> String {
    let moment = i64::try_from(since_1970_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{moment:.3}")
}

/// What concerns one hop only (RFC 9110 7.6.1).
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What concerns one hop only, what the client sets itself, and what only we may say.
fn is_dropped(name: &HeaderName) -> bool {
    static OF_THE_CLIENT: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::EXPECT];
    HOP_BY_HOP.contains(name)
        || OF_THE_CLIENT.contains(name)
        || name.as_str().starts_with("hookferry-")
        || name.as_str().starts_with("x-forwarded-")
}

/// Names that `Connection` declares to concern one hop only.
fn listed_by_connection(received: &Headers) -> Vec<HeaderName> {
    received
        .get_all("connection")
        .flat_map(|value| value.split(|&byte| byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .collect()
}

/// The header fields of a response that a provider who waits for it gets: all, in order, but those that
/// concern one hop only.
pub(crate) fn passed_back(response: &HeaderMap) -> Headers {
    let listed: Vec<HeaderName> = response
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .collect();
    let passed = response
        .iter()
        .filter(|(name, _)| !HOP_BY_HOP.contains(name) && !listed.contains(name));
    let copied = passed.map(|(name, value)| {
        (
            bytes::Bytes::copy_from_slice(name.as_str().as_bytes()),
            bytes::Bytes::copy_from_slice(value.as_bytes()),
        )
    });
    Headers(copied.collect())
}

/// The headers of a response that a receipt reports.
pub(crate) fn reported(response: &HeaderMap) -> Headers {
    let mut chosen = Vec::new();
    for name in &REPORTED {
        for value in response.get_all(name) {
            if value.len() <= REPORTED_VALUE_BYTES_MAX {
                let name = bytes::Bytes::from_static(static_name(name));
                chosen.push((name, bytes::Bytes::copy_from_slice(value.as_bytes())));
            }
        }
    }
    Headers(chosen)
}

/// The name of an entry of [`REPORTED`], which lives as long as the program.
fn static_name(name: &'static HeaderName) -> &'static [u8] {
    name.as_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use protocol::id::{EventId, ReplayId};

    use super::*;
    use crate::inbox::sample::offer;

    fn with(pairs: &[(&str, &[u8])], body_bytes: u64) -> Offer {
        let mut offer = offer(1, 3);
        offer.body_bytes = body_bytes;
        offer.request.headers = Headers(
            pairs
                .iter()
                .map(|(name, value)| {
                    (
                        Bytes::from((*name).to_owned()),
                        Bytes::copy_from_slice(value),
                    )
                })
                .collect(),
        );
        offer
    }

    fn check(pairs: &[(&str, &[u8])], body_bytes: u64, expected: &[(&str, &[u8])]) {
        let headers = request_headers(&with(pairs, body_bytes)).unwrap();
        let seen: Vec<_> = headers
            .iter()
            .filter(|(name, _)| {
                !name.as_str().starts_with("hookferry-")
                    && !name.as_str().starts_with("x-forwarded-")
            })
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn fields_go_through_in_order_with_repeats_and_odd_bytes() {
        check(
            &[
                ("Stripe-Signature", b"t=1,v1=ab"),
                ("X-Twice", b"1"),
                ("X-B", b"\xff\xe9"),
                ("x-twice", b"2"),
            ],
            0,
            &[
                ("stripe-signature", b"t=1,v1=ab"),
                ("x-twice", b"1"),
                ("x-twice", b"2"),
                ("x-b", b"\xff\xe9"),
            ],
        );
    }

    #[test]
    fn fields_of_one_hop_are_left_out() {
        check(
            &[
                ("Host", b"relay.example.com"),
                ("Connection", b"close, X-Hop"),
                ("X-Hop", b"1"),
                ("Keep-Alive", b"timeout=5"),
                ("Proxy-Connection", b"x"),
                ("Proxy-Authorization", b"x"),
                ("Proxy-Authenticate", b"x"),
                ("TE", b"trailers"),
                ("Trailer", b"x"),
                ("Transfer-Encoding", b"chunked"),
                ("Upgrade", b"h2c"),
                ("Expect", b"100-continue"),
                ("Content-Length", b"999"),
                ("User-Agent", b"GitHub-Hookshot/1"),
            ],
            2,
            &[
                ("user-agent", b"GitHub-Hookshot/1"),
                ("content-length", b"2"),
            ],
        );
    }

    #[test]
    fn length_is_told_when_there_was_one() {
        check(&[], 0, &[]);
        check(&[("content-length", b"0")], 0, &[("content-length", b"0")]);
        check(
            &[("transfer-encoding", b"chunked")],
            0,
            &[("content-length", b"0")],
        );
        check(&[], 7, &[("content-length", b"7")]);
    }

    #[test]
    fn ours_cannot_be_forged() {
        let mut offer = with(
            &[
                ("Hookferry-Attempt", b"99"),
                ("hookferry-x", b"1"),
                ("hookferry-replay", b"rpl_forged"),
                ("X-Forwarded-For", b"6.6.6.6"),
                ("x-forwarded-port", b"1"),
            ],
            0,
        );
        offer.remote = Some("192.0.2.7".to_owned());
        offer.public_origin = Some("https://relay.example.com:8443".to_owned());
        offer.received_at_ms = 1_795_433_942_114;
        offer.replay = Some(ReplayId::from_u128(5));
        let headers = request_headers(&offer).unwrap();

        let expected = [
            ("hookferry-event-id", EventId::from_u128(1).to_string()),
            ("hookferry-attempt", "3".to_owned()),
            ("hookferry-source", "github".to_owned()),
            (
                "hookferry-received-at",
                "2026-11-23T11:39:02.114Z".to_owned(),
            ),
            ("hookferry-replay", ReplayId::from_u128(5).to_string()),
            ("x-forwarded-for", "192.0.2.7".to_owned()),
            ("x-forwarded-proto", "https".to_owned()),
            ("x-forwarded-host", "relay.example.com:8443".to_owned()),
        ];
        assert_eq!(headers.len(), expected.len());
        for (name, value) in expected {
            assert_eq!(headers[name], value.as_str());
        }
    }

    proptest! {
        #[test]
        fn nothing_of_one_hop_and_no_line_break_gets_through(
            pairs in prop::collection::vec(
                ("(?i)(connection|te|upgrade|host|x-[a-c]|hookferry-attempt|expect)", prop::collection::vec(any::<u8>(), 0..12)),
                0..8,
            )
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            if let Ok(headers) = request_headers(&with(&pairs, 0)) {
                for (name, value) in &headers {
                    prop_assert!(!["connection", "te", "upgrade", "host", "expect"].contains(&name.as_str()));
                    prop_assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)));
                }
                prop_assert_eq!(&headers[ATTEMPT], "3");
            }
        }
    }
}
