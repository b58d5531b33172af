//! What is answered instead of success, by ingress, the API and the agents' doors alike: a code of the
//! catalogue and its HTTP status, as `application/problem+json` (RFC 9457).
//!
//! A problem never repeats a secret, a body or a token: `detail` is for people who may be strangers.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

pub use protocol::code::Code;

use crate::{store::StoreError, tenancy::TokenRefusal};

/// The header field of every answer that is a problem.
const CODE_FIELD: HeaderName = HeaderName::from_static("hookferry-code");

/// The HTTP status a code is usually answered with; none for what the relay never answers.
pub fn status(code: Code) -> Option<StatusCode> {
    Some(match code {
        Code::Request | Code::TenantMissing => StatusCode::BAD_REQUEST,
        Code::Unauthorised | Code::TokenExpired | Code::TokenRevoked => StatusCode::UNAUTHORIZED,
        Code::Forbidden | Code::Signature | Code::Address => StatusCode::FORBIDDEN,
        Code::NotFound | Code::SourceUnknown => StatusCode::NOT_FOUND,
        Code::Method => StatusCode::METHOD_NOT_ALLOWED,
        Code::Timeout => StatusCode::REQUEST_TIMEOUT,
        Code::NameTaken | Code::Conflict | Code::SecretKey => StatusCode::CONFLICT,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Erased => StatusCode::GONE,
        Code::Invalid | Code::Idempotency => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Precondition => StatusCode::PRECONDITION_FAILED,
        Code::Rate | Code::Quota | Code::Overloaded | Code::TooManyWaiting => {
            StatusCode::TOO_MANY_REQUESTS
        }
        Code::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Code::Unanswered => StatusCode::GATEWAY_TIMEOUT,
        Code::Damaged | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::StoreFull | Code::StoreUnavailable | Code::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => return None,
    })
}

/// One answer instead of success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong.
    pub code: Code,
    /// The particulars, if there is more to say than the title.
    pub detail: Option<Cow<'static, str>>,
    /// When trying again makes sense; rounded up to seconds in the answer.
    pub retry_after: Option<Duration>,
    /// Another status than the usual one, such as 401 where a provider insists on it.
    pub status: Option<StatusCode>,
    /// The methods to name in Allow.
    pub allow: Option<HeaderValue>,
    /// What is wrong at which places of the request's document.
    pub errors: Vec<PlaceError>,
}

/// What is wrong at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlaceError {
    /// The place, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl Problem {
    /// A problem with nothing more to say than its title.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self {
            code,
            detail: None,
            retry_after: None,
            status: None,
            allow: None,
            errors: Vec::new(),
        }
    }

    /// Adds the particulars.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says when trying again makes sense.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Answers with another status than the usual one.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Names the methods that are allowed.
    #[must_use]
    pub fn allow(mut self, methods: HeaderValue) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Names the places that are wrong.
    #[must_use]
    pub fn errors(mut self, errors: Vec<PlaceError>) -> Self {
        self.errors = errors;
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        let usual = || status(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.status.unwrap_or_else(usual)
    }

    /// The JSON document of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        let document = Document {
            r#type: format!("urn:hookferry:error:{}", self.code),
            title: self.code.title(),
            status: self.status().as_u16(),
            code: self.code,
            detail: self.detail.as_deref(),
            errors: &self.errors,
        };
        // A struct of texts and a number always has a JSON form.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// The whole answer.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.to_json())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // So that an agent can tell this answer from that of something in between, whatever became of
        // the body.
        headers.insert(CODE_FIELD, HeaderValue::from_static(self.code.as_str()));
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"hookferry\""),
            );
        }
        if let Some(methods) = self.allow {
            headers.insert(header::ALLOW, methods);
        }
        response
    }
}

/// The form of RFC 9457.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [PlaceError],
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        Problem::into_response(self).map(axum::body::Body::new)
    }
}

impl From<Problem> for axum::response::Response {
    fn from(problem: Problem) -> Self {
        axum::response::IntoResponse::into_response(problem)
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<TokenRefusal> for Problem {
    /// Whoever holds a token may know what became of it; about any other text nothing is told.
    fn from(refusal: TokenRefusal) -> Self {
        Self::new(match refusal {
            TokenRefusal::Malformed | TokenRefusal::Unknown => Code::Unauthorised,
            TokenRefusal::Expired => Code::TokenExpired,
            TokenRefusal::Revoked => Code::TokenRevoked,
            TokenRefusal::Address => Code::Address,
        })
    }
}

impl From<&StoreError> for Problem {
    /// Says what the sender can do; the cause belongs in the log.
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Full => Self::new(Code::StoreFull).retry_after(Duration::from_secs(30)),
            StoreError::Overloaded { retry_after } => {
                Self::new(Code::Overloaded).retry_after(*retry_after)
            }
            StoreError::Unavailable(_) => {
                Self::new(Code::StoreUnavailable).retry_after(Duration::from_secs(30))
            }
            StoreError::Indeterminate(_) => Self::new(Code::StoreUnavailable)
                .detail("the relay cannot tell whether the change was made")
                .retry_after(Duration::from_secs(5)),
            StoreError::Corrupt(_) => Self::new(Code::Damaged),
        }
    }
}

#[cfg(test)]
mod documents;

#[cfg(test)]
mod tests {
    use protocol::code::Area;

    use super::*;

    #[test]
    fn what_the_relay_answers_has_a_status() {
        for code in Code::ALL {
            let status = status(*code);
            assert_eq!(status.is_some(), code.area() == Area::Answer, "{code}");
            assert!(status.is_none_or(|status| status.as_u16() >= 400), "{code}");
        }
    }

    #[test]
    fn an_answer_is_problem_json_with_its_headers() {
        let problem = Problem::new(Code::Rate)
            .detail("10 per second")
            .retry_after(Duration::from_millis(1_200));
        let document: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:hookferry:error:E-RATE",
                "title": "Too many requests",
                "status": 429,
                "code": "E-RATE",
                "detail": "10 per second",
            })
        );

        let response = problem.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["hookferry-code"], "E-RATE");
    }

    #[test]
    fn a_store_that_fails_never_tells_why() {
        let problem = Problem::from(&StoreError::Unavailable("disk /dev/sda is on fire".into()));
        assert_eq!(problem.status(), 503);
        let text = String::from_utf8(problem.to_json()).unwrap();
        assert!(!text.contains("fire"), "{text}");
    }
}
