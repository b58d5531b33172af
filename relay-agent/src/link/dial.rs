//! From an address to a link that speaks `hookferry.v1`: TCP, proxy, TLS, then a WebSocket, or single
//! requests where something in between takes offence at one.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Method, Request, header, request};
use protocol::{
    id::PipeId,
    limits,
    poll::{AgentPipe, Answer},
    session::{Close, CloseCode},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{handshake::client::generate_key, protocol::WebSocketConfig},
};

use super::{
    Carrier, Plan,
    error::DialError,
    exchange::{Address, Broken, Connection, Cookies},
    proxy::{self, ProxyError},
    socket::{PollSocket, Socket, WebSocket},
};
use tracing::debug;

use crate::{
    config::{LinkConfig, Proxy, ProxyConfig, ProxyKind},
    net,
    tls::Tls,
};

/// How long a TCP connection may take to be made: a network that is back answers at once, and one
/// that is not is asked again soon.
const CONNECT_MAX: Duration = Duration::from_millis(1500);

/// How long a name may take to resolve.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// The same when the addresses of last time are known.
const RESOLVE_AGAIN_MAX: Duration = Duration::from_millis(1500);

/// How long proxy, TLS and upgrade may take together.
const UPGRADE_MAX: Duration = Duration::from_secs(10);

/// Opens connections to the relay.
#[derive(Debug)]
pub struct Dialer {
    config: LinkConfig,
    tls: Option<Tls>,
    proxy_tls: Option<Tls>,
    upgrade_max: Duration,
    /// Where the relay, or the proxy before it, was last time: name servers often come back later
    /// than the network.
    addresses: Mutex<Vec<SocketAddr>>,
}

impl Dialer {
    /// A dialer for one relay. `tls` is needed unless the relay is reached by plain HTTP; `proxy_tls`,
    /// which shows no certificate of ours, if TLS is spoken with the proxy.
    pub fn new(config: LinkConfig, tls: Option<Tls>, proxy_tls: Option<Tls>) -> Self {
        Self {
            config,
            tls,
            proxy_tls,
            upgrade_max: UPGRADE_MAX,
            addresses: Mutex::new(Vec::new()),
        }
    }

    /// Where it connects to.
    pub fn url(&self) -> String {
        self.config.server.connect_url()
    }

    /// Where it connects to, and through what.
    pub fn way(&self) -> String {
        match &self.config.proxy {
            Some(via) => format!("{} through the proxy {}", self.url(), via.proxy),
            None => self.url(),
        }
    }

    /// Opens a link.
    ///
    /// # Errors
    ///
    /// A [`DialError`], which knows whether and when trying again makes sense. What the relay itself
    /// answered counts more than what something in between did.
    pub(super) async fn dial(self: Arc<Self>, plan: Plan) -> Result<Socket, DialError> {
        let (first, other) = match plan {
            Plan::Only(carrier) => (carrier, None),
            Plan::First(Carrier::WebSocket) => (Carrier::WebSocket, Some(Carrier::Poll)),
            Plan::First(Carrier::Poll) => (Carrier::Poll, Some(Carrier::WebSocket)),
        };
        let error = match (self.dial_over(first).await, other) {
            (Err(error), Some(_)) if may_be_carrier(first, &error) => error,
            (result, _) => return result,
        };
        let Some(other) = other else {
            return Err(error);
        };
        debug!(%error, ?first, ?other, "Something in between takes offence: trying otherwise");
        match self.dial_over(other).await {
            Err(second) if !second.is_of_relay() => Err(error),
            result => result,
        }
    }

    async fn dial_over(self: &Arc<Self>, carrier: Carrier) -> Result<Socket, DialError> {
        let (stream, deadline) = self.reach().await?;
        let opening = async {
            let stream = self.secure(stream).await?;
            match carrier {
                Carrier::WebSocket => self.upgrade(stream).await,
                Carrier::Poll => self.open_pipe(stream).await,
            }
        };
        timeout_at(deadline, opening)
            .await
            .unwrap_or(Err(DialError::Slow(self.upgrade_max)))
    }

