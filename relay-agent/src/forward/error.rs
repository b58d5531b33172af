//! Why a service gave no answer: for policy as a closed list, for people in words.

use std::{error::Error as _, io, time::Duration};

use protocol::frame::ServiceFailure;

use crate::explain::Code;

use super::{Forbidden, body::BodyCut, headers::InvalidHeader, route::RouteError};

/// Why a service gave no answer. Holds no header, body or query.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The configuration names no target for the destination.
    #[error("the agent's configuration names no target for this destination")]
    NoTarget,
    /// The method cannot be forwarded.
    #[error("the method cannot be forwarded")]
    Method,
    /// The request target cannot be forwarded.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A header field cannot be forwarded.
    #[error(transparent)]
    Header(#[from] InvalidHeader),
    /// The service has no address that may be called.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The name of the service does not resolve.
    #[error("the name {host} does not resolve: {source}")]
    Dns {
        /// The name.
        host: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// No connection.
    #[error("{}", connect_words(.0))]
    Connect(#[source] io::Error),
    /// No TLS.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// No complete answer in time.
    #[error("no complete answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// What came back was not HTTP.
    #[error("the answer is not HTTP: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("the connection broke before a complete answer: {0}")]
    Broken(String),
    /// The link broke while the body was arriving.
    #[error(transparent)]
    BodyCut(#[from] BodyCut),
    /// The agent gave up.
    #[error("the agent stopped before the service had answered")]
    Abandoned,
    /// A task of the agent died. Not the service's fault.
    #[error("the agent failed to make the call")]
    Internal,
}

impl CallError {
    /// The same as the closed list of the protocol.
    pub fn failure(&self) -> ServiceFailure {
        match self {
            Self::NoTarget
            | Self::Method
            | Self::Route(_)
            | Self::Header(_)
            | Self::Forbidden(_) => ServiceFailure::Refused,
            Self::Dns { .. } => ServiceFailure::Dns,
            Self::Connect(_) => ServiceFailure::Connect,
            Self::Tls(_) => ServiceFailure::Tls,
            Self::Timeout(_) => ServiceFailure::Timeout,
            Self::Protocol(_) => ServiceFailure::Protocol,
            Self::Broken(_) => ServiceFailure::Broken,
            Self::BodyCut(_) | Self::Abandoned | Self::Internal => ServiceFailure::Abandoned,
        }
    }

    /// The same as a code for people.
    pub fn code(&self) -> Code {
        match self.failure() {
            ServiceFailure::Refused => Code::TargetRefused,
            ServiceFailure::Dns => Code::TargetDns,
            ServiceFailure::Connect => Code::TargetConnect,
            ServiceFailure::Tls => Code::TargetTls,
            ServiceFailure::Timeout => Code::TargetTimeout,
            ServiceFailure::Protocol => Code::TargetProtocol,
            ServiceFailure::Broken => Code::TargetBroken,
            _ => Code::Internal,
        }
    }

    /// Finds the reason behind an error of the client.
    pub(super) fn from_client(error: hyper_util::client::legacy::Error) -> Self {
        if error.is_connect() {
            return match into_own(error) {
                Ok(own) => own,
                Err(words) => Self::Connect(io::Error::other(words)),
            };
        }
        match error
            .source()
            .and_then(|source| source.downcast_ref::<hyper::Error>())
        {
            Some(source) => Self::from_hyper(source),
            None => Self::Broken(error.to_string()),
        }
    }

    /// Finds the reason behind an error of a connection.
    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        if error.is_user() && chain(error).any(|cause| cause.is::<BodyCut>()) {
            return Self::BodyCut(BodyCut);
        }
        if let Some(refused) = chain(error).find_map(refused_by_tls) {
            return Self::Tls(refused);
        }
        let innermost = chain(error)
            .last()
            .map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
            return Self::Protocol(innermost);
        }
        Self::Broken(innermost)
    }
}

/// The connector's own error, which the client wraps in two boxes.
fn into_own(error: hyper_util::client::legacy::Error) -> Result<CallError, String> {
    let own = chain(&error).find_map(|cause| cause.downcast_ref::<CallError>());
    match own {
        Some(CallError::Forbidden(why)) => Ok(CallError::Forbidden(*why)),
        Some(CallError::Dns { host, source }) => Ok(CallError::Dns {
            host: host.clone(),
            source: copy(source),
        }),
        Some(CallError::Connect(source)) => Ok(CallError::Connect(copy(source))),
        Some(CallError::Tls(source)) => Ok(CallError::Tls(copy(source))),
        _ => Err(error.to_string()),
    }
}

/// An alert of the service. In TLS 1.3 it does not like our certificate only after we took the
/// connection for made; it has not seen the request then.
fn refused_by_tls(cause: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    // An `io::Error` is no source of itself, and hides what it wraps from `source`.
    let error = cause.downcast_ref::<io::Error>()?;
    let wrapped = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(wrapped, rustls::Error::AlertReceived(_)).then(|| copy(error))
}

/// The same kind and words; the error itself stays where it is.
fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn connect_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "the connection could not be made in time".to_owned(),
        _ => format!("cannot connect: {error}"),
    }
}
