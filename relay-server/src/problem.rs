//! Everything that can be answered instead of success: one closed list of codes, shared by ingress,
//! the API, the agents' doors and `relay-server explain`, as `application/problem+json` (RFC 9457).
//!
//! A problem never repeats a secret, a body or a token: `detail` is for people who may be strangers.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::{Serialize, Serializer};

use crate::store::StoreError;

/// Declares the list: name, text, status, title, what to do.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal, $remedy:literal;)*) => {
        /// A stable name of what went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in answers, logs and docs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status it is usually answered with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it means, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What whoever sees it can do.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

codes! {
    /// The request is malformed or ambiguous.
    Request = "E-REQUEST", BAD_REQUEST, "The request is not valid",
        "Correct the request; the detail says what is wrong with it. Repeating it unchanged will fail again.";
    /// The resource to create or change breaks a rule.
    Invalid = "E-INVALID", UNPROCESSABLE_ENTITY, "The settings are not valid",
        "Change the field that the detail names and send the request again.";
    /// An operator's token was used without naming a tenant.
    TenantMissing = "E-TENANT-MISSING", BAD_REQUEST, "The request names no tenant",
        "An operator's token can act for every tenant, so name one: ?tenant=NAME, or --tenant NAME on the command line.";
    /// No usable credential.
    Unauthorised = "E-UNAUTHORISED", UNAUTHORIZED, "The token is missing, unknown, expired or revoked",
        "Send `Authorization: Bearer hf_...` with a token that is still valid. An operator can make a new one with `relay-server token create`.";
    /// A valid credential without the right.
    Forbidden = "E-FORBIDDEN", FORBIDDEN, "The token may not do this",
        "Use a token whose kind and scopes allow it; the detail names the scope. Tokens cannot be widened: create another one.";
    /// Nothing of this name, or not yours.
    NotFound = "E-NOT-FOUND", NOT_FOUND, "There is no such resource",
        "Check the id or name, and that the token belongs to the tenant that owns it.";
    /// The source's URL is unknown or switched off.
    SourceUnknown = "E-SOURCE-UNKNOWN", NOT_FOUND, "There is no source at this URL",
        "Copy the URL again from `relay-server source get NAME`, and check that the source is enabled.";
    /// The name is in use.
    NameTaken = "E-NAME-TAKEN", CONFLICT, "The name is taken",
        "Choose another name, or change the resource that has it.";
    /// Somebody else changed it in between, or it is in use.
    Conflict = "E-CONFLICT", CONFLICT, "The change conflicts with the current state",
        "Read the resource again and repeat the change if it is still wanted.";
    /// The source or the path does not take this method.
    Method = "E-METHOD", METHOD_NOT_ALLOWED, "The method is not allowed here",
        "Use a method that the Allow header of the answer names.";
    /// The signature is wrong or missing.
    Signature = "E-SIGNATURE", FORBIDDEN, "The signature does not match",
        "Check that the source has the secret which the provider signs with (`relay-server source rotate-secret` adds one), that its preset is right, that nothing on the way changes the body, and that the clocks agree.";
    /// The address is not on the source's list.
    Address = "E-ADDRESS", FORBIDDEN, "Requests from this address are not accepted",
        "Add the provider's address ranges to `ip_allow` of the source; behind a proxy, set `trusted_proxies` of the relay.";
    /// The body is larger than the source takes.
    BodyTooLarge = "E-BODY-TOO-LARGE", PAYLOAD_TOO_LARGE, "The body is too large",
        "Raise `body_bytes_max` of the source (at most 26 MiB), or have the provider send less.";
    /// The head is larger than the relay takes.
    HeadersTooLarge = "E-HEADERS-TOO-LARGE", REQUEST_HEADER_FIELDS_TOO_LARGE, "The header fields are too large",
        "Send at most 100 header fields and 32 KiB in all.";
    /// The request came too slowly.
    Timeout = "E-TIMEOUT", REQUEST_TIMEOUT, "The request took too long",
        "Send it again; if it happens often, look at the network between the provider and the relay.";
    /// More requests than the source's rate.
    Rate = "E-RATE", TOO_MANY_REQUESTS, "Too many requests",
        "Wait as long as Retry-After says. If the traffic is wanted, raise `rate_per_second` of the source.";
    /// More at once than the relay can hold.
    Overloaded = "E-OVERLOADED", TOO_MANY_REQUESTS, "The relay has too much to do at the moment",
        "Wait as long as Retry-After says. If it happens often, give the relay a faster disk or more memory.";
    /// The disk is too full.
    StoreFull = "E-STORE-FULL", SERVICE_UNAVAILABLE, "The relay cannot store more events",
        "Free space on the disk of the relay's data directory; it accepts events again by itself above the watermark.";
    /// The store cannot make it durable.
    StoreUnavailable = "E-STORE-UNAVAILABLE", SERVICE_UNAVAILABLE, "The relay cannot store events",
        "Send it again later: nothing was lost that was answered with success. The operator finds the cause in the relay's log and `/readyz?verbose`.";
    /// The relay is stopping.
    ShuttingDown = "E-SHUTTING-DOWN", SERVICE_UNAVAILABLE, "The relay is shutting down",
        "Send it again after a moment; another instance answers, or this one when it is back.";
    /// What was stored is not what was written.
    Damaged = "E-DAMAGED", INTERNAL_SERVER_ERROR, "Stored data is damaged",
        "The event is quarantined and is never delivered altered. Check the disk and the relay's log; `relay-server deliveries list --state quarantined` shows what is affected.";
    /// A defect of the relay.
    Internal = "E-INTERNAL", INTERNAL_SERVER_ERROR, "The relay made a mistake",
        "Report it with the relay's log of that moment; the request can be repeated.";
    /// The command line could not reach the relay.
    Unreachable = "E-UNREACHABLE", BAD_GATEWAY, "The relay's admin listener cannot be reached",
        "Start the relay, or name its admin listener with --server or HOOKFERRY_SERVER.";
    /// The configuration is wrong.
    Config = "E-CONFIG", INTERNAL_SERVER_ERROR, "The configuration is not valid",
        "Correct the place that the message names; `relay-server config check` tries a file without starting anything.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A text that is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no error has the code {0}")]