    /// Opens a connection for one plain request, TLS included.
    ///
    /// # Errors
    ///
    /// A [`DialError`].
    pub(crate) async fn open(&self) -> Result<net::Stream, DialError> {
        let (stream, deadline) = self.reach().await?;
        timeout_at(deadline, self.secure(stream))
            .await
            .unwrap_or(Err(DialError::Slow(self.upgrade_max)))
    }

    /// The head of a plain request to the relay.
    pub(crate) fn request(&self, method: Method, path: &str) -> request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.config.server.authority)
            .header(header::USER_AGENT, super::driver::PROGRAM)
    }

    /// The value of the header that carries the token.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.config.token.reveal())
    }

    /// A stream to the relay, through the proxy if there is one, and until when everything on it has
    /// to be agreed.
    async fn reach(&self) -> Result<(net::Stream, Instant), DialError> {
        let addresses = self.find().await?;
        let stream = self.connect(&addresses).await?;
        let deadline = self.deadline();
        let stream = self.pass_proxy(stream, deadline).await?;
        Ok((stream, deadline))
    }

    /// Until when everything on a connection that is made now has to be agreed.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.upgrade_max
    }

    /// The first hop: addresses of the relay, or of the proxy that leads to it.
    ///
    /// # Errors
    ///
    /// A [`DialError`].
    pub(crate) async fn find(&self) -> Result<Vec<SocketAddr>, DialError> {
        let server = &self.config.server;
        match &self.config.proxy {
            Some(via) => {
                let found = self.resolve(&via.proxy.host, via.proxy.port).await;
                found.map_err(|error| self.at_proxy(via, ProxyError::Dns(error)))
            }
            None => {
                let found = self.resolve(&server.host, server.port).await;
                found.map_err(|error| self.no_name(error))
            }
        }
    }

    /// The second hop: TCP to the first of these addresses that answers.
    ///
    /// # Errors
    ///
    /// A [`DialError`].
    pub(crate) async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        let connected = net::connect(addresses, CONNECT_MAX).await;
        connected.map_err(|error| match &self.config.proxy {
            Some(via) => self.at_proxy(via, ProxyError::Connect(error)),
            None => DialError::Connect(error),
        })
    }

    /// The third hop: has the proxy connect to the relay. Without one there is nothing to do.
    ///
    /// # Errors
    ///
    /// A [`DialError`].
    pub(crate) async fn pass_proxy(
        &self,
        stream: TcpStream,
        deadline: Instant,
    ) -> Result<net::Stream, DialError> {
        let Some(via) = &self.config.proxy else {
            return Ok(net::Stream::Plain(stream));
        };
        let target = self.name_for(&via.proxy).await?;
        let tunnel = self.tunnel(&via.proxy, stream, &target);
        timeout_at(deadline, tunnel)
            .await
            .unwrap_or(Err(ProxyError::Silent))
            .map_err(|error| self.at_proxy(via, error))
    }

    /// The fourth hop: TLS with the relay, if its URL says so.
    ///
    /// # Errors
    ///
    /// [`DialError::Tls`].
    pub(crate) async fn secure(&self, stream: net::Stream) -> Result<net::Stream, DialError> {
        let server = &self.config.server;
        match &self.tls {
            Some(tls) if server.tls => {
                let secured = tls.connect(&server.host, stream).await;
                secured.map_err(DialError::Tls)
            }
            _ => Ok(stream),
        }
    }

    fn no_name(&self, source: io::Error) -> DialError {
        DialError::Dns {
            host: self.config.server.host.clone(),
            source,
        }
    }

    fn at_proxy(&self, via: &ProxyConfig, source: ProxyError) -> DialError {
        DialError::Proxy {
            via: Box::new(via.clone()),
            relay: self.config.server.host.clone(),
            source,
        }
    }

    /// What the proxy is told: the name of the relay, or its address if this machine is to resolve it.
    async fn name_for(&self, proxy: &Proxy) -> Result<String, DialError> {
        let server = &self.config.server;
        if proxy.kind != ProxyKind::Socks5 {
            return Ok(server.host.clone());
        }
        let found = timeout(RESOLVE_MAX, net::resolve(&server.host, server.port)).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let addresses = found.map_err(|error| self.no_name(error))?;
        // `resolve` finds at least one.
        let first = addresses.first().map(|address| address.ip().to_string());
        Ok(first.unwrap_or_default())
    }

    async fn tunnel(
        &self,
        proxy: &Proxy,
        stream: TcpStream,
        target: &str,
    ) -> Result<net::Stream, ProxyError> {
        let mut stream = net::Stream::Plain(stream);
        if let Some(tls) = self.proxy_tls.as_ref().filter(|_| proxy.is_tls()) {
            let secured = tls.connect(&proxy.host, stream).await;
            stream = secured.map_err(ProxyError::Tls)?;
        }
        proxy::tunnel(proxy, stream, target, self.config.server.port).await
    }

    /// Finds the addresses of the first hop. Those of last time do, if there is no answer soon.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
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
        let error = match timeout(patience, net::resolve(host, port)).await {
            Ok(Ok(addresses)) => {
                let mut known = self
                    .addresses
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                known.clone_from(&addresses);
                return Ok(addresses);
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        if known.is_empty() {
            return Err(error);
        }
        Ok(known)
    }

    /// Takes the last hop and leaves again before a session is opened. Returns whether the relay said
    /// good-bye too: then the WebSocket carries messages both ways.
    ///
    /// # Errors
    ///
    /// A [`DialError`].
    pub(crate) async fn try_upgrade(&self, stream: net::Stream) -> Result<bool, DialError> {
        let socket = self.upgrade(stream).await?;
        let leaving = Close::new(CloseCode::Normal, "only a check");
        Ok(socket.farewell(leaving).await)
    }

    /// What every request of the fall-back transport starts with.
    pub(super) fn poll_request(&self) -> request::Builder {
        self.request(Method::POST, &self.config.server.poll_path())
            .header(header::AUTHORIZATION, self.authorization())
    }

    /// Has the relay open a link of the fall-back transport.
    async fn open_pipe(self: &Arc<Self>, stream: net::Stream) -> Result<Socket, DialError> {
        let pipe = AgentPipe::new(PipeId::from_u128(rand::random()));
        let mut address = Address {
            dialer: Arc::clone(self),
            link: pipe.link(),
            cookies: Cookies::default(),
        };
        let connection = Connection::new(stream).await.map_err(DialError::Exchange)?;
        let opened = address
            .clone()
            .exchange(Some(connection), pipe.open(), self.upgrade_max)
            .await;
        address.cookies.take(opened.cookies);
        match opened.answer? {
            Answer::Opened => {
                let socket = PollSocket::new(pipe, address, opened.connection);
                Ok(Socket::Poll(Box::new(socket)))
            }
            _ => Err(DialError::Exchange(Broken::Stranger)),
        }
    }

    async fn upgrade(&self, stream: net::Stream) -> Result<Socket, DialError> {
        let server = &self.config.server;
        let request = Request::builder()
            .uri(server.connect_url())
            .header(header::HOST, &server.authority)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, limits::SUBPROTOCOL)
            .header(header::AUTHORIZATION, self.authorization())
            .header(header::USER_AGENT, super::driver::PROGRAM)
            .body(())
            .map_err(|error| DialError::Upgrade(Box::new(error.into())))?;
        // It checks the accept key, and that the subprotocol is confirmed.
        let (stream, _response) =
            client_async_with_config(request, stream, Some(websocket_config()))
                .await
                .map_err(DialError::from_handshake)?;
        Ok(Socket::WebSocket(Box::new(WebSocket::new(stream))))
    }
}

/// Whether the other carrier may do better.
fn may_be_carrier(carrier: Carrier, error: &DialError) -> bool {
    match error {
        // A relay from before there was a fall-back.
        DialError::Status { status, .. } if carrier == Carrier::Poll => {
            error.may_be_middlebox() || matches!(status.as_u16(), 404 | 405)
        }
        _ => error.may_be_middlebox(),
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

#[cfg(test)]
mod tests;
