//! Windows of the week in which a destination rests, as people write them. All times are UTC.

use std::{fmt, ops::Range, time::Duration};

use crate::clock::Timestamp;

/// Windows a destination may have.
const WINDOWS_MAX: usize = 50;

const DAY: u32 = 24 * 60;
const WEEK: u32 = 7 * DAY;

/// Names of the days, Monday first, as the week is counted here.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// 1970 began on a Thursday.
const EPOCH_MINUTE: u64 = 3 * DAY as u64;

/// Weekly windows, such as `daily 02:00-04:00`, `sun 23:00-01:00` or `mon-fri,sun 12:00-12:30`. One
/// that ends before it begins ends on the next day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maintenance {
    texts: Vec<String>,
    /// Minutes of the week; joined, in order, and not over the end of the week.
    windows: Vec<Range<u32>>,
}

/// A window that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceMistake {
    /// Which one, from 0; none if all of them together are wrong.
    pub at: Option<usize>,
    /// What is wrong.
    pub why: String,
}

impl Maintenance {
    /// Reads windows.
    ///
    /// # Errors
    ///
    /// A [`MaintenanceMistake`] says which one is wrong; refuse to save it.
    pub fn read(texts: Vec<String>) -> Result<Self, MaintenanceMistake> {
        let wrong = |at, why: String| MaintenanceMistake { at, why };
        if texts.len() > WINDOWS_MAX {
            return Err(wrong(None, format!("at most {WINDOWS_MAX} windows")));
        }
        let mut windows = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let found = read_window(text).map_err(|why| wrong(Some(at), why))?;
            windows.extend(found);
        }
        let windows = join(windows);
        if windows
            .first()
            .is_some_and(|window| window.len() == WEEK as usize)
        {
            let why = "the windows leave no time to deliver; pause the destination instead";
            return Err(wrong(None, why.to_owned()));
        }
        Ok(Self { texts, windows })
    }

    /// As they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// When the window ends that it is now, if it is one.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let minute = minute_of_week(now);
        let window = self
            .windows
            .iter()
            .find(|window| window.contains(&minute))?;
        let mut left = window.end - minute;
        // The week may end within a window.
        if window.end == WEEK
            && let Some(first) = self.windows.first().filter(|first| first.start == 0)
        {
            left += first.end;
        }
        Some(minutes_after(now, left))
    }

    /// When the next window begins, if there is any and it is none now.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let minute = minute_of_week(now);
        let starts = self.windows.iter().map(|window| window.start);
        let wait = starts
            .map(|start| (start + WEEK - minute) % WEEK)
            .min()
            .filter(|_| self.until(now).is_none())?;
        Some(minutes_after(now, wait))
    }
}

/// The beginning of a later minute.
fn minutes_after(now: Timestamp, minutes: u32) -> Timestamp {
    let this_minute = Timestamp(now.0 - now.0 % 60_000);
    this_minute.after(Duration::from_secs(u64::from(minutes) * 60))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "less than a week of minutes"
)]
fn minute_of_week(now: Timestamp) -> u32 {
    ((now.0 / 60_000 + EPOCH_MINUTE) % u64::from(WEEK)) as u32
}

/// A window may be several of the week.
fn read_window(text: &str) -> Result<Vec<Range<u32>>, String> {
    let wrong = || {
        format!(
            "`{text}` is no window such as `daily 02:00-04:00`, `sun 23:00-01:00` or `mon-fri 12:00-12:30`"
        )
    };
    let lower = text.to_ascii_lowercase();
    let (days, times) = lower.trim().split_once(' ').ok_or_else(wrong)?;
    let days = read_days(days).ok_or_else(wrong)?;
    let (from, until) = times.trim().split_once('-').ok_or_else(wrong)?;
    let (from, until) = (
        read_time(from)
            .filter(|from| *from < DAY)
            .ok_or_else(wrong)?,
        read_time(until).ok_or_else(wrong)?,
    );
    if from == until {
        return Err(format!("`{text}` has no length"));
    }
    let length = if from < until {
        until - from
    } else {
        until + DAY - from
    };
    let mut windows = Vec::new();
    for day in days {
        let start = day * DAY + from;
        let end = start + length;
        windows.push(start..end.min(WEEK));
        if end > WEEK {
            windows.push(0..end - WEEK);
        }
    }
    Ok(windows)
}

/// `daily`, or days and spans of days with commas between.
fn read_days(text: &str) -> Option<Vec<u32>> {
    if text == "daily" {
        return Some((0..7).collect());
    }
    let number = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let span = (last + 7 - first) % 7;
        days.extend((first..=first + span).filter_map(|day| u32::try_from(day % 7).ok()));
    }
    Some(days)
}

