//! What a proxy did instead, and what to do about it.

use std::io;

use http::{HeaderMap, StatusCode, header};

use crate::{
    config::{ProxyConfig, ProxyOrigin},
    explain::{Code, Failure},
};

/// Ways to authenticate that people know by name.
const SCHEMES: [&str; 5] = ["Basic", "Negotiate", "NTLM", "Kerberos", "Digest"];

/// Why a proxy made no connection. Holds nothing that the proxy was shown.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The name of the proxy does not resolve.
    #[error("its name does not resolve: {0}")]
    Dns(#[source] io::Error),
    /// No TCP connection to the proxy.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// No TLS with the proxy.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The proxy took too long.
    #[error("it accepted the connection, but did not answer")]
    Silent,
    /// It hung up.
    #[error("it closed the connection: {0}")]
    Broken(#[source] io::Error),
    /// What it answered is not HTTP, or it hung up.
    #[error("it gave no answer: {0}")]
    Http(#[from] hyper::Error),
    /// What it answered is not what it should be.
    #[error("{0}")]
    Protocol(&'static str),
    /// It wants a user and a password, or others.
    #[error("it wants a user name and password")]
    Unauthorised {
        /// Whether it was shown some.
        is_known: bool,
        /// Which ways it offers, if it told; only names that are known here.
        schemes: String,
    },
    /// It answered another status.
    #[error("it answered {0}")]
    Refused(StatusCode),
    /// It refused, in words of SOCKS5.
    #[error("it refused: {0}")]
    SocksRefused(&'static str),
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl ProxyError {
    /// The same for people; `relay` is the host that was asked for.
    pub(in crate::link) fn failure(&self, via: &ProxyConfig, relay: &str) -> Failure {
        let proxy = &via.proxy;
        let directly = match via.origin {
            ProxyOrigin::Flag | ProxyOrigin::Variable("HOOKFERRY_PROXY") => {
                "--proxy off, if the relay can be reached without".to_owned()
            }
            ProxyOrigin::File => {
                format!("[proxy] no_proxy = \"{relay}\", if the relay can be reached without")
            }
            ProxyOrigin::Variable(_) => format!("NO_PROXY={relay}"),
        };
        match self {
            Self::Unauthorised { is_known, schemes } => {
                let what = match (is_known, schemes.as_str()) {
                    (false, "") => "wants a user name and password".to_owned(),
                    (false, schemes) => {
                        format!("wants a user name and password (407: {schemes})")
                    }
                    (true, "") => "does not accept this user name and password".to_owned(),
                    (true, schemes) => {
                        format!("does not accept this user name and password (407: {schemes})")
                    }
                };
                let failure = Failure::new(Code::ProxyAuth, format!("the proxy {proxy} {what}"));
                let speaks_basic = schemes.is_empty() || schemes.contains("Basic");
                if !speaks_basic {
                    return failure.fix(format!(
                        "run a local proxy that speaks {schemes} for it, such as px or cntlm, and name that one; or {directly}"
                    ));
                }
                let url = format!(
                    "{}://USER:PASSWORD@{}",
                    proxy.kind.scheme(),
                    proxy.authority()
                );
                failure.fix(match via.origin {
                    ProxyOrigin::Variable(name) => format!("set {name}={url}, or {directly}"),
                    ProxyOrigin::Flag | ProxyOrigin::File => format!(
                        "name the user in {} ({}) and give the password with --proxy-password-file or [proxy] password_file; or {directly}",
                        via.origin.name(),
                        url.replace(":PASSWORD", ""),
                    ),
                })
            }
            Self::Refused(_) | Self::SocksRefused(_) => Failure::new(
                Code::ProxyRefused,
                format!("the proxy {proxy} makes no connection to {relay}: {self}"),
            )
            .fix(format!(
                "ask who runs the proxy to allow CONNECT to {relay}; or set {directly}"
            )),
            Self::Tls(error) => {
                let failure = Failure::new(Code::Proxy, format!("the proxy {proxy}: {self}"));
                match super::super::error::tls_code(error) {
                    Code::Tls => failure,
                    code => failure.fix(code.fix()),
                }
            }
            Self::Dns(_)
            | Self::Connect(_)
            | Self::Silent
            | Self::Broken(_)
            | Self::Http(_)
            | Self::Protocol(_) => Failure::new(
                Code::Proxy,
                format!("the proxy {proxy} cannot be used: {self}"),
            )
            .fix(format!("check {}; or set {directly}", via.origin.name())),
        }
    }
}

/// The ways to authenticate that a proxy offers. Only names we know: what a proxy sends is not for
/// terminals.
pub(super) fn schemes(headers: &HeaderMap) -> String {
    let offered: Vec<_> = headers
        .get_all(header::PROXY_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ' ']))
        .collect();
    let known = SCHEMES.into_iter().filter(|scheme| {
        offered
            .iter()
            .any(|offered| offered.eq_ignore_ascii_case(scheme))
    });
    known.collect::<Vec<_>>().join(", ")
}
