//! What one check found, and all of them together. Serialised it is what `doctor --json` prints: the
//! shape is documented in docs/OPERATIONS.md and only grows.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::explain::{Code, Failure};

/// Raised when a field of the report changes its meaning or goes away.
const SHAPE: u32 = 1;

/// What is checked, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// File, environment and flags.
    Config,
    /// How tokens and keys are kept.
    Secrets,
    /// The name of the relay, or of the proxy before it.
    Dns,
    /// A connection to it.
    Tcp,
    /// The proxy's connection to the relay.
    Proxy,
    /// TLS with the relay, and its certificate.
    Tls,
    /// Whether a relay answers.
    Relay,
    /// Whether both clocks agree.
    Clock,
    /// What the relay thinks of the token.
    Token,
    /// Whether the token may serve what the configuration forwards.
    Destinations,
    /// Whether a WebSocket comes through.
    WebSocket,
    /// A service that events are forwarded to.
    Target,
}

impl Hop {
    /// Those on the way to the relay: each needs the ones before it.
    pub(super) const LINK: [Self; 9] = [
        Self::Dns,
        Self::Tcp,
        Self::Proxy,
        Self::Tls,
        Self::Relay,
        Self::Clock,
        Self::Token,
        Self::Destinations,
        Self::WebSocket,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secrets => "secrets",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Relay => "relay",
            Self::Clock => "clock",
            Self::Token => "token",
            Self::Destinations => "destinations",
            Self::WebSocket => "websocket",
            Self::Target => "target",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Hop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// It was not tried: it does not apply, or what it needs does not work.
    Skipped,
}

/// One check: what was tried, what was seen, what to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was checked.
    pub check: Hop,
    /// Which of several; a target's destination.
    pub subject: Option<String>,
    /// How it ended.
    pub state: State,
    /// What was tried; empty if nothing was.
    pub tried: String,
    /// What was seen, or why nothing was tried.
    pub seen: String,
    /// What to do, if there is something to do.
    pub fix: Option<String>,
    /// The error.
    pub code: Option<Code>,
    /// How long it took.
    pub elapsed_ms: Option<u64>,
    /// The same for programs.
    pub facts: Map<String, Value>,
}

impl Check {
    fn new(check: Hop, state: State, tried: String, seen: String) -> Self {
        Self {
            check,
            subject: None,
            state,
            tried,
            seen,
            fix: None,
            code: None,
            elapsed_ms: None,
            facts: Map::new(),
        }
    }

    pub(super) fn ok(check: Hop, tried: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(check, State::Ok, tried.into(), seen.into())
    }

    pub(super) fn failed(check: Hop, tried: impl Into<String>, failure: &Failure) -> Self {
        let mut failed = Self::new(check, State::Fail, tried.into(), failure.what.clone());
        let fix = failure.fix.as_deref().unwrap_or(failure.code.fix());
        failed.fix = Some(fix.to_owned());
        failed.code = Some(failure.code);
        failed
    }

    pub(super) fn skipped(check: Hop, why: impl Into<String>) -> Self {
        Self::new(check, State::Skipped, String::new(), why.into())
    }

    /// It had not ended when the time for all checks was over.
    pub(super) fn out_of_time(check: Hop, limit: Duration) -> Self {
        let code = match check {
            Hop::Config | Hop::Secrets | Hop::Clock => Code::Internal,
            Hop::Dns => Code::Dns,
            Hop::Tcp => Code::Connect,
            Hop::Proxy => Code::Proxy,
            Hop::Tls => Code::Tls,
            Hop::Relay | Hop::Token | Hop::Destinations => Code::RelaySilent,
            Hop::WebSocket => Code::Upgrade,
            Hop::Target => Code::TargetTimeout,
        };
        let what = format!(
            "no result when all checks together had taken {} s (--timeout)",
            limit.as_secs_f32()
        );
        Self::failed(check, "", &Failure::new(code, what))
    }

