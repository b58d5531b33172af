//! One request to the relay's API.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Failure,
    calls::{Call, encode, read_text},
};
use crate::{args::Connection, problem::Code};

const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Sends a call and returns the body of its answer.
pub(super) async fn send(connection: &Connection, call: &Call) -> Result<Bytes, Failure> {
    let request = request(connection, call)?;
    let (host, port) = address(&connection.server)?;
    let unreachable = |why: &dyn std::fmt::Display| {
        Failure::coded(
            Code::Unreachable,
            format!("cannot reach the relay at {}: {why}", connection.server),
        )
    };
    let stream = match timeout(CONNECT_MAX, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&"no answer")),
    };
    let exchange = async {
        let (mut sender, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The driver ends with the connection, which ends with this command.
        tokio::spawn(driver);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes()))
    };
    let (status, body) = match timeout(ANSWER_MAX, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&"no answer in time")),
    };
    if status.is_success() {
        return Ok(body);
    }
    Err(refusal(status, &body))
}

fn request(connection: &Connection, call: &Call) -> Result<Request<Full<Bytes>>, Failure> {
    let mut target = format!("/api/v1{}", call.path);
    let tenant = connection.tenant.iter().map(|tenant| ("tenant", tenant));
    let query = call
        .query
        .iter()
        .map(|(name, value)| (*name, value))
        .chain(tenant);
    for (index, (name, value)) in query.enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(&format!("{name}={}", encode(value)));
    }
    let (host, port) = address(&connection.server)?;
    let body = call
        .body
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut request = Request::builder();
    if let Some(key) = &call.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    request
        .method(call.method.clone())
        .uri(target)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::AUTHORIZATION, bearer(connection)?)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::Plain(format!("cannot ask that: {error}")))
}

fn bearer(connection: &Connection) -> Result<HeaderValue, Failure> {
    let Some(path) = &connection.token_file else {
        let why =
            "name the file that holds your API token: --token-file FILE or HOOKFERRY_TOKEN_FILE";
        return Err(Failure::coded(Code::TokenMissing, why));
    };
    let token = read_text(path)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| Failure::Plain(format!("{} holds no token", path.display())))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Host and port of the admin listener.
fn address(server: &str) -> Result<(String, u16), Failure> {
    let wrong = |why: &str| Failure::Plain(format!("--server {server}: {why}"));
    let uri: Uri = server
        .parse()
        .map_err(|_| wrong("is not a URL such as http://127.0.0.1:9090"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(wrong(
                "the admin listener speaks plain HTTP on its own machine; from elsewhere, tunnel to it (ssh -L 9090:127.0.0.1:9090 HOST)",
            ));
        }
        _ => return Err(wrong("is not a URL such as http://127.0.0.1:9090")),
    }
    if !matches!(uri.path(), "" | "/") {
        return Err(wrong("must be scheme, host and port only"));
    }
    let host = uri.host().ok_or_else(|| wrong("names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), uri.port_u16().unwrap_or(80)))
}

/// What the relay answered instead of success.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| document.get(name).and_then(|value| value.as_str());
    let code = text("code").and_then(|code| code.parse::<Code>().ok());
    let errors = document.get("errors").and_then(|errors| errors.as_array());
    if let (Some(code), Some(errors)) = (code, errors)
        && errors.len() > 1
    {
        let mut detail = code.title().to_owned();
        for error in errors {
            let part = |name| {
                error
                    .get(name)
                    .and_then(|part| part.as_str())
                    .unwrap_or_default()
            };
            detail.push_str(&format!("\n  {}: {}", part("pointer"), part("detail")));
        }
        return Failure::coded(code, detail);
    }
    match (code, text("detail")) {
        (Some(code), Some(detail)) => Failure::coded(code, detail),
        (Some(code), None) => Failure::coded(code, code.title()),
        (None, _) => Failure::Plain(format!("the relay answered {status}, which says no more")),
    }
}
