//! Why no session could be opened, and whether trying again makes sense.

use std::{io, time::Duration};

use http::{HeaderName, Response, StatusCode, header};
use protocol::frame::{Refuse, RefuseCode};
use protocol::session::{Close, CloseCode};
use rustls::CertificateError;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::{exchange::Broken, proxy::ProxyError};
use crate::{
    config::ProxyConfig,
    explain::{Code, Exit, Failure},
};

/// Longest text of the relay that is shown, in characters.
const DETAIL_CHARS_MAX: usize = 300;

/// The header field by which a relay's own problems are told from those of what stands in between.
const CODE_FIELD: HeaderName = HeaderName::from_static("hookferry-code");

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name of the relay does not resolve.
    #[error("the name {host} does not resolve: {source}")]
    Dns {
        /// The name.
        host: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// The proxy did not lead to the relay.
    #[error("the proxy {}: {source}", .via.proxy)]
    Proxy {
        /// The proxy.
        via: Box<ProxyConfig>,
        /// The host of the relay.
        relay: String,
        /// What it did instead.
        source: ProxyError,
    },
    /// No TLS.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The relay took too long after the connection was made.
    #[error("the relay did not open a session within {} s", .0.as_secs())]
    Slow(Duration),
    /// The relay, or something before it, answered the upgrade with an error.
    #[error("the relay answered {status}{}", with_detail(.detail))]
    Status {
        /// The status.
        status: StatusCode,
        /// Its code, if it is the answer of a relay.
        code: Option<Code>,
        /// What it said, if it spoke in problem+json.
        detail: String,
        /// When it asks to be tried again.
        retry_after: Option<Duration>,
    },
    /// The upgrade was not what it should be.
    #[error("the upgrade failed: {0}")]
    Upgrade(#[source] Box<tungstenite::Error>),
    /// A request of the fall-back transport got no answer, or none of a relay.
    #[error("requests do not get through: {0}")]
    Exchange(#[source] Broken),
}

impl DialError {
    pub(super) fn from_handshake(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => Self::from_response(&response),
            error => Self::Upgrade(Box::new(error)),
        }
    }

    /// What an answer that is no success means.
    pub(crate) fn from_response(response: &Response<Option<Vec<u8>>>) -> Self {
        let header = |name| response.headers().get(name)?.to_str().ok();
        let retry_after = header(header::RETRY_AFTER).and_then(parse_retry_after);
        let body = response.body().as_deref().unwrap_or_default();
        let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let text = |name| problem.as_ref()?.get(name)?.as_str();
        // The field of the head comes through where the body is cut.
        let code = header(CODE_FIELD).or_else(|| text("code"));
        let code = code.and_then(|code| code.parse().ok());
        let title = code.map(Code::title).unwrap_or_default();
        Self::Status {
            status: response.status(),
            code,
            detail: for_people(text("detail").unwrap_or(title)),
            retry_after,
        }
    }

    /// Whether the relay itself has answered, so that no other way to it is called for. Not if it asks
    /// for an upgrade: it was asked for one, and something in between has removed that.
    pub(crate) fn is_of_relay(&self) -> bool {
        matches!(self, Self::Status { code: Some(_), status, .. } if *status != StatusCode::UPGRADE_REQUIRED)
    }

    /// Whether something between here and the relay may have taken offence at a WebSocket: the
    /// connection was there, and then came what no relay says, or nothing.
    pub(super) fn may_be_middlebox(&self) -> bool {
        match self {
            Self::Status { .. } => !self.is_of_relay(),
            Self::Upgrade(_) | Self::Exchange(_) | Self::Slow(_) => true,
            Self::Dns { .. } | Self::Connect(_) | Self::Proxy { .. } | Self::Tls(_) => false,
        }
    }

    /// When the relay asks to be tried again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The same for people. Its code tells whether trying again makes sense.
    pub fn failure(&self) -> Failure {
        let code = match self {
            Self::Dns { .. } => Code::Dns,
            Self::Connect(_) => Code::Connect,
            Self::Proxy { via, relay, source } => return source.failure(via, relay),
            Self::Tls(error) => tls_code(error),
            Self::Slow(_) | Self::Exchange(_) => Code::Upgrade,
            Self::Status { status, code, .. } => status_code(*status, *code),
            Self::Upgrade(error) => match **error {
                // Whoever hangs up instead of answering may be something in between.
                tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => Code::Upgrade,
                tungstenite::Error::Protocol(_) => Code::NotARelay,
                _ => Code::Upgrade,
            },
        };
        Failure::new(code, self.to_string())
    }
}

/// What an answer means. Only a relay's own words end an agent: a portal or a proxy in between may
/// answer 401 today and be out of the way tomorrow.
fn status_code(status: StatusCode, code: Option<Code>) -> Code {
    match code {
        Some(code) if code.exit() == Exit::NotAuthorised => return code,
        // The relay got the request, but no longer as an upgrade.
        Some(Code::Request) if status == StatusCode::UPGRADE_REQUIRED => return Code::Upgrade,
        _ => {}
    }
    match status.as_u16() {
        404 | 405 | 200..=299 => Code::NotARelay,
        429 | 503 => Code::RelayBusy,
        _ => Code::Upgrade,
    }
}

/// What is wrong with TLS.
pub(super) fn tls_code(error: &io::Error) -> Code {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(reason)) = cause else {
        return Code::Tls;
    };
    match reason {
        // A CA that was renewed under its old name gives a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Code::TlsIssuer,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Code::TlsExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Code::TlsName
        }
        _ => Code::Tls,
    }
}

