//! What the status codes of a service mean for a delivery: data, as destinations are set up with it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The service took the event.
    Deliver,
    /// Try again.
    Retry,
    /// Give the delivery up.
    Dead,
}

/// The meaning of status codes as people write it: lists of codes and ranges, such as `404`, `4xx`
/// or `301-399`. What is in no list is as usual: 2xx delivers, 410 is dead, the rest is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StatusSpec {
    /// What means that the service took the event, besides 2xx.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deliver: Vec<String>,
    /// What is tried again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retry: Vec<String>,
    /// What gives a delivery up at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<String>,
}

/// A list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusMistake {
    /// Where it is, such as `dead[2]`.
    pub place: String,
    /// What is wrong.
    pub why: String,
}

/// The meaning of every status code. Where ranges overlap, the narrowest counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusPolicy {
    spec: StatusSpec,
    rules: Vec<(StatusRange, Meaning)>,
}

/// Codes from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StatusRange {
    first: u16,
    last: u16,
}

/// Entries a list may have.
const ENTRIES_MAX: usize = 100;

impl StatusSpec {
    /// Checks the lists and makes them usable.
    ///
    /// # Errors
    ///
    /// A [`StatusMistake`] names the entry; refuse to save it.
    pub fn compile(self) -> Result<StatusPolicy, StatusMistake> {
        let lists = [
            ("deliver", &self.deliver, Meaning::Deliver),
            ("retry", &self.retry, Meaning::Retry),
            ("dead", &self.dead, Meaning::Dead),
        ];
        let mut policy = StatusPolicy::default();
        let mut places: Vec<String> = Vec::new();
        for (name, list, meaning) in lists {
            if list.len() > ENTRIES_MAX {
                return Err(StatusMistake {
                    place: name.to_owned(),
                    why: format!("at most {ENTRIES_MAX} entries"),
                });
            }
            for (at, text) in list.iter().enumerate() {
                let place = format!("{name}[{at}]");
                let range = match policy.admit(text, meaning, &places) {
                    Ok(range) => range,
                    Err(why) => return Err(StatusMistake { place, why }),
                };
                policy.rules.push((range, meaning));
                places.push(place);
            }
        }
        policy.spec = self;
        Ok(policy)
    }
}

impl StatusPolicy {
    /// As it was written.
    pub fn spec(&self) -> &StatusSpec {
        &self.spec
    }

    /// What a status means.
    pub fn meaning(&self, status: u16) -> Meaning {
        let named = self
            .rules
            .iter()
            .filter(|(range, _)| range.contains(status))
            .min_by_key(|(range, _)| range.width());
        match (named, status) {
            (Some((_, meaning)), _) => *meaning,
            (None, 200..=299) => Meaning::Deliver,
            (None, 410) => Meaning::Dead,
            (None, _) => Meaning::Retry,
        }
    }

    /// Reads an entry that must not contradict the ones before it, which stand at `places`.
    fn admit(
        &self,
        text: &str,
        meaning: Meaning,
        places: &[String],
    ) -> Result<StatusRange, String> {
        let range: StatusRange = text.parse()?;
        if meaning != Meaning::Deliver && range.overlaps(&StatusRange::SUCCESS) {
            return Err(format!(
                "`{text}` holds success codes, and 2xx always delivers: agents remember a success and never call again"
            ));
        }
        let contradicted = self.rules.iter().zip(places).find(|((other, means), _)| {
            *means != meaning && other.width() == range.width() && other.overlaps(&range)
        });
        match contradicted {
            Some(((other, _), place)) => Err(format!(
                "`{text}` and `{other}` in {place} are equally wide and overlap; make one of them narrower"
            )),
            None => Ok(range),
        }
    }
}

impl StatusRange {
    const SUCCESS: Self = Self {
        first: 200,
        last: 299,
    };

    fn contains(&self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn width(&self) -> u16 {
        self.last - self.first
    }
}

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no status code, class or range, such as 404, 4xx or 301-399");
        let code = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let code = text.parse::<u16>().ok().filter(|_| digits);
            code.filter(|code| (200..=599).contains(code))
        };
        if let Some(class) = text.strip_suffix("xx") {
            let first = code(&format!("{class}00")).ok_or_else(wrong)?;
            let last = first + 99;
            return Ok(Self { first, last });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (
            code(first).ok_or_else(wrong)?,
            code(last).ok_or_else(wrong)?,
        );
        if first > last {
            return Err(format!("`{text}` ends before it begins"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Meaning::*, *};

    fn spec(deliver: &[&str], retry: &[&str], dead: &[&str]) -> StatusSpec {
        let list = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect();
        StatusSpec {
            deliver: list(deliver),
            retry: list(retry),
            dead: list(dead),
        }
    }

    #[track_caller]
    fn check(spec: StatusSpec, expected: &[(u16, Meaning)]) {
        let policy = spec.compile().unwrap();
        for &(status, meaning) in expected {
            let found = policy.meaning(status);
            assert_eq!(found, meaning, "{status} under {:?}", policy.spec());
        }
    }

    #[track_caller]
    fn refuse(spec: StatusSpec, place: &str) {
        let written = spec.clone();
        assert_eq!(spec.compile().unwrap_err().place, place, "{written:?}");
    }

    #[test]
    fn without_lists_it_is_as_usual() {
        let usual = [
            (200, Deliver),
            (299, Deliver),
            (410, Dead),
            (301, Retry),
            (404, Retry),
            (599, Retry),
        ];
        check(StatusSpec::default(), &usual);
    }

    #[test]
    fn the_narrowest_range_counts() {
        let lists = spec(&["409", "3xx"], &["429", "410", "400-401"], &["4xx", "304"]);
        check(
            lists,
            &[
                (409, Deliver),
                (302, Deliver),
                (304, Dead),
                (429, Retry),
                (410, Retry),
                (401, Retry),
                (404, Dead),
                (500, Retry),
                (204, Deliver),
            ],
        );
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        refuse(spec(&["2xx", "nonsense"], &[], &[]), "deliver[1]");
        refuse(spec(&[], &["399-301"], &[]), "retry[0]");
        refuse(spec(&[], &[], &["600"]), "dead[0]");
        refuse(spec(&[], &[], &["1xx"]), "dead[0]");
        refuse(spec(&[], &[], &["+04"]), "dead[0]");
        refuse(spec(&[], &[], &["404", "200-404"]), "dead[1]");
        refuse(spec(&[], &["404"], &["410", "404"]), "dead[1]");
        refuse(spec(&[], &["400-449"], &["420-469"]), "dead[0]");
        refuse(spec(&[], &[], &vec!["404"; 101]), "dead");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(entries in proptest::collection::vec("[0-9x-]{0,8}|\\PC*", 0..6)) {
            let spec = StatusSpec { dead: entries, ..StatusSpec::default() };
            if let Ok(policy) = spec.compile() {
                prop_assert!((200..300).all(|status| policy.meaning(status) == Deliver));
            }
        }
    }
}