    /// Makes an `ok` a warning: it adds what is not as it should be, and what to do.
    #[must_use]
    pub(super) fn warn(mut self, seen: &str, fix: &str) -> Self {
        if self.state != State::Fail {
            self.state = State::Warn;
        }
        if !self.seen.is_empty() {
            self.seen.push_str("; ");
        }
        self.seen.push_str(seen);
        self.fix = Some(match self.fix {
            Some(earlier) => format!("{earlier}; {fix}"),
            None => fix.to_owned(),
        });
        self
    }

    #[must_use]
    pub(super) fn subject(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_owned());
        self
    }

    #[must_use]
    pub(super) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn took(&mut self, elapsed: Duration) {
        self.elapsed_ms = u64::try_from(elapsed.as_millis()).ok();
    }
}

/// A check, and what the next one goes on with unless it failed.
#[derive(Debug)]
pub(super) struct Step<T> {
    pub(super) check: Check,
    pub(super) next: Option<T>,
}

impl<T> Step<T> {
    pub(super) fn on(check: Check, next: T) -> Self {
        let next = Some(next);
        Self { check, next }
    }

    pub(super) fn stop(check: Check) -> Self {
        Self { check, next: None }
    }
}

/// All checks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this shape.
    pub shape: u32,
    /// Program and version.
    pub program: String,
    /// When the checks were made, by the clock of this machine.
    pub time: String,
    /// The relay, if it is known.
    pub server: Option<String>,
    /// The proxy before it.
    pub proxy: Option<String>,
    /// The worst of all states.
    pub state: State,
    /// What the command exits with.
    pub exit_code: u8,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(time: String) -> Self {
        Self {
            shape: SHAPE,
            program: concat!("relay-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
            time,
            server: None,
            proxy: None,
            state: State::Ok,
            exit_code: 0,
            checks: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, check: Check) {
        match check.state {
            State::Fail => {
                if self.exit_code == 0 {
                    let exit = check.code.map_or(1, |code| code.exit().code());
                    self.exit_code = exit;
                }
                self.state = State::Fail;
            }
            State::Warn if self.state == State::Ok => self.state = State::Warn,
            _ => {}
        }
        self.checks.push(check);
    }

    /// The whole as JSON.
    pub fn to_json(&self) -> String {
        // Texts and numbers always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// How many checks ended like this.
    pub fn count(&self, state: State) -> usize {
        let same = |check: &&Check| check.state == state;
        self.checks.iter().filter(same).count()
    }

    /// What the failures have in common, if anything failed: the first one.
    pub fn first_failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.state == State::Fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_the_exit_code() {
        let mut report = Report::new(String::new());
        report.add(Check::ok(Hop::Config, "", ""));
        assert_eq!((report.state, report.exit_code), (State::Ok, 0));
        report.add(Check::ok(Hop::Secrets, "", "a").warn("b", "c"));
        assert_eq!((report.state, report.exit_code), (State::Warn, 0));
        report.add(Check::skipped(Hop::Proxy, ""));
        let refused = Failure::new(Code::Connect, "refused");
        report.add(Check::failed(Hop::Tcp, "", &refused));
        let target = Failure::new(Code::TargetConnect, "refused");
        report.add(Check::failed(Hop::Target, "", &target));
        assert_eq!((report.state, report.exit_code), (State::Fail, 5));
        assert_eq!(report.count(State::Fail), 2);
        assert_eq!(report.first_failure().unwrap().check, Hop::Tcp);
    }

    #[test]
    fn warnings_add_up() {
        let check = Check::ok(Hop::Secrets, "looked", "fine");
        let check = check.warn("one", "do one").warn("two", "do two");
        assert_eq!(check.seen, "fine; one; two");
        assert_eq!(check.fix.as_deref(), Some("do one; do two"));
    }

    #[test]
    fn the_shape_is_stable() {
        let check = Check::ok(Hop::Target, "tried", "seen")
            .subject("ci")
            .fact("n", 1);
        let shown = serde_json::to_value(&check).unwrap();
        let expected = serde_json::json!({
            "check": "target", "subject": "ci", "state": "ok", "tried": "tried", "seen": "seen",
            "fix": null, "code": null, "elapsed_ms": null, "facts": { "n": 1 },
        });
        assert_eq!(shown, expected);
    }
}
