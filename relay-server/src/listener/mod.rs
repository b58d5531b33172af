//! The doors: our own accept loop around hyper's HTTP/1.1 connections, because what the relay needs
//! at a public door nobody else bounds: the first byte, the TLS handshake, the head, connections
//! per address and in all, and how long a peer may take nothing of an answer.

mod head_watch;

mod limits;

mod stall;

mod tls;

pub use head_watch::Head;
pub use limits::{DoorLimits, DoorTimeouts};
pub use tls::{TlsError, load as load_tls};

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use head_watch::HeadWatch;
use limits::{Admission, Connections};
use stall::StallWatch;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// The address that a request really came from, behind proxies that are believed; the doors put it
/// among the request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Remote(pub IpAddr);

/// Answers requests. One value serves all connections of a door.
pub trait Handler: Send + Sync + 'static {
    /// The body of the answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static;

    /// Answers one request. `head` is what was really on the wire, for what hyper hides.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        head: Head,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// A door that is bound but not yet open.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    connections: Arc<Connections>,
    timeouts: DoorTimeouts,
}

impl Door {
    /// Binds an address.
    ///
    /// # Errors
    ///
    /// The address is taken or not ours: tell the operator and stop.
    pub async fn bind(
        addr: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: DoorLimits,
        timeouts: DoorTimeouts,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        Ok(Self {
            listener,
            tls,
            connections: Connections::new(limits),
            timeouts,
        })
    }

    /// Where it really listens.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`; connections then finish their request. Tasks run on `tasks`.
    pub async fn serve<H: Handler>(
        self,
        handler: Arc<H>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let tls = self.tls.map(TlsAcceptor::from);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let (stream, addr) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, usually: breathe, then go on.
                    warn!(%error, "could not accept a connection");
                    time::sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(admission) = self.connections.admit(addr.ip()) else {
                debug!(%addr, "too many connections");
                continue;
            };
            let connection = Connection {
                peer: Peer {
                    addr,
                    tls: tls.is_some(),
                },
                handler: Arc::clone(&handler),
                timeouts: self.timeouts,
                stop: stop.clone(),
                admission,
            };
            tasks.spawn(connection.run(stream, tls.clone()));
        }
    }
}

struct Connection<H> {
    peer: Peer,
    handler: Arc<H>,
    timeouts: DoorTimeouts,
    stop: CancellationToken,
    #[expect(dead_code, reason = "held for as long as the connection lives")]
    admission: Admission,
}

impl<H: Handler> Connection<H> {
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = tls else {
            return self.serve(stream).await;
        };
        match time::timeout(self.timeouts.tls_handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => debug!(peer = %self.peer.addr, %error, "TLS handshake failed"),
            Err(_) => debug!(peer = %self.peer.addr, "TLS handshake took too long"),
        }
    }

    async fn serve(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let (io, watch) = HeadWatch::new(StallWatch::new(io, self.timeouts.stall));
        let service = service_fn(|request| {
            let head = watch.take();
            let (handler, peer, watch) = (&self.handler, self.peer, &watch);
            async move {
                let response = handler.handle(request, peer, head).await;
                // The body has been read or the connection ends: what comes next is another head.
                watch.rearm();
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeouts.head)
            .max_headers(limits::HEADERS_MAX)
            .max_buf_size(limits::HEAD_BYTES_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        tokio::pin!(connection);

        let first_byte = watch.until_first_byte(self.timeouts.first_byte);
        tokio::pin!(first_byte);
        let mut waiting_for_first_byte = true;
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(peer = %self.peer.addr, %error, "connection ended early");
                    }
                    return;
                }
                came = &mut first_byte, if waiting_for_first_byte => {
                    if !came {
                        debug!(peer = %self.peer.addr, "no byte came in time");
                        return;
                    }
                    waiting_for_first_byte = false;
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
