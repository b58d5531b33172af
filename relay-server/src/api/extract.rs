//! Bodies and queries as types, with refusals that repeat nothing of what was sent.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, request::Parts},
    response::IntoResponse as _,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::error::Category;

use super::REQUEST_BYTES_MAX;
use crate::problem::{Code, Problem};

/// A JSON body. An empty one is `{}`.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
                    let why = format!("the API takes bodies of at most {REQUEST_BYTES_MAX} bytes");
                    return Problem::new(Code::BodyTooLarge).detail(why);
                }
                Problem::new(Code::Request).detail("the body did not arrive completely")
            })?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        match serde_json::from_slice(text) {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(Problem::new(Code::Request).detail(explain(&error))),
        }
    }
}

/// Says what is wrong with a document without repeating its values, among which are secrets.
fn explain(error: &serde_json::Error) -> String {
    let place = format!("at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    let names_fields_only = ["unknown field", "missing field", "duplicate field"]
        .iter()
        .any(|beginning| message.starts_with(beginning));
    match error.classify() {
        Category::Data if names_fields_only => message.chars().take(512).collect(),
        Category::Data => format!("a value {place} has the wrong type or is out of range"),
        Category::Syntax | Category::Eof | Category::Io => {
            format!("the body is not valid JSON {place}")
        }
    }
}

/// The query of a URL.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let why: String = rejection.body_text().chars().take(512).collect();
                Err(Problem::new(Code::Request).detail(why))
            }
        }
    }
}

/// For fields where `null` means "none" and absence means "as it is".
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// What is wrong with a parameter.
pub(super) fn bad(parameter: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Request).detail(format!("{parameter}: {why}"))
}
