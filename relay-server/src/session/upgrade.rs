//! From an HTTP request with a token to a WebSocket (RFC 6455 4.2).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use protocol::limits;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use tracing::debug;

use super::{
    authorised::authorise,
    driver::{Session, SessionContext},
};
use crate::problem::{Code, Problem};

/// When to try again while the relay drains.
pub(super) const DRAINING_RETRY: Duration = Duration::from_secs(1);

/// Answers `GET /agent/v1/connect`; the session runs on a task of its own.
pub(crate) fn upgrade(
    context: &Arc<SessionContext>,
    mut request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    // First, so that an agent whose token is wrong still learns whether its upgrade came through.
    let accept = match check_handshake(&request) {
        Ok(accept) => accept,
        Err(problem) => return with_upgrade(problem.into_response()),
    };
    let authorised = match authorise(context, &request) {
        Ok(authorised) => authorised,
        Err(problem) => return problem.into_response(),
    };
    if context.draining.is_cancelled() {
        return Problem::new(Code::ShuttingDown)
            .retry_after(DRAINING_RETRY)
            .into_response();
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let context = Arc::clone(context);
    let tasks = context.tasks.clone();
    tasks.spawn(async move {
        match upgrading.await {
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                let socket =
                    WebSocketStream::from_raw_socket(io, Role::Server, Some(socket_config())).await;
                Session::new(context, authorised, socket).run().await;
            }
            Err(error) => debug!(%error, "an upgrade did not finish"),
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(limits::SUBPROTOCOL),
    );
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The value for `Sec-WebSocket-Accept`.
fn check_handshake(request: &Request<Incoming>) -> Result<HeaderValue, Problem> {
    let headers = request.headers();
    let has = |name: header::HeaderName, wanted: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    let wrong = |detail: &'static str| {
        Err(Problem::new(Code::Request)
            .with_status(StatusCode::UPGRADE_REQUIRED)
            .detail(detail))
    };
    if request.method() != Method::GET
        || !has(header::CONNECTION, "upgrade")
        || !has(header::UPGRADE, "websocket")
    {
        return wrong("Agents connect here with a WebSocket upgrade.");
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return wrong("Only WebSocket version 13 is spoken here.");
    }
    if !has(header::SEC_WEBSOCKET_PROTOCOL, limits::SUBPROTOCOL) {
        return wrong("Only the subprotocol hookferry.v1 is spoken here.");
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return wrong("Sec-WebSocket-Key is missing.");
    };
    HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| Problem::new(Code::Internal))
}

fn with_upgrade(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(
        header::SEC_WEBSOCKET_VERSION,
        HeaderValue::from_static("13"),
    );
    response
}

fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(64 * 1024)
        .max_write_buffer_size(4 * 1024 * 1024)
        .max_message_size(Some(limits::MESSAGE_BYTES_MAX))
        .max_frame_size(Some(limits::MESSAGE_BYTES_MAX))
}
