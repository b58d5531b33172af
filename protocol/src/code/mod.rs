//! Every error code of relay and agent: one closed list, for answers of the API, both command lines,
//! their `explain`, and `docs/errors.md`.
//!
//! The texts are part of the programs, because who needs them may have no network. Data only: which
//! HTTP status a code is answered with is the relay's matter.

mod catalogue;

mod page;

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

pub use catalogue::Code;
pub use page::wrapped;

/// Where an error comes up. The catalogue is ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Area {
    /// The relay answers a provider, the API or an agent with it.
    Answer,
    /// A program finds it on its own machine.
    Setup,
    /// On the way from the agent to the relay.
    Link,
    /// On the way from the agent to a service: a failed attempt of a delivery.
    Service,
}

impl Area {
    /// Every area, in order.
    pub const ALL: [Self; 4] = [Self::Answer, Self::Setup, Self::Link, Self::Service];

    /// A heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Answer => "What the relay answers",
            Self::Setup => "Configuration and machine",
            Self::Link => "The way from the agent to the relay",
            Self::Service => "The way from the agent to a service",
        }
    }
}

/// How a program ends with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 1: something failed.
    Failure,
    /// 3: the relay does not accept the token; trying again does not help.
    NotAuthorised,
    /// 4: the configuration is not valid.
    Configuration,
    /// 5: the relay cannot be reached. An agent that serves keeps trying instead.
    Unreachable,
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::NotAuthorised => 3,
            Self::Configuration => 4,
            Self::Unreachable => 5,
        }
    }
}

/// What the catalogue knows about a code.
struct Entry {
    name: &'static str,
    area: Area,
    exit: Exit,
    title: &'static str,
    meaning: &'static str,
    fix: &'static str,
}

impl Code {
    /// The name in answers, logs and docs.
    pub fn as_str(self) -> &'static str {
        self.entry().name
    }

    /// Where it comes up.
    pub fn area(self) -> Area {
        self.entry().area
    }

    /// How a program ends with it.
    pub fn exit(self) -> Exit {
        self.entry().exit
    }

    /// What happened, in a few words.
    pub fn title(self) -> &'static str {
        self.entry().title
    }

    /// What that means, in some sentences.
    pub fn meaning(self) -> &'static str {
        self.entry().meaning
    }

    /// What to do, in the imperative.
    pub fn fix(self) -> &'static str {
        self.entry().fix
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A text that is no code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownCode {
    /// The text.
    pub given: String,
    /// The code that was probably meant.
    pub nearest: Option<Code>,
}

impl std::error::Error for UnknownCode {}

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no error has the code {}; ", self.given)?;
        match self.nearest {
            Some(code) => write!(f, "did you mean {code}?"),
            None => f.write_str("`explain` without a code lists them all"),
        }
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    /// Takes either case, with or without the leading `E-`.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let wanted = text.trim().to_ascii_uppercase().replace('_', "-");
        let wanted = wanted.strip_prefix("E-").unwrap_or(&wanted);
        let bare = |code: &Self| code.as_str().trim_start_matches("E-");
        if let Some(code) = Self::ALL.iter().find(|code| bare(code) == wanted) {
            return Ok(*code);
        }
        let likeness = |code: &Self| strsim::normalized_damerau_levenshtein(wanted, bare(code));
        let nearest = Self::ALL
            .iter()
            .map(|code| (likeness(code), *code))
            .max_by(|left, right| left.0.total_cmp(&right.0))
            .filter(|(likeness, _)| *likeness > 0.6);
        Err(UnknownCode {
            given: text.to_owned(),
            nearest: nearest.map(|(_, code)| code),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        let mut texts = HashSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(texts.insert(text), "{code} stands twice");
            assert!(texts.insert(code.title()), "{code}: {}", code.title());
            let bare = text.strip_prefix("E-").unwrap();
            let usual = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
            assert!(bare.bytes().all(usual), "{code}");
            let lower = text.to_ascii_lowercase();
            for form in [text, &lower, bare, &lower[2..], &lower.replace('-', "_")] {
                assert_eq!(form.parse(), Ok(*code), "{form}");
            }
        }
    }

    #[test]
    fn areas_stand_together() {
        let mut areas: Vec<_> = Code::ALL.iter().map(|code| code.area()).collect();
        areas.dedup();
        assert_eq!(areas, Area::ALL);
    }

    #[test]
    fn texts_have_one_form() {
        for code in Code::ALL {
            let (title, meaning, fix) = (code.title(), code.meaning(), code.fix());
            assert!(title.starts_with(char::is_uppercase), "{code}: {title}");
            assert!(!title.ends_with('.'), "{code}: {title}");
            assert!(meaning.ends_with('.'), "{code}: {meaning}");
            assert!(!fix.ends_with('.'), "{code}: {fix}");
            assert!(!fix.starts_with(char::is_uppercase), "{code}: {fix}");
            let text = format!("{title} {meaning} {fix}");
            assert!(text.is_ascii() && !text.contains("  "), "{code}: {text}");
        }
    }

    #[test]
    fn misspelt_codes_get_a_suggestion() {
        let cases = [
            ("E-SIGNATUER", Some(Code::Signature)),
            ("signatur", Some(Code::Signature)),
            ("E-TARGET-REFUSE", Some(Code::TargetRefused)),
            ("E-PROXYAUTH", Some(Code::ProxyAuth)),
            ("nonsense", None),
            ("", None),
            ("E-", None),
        ];
        for (text, expected) in cases {
            let unknown = text.parse::<Code>().unwrap_err();
            assert_eq!(unknown.nearest, expected, "{text}: {unknown}");
        }
        assert_eq!(
            "tsl".parse::<Code>().unwrap_err().to_string(),
            "no error has the code tsl; did you mean E-TLS?"
        );
    }
}