/// Minutes of `HH:MM`, up to 24:00.
fn read_time(text: &str) -> Option<u32> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let two_digits = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| digits)
    };
    let minutes = two_digits(minutes).filter(|minutes| *minutes < 60)?;
    Some(two_digits(hours)? * 60 + minutes).filter(|time| *time <= DAY)
}

/// In order, with overlaps and neighbours made one.
fn join(mut windows: Vec<Range<u32>>) -> Vec<Range<u32>> {
    windows.sort_by_key(|window| window.start);
    let mut joined: Vec<Range<u32>> = Vec::new();
    for window in windows {
        match joined.last_mut() {
            Some(last) if window.start <= last.end => last.end = last.end.max(window.end),
            _ => joined.push(window),
        }
    }
    joined
}

impl fmt::Display for MaintenanceMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "maintenance[{at}]: {}", self.why),
            None => write!(f, "maintenance: {}", self.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp(u64::try_from(time.as_millisecond()).unwrap())
    }

    fn windows(texts: &[&str]) -> Result<Maintenance, MaintenanceMistake> {
        Maintenance::read(texts.iter().map(|&text| text.to_owned()).collect())
    }

    /// 2026-11-25 is a Wednesday.
    #[track_caller]
    fn check(texts: &[&str], now: &str, until: Option<&str>, next: Option<&str>) {
        let maintenance = windows(texts).unwrap();
        let now = at(now);
        assert_eq!(maintenance.until(now), until.map(at), "until");
        assert_eq!(maintenance.next(now), next.map(at), "next");
    }

    #[test]
    fn windows_come_every_week() {
        check(&[], "2026-11-25T03:00:00Z", None, None);
        check(
            &["daily 02:00-04:00"],
            "2026-11-25T03:00:59.999Z",
            Some("2026-11-25T04:00:00Z"),
            None,
        );
        check(
            &["daily 02:00-04:00"],
            "2026-11-25T04:00:00Z",
            None,
            Some("2026-11-26T02:00:00Z"),
        );
        check(
            &["Mon-Fri,Sun 12:00-12:30"],
            "2026-11-27T12:30:00Z",
            None,
            Some("2026-11-29T12:00:00Z"),
        );
        check(
            &["fri-mon 00:00-24:00"],
            "2026-11-27T00:00:00Z",
            Some("2026-12-01T00:00:00Z"),
            None,
        );
    }

    #[test]
    fn windows_pass_midnight_and_the_end_of_the_week() {
        check(
            &["wed 23:00-01:00"],
            "2026-11-26T00:59:00Z",
            Some("2026-11-26T01:00:00Z"),
            None,
        );
        check(
            &["sun 23:00-01:00"],
            "2026-11-29T23:30:00Z",
            Some("2026-11-30T01:00:00Z"),
            None,
        );
        check(
            &["sun 23:00-24:00", "mon 00:00-00:30", "daily 12:00-13:00"],
            "2026-11-29T23:00:00Z",
            Some("2026-11-30T00:30:00Z"),
            None,
        );
    }

    #[track_caller]
    fn refuse(texts: &[&str], at: Option<usize>) {
        assert_eq!(windows(texts).unwrap_err().at, at, "{texts:?}");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for text in [
            "",
            "daily",
            "daily 2:00-04:00",
            "daily 02:00",
            "daily 24:00-01:00",
            "daily 02:60-03:00",
            "daily 02:00-24:01",
            "someday 02:00-03:00",
            "mon- 02:00-03:00",
            "daily 02:00-02:00",
            "daily +2:00-03:00",
        ] {
            refuse(&["daily 01:00-02:00", text], Some(1));
        }
        refuse(&["daily 00:00-24:00"], None);
        refuse(&["daily 00:00-12:30", "daily 12:00-00:00"], None);
        refuse(&["sun 01:00-02:00"; 51], None);
    }

    proptest! {
        #[test]
        fn a_window_ends_and_another_begins(
            from in 0..1440_u32, length in 1..1440_u32, day in 0..7_usize, now in 0..10_000_000_000_000_u64,
        ) {
            let until = (from + length) % DAY;
            let time = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
            let text = format!("{} {}-{}", DAYS[day], time(from), time(until));
            let maintenance = windows(&[&text]).unwrap();
            let now = Timestamp(now);
            match (maintenance.until(now), maintenance.next(now)) {
                (Some(until), None) => {
                    prop_assert!(until > now && maintenance.until(until).is_none());
                    prop_assert!(until.since(now) <= Duration::from_secs(u64::from(length) * 60));
                }
                (None, Some(next)) => {
                    prop_assert!(next > now && maintenance.until(next).is_some());
                    prop_assert!(next.since(now) <= Duration::from_hours(7 * 24));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*|[a-z,-]{0,9} [0-9:-]{0,12}") {
            let _ = Maintenance::read(vec![text]);
        }
    }
}
