//! One GET over https: to public addresses only, no redirects, bounded in time and size.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::ring};
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::address::is_public;

/// How long all of it may take.
const FETCH_MAX: Duration = Duration::from_secs(10);

/// How long one address has to answer.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The way to providers.
#[derive(Clone)]
pub struct Network {
    /// `None` where nothing is trusted, so that nothing can be fetched.
    tls: Option<TlsConnector>,
    /// Where every name is, instead of what name servers say.
    #[cfg(test)]
    pub(super) everywhere: Option<SocketAddr>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("this machine trusts no certificates; install its package of CA certificates")]
    NoTrust,
    #[error("the address cannot be read")]
    Url,
    #[error("the name {host} does not resolve: {source}")]
    Dns {
        host: String,
        source: std::io::Error,
    },
    #[error("the name {0} points into a private network, where the relay does not go")]
    PrivateAddress(String),
    #[error("no connection to {0}")]
    Connect(String),
    #[error("TLS failed: {0}")]
    Tls(std::io::Error),
    #[error("the exchange failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer was {0}, not 200")]
    Status(StatusCode),
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes, or broke off")]
    Body,
    #[error("no answer within {} s", FETCH_MAX.as_secs())]
    Slow,
    #[error("what is published there is no key")]
    NoKeys,
}

impl Network {
    /// Trusts what the operating system trusts.
    pub fn of_system() -> Self {
        let tls = trust_of_system();
        if let Err(error) = &tls {
            warn!(%error, "no certificates to trust: keys of providers cannot be fetched");
        }
        Self::with(tls.ok())
    }

    fn with(config: Option<ClientConfig>) -> Self {
        Self {
            tls: config.map(|config| Arc::new(config).into()),
            #[cfg(test)]
            everywhere: None,
        }
    }

    /// Trusts nobody, and so goes nowhere.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self::with(None)
    }

    /// Trusts as told, and finds every name at one address, however private.
    #[cfg(test)]
    pub(crate) fn of_test(config: ClientConfig, everywhere: SocketAddr) -> Self {
        Self {
            everywhere: Some(everywhere),
            ..Self::with(Some(config))
        }
    }

    /// Fetches what is at an https address.
    pub(super) async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let fetched = timeout(FETCH_MAX, self.exchange(url)).await;
        fetched.unwrap_or(Err(FetchError::Slow))
    }

    async fn exchange(&self, url: &str) -> Result<Bytes, FetchError> {
        let tls = self.tls.as_ref().ok_or(FetchError::NoTrust)?;
        let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
        let host = host
            .filter(|_| uri.port().is_none())
            .ok_or(FetchError::Url)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Url)?;
        let stream = self.connect(host).await?;
        let stream = tls.connect(name, stream).await.map_err(FetchError::Tls)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(
                header::USER_AGENT,
                concat!("hookferry/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::Url)?;
        let answering = async {
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
            Ok(body.await.map_err(|_| FetchError::Body)?.to_bytes())
        };
        tokio::pin!(answering, connection);
        // The connection is driven here rather than on a task, and so ends with this fetch.
        tokio::select! {
            answer = &mut answering => answer,
            _ = &mut connection => answering.await,
        }
    }

    /// Connects to the very addresses that were looked at, so that a name cannot change in between.
    async fn connect(&self, host: &str) -> Result<TcpStream, FetchError> {
        for address in self.resolve(host).await? {
            if let Ok(Ok(stream)) = timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                return Ok(stream);
            }
        }
        Err(FetchError::Connect(host.to_owned()))
    }

    async fn resolve(&self, host: &str) -> Result<Vec<SocketAddr>, FetchError> {
        #[cfg(test)]
        if let Some(address) = self.everywhere {
            return Ok(vec![address]);
        }
        let found = lookup_host((host, 443)).await;
        let found = found.map_err(|source| FetchError::Dns {
            host: host.to_owned(),
            source,
        })?;
        let public: Vec<_> = found
            .filter(|address| is_public(address.ip()))
            .take(ADDRESSES_MAX)
            .collect();
        if public.is_empty() {
            return Err(FetchError::PrivateAddress(host.to_owned()));
        }
        Ok(public)
    }
}

fn trust_of_system() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
