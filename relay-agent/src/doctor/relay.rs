//! The fifth hop: does a relay answer? It is asked what the token is good for, which opens no session;
//! its answer also tells its clock.

use std::time::SystemTime;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;

use super::{
    Way,
    check::{Check, Hop, Step},
};
use crate::{
    explain::{Code, Failure},
    link::{self, DialError},
    net,
};

/// What a relay answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Option<Vec<u8>>>,
    /// When it was asked, and when the answer was there.
    pub(super) asked: SystemTime,
    pub(super) answered: SystemTime,
    /// What it says about the token, if it accepts it.
    pub(super) token: Result<TokenView, Failure>,
}

/// What a token is good for, as the relay tells.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct TokenView {
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<String>,
    pub(super) destinations: Vec<DestinationView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct DestinationView {
    pub(super) name: String,
    pub(super) state: String,
}

/// Asks the relay over a fresh connection.
pub(super) async fn check(way: &Way, stream: net::Stream) -> Step<Answer> {
    let server = &way.link.server;
    let tried = format!("ask {server}/agent/v1/token");
    match ask(way, stream).await {
        Ok(answer) => {
            let status = answer.response.status().as_u16();
            let check = Check::ok(Hop::Relay, tried, "a relay answered").fact("status", status);
            Step::on(check, answer)
        }
        Err(failure) => Step::stop(Check::failed(Hop::Relay, tried, &failure)),
    }
}

async fn ask(way: &Way, stream: net::Stream) -> Result<Answer, Failure> {
    let path = way.link.server.token_path(&way.destinations);
    let mut request = way.dialer.request(http::Method::GET, &path);
    if way.has_token {
        request = request.header(header::AUTHORIZATION, way.dialer.authorization());
    }
    let request = request
        .body(Full::new(Bytes::new()))
        .map_err(|error| Failure::new(Code::ConfigValue, format!("server: {error}")))?;
    let asked = SystemTime::now();
    let response = link::ask(stream, request).await;
    let answered = SystemTime::now();
    let response = response.map_err(|error| Failure::new(error.code(), error.to_string()))?;
    let token = understand(&response)?;
    Ok(Answer {
        response,
        asked,
        answered,
        token,
    })
}

/// What the answer says of the token, if a relay gave it.
fn understand(response: &Response<Option<Vec<u8>>>) -> Result<Result<TokenView, Failure>, Failure> {
    let body = response.body().as_deref().unwrap_or_default();
    if response.status() == StatusCode::OK {
        return match serde_json::from_slice(body) {
            Ok(view) => Ok(Ok(view)),
            Err(_) => Err(stranger(response)),
        };
    }
    let error = DialError::from_response(response);
    match error.is_of_relay() {
        true => Ok(Err(error.failure())),
        false if response.status().is_server_error() => Err(error.failure()),
        false => Err(stranger(response)),
    }
}

fn stranger(response: &Response<Option<Vec<u8>>>) -> Failure {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let what = format!(
        "{} answered in the relay's place{}",
        response.status(),
        kind.map_or(String::new(), |kind| format!(
            ", with {}",
            link::for_people(kind)
        ))
    );
    Failure::new(Code::NotARelay, what)
}
