//! One request of the fall-back transport and its answer, over a connection that is kept for the next.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use protocol::{id::PipeId, limits, poll::Answer};
use tokio::time::{Instant, timeout};

use super::{Dialer, error::DialError};
use crate::net;

/// Tells load balancers which requests belong together; the relay reads it in the body.
const LINK_FIELD: &str = "hookferry-link";

/// Cookies of load balancers that are repeated to them, and bytes of each.
const COOKIES_MAX: usize = 8;
const COOKIE_BYTES_MAX: usize = 1024;

/// How soon a connection that was kept breaks if it was closed while nobody looked.
const STALE_MAX: Duration = Duration::from_secs(1);

type Driven = Pin<Box<http1::Connection<TokioIo<net::Stream>, Full<Bytes>>>>;

/// A connection to the relay for one request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driven: Driven,
}

/// Why there was no answer of a relay. Asking again may help.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection ended before, or could not be used.
    #[error("the connection broke: {0}")]
    Connection(#[source] hyper::Error),
    /// No answer came.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The answer was cut short, or too long.
    #[error("the answer did not come through")]
    Cut,
    /// Something else answered.
    #[error("what answered is no relay")]
    Stranger,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Exchanged {
    /// The connection, if it serves for another one.
    pub(super) connection: Option<Connection>,
    pub(super) answer: Result<Answer, DialError>,
    /// What a load balancer wants to be reminded of.
    pub(super) cookies: Vec<String>,
}

impl Connection {
    pub(super) async fn new(stream: net::Stream) -> Result<Self, Broken> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Broken::Connection)?;
        Ok(Self {
            sender,
            driven: Box::pin(connection),
        })
    }

    /// Whether it was not closed since the last answer.
    async fn is_ready(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.driven.as_mut() => false,
            ready = self.sender.ready() => ready.is_ok(),
        }
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Broken> {
        let exchange = async {
            let response = self.sender.send_request(request).await;
            read(response.map_err(Broken::Connection)?).await
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            answered = exchange.as_mut() => return answered,
            _ = self.driven.as_mut() => {}
        }
        // The connection has ended, perhaps because the answer said so: what it brought is there.
        exchange.await
    }
}

async fn read(response: Response<Incoming>) -> Result<Response<Bytes>, Broken> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, limits::POLL_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Broken::Cut)?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

/// Where requests of one link go, and what they carry.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) dialer: Arc<Dialer>,
    pub(super) link: PipeId,
    pub(super) cookies: Cookies,
}

/// What load balancers want to be reminded of, so that a link stays with one relay.
#[derive(Debug, Clone, Default)]
pub(super) struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// Takes the values of `Set-Cookie` fields. Attributes do not matter: a link is short-lived and has
    /// one address.
    pub(super) fn take(&mut self, fields: Vec<String>) {
        for field in fields {
            let pair = field.split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            self.0.retain(|(known, _)| known != name);
            let fits = self.0.len() < COOKIES_MAX && pair.len() <= COOKIE_BYTES_MAX;
            if fits && !name.is_empty() && !value.is_empty() {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    fn field(&self) -> Option<String> {
        let pairs: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

impl Address {
    /// Makes a request and waits for its answer. A connection that was closed while it was idle is
    /// replaced without a word, since a repeated request does no harm.
    pub(super) async fn exchange(
        self,
        connection: Option<Connection>,
        body: Bytes,
        patience: Duration,
    ) -> Exchanged {
        let mut kept = connection;
        let answered = timeout(patience, self.ask(&mut kept, body)).await;
        match answered.unwrap_or(Err(DialError::Exchange(Broken::Silent(patience)))) {
            Ok(response) => {
                let cookies = set_cookies(&response);
                Exchanged {
                    connection: kept,
                    answer: understand(response),
                    cookies,
                }
            }
            Err(error) => Exchanged {
                connection: None,
                answer: Err(error),
                cookies: Vec::new(),
            },
        }
    }

    async fn ask(
        &self,
        kept: &mut Option<Connection>,
        body: Bytes,
    ) -> Result<Response<Bytes>, DialError> {
        if let Some(mut connection) = kept.take()
            && connection.is_ready().await
        {
            let began = Instant::now();
            match connection.ask(self.request(body.clone())?).await {
                Ok(response) => {
                    *kept = Some(connection);
                    return Ok(response);
                }
                // It was being closed just then. What is cut later is cut for another reason.
                Err(_) if began.elapsed() < STALE_MAX => {}
                Err(error) => return Err(DialError::Exchange(error)),
            }
        }
        let stream = self.dialer.open().await?;
        let mut connection = Connection::new(stream).await.map_err(DialError::Exchange)?;
        let answered = connection.ask(self.request(body)?).await;
        let response = answered.map_err(DialError::Exchange)?;
        *kept = Some(connection);
        Ok(response)
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, DialError> {
        let mut request = self
            .dialer
            .poll_request()
            .header(LINK_FIELD, self.link.to_string())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            // Nothing in between is to change or keep the answer.
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CACHE_CONTROL, "no-store");
        if let Some(cookies) = self.cookies.field() {
            request = request.header(header::COOKIE, cookies);
        }
        request
            .body(Full::new(body))
            .map_err(|_| DialError::Exchange(Broken::Stranger))
    }
}

fn set_cookies(response: &Response<Bytes>) -> Vec<String> {
    let fields = response.headers().get_all(header::SET_COOKIE);
    fields
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect()
}

fn understand(response: Response<Bytes>) -> Result<Answer, DialError> {
    if response.status() == StatusCode::OK {
        let answer = Answer::decode(response.into_body());
        return answer.map_err(|_| DialError::Exchange(Broken::Stranger));
    }
    Err(DialError::from_response(
        &response.map(|body| Some(body.to_vec())),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_load_balancers_are_repeated_within_bounds() {
        let mut cookies = Cookies::default();
        assert_eq!(cookies.field(), None);
        let set = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect();
        cookies.take(set(&["LB=a; Path=/; HttpOnly", "AWSALB = b", "nonsense"]));
        assert_eq!(cookies.field().unwrap(), "LB=a; AWSALB=b");
        cookies.take(set(&["LB=c", "AWSALB=; Max-Age=0"]));
        assert_eq!(cookies.field().unwrap(), "LB=c");
        cookies.take(vec![format!("LONG={}", "x".repeat(COOKIE_BYTES_MAX))]);
        cookies.take((0..20).map(|number| format!("c{number}=x")).collect());
        assert_eq!(cookies.field().unwrap().matches('=').count(), COOKIES_MAX);
    }
}
