//! Signed times: read strictly, refused when too old or too far ahead.

use super::{
    Bound, Refusal, Request,
    rule::{TimeUnit, Timestamp, TimestampFrom},
};

impl Timestamp {
    /// The time as it was written: this text is what was signed.
    pub(super) fn text(
        &self,
        captured: Option<String>,
        bound: &Bound,
        request: &Request<'_>,
    ) -> Result<Option<String>, Refusal> {
        let missing = |what: String| match self.optional {
            true => Ok(None),
            false => Err(Refusal::missing(what)),
        };
        match &self.from {
            TimestampFrom::Capture(key) => captured.map_or_else(
                || missing(format!("timestamp {key}=")),
                |time| Ok(Some(time)),
            ),
            TimestampFrom::Place(place) => {
                match place.value(request, bound.rule.spec.json_field.as_deref())? {
                    None => missing(place.to_string()),
                    Some(value) => match String::from_utf8(value.into_owned()) {
                        Ok(text) => Ok(Some(text)),
                        Err(_) => Err(Refusal::malformed(place.to_string(), "it is not UTF-8")),
                    },
                }
            }
        }
    }

    pub(super) fn check(&self, text: &str, now: Option<u64>) -> Result<(), Refusal> {
        let then = unix_ms(text, self.unit)
            .ok_or_else(|| Refusal::malformed("timestamp", "it is not written as the rule says"))?;
        let (Some(tolerance), Some(now)) = (self.tolerance_ms, now) else {
            return Ok(());
        };
        let ahead = then - i128::from(now);
        fresh(ahead, tolerance, self.reject_future)
    }
}

/// Refuses a time that is too far from now. `ahead` is negative for the past.
pub(super) fn fresh(ahead_ms: i128, tolerance_ms: u64, reject_future: bool) -> Result<(), Refusal> {
    let seconds = |ms: i128| u64::try_from(ms / 1000).unwrap_or(u64::MAX);
    let tolerance_s = tolerance_ms / 1000;
    if -ahead_ms > i128::from(tolerance_ms) {
        return Err(Refusal::Stale {
            age_s: seconds(-ahead_ms),
            tolerance_s,
        });
    }
    if reject_future && ahead_ms > i128::from(tolerance_ms) {
        return Err(Refusal::Future {
            ahead_s: seconds(ahead_ms),
            tolerance_s,
        });
    }
    Ok(())
}

/// Reads a time strictly: digits only for numbers, no signs, no fractions.
pub(super) fn unix_ms(text: &str, unit: TimeUnit) -> Option<i128> {
    let number = || {
        let digits = (1..=19).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| text.parse::<u64>().ok().map(i128::from))
            .flatten()
    };
    let milliseconds = |time: jiff::Timestamp| i128::from(time.as_millisecond());
    match unit {
        TimeUnit::Seconds => number().map(|seconds| seconds * 1000),
        TimeUnit::Millis => number(),
        TimeUnit::Micros => number().map(|micros| micros / 1000),
        TimeUnit::Rfc3339 => match text.parse::<jiff::Timestamp>() {
            Ok(time) => Some(milliseconds(time)),
            Err(_) => utc(text.parse().ok()?).map(milliseconds),
        },
        TimeUnit::HttpDate => {
            let time = httpdate::parse_http_date(text).ok()?;
            let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            i128::try_from(since.as_millis()).ok()
        }
        TimeUnit::ScalrDate => {
            let bare = text
                .strip_suffix(" UTC")
                .or_else(|| text.strip_suffix(" GMT"))?;
            let time = jiff::civil::DateTime::strptime("%a %d %b %Y %H:%M:%S", bare).ok()?;
            utc(time).map(milliseconds)
        }
    }
}

fn utc(time: jiff::civil::DateTime) -> Option<jiff::Timestamp> {
    jiff::tz::Offset::UTC.to_timestamp(time).ok()
}
