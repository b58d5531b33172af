//! Connections to a service: looks at every address before it connects to that very address.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{AllowTargets, CallError, Forbidden, Place};
use crate::{config::Lane, net, tls::Tls};

/// How long a service has to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Opens connections to one service. Neither a proxy nor the URI of a request leads elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) place: Place,
    /// Set if the place speaks TLS.
    pub(super) tls: Option<Tls>,
    pub(super) allow: AllowTargets,
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<net::Stream>, CallError>> + Send>>;

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<net::Stream>;
    type Error = CallError;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Connecting {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

/// Connects to a service as a call does, and no more.
///
/// # Errors
///
/// Why a call would fail.
pub(crate) async fn reach(
    lane: &Lane,
    tls: Option<Tls>,
    allow: AllowTargets,
) -> Result<net::Stream, CallError> {
    let place = lane.target.place().clone();
    Connector { place, tls, allow }.connect().await
}

impl Connector {
    async fn connect(&self) -> Result<net::Stream, CallError> {
        let (tls, host, port) = match &self.place {
            Place::Unix { socket } => return connect_socket(socket).await,
            Place::Tcp {
                tls, host, port, ..
            } => (*tls, host, *port),
        };
        let addresses = match net::resolve(host, port).await {
            Ok(addresses) => self.allowed(host, addresses)?,
            Err(source) => {
                let host = host.clone();
                return Err(CallError::Dns { host, source });
            }
        };
        let stream = net::connect(&addresses, CONNECT_MAX)
            .await
            .map_err(CallError::Connect)?;
        let stream = net::Stream::Plain(stream);
        match &self.tls {
            Some(tls) => tls.connect(host, stream).await.map_err(CallError::Tls),
            None if tls => Err(CallError::Tls(io::Error::other("TLS is not set up"))),
            None => Ok(stream),
        }
    }

    /// The addresses that may be connected to; the others do not exist for us.
    fn allowed(
        &self,
        host: &str,
        addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Forbidden> {
        let (mut allowed, mut forbidden) = (Vec::new(), None);
        for address in addresses {
            match self.allow.judge(host, address) {
                Ok(()) => allowed.push(address),
                Err(why) => forbidden = forbidden.or(Some(why)),
            }
        }
        match forbidden {
            Some(why) if allowed.is_empty() => Err(why),
            _ => Ok(allowed),
        }
    }
}

#[cfg(unix)]
async fn connect_socket(socket: &Path) -> Result<net::Stream, CallError> {
    let connecting = timeout(CONNECT_MAX, tokio::net::UnixStream::connect(socket));
    let connected = connecting
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    connected.map(net::Stream::Unix).map_err(CallError::Connect)
}

#[cfg(not(unix))]
async fn connect_socket(_socket: &Path) -> Result<net::Stream, CallError> {
    Err(CallError::Connect(io::ErrorKind::Unsupported.into()))
}
