//! Forms that several resources share: times, header fields, bytes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use protocol::frame::Headers;
use serde::Serialize;

use super::extract::bad;
use crate::{clock::Timestamp, problem::Problem};

/// Reads a time as RFC 3339.
pub(super) fn parse_time(parameter: &str, text: &str) -> Result<Timestamp, Problem> {
    let parsed = text.parse::<jiff::Timestamp>().ok();
    parsed
        .and_then(|time| u64::try_from(time.as_millisecond()).ok())
        .map(Timestamp)
        .ok_or_else(|| bad(parameter, "is no time such as 2026-01-31T12:00:00Z"))
}

/// One header field. A value that is not text is shown in base64.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct HeaderView {
    name: String,
    #[serde(flatten)]
    value: BytesView<'static>,
}

/// Header fields in order.
pub(super) fn headers(headers: &Headers) -> Vec<HeaderView> {
    let fields = headers.0.iter();
    fields
        .map(|(name, value)| HeaderView {
            name: String::from_utf8_lossy(name).into_owned(),
            value: match std::str::from_utf8(value) {
                Ok(text) => BytesView::Text {
                    value: text.to_owned().into(),
                },
                Err(_) => BytesView::Binary {
                    value_base64: STANDARD.encode(value),
                },
            },
        })
        .collect()
}

/// Bytes as text where they are text, so that people can read them and nothing is lost.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(super) enum BytesView<'a> {
    /// Text.
    Text {
        /// The text.
        value: std::borrow::Cow<'a, str>,
    },
    /// Anything else.
    Binary {
        /// The bytes in base64.
        value_base64: String,
    },
}
