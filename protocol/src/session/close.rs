//! How sessions end: names and numbers of the WebSocket close codes, and when to try again.

use std::time::Duration;

use crate::{
    frame::{Refuse, RefuseCode},
    limits::{CLOSE_REASON_BYTES_MAX, RETRY_AFTER_TROUBLE},
};

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

    /// The name of a number; `None` if the protocol gives it none.
    pub fn from_u16(code: u16) -> Option<Self> {
        Some(match code {
            1000 => Self::Normal,
            1001 => Self::GoingAway,
            4000 => Self::Violation,
            4001 => Self::Unauthorised,
            4003 => Self::Forbidden,
            4008 => Self::Silent,
            4009 => Self::Replaced,
            4013 => Self::Busy,
            _ => return None,
        })
    }

    /// When an agent connects again if the relay said nothing but the code; `None` if never.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Normal | Self::GoingAway | Self::Silent => Some(Duration::ZERO),
            Self::Violation | Self::Replaced | Self::Busy => Some(RETRY_AFTER_TROUBLE),
            Self::Unauthorised | Self::Forbidden => None,
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

impl Close {
    /// A close with the usual time to try again.
    pub fn new(code: CloseCode, reason: &str) -> Self {
        Self {
            code,
            reason: clip(reason, CLOSE_REASON_BYTES_MAX).to_owned(),
            retry_after: code.retry_after(),
        }
    }

    /// The close that follows a refusal; when to try again is what the refusal says.
    pub fn of_refusal(refuse: &Refuse) -> Self {
        Self {
            retry_after: refuse.retry_after_ms.map(Duration::from_millis),
            ..Self::new(refuse.code.close_code(), &refuse.detail)
        }
    }

    /// The same with a reason that fits in a close frame.
    pub(super) fn clipped(self) -> Self {
        Self {
            reason: clip(&self.reason, CLOSE_REASON_BYTES_MAX).to_owned(),
            ..self
        }
    }
}

impl RefuseCode {
    /// The close code that follows a refusal.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::TokenRevoked => CloseCode::Unauthorised,
            Self::Forbidden
            | Self::UnknownDestination
            | Self::UnknownSource
            | Self::InvalidFilter
            | Self::Version => CloseCode::Forbidden,
            Self::Limit | Self::Unavailable | Self::Other => CloseCode::Busy,
            Self::Violation => CloseCode::Violation,
        }
    }
}

/// The start of a text, cut where a character ends.
pub(super) fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A frame that the rules of the protocol do not allow. The machine has already queued its close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol violation: {0}")]
pub struct Violation(pub &'static str);
