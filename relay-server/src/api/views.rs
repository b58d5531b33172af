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

/// Reads a time as RFC 3339, or how long ago it was, such as `90s`, `30m`, `24h`, `7d` or `2w`.
pub(super) fn parse_past(
    parameter: &str,
    text: &str,
    now: Timestamp,
) -> Result<Timestamp, Problem> {
    let ago = |text: &str| {
        let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return None,
        };
        let count: u64 = count.parse().ok()?;
        let millis = count.checked_mul(seconds)?.checked_mul(1_000)?;
        Some(Timestamp(now.0.saturating_sub(millis)))
    };
    if let Some(time) = ago(text) {
        return Ok(time);
    }
    parse_time(parameter, text).map_err(|_| {
        let why = "is no time such as 2026-01-31T12:00:00Z or 24h, which is so long ago";
        bad(parameter, why)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_so_long_ago() {
        let now = Timestamp(1_700_000_000_000);
        let cases = [
            ("90s", Some(90_000)),
            ("30m", Some(1_800_000)),
            ("24h", Some(86_400_000)),
            ("7d", Some(604_800_000)),
            ("2w", Some(1_209_600_000)),
            ("2023-11-14T22:13:19Z", Some(1_000)),
            ("7", None),
            ("-7d", None),
            ("d", None),
            ("", None),
            ("7é", None),
            ("99999999999999999999w", None),
        ];
        for (text, ago) in cases {
            let expected = ago.map(|ago| Timestamp(now.0 - ago));
            assert_eq!(parse_past("since", text, now).ok(), expected, "{text}");
        }
    }
}