/// The end of a session for people, with what the relay said when it refused.
pub(super) fn ended(close: &Close, refuse: Option<&Refuse>) -> Failure {
    let Some(refuse) = refuse else {
        let code = match close.code {
            CloseCode::Unauthorised => Code::Unauthorised,
            CloseCode::Forbidden => Code::Forbidden,
            CloseCode::Busy => Code::RelayBusy,
            CloseCode::Normal
            | CloseCode::GoingAway
            | CloseCode::Violation
            | CloseCode::Silent
            | CloseCode::Replaced => Code::LinkLost,
        };
        return Failure::new(
            code,
            format!("the session ended: {}", for_people(&close.reason)),
        );
    };
    let code = match refuse.code {
        RefuseCode::TokenRevoked => Code::TokenRevoked,
        RefuseCode::Forbidden => Code::Forbidden,
        RefuseCode::UnknownDestination => Code::UnknownDestination,
        RefuseCode::UnknownSource => Code::UnknownSource,
        RefuseCode::InvalidFilter => Code::Filter,
        RefuseCode::Version => Code::Version,
        RefuseCode::Limit | RefuseCode::Unavailable => Code::RelayBusy,
        RefuseCode::Violation => Code::LinkLost,
        // A reason of a later version: whether to come back is told by the close.
        RefuseCode::Other if close.code.may_retry() => Code::RelayBusy,
        RefuseCode::Other => Code::Forbidden,
    };
    Failure::new(
        code,
        format!(
            "the relay refused the session{}",
            with_detail(&for_people(&refuse.detail))
        ),
    )
}

/// Whether trying again with the same token and configuration cannot help.
pub(super) fn is_final(failure: &Failure) -> bool {
    match failure.code.exit() {
        Exit::NotAuthorised | Exit::Configuration => true,
        Exit::Failure => failure.code == Code::Version,
        Exit::Unreachable => false,
    }
}

fn parse_retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = httpdate::parse_http_date(value).ok()?;
    Some(
        moment
            .duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    )
}

fn with_detail(detail: &str) -> String {
    if detail.is_empty() {
        return String::new();
    }
    format!(": {detail}")
}

/// Text of the relay, fit for a terminal.
pub(crate) fn for_people(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(DETAIL_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&str, &str)], body: &str) -> DialError {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(Some(body.as_bytes().to_vec())).unwrap();
        DialError::from_handshake(tungstenite::Error::Http(Box::new(response)))
    }

    #[test]
    fn answers_to_the_upgrade() {
        let cases = [
            (401, "E-UNAUTHORISED", Code::Unauthorised, true),
            (401, "E-TOKEN-REVOKED", Code::TokenRevoked, true),
            (403, "E-FORBIDDEN", Code::Forbidden, true),
            (426, "E-REQUEST", Code::Upgrade, false),
            (401, "", Code::Upgrade, false),
            (403, "", Code::Upgrade, false),
            (404, "", Code::NotARelay, false),
            (404, "E-NOT-FOUND", Code::NotARelay, false),
            (200, "", Code::NotARelay, false),
            (429, "E-OVERLOADED", Code::RelayBusy, false),
            (502, "", Code::Upgrade, false),
            (503, "E-SHUTTING-DOWN", Code::RelayBusy, false),
        ];
        for (status, problem, code, stops) in cases {
            let body = match problem {
                "" => "<html>".to_owned(),
                problem => format!(r#"{{"code":"{problem}"}}"#),
            };
            let failure = answered(status, &[], &body).failure();
            let found = (failure.code, is_final(&failure));
            assert_eq!(found, (code, stops), "{status} {problem}");
        }
    }

    #[test]
    fn detail_and_retry_after_are_heeded() {
        let error = answered(
            503,
            &[("retry-after", "7")],
            r#"{"detail":"full\u001b[2J"}"#,
        );
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(
            error.to_string(),
            "the relay answered 503 Service Unavailable: full[2J"
        );
        assert_eq!(
            answered(503, &[("retry-after", "soon")], "<html>").retry_after(),
            None
        );
    }

    #[test]
    fn refusals() {
        let cases = [
            (RefuseCode::TokenRevoked, 3, true),
            (RefuseCode::Forbidden, 3, true),
            (RefuseCode::UnknownDestination, 4, true),
            (RefuseCode::UnknownSource, 4, true),
            (RefuseCode::InvalidFilter, 4, true),
            (RefuseCode::Version, 1, true),
            (RefuseCode::Limit, 5, false),
            (RefuseCode::Unavailable, 5, false),
            (RefuseCode::Violation, 5, false),
        ];
        for (code, exit, stops) in cases {
            let refuse = Refuse {
                code,
                detail: "why".to_owned(),
                retry_after_ms: None,
            };
            let failure = ended(&Close::of_refusal(&refuse), Some(&refuse));
            assert_eq!(
                (failure.code.exit().code(), is_final(&failure)),
                (exit, stops),
                "{code:?}"
            );
        }
        let close = Close::new(CloseCode::Unauthorised, "revoked");
        assert_eq!(ended(&close, None).code, Code::Unauthorised);
    }
}
