//! `/livez`, `/readyz`, `/status` and `/metrics` on a local address, for supervisors and containers.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Status, metrics};
use crate::explain::{Code, Failure};

/// Connections served at the same time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may live: a probe takes a moment.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

impl Status {
    fn answer(&self, request: &Request<Incoming>, is_local: bool) -> Response<Full<Bytes>> {
        let facts = self.facts();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_verbose = request.uri().query().is_some_and(|query| {
            query
                .split('&')
                .any(|part| part.split('=').next() == Some("verbose"))
        });
        let is_ready = facts.is_ready();
        let (status, text) = match request.uri().path() {
            _ if is_local && !names_this_machine(request) => {
                let text = "this address is for programs of this machine\n";
                (StatusCode::MISDIRECTED_REQUEST, text.to_owned())
            }
            _ if !is_read => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
            "/livez" if facts.is_alive(Instant::now()) => (StatusCode::OK, "ok\n".to_owned()),
            "/livez" => (
                unavailable(false),
                "the agent does nothing any more\n".to_owned(),
            ),
            "/readyz" if is_verbose => (unavailable(is_ready), facts.readiness()),
            "/readyz" if is_ready => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => (
                unavailable(false),
                "not connected to the relay\n".to_owned(),
            ),
            "/metrics" => (StatusCode::OK, metrics::render(&facts)),
            // A struct of texts and numbers always has a JSON form.
            "/status" => (
                StatusCode::OK,
                serde_json::to_string(&facts.report()).unwrap_or_default(),
            ),
            _ => (
                StatusCode::NOT_FOUND,
                "try /livez, /readyz, /readyz?verbose, /status or /metrics\n".to_owned(),
            ),
        };
        let kind = match request.uri().path() {
            "/metrics" => "text/plain; version=0.0.4; charset=utf-8",
            "/status" => "application/json",
            _ => "text/plain; charset=utf-8",
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

fn unavailable(is_ready: bool) -> StatusCode {
    match is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Whether the Host header is an address or localhost. A page of the Internet whose name was made to
/// point here can have a browser ask us, but not under such a host.
fn names_this_machine(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(header::HOST) else {
        return true;
    };
    let authority = host.to_str().ok().and_then(|host| host.parse().ok());
    authority.is_some_and(|authority: Authority| {
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
    })
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
        let is_local = self.address.ip().is_loopback();
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
                        let response = status.answer(&request, is_local);
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
