//! The report as lines for people. A state is a word; colour only repeats it.

use std::io::IsTerminal;

use protocol::code::wrapped;

use super::check::{Check, Report, State};
use crate::terminal;

/// Where the texts begin: after the state and the name.
const INDENT: usize = 20;

/// How lines are made.
#[derive(Debug, Clone, Copy)]
pub struct Show {
    width: usize,
    color: bool,
}

impl Default for Show {
    fn default() -> Self {
        Self::new()
    }
}

impl Show {
    /// For the standard output: as wide as its terminal, and coloured if it is one and nobody objects.
    pub fn new() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            width: terminal::width(),
            color: std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
        }
    }

    /// What is checked.
    pub fn head(&self, report: &Report) -> String {
        let mut head = format!("{}, {}\n", report.program, report.time);
        if let Some(server) = &report.server {
            head.push_str(&format!("relay  {server}\n"));
        }
        if let Some(proxy) = &report.proxy {
            head.push_str(&format!("proxy  {proxy}\n"));
        }
        head
    }

    /// One check: what was tried, what was seen, what to do.
    pub fn check(&self, check: &Check) -> String {
        let mut text = check.tried.clone();
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&check.seen);
        if let Some(elapsed) = check.elapsed_ms.filter(|elapsed| *elapsed > 0) {
            text.push_str(&format!(" ({elapsed} ms)"));
        }
        let mut lines = self.indented(&text);
        if let Some(fix) = &check.fix {
            lines.push_str(&self.indented(&format!("fix: {fix}")));
        }
        if let Some(code) = check.code {
            lines.push_str(&self.indented(&format!("more: relay-agent explain {code}")));
        }
        let start = format!("{} {:<13}", self.state(check.state), check.check.as_str());
        format!("{start} {}", lines.trim())
    }

    /// What all of it comes to.
    pub fn end(&self, report: &Report) -> String {
        let warnings = match report.count(State::Warn) {
            0 => String::new(),
            1 => ", 1 warning".to_owned(),
            many => format!(", {many} warnings"),
        };
        let end = match (report.first_failure(), report.count(State::Fail)) {
            (None, _) => format!("Nothing failed{warnings}."),
            (Some(first), failures) => {
                let code = first
                    .code
                    .map_or(String::new(), |code| format!(" ({code})"));
                let subject = first.subject.iter().map(|subject| format!(" {subject}"));
                let subject: String = subject.collect();
                format!(
                    "{failures} failed{warnings}. Begin with {}{subject}{code}.",
                    first.check
                )
            }
        };
        format!("\n{end}")
    }

    /// Text behind the names, in as many lines as it takes.
    fn indented(&self, text: &str) -> String {
        let width = self.width.saturating_sub(INDENT);
        wrapped(text, width)
            .lines()
            .map(|line| format!("{:INDENT$}{line}\n", ""))
            .collect()
    }

    fn state(&self, state: State) -> String {
        let (word, color) = match state {
            State::Ok => ("ok  ", 32),
            State::Warn => ("warn", 33),
            State::Fail => ("FAIL", 31),
            State::Skipped => ("skip", 2),
        };
        match self.color {
            true => format!("\u{1b}[{color}m{word}\u{1b}[0m "),
            false => format!("{word} "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::Hop,
        explain::{Code, Failure},
    };

    const SHOW: Show = Show {
        width: 60,
        color: false,
    };

    #[test]
    fn a_check_says_what_was_tried_what_was_seen_and_what_to_do() {
        let failure = Failure::new(Code::TokenRevoked, "the relay answered 401 Unauthorized");
        let mut check = Check::failed(Hop::Token, "ask what the token is good for", &failure);
        check.took(std::time::Duration::from_millis(7));
        let shown = SHOW.check(&check);
        let mut lines = shown.lines();
        assert_eq!(
            lines.next().unwrap(),
            "FAIL  token         ask what the token is good for: the"
        );
        assert_eq!(
            lines.next().unwrap(),
            "                    relay answered 401 Unauthorized (7 ms)"
        );
        assert!(
            lines
                .next()
                .unwrap()
                .starts_with("                    fix: ")
        );
        assert!(shown.ends_with("\n                    more: relay-agent explain\n                    E-TOKEN-REVOKED"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 60));
    }

    #[test]
    fn the_end_names_where_to_begin() {
        let mut report = Report::new(String::new());
        report.add(Check::ok(Hop::Secrets, "", "").warn("open", "close it"));
        assert_eq!(SHOW.end(&report), "\nNothing failed, 1 warning.");
        let failure = Failure::new(Code::TargetDns, "no");
        report.add(Check::failed(Hop::Target, "", &failure).subject("ci"));
        assert_eq!(
            SHOW.end(&report),
            "\n1 failed, 1 warning. Begin with target ci (E-TARGET-DNS)."
        );
    }

    #[test]
    fn colour_is_never_alone() {
        let show = Show {
            color: true,
            ..SHOW
        };
        let shown = show.check(&Check::skipped(Hop::Proxy, "none"));
        assert_eq!(shown, "\u{1b}[2mskip\u{1b}[0m  proxy         none");
    }
}
