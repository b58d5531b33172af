//! `/livez` and `/readyz` on a local address, for supervisors and containers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::explain::{Code, Failure};

/// Connections served at the same time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may live: a probe takes a moment.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// What supervisors want to know.
#[derive(Debug, Default)]
pub struct Status {
    is_ready: AtomicBool,
}

impl Status {
    /// Whether a session is open.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Relaxed);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let (status, text) = match request.uri().path() {
            _ if !is_read => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
            "/livez" => (StatusCode::OK, "ok\n"),
            "/readyz" if self.is_ready() => (StatusCode::OK, "ok\n"),
            "/readyz" => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not connected to the relay\n",
            ),
            _ => (StatusCode::NOT_FOUND, "try /livez or /readyz\n"),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    }
}

/// The local listener, open but not yet served.
#[derive(Debug)]
pub struct StatusListener {
    listener: TcpListener,
    /// Where it listens, with the port the system chose for port 0.
    pub address: SocketAddr,
}

impl StatusListener {
    /// Opens the listener.
    ///
    /// # Errors
    ///
    /// [`Code::StatusListener`] if the address is taken or not of this machine.
    pub async fn bind(address: SocketAddr) -> Result<Self, Failure> {
        let failed = |error| {
            Failure::new(
                Code::StatusListener,
                format!("cannot listen on {address}: {error}"),
            )
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Answers until stopped.
    pub async fn serve(self, status: Arc<Status>, stop: CancellationToken) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accept = async {
            loop {
                let Ok(permit) = connections.clone().acquire_owned().await else {
                    return;
                };
                let Ok((stream, _)) = self.listener.accept().await else {
                    // Out of file descriptors, most likely: it passes.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let status = status.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let response = status.answer(&request);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .max_buf_size(8 * 1024)
                        .serve_connection(TokioIo::new(stream), service);
                    let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
                    drop(permit);
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop.cancelled() => {}
        }
    }
}
