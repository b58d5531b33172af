//! From an address to a WebSocket that speaks `hookferry.v1`: TCP, TLS, upgrade.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{Request, header};
use protocol::limits;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{handshake::client::generate_key, protocol::WebSocketConfig},
};

use super::{error::DialError, socket::Socket};
use crate::{config::LinkConfig, net, tls::Tls};

/// How long a TCP connection may take to be made: a network that is back answers at once, and one
/// that is not is asked again soon.
const CONNECT_MAX: Duration = Duration::from_millis(1500);

/// How long a name may take to resolve.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// The same when the addresses of last time are known.
const RESOLVE_AGAIN_MAX: Duration = Duration::from_millis(1500);

/// How long TLS and upgrade may take.
const UPGRADE_MAX: Duration = Duration::from_secs(10);

/// Opens connections to the relay.
#[derive(Debug)]
pub struct Dialer {
    config: LinkConfig,
    tls: Option<Tls>,
    /// Where the relay was last time: name servers often come back later than the network.
    addresses: Mutex<Vec<SocketAddr>>,
}

impl Dialer {
    /// A dialer for one relay; `tls` is needed unless the relay is reached by plain HTTP.
    pub fn new(config: LinkConfig, tls: Option<Tls>) -> Self {
        Self {
            config,
            tls,
            addresses: Mutex::new(Vec::new()),
        }
    }

    /// Where it connects to.
    pub fn url(&self) -> String {
        self.config.server.connect_url()
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// A [`DialError`], which knows whether and when trying again makes sense.
    pub(super) async fn dial(&self) -> Result<Box<Socket>, DialError> {
        let stream = self.connect().await?;
        let opening = async { self.upgrade(self.secure(stream).await?).await };
        match timeout(UPGRADE_MAX, opening).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Slow(UPGRADE_MAX)),
        }
    }

    /// Opens a connection for one plain request, TLS included.
    ///
    /// # Errors
    ///
    /// A [`DialError`].
    pub(crate) async fn open(&self) -> Result<net::Stream, DialError> {
        let stream = self.connect().await?;
        match timeout(UPGRADE_MAX, self.secure(stream)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Slow(UPGRADE_MAX)),
        }
    }

    async fn connect(&self) -> Result<TcpStream, DialError> {
        let addresses = self.resolve().await?;
        net::connect(&addresses, CONNECT_MAX)
            .await
            .map_err(DialError::Connect)
    }

    async fn secure(&self, stream: TcpStream) -> Result<net::Stream, DialError> {
        let server = &self.config.server;
        Ok(match &self.tls {
            Some(tls) if server.tls => net::Stream::Tls(
                tls.connect(&server.host, stream)
                    .await
                    .map_err(DialError::Tls)?,
            ),
            _ => net::Stream::Plain(stream),
        })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let server = &self.config.server;
        let known = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let patience = if known.is_empty() {
            RESOLVE_MAX
        } else {
            RESOLVE_AGAIN_MAX
        };
        let error = match timeout(patience, net::resolve(&server.host, server.port)).await {
            Ok(Ok(addresses)) => {
                let mut known = self
                    .addresses
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                known.clone_from(&addresses);
                return Ok(addresses);
            }
            Ok(Err(error)) => error,
            Err(_) => std::io::ErrorKind::TimedOut.into(),
        };
        if known.is_empty() {
            return Err(DialError::Dns {
                host: server.host.clone(),
                source: error,
            });
        }
        Ok(known)
    }

    async fn upgrade(&self, stream: net::Stream) -> Result<Box<Socket>, DialError> {
        let server = &self.config.server;
        let request = Request::builder()
            .uri(server.connect_url())
            .header(header::HOST, &server.authority)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, limits::SUBPROTOCOL)
            .header(
                header::AUTHORIZATION,
                format!("Bearer {}", self.config.token.reveal()),
            )
            .header(header::USER_AGENT, super::driver::PROGRAM)
            .body(())
            .map_err(|error| DialError::Upgrade(Box::new(error.into())))?;
        // It checks the accept key, and that the subprotocol is confirmed.
        let (stream, _response) =
            client_async_with_config(request, stream, Some(websocket_config()))
                .await
                .map_err(DialError::from_handshake)?;
        Ok(Box::new(Socket::new(stream)))
    }
}

fn websocket_config() -> WebSocketConfig {
    let write_buffer_bytes = 64 * 1024;
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(write_buffer_bytes)
        .max_write_buffer_size(write_buffer_bytes + 2 * limits::MESSAGE_BYTES_MAX)
        .max_message_size(Some(limits::MESSAGE_BYTES_MAX))
        .max_frame_size(Some(limits::MESSAGE_BYTES_MAX))
}
