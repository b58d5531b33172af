//! Whether the relay lives and takes events, and which one it is. No token is needed.

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use serde::Serialize;

use super::{Answer, ApiState};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct Version {
    version: &'static str,
    api: &'static str,
    protocol: u32,
}

pub(super) async fn version() -> Answer<Version> {
    Answer::ok(Version {
        version: env!("CARGO_PKG_VERSION"),
        api: "v1",
        protocol: protocol::limits::VERSION,
    })
}

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// 200 if events are accepted, 503 if not; `?verbose` says what was looked at.
pub(super) async fn readyz(State(state): State<ApiState>, RawQuery(query): RawQuery) -> Response {
    let accepting = state.events.accepting();
    let status = match accepting {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let word = if accepting.is_ok() { "ok" } else { "not ready" };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let text = match accepting {
        _ if !verbose => format!("{word}\n"),
        Ok(()) => format!("[+] store accepts events\n{word}\n"),
        Err(error) => format!("[-] store: {error}\n{word}\n"),
    };
    (status, text).into_response()
}
