//! What goes wrong, told for people; and `explain`, which says more about a code without a network.

use std::fmt;

pub use protocol::code::{Code, Exit};

use protocol::code::UnknownCode;

/// A problem that ends a command or keeps the agent from working, told for people.
///
/// It never holds a token, a header value or a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which kind of problem, from a closed list.
    pub code: Code,
    /// What happened.
    pub what: String,
    /// What was being done.
    pub context: Option<String>,
    /// What to do next, if it is more special than the advice of the code.
    pub fix: Option<String>,
}

impl Failure {
    /// A problem with the advice of its code.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            context: None,
            fix: None,
        }
    }

    /// Adds what was being done.
    #[must_use]
    pub fn during(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Replaces the advice.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.code, self.what)?;
        if let Some(context) = &self.context {
            writeln!(f, "  while {context}")?;
        }
        let fix = self.fix.as_deref().unwrap_or(self.code.fix());
        writeln!(f, "  fix: {fix}")?;
        write!(f, "  more: relay-agent explain {}", self.code)
    }
}

impl std::error::Error for Failure {}

/// Answers `relay-agent explain`: one code in lines of at most `width` characters, or all of them.
///
/// # Errors
///
/// There is no such code; the text names the nearest one.
pub fn explain(name: Option<&str>, width: usize) -> Result<String, UnknownCode> {
    match name {
        Some(name) => Ok(name.parse::<Code>()?.page(&[], width)),
        None => Ok(Code::list()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explain_knows_one_code_or_all() {
        let page = explain(Some("tls"), 80).unwrap();
        assert!(
            page.starts_with("E-TLS: ") && page.contains("\nFix: "),
            "{page}"
        );
        assert!(explain(None, 80).unwrap().contains("E-TARGET-REFUSED"));
        let unknown = explain(Some("E-SIGNATUR"), 80).unwrap_err();
        assert_eq!(unknown.nearest, Some(Code::Signature));
    }

    #[test]
    fn failures_say_what_why_and_what_to_do() {
        let failure = Failure::new(Code::Connect, "connection refused by 192.0.2.1:443")
            .during("connecting to wss://relay.example.com/agent/v1/connect");
        assert_eq!(
            failure.to_string(),
            "error[E-CONNECT]: connection refused by 192.0.2.1:443\n  \
             while connecting to wss://relay.example.com/agent/v1/connect\n  \
             fix: check that this machine may open outbound connections to the relay's port\n  \
             more: relay-agent explain E-CONNECT"
        );
    }
}
