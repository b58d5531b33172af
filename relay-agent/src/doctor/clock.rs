//! Whether the clocks of this machine and of the relay agree.

use std::time::{Duration, SystemTime};

use http::header;

use super::{
    check::{Check, Hop},
    relay::Answer,
};
use crate::explain::{Code, Failure};

/// What nobody notices.
const FINE_MAX: Duration = Duration::from_secs(30);

/// What providers' libraries forgive.
const BEARABLE_MAX: Duration = Duration::from_secs(300);

/// Compares with the Date of the relay's answer.
pub(super) fn check(answer: &Answer) -> Check {
    let date = answer.response.headers().get(header::DATE);
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    match date {
        Some(date) => judge(date, answer.asked, answer.answered),
        None => Check::skipped(Hop::Clock, "the answer has no Date"),
    }
}

/// `date` was true in some moment between question and answer, cut to a second.
fn judge(date: SystemTime, asked: SystemTime, answered: SystemTime) -> Check {
    let tried = "compare this machine's clock with the relay's";
    let (off, ahead) = match (date.duration_since(answered), asked.duration_since(date)) {
        (Ok(relay_ahead), _) => (relay_ahead, false),
        // The second that was cut off may have been whole.
        (_, Ok(relay_behind)) => (relay_behind.saturating_sub(Duration::from_secs(1)), true),
        _ => (Duration::ZERO, true),
    };
    let direction = if ahead { "ahead" } else { "behind" };
    let seen = match off.as_secs() {
        0 => "they agree to the second".to_owned(),
        seconds => format!("this machine is {} {direction}", span(seconds)),
    };
    let sign = if ahead { 1 } else { -1 };
    let ahead_s = sign * i64::try_from(off.as_secs()).unwrap_or(i64::MAX);
    let check = if off > BEARABLE_MAX {
        Check::failed(Hop::Clock, tried, &Failure::new(Code::Clock, seen))
    } else if off > FINE_MAX {
        Check::ok(Hop::Clock, tried, "").warn(&seen, Code::Clock.fix())
    } else {
        Check::ok(Hop::Clock, tried, seen)
    };
    check.fact("ahead_s", ahead_s)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn clocks() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let s = Duration::from_secs;
        let cases = [
            (now, State::Ok, "agree"),
            (now - s(1), State::Ok, "agree"),
            (now + s(20), State::Ok, "19 s behind"),
            (now - s(32), State::Warn, "31 s ahead"),
            (now + s(200), State::Warn, "3 min behind"),
            (now + s(400), State::Fail, "6 min behind"),
            (now - s(86_401), State::Fail, "24 h ahead"),
            (now + s(86_400 * 400), State::Fail, "399 days behind"),
        ];
        for (date, state, part) in cases {
            let check = judge(date, now, now + s(1));
            assert_eq!(check.state, state, "{check:?}");
            assert!(check.seen.contains(part), "{check:?}");
        }
    }
}
