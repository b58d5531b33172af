//! Test events: made and signed here, as the provider of a source would, so that its secret never
//! leaves the relay. From then on they are requests like any other.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, uri::PathAndQuery};
use protocol::frame::Headers;

use super::{
    accept::Ingress,
    receive::{Accepted, Received, Taken},
    target::Target,
};
use crate::{
    ids,
    problem::{Code, Problem},
    tenancy::{LiveSource, NotReady},
    verify::{SignedRequest, Verifier, sample},
};

/// Header fields that a test may bring.
const HEADERS_MAX: usize = 100;

/// A test event to make. What is left out looks like the provider's own.
#[derive(Debug, Default)]
pub struct TestEvent {
    /// What the provider calls this kind of event.
    pub event_type: Option<String>,
    /// The body, which stays as it is unless the provider signs inside of it.
    pub body: Option<Bytes>,
    /// What the body is.
    pub content_type: Option<String>,
    /// More header fields.
    pub headers: Vec<(String, String)>,
    /// The method, if not the first that the source takes.
    pub method: Option<String>,
    /// Path and query below the source's URL.
    pub path: String,
}

impl Ingress {
    /// Makes a test event of a source, signs it with the source's own secret, and takes it like a
    /// request of the provider: it goes to every destination of the source.
    ///
    /// # Errors
    ///
    /// A [`Problem`] for whoever asked: of the test (`E-REQUEST`, `E-INVALID`), of the source
    /// (`E-CONFLICT`, `E-METHOD`, `E-RATE`, `E-BODY-TOO-LARGE`), or of the store.
    pub async fn send_test(&self, live: &LiveSource, test: TestEvent) -> Result<Accepted, Problem> {
        let at = self.store.now();
        let verifier = ready(live)?;
        if live.rate.as_ref().is_some_and(|rate| !rate.take(at)) {
            return Err(Problem::new(Code::Rate));
        }
        let bytes_max = self.body_bytes_max(live);
        let mut request = self.unsigned(live, &test)?;
        let id = format!("test_{:032x}", ids::fresh(at));
        match verifier.preset() {
            Some(preset) => preset.dress(&mut request, test.event_type.as_deref(), &id),
            None if request.body.is_empty() => {
                let event_type = test.event_type.as_deref().unwrap_or(sample::TYPE_DEFAULT);
                request.body = sample::body_without_preset(event_type, &id).into_bytes();
            }
            None => {}
        }
        verifier.sign(&mut request, at.0).map_err(|error| {
            let detail = format!("A test event of this source cannot be made: {error}.");
            Problem::new(Code::Invalid).detail(detail)
        })?;
        if request.body.len() as u64 > bytes_max {
            let detail = format!("This source takes at most {bytes_max} bytes.");
            return Err(Problem::new(Code::BodyTooLarge).detail(detail));
        }
        let received = Received {
            target: self.target_of(live, &request.url),
            method: request.method,
            url: request.url,
            headers: in_lower_case(request.headers),
            body: request.body.into(),
            remote: None,
            at,
        };
        match self.take(live, received).await? {
            Taken::Event(new) => self.append(new).await,
            Taken::Challenge(_) => {
                let detail = "This is a challenge: the relay answers it itself, and keeps nothing.";
                Err(Problem::new(Code::Invalid).detail(detail))
            }
        }
    }

    /// The request without what the provider would add.
    fn unsigned(&self, live: &LiveSource, test: &TestEvent) -> Result<SignedRequest, Problem> {
        let first = live.methods.first().map_or("POST", String::as_str);
        let method = test.method.as_deref().unwrap_or(first);
        if !live.takes(method) {
            return Err(Problem::new(Code::Method).allow(live.allow.clone()));
        }
        check_path(&test.path)?;
        let mut headers = Vec::new();
        let content_type = test.content_type.iter();
        let own = content_type.map(|value| ("content-type", value.as_str()));
        let given = test
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(given) {
            headers.push(header(name, value)?);
        }
        if headers.len() > HEADERS_MAX {
            return Err(bad(format!("at most {HEADERS_MAX} header fields")));
        }
        Ok(SignedRequest {
            method: method.to_owned(),
            url: self.url(live.source.key.as_str(), &test.path),
            headers: Headers(headers),
            body: test.body.as_deref().unwrap_or_default().to_vec(),
        })
    }

    /// What a signed URL has below the URL of the source.
    fn target_of(&self, live: &LiveSource, url: &str) -> String {
        let base = self.url(live.source.key.as_str(), "");
        url.strip_prefix(&base).unwrap_or_default().to_owned()
    }
}

/// The verifier of a source that takes events.
fn ready(live: &LiveSource) -> Result<&Verifier, Problem> {
    let why = match &live.verifier {
        Ok(_) if !live.source.settings.enabled => "The source is disabled; enable it first.",
        Ok(verifier) => return Ok(verifier),
        Err(NotReady::AwaitingHandshake { .. }) => {
            "The source awaits the provider's handshake, and takes no events before it."
        }
        Err(NotReady::Unusable(_)) => {
            "The source cannot verify anything: its settings or secrets no longer work."
        }
    };
    Err(Problem::new(Code::Conflict).detail(why))
}

fn check_path(path: &str) -> Result<(), Problem> {
    if path.is_empty() {
        return Ok(());
    }
    let wrong = || bad("path: start it with `/` or `?`, percent-encoded, without dot segments");
    let below = Target {
        key: "",
        rest: path,
    };
    let starts = path.starts_with(['/', '?']);
    let readable = path.parse::<PathAndQuery>().is_ok() && !path.contains('#');
    (starts && readable && !below.has_dot_segment())
        .then_some(())
        .ok_or_else(wrong)
}

fn header(name: &str, value: &str) -> Result<(Bytes, Bytes), Problem> {
    let known = HeaderName::from_bytes(name.as_bytes());
    let name = known.map_err(|_| bad("headers: a name is not one of HTTP"))?;
    let value = HeaderValue::from_str(value);
    let value =
        value.map_err(|_| bad(format!("headers: the value of {name} is not one of HTTP")))?;
    Ok((
        Bytes::copy_from_slice(name.as_str().as_bytes()),
        Bytes::copy_from_slice(value.as_bytes()),
    ))
}

/// As names of received requests are kept.
fn in_lower_case(headers: Headers) -> Headers {
    let lower = |(name, value): (Bytes, Bytes)| (name.to_ascii_lowercase().into(), value);
    Headers(headers.0.into_iter().map(lower).collect())
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Request).detail(detail.into())
}
