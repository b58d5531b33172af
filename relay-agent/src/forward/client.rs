//! The HTTP client: one request, one answer; no redirects, no proxy, no retry.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use protocol::{
    frame::{Headers, Offer},
    limits::RESPONSE_START_BYTES_MAX,
};
use tower::Service;

use super::{CallError, EventBody, Target, headers};
use crate::{config::value::bare_host, net, tls::Tls};

/// How long a service has to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long an idle connection is kept. Shorter than the 5 s after which common servers close one,
/// so that a request seldom meets a connection that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// How much of a response is read; then the connection is dropped.
const RESPONSE_BYTES_MAX: u64 = 1024 * 1024;

/// One call to make.
#[derive(Debug)]
pub struct Attempt {
    /// What to replay. Its own `body` is empty, `body` below has it.
    pub offer: Box<Offer>,
    /// Its body.
    pub body: EventBody,
    /// Where, if the configuration names a place.
    pub target: Option<Arc<Target>>,
    /// Time for the complete answer.
    pub timeout: Duration,
}

/// A finished call.
#[derive(Debug)]
pub struct Outcome {
    /// What was replayed.
    pub offer: Box<Offer>,
    /// Where.
    pub target: Option<Arc<Target>>,
    /// What came of it.
    pub result: Result<Answer, CallError>,
    /// How long it took.
    pub elapsed: Duration,
}

/// What a service answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Selected headers.
    pub headers: Headers,
    /// The start of the body.
    pub start: Bytes,
    /// How much body was read.
    pub body_bytes: u64,
}

/// Calls services. Cheap to clone; clones share the pool of connections.
#[derive(Debug, Clone)]
pub struct Forwarder {
    client: Client<Connector, EventBody>,
}

impl Forwarder {
    /// A forwarder that keeps up to `idle_max` connections per service open between calls.
    pub fn new(tls: Option<Tls>, idle_max: usize) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(idle_max)
            .http1_max_buf_size(64 * 1024)
            .build(Connector { tls });
        Self { client }
    }

    /// Makes one call. Never fails: what goes wrong is the outcome.
    pub async fn call(&self, attempt: Attempt) -> Outcome {
        let Attempt {
            offer,
            body,
            target,
            timeout,
        } = attempt;
        let begun = Instant::now();
        let result = match request(&offer, body, target.as_deref()) {
            Ok(request) => match tokio::time::timeout(timeout, self.exchange(request)).await {
                Ok(result) => result,
                Err(_) => Err(CallError::Timeout(timeout)),
            },
            Err(error) => Err(error),
        };
        Outcome {
            offer,
            target,
            result,
            elapsed: begun.elapsed(),
        }
    }

    async fn exchange(&self, request: Request<EventBody>) -> Result<Answer, CallError> {
        let response = self
            .client
            .request(request)
            .await
            .map_err(CallError::from_client)?;
        let (parts, body) = response.into_parts();
        if !(200..600).contains(&parts.status.as_u16()) {
            return Err(CallError::Protocol(format!(
                "status {}",
                parts.status.as_u16()
            )));
        }
        let (start, body_bytes) = read_start(body).await?;
        Ok(Answer {
            status: parts.status,
            headers: headers::reported(&parts.headers),
            start,
            body_bytes,
        })
    }
}

/// Reads a response up to the limit and keeps its start.
async fn read_start(mut body: Incoming) -> Result<(Bytes, u64), CallError> {
    let mut start = BytesMut::new();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::from_hyper(&error))?;
        let Ok(part) = frame.into_data() else {
            continue;
        };
        body_bytes += part.len() as u64;
        let room = RESPONSE_START_BYTES_MAX - start.len();
        start.extend_from_slice(&part[..part.len().min(room)]);
        if body_bytes > RESPONSE_BYTES_MAX {
            break;
        }
    }
    Ok((start.freeze(), body_bytes))
}

fn request(
    offer: &Offer,
    body: EventBody,
    target: Option<&Target>,
) -> Result<Request<EventBody>, CallError> {
    let target = target.ok_or(CallError::NoTarget)?;
    let method =
        Method::from_bytes(offer.request.method.as_bytes()).map_err(|_| CallError::Method)?;
    if method == Method::CONNECT {
        // It would ask the service to be a proxy, which is no webhook.
        return Err(CallError::Method);
    }
    let uri = target.join(&offer.request.target)?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers::request_headers(offer)?;
    Ok(request)
}

/// Opens connections to services: looks at every address before it connects to that very address.
#[derive(Debug, Clone)]
struct Connector {
    tls: Option<Tls>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<net::Stream>, CallError>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<net::Stream>;
    type Error = CallError;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let tls = self.tls.clone();
        Box::pin(async move { connect(&uri, tls).await.map(TokioIo::new) })
    }
}

async fn connect(uri: &Uri, tls: Option<Tls>) -> Result<net::Stream, CallError> {
    let host = bare_host(uri);
    let is_tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let addresses = match net::resolve(&host, port).await {
        Ok(addresses) => addresses,
        Err(source) => return Err(CallError::Dns { host, source }),
    };
    if let Some(address) = addresses
        .iter()
        .map(std::net::SocketAddr::ip)
        .find(|ip: &IpAddr| net::is_metadata(*ip))
    {
        return Err(CallError::Metadata(address));
    }
    let stream = net::connect(&addresses, CONNECT_MAX)
        .await
        .map_err(CallError::Connect)?;
    if !is_tls {
        return Ok(net::Stream::Plain(stream));
    }
    let tls = tls.ok_or_else(|| CallError::Tls(std::io::Error::other("TLS is not set up")))?;
    let stream = net::Stream::Plain(stream);
    tls.connect(&host, stream).await.map_err(CallError::Tls)
}
