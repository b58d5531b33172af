//! How sessions end: names and numbers of the WebSocket close codes, and when to try again.

use std::time::Duration;

/// Why a session ended, as a WebSocket close code (RFC 6455 7.4.2: 4000 to 4999 are private).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 1000: the agent said Bye, or the relay had drained.
    Normal,
    /// 1001: the relay is going away; connect again, elsewhere if possible.
    GoingAway,
    /// 4000: a frame broke the rules. Connecting again is allowed, with back-off.
    Violation,
    /// 4001: refused, do not try again with the same token.
    Unauthorised,
    /// 4003: refused, do not try again until the configuration has changed.
    Forbidden,
    /// 4008: the peer was silent for too long; connect again at once.
    Silent,
    /// 4009: the same agent instance opened a newer session and this one is no longer needed.
    Replaced,
    /// 4013: refused for now; the Refuse frame says when to try again.
    Busy,
}

impl CloseCode {
    /// The number on the wire.
    pub fn as_u16(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Violation => 4000,
            Self::Unauthorised => 4001,
            Self::Forbidden => 4003,
            Self::Silent => 4008,
            Self::Replaced => 4009,
            Self::Busy => 4013,
        }
    }

    /// Whether an agent may connect again without a change of its token or configuration.
    pub fn may_retry(self) -> bool {
        !matches!(self, Self::Unauthorised | Self::Forbidden)
    }
}

/// The end of a session, for the driver to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub code: CloseCode,
    /// The same in words, at most 120 bytes so that it fits in a close frame.
    pub reason: String,
    /// When connecting again makes sense; `None` if never with this token and configuration.
    pub retry_after: Option<Duration>,
}

/// A frame that the rules of the protocol do not allow. The machine has already queued its close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol violation: {0}")]
pub struct Violation(pub &'static str);