pub struct UnknownCode(pub String);

impl FromStr for Code {
    type Err = UnknownCode;

    /// Takes either case, with or without the leading `E-`.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let upper = text.to_ascii_uppercase();
        let wanted = upper.strip_prefix("E-").unwrap_or(&upper);
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str().strip_prefix("E-") == Some(wanted))
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
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

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.code.status())
    }

    /// The JSON document of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        let document = Document {
            r#type: format!("urn:hookferry:error:{}", self.code),
            title: self.code.title(),
            status: self.status().as_u16(),
            code: self.code,
            detail: self.detail.as_deref(),
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
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        Problem::into_response(self).map(axum::body::Body::new)
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
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
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        let mut texts = HashSet::new();
        for code in Code::ALL {
            assert!(texts.insert(code.as_str()), "{code} stands twice");
            assert!(code.as_str().starts_with("E-"), "{code}");
            assert!(code.status().as_u16() >= 400, "{code}");
            assert!(!code.remedy().is_empty(), "{code}");
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(code.as_str().to_ascii_lowercase()[2..].parse(), Ok(*code));
        }
        assert!("E-NONSENSE".parse::<Code>().is_err());
        assert!("".parse::<Code>().is_err());
    }

    #[test]
    fn the_documentation_lists_every_code() {
        let documentation = include_str!("../../docs/OPERATIONS.md");
        for code in Code::ALL {
            let status = code.status().as_u16();
            let row = format!("| `{code}` | {status} | {} |", code.title());
            assert!(documentation.contains(&row), "OPERATIONS.md lacks {row}");
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
    }

    #[test]
    fn a_store_that_fails_never_tells_why() {
        let problem = Problem::from(&StoreError::Unavailable("disk /dev/sda is on fire".into()));
        assert_eq!(problem.status(), 503);
        let text = String::from_utf8(problem.to_json()).unwrap();
        assert!(!text.contains("fire"), "{text}");
    }
}
