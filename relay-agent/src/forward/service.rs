//! A service and the connections to it: one request, one answer; no redirects, no proxy, no retry.
//!
//! Each service has connections of its own, so that nothing which was opened under another trust is
//! ever used for it. A connection that was kept and turns out to be closed before a request was begun
//! on it costs nothing: the request goes out on another one. Once a byte may have left, it is sent
//! once, and what came of it is the relay's to judge.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use protocol::frame::{Headers, Offer};

use super::{
    AllowTargets, CallError, EventBody, Responder, Target,
    connect::Connector,
    headers,
    read::{Patience, read},
};
use crate::{config::Lane, tls::Tls};

/// How long an idle connection is kept. Shorter than the 5 s after which common servers close one,
/// so that a request seldom meets a connection that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// One call to make.
#[derive(Debug)]
pub struct Attempt {
    /// What to replay. Its own `body` is empty, `body` below has it.
    pub offer: Box<Offer>,
    /// Its body.
    pub body: EventBody,
    /// What to call.
    pub service: Arc<Service>,
    /// Time for the complete answer.
    pub timeout: Duration,
    /// Where the response goes, if a provider waits for it.
    pub(crate) responder: Option<Responder>,
}

/// A finished call.
#[derive(Debug)]
pub struct Outcome {
    /// What was replayed.
    pub offer: Box<Offer>,
    /// Where.
    pub target: Arc<Target>,
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

/// A service that can be called: where it is, how much it is asked at a time, and its connections.
#[derive(Debug)]
pub struct Service {
    target: Arc<Target>,
    /// The Host header, unless it follows from the target.
    host: Option<HeaderValue>,
    concurrency: u32,
    timeout: Duration,
    client: Client<Connector, EventBody>,
}

impl Service {
    /// A service that keeps up to as many connections open between calls as there may be calls.
    /// `tls` is needed if the target speaks it.
    pub fn new(lane: &Lane, tls: Option<Tls>, allow: AllowTargets) -> Self {
        let connector = Connector {
            place: lane.target.place().clone(),
            tls: tls.filter(|_| lane.target.is_tls()),
            allow,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(lane.concurrency as usize)
            // Only what has provably not been sent, on a connection that was used before.
            .retry_canceled_requests(true)
            .http1_max_buf_size(64 * 1024)
            .build(connector);
        Self {
            target: Arc::new(lane.target.clone()),
            host: lane.host.clone(),
            concurrency: lane.concurrency,
            timeout: lane.timeout,
            client,
        }
    }

    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The Host header, unless it follows from the target.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Calls at the same time.
    pub fn concurrency(&self) -> u32 {
        self.concurrency
    }

    /// Time for a complete answer, as configured.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn exchange(
        &self,
        offer: &Offer,
        body: EventBody,
        responder: Option<Responder>,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let mut patience = Patience::new(timeout);
        let request = self.request(offer, body)?;
        let response = patience
            .wait(async {
                self.client
                    .request(request)
                    .await
                    .map_err(CallError::from_client)
            })
            .await?;
        let (parts, body) = response.into_parts();
        if !(200..600).contains(&parts.status.as_u16()) {
            return Err(CallError::Protocol(format!(
                "status {}",
                parts.status.as_u16()
            )));
        }
        let read = read(&parts, body, responder, &mut patience).await?;
        Ok(Answer {
            status: parts.status,
            headers: headers::reported(&parts.headers),
            body_bytes: read.body_bytes,
            start: read.start(),
        })
    }

    fn request(&self, offer: &Offer, body: EventBody) -> Result<Request<EventBody>, CallError> {
        let method =
            Method::from_bytes(offer.request.method.as_bytes()).map_err(|_| CallError::Method)?;
        if method == Method::CONNECT {
            // It would ask the service to be a proxy, which is no webhook.
            return Err(CallError::Method);
        }
        let uri = self.target.join(&offer.request.target)?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers::request_headers(offer)?;
        if let Some(host) = &self.host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        Ok(request)
    }
}

impl Attempt {
    /// Makes the call. Never fails: what goes wrong is the outcome.
    pub async fn call(self: Box<Self>) -> Outcome {
        let Self {
            offer,
            body,
            service,
            timeout,
            responder,
        } = *self;
        let begun = Instant::now();
        let result = service.exchange(&offer, body, responder, timeout).await;
        Outcome {
            offer,
            target: service.target.clone(),
            result,
            elapsed: begun.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests;
