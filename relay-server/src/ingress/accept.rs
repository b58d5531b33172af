//! One request of a provider, from its head to the answer.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts,
};
use http_body_util::Full;
use hyper::body::Incoming;
use protocol::{
    frame::Headers,
    id::{DeliveryId, EventId},
};
use sha2::{Digest, Sha256};
use tracing::{debug, error, warn};

use super::{
    ambiguity,
    body::{self, BodyDeadlines, BodyError, BodyMemory},
    target::Target,
};
use crate::{
    clock::Timestamp,
    ids,
    lifecycle::{Event, Verification},
    listener::{Head, Peer},
    problem::{Code, Problem},
    store::{Appended, Events, NewDelivery, NewEvent},
    tenancy::{IpRange, LiveSource, SourceSettings, Tenancy},
    verify::{self, Refusal, Verifier},
};

/// The answer to a provider.
pub(super) type Answer = Response<Full<Bytes>>;

/// The longest id of a provider's that is remembered, in bytes.
const PROVIDER_ID_BYTES_MAX: usize = 512;

/// When to try again while a provider's key is missing or settings are broken.
const KEY_RETRY: Duration = Duration::from_secs(30);

/// The bounds of the ingress.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// Memory for all bodies being read or stored, in bytes.
    pub body_bytes_in_flight_max: u64,
    /// The largest body any source may take, in bytes.
    pub body_bytes_max: u64,
    /// How long bodies may take.
    pub body_deadlines: BodyDeadlines,
    /// What providers see, without a final slash; signatures over URLs are checked against it.
    pub public_url: String,
    /// Addresses of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpRange>,
}

/// What the ingress has answered so far.
#[derive(Debug, Default)]
pub struct IngressCounters {
    /// Accepted events.
    pub accepted: AtomicU64,
    /// Repeats of accepted events.
    pub duplicates: AtomicU64,
    /// Everything that was not accepted.
    pub refused: AtomicU64,
}

/// The public URL of every source.
#[derive(Debug)]
pub struct Ingress {
    config: IngressConfig,
    tenancy: Arc<Tenancy>,
    store: Arc<dyn Events>,
    memory: BodyMemory,
    counters: IngressCounters,
}

impl Ingress {
    /// An ingress over the sources of `tenancy`.
    pub fn new(config: IngressConfig, tenancy: Arc<Tenancy>, store: Arc<dyn Events>) -> Self {
        let memory = BodyMemory::new(config.body_bytes_in_flight_max);
        Self {
            config,
            tenancy,
            store,
            memory,
            counters: IngressCounters::default(),
        }
    }

    /// What was answered so far.
    pub fn counters(&self) -> &IngressCounters {
        &self.counters
    }

    /// Answers one request below `/in/`.
    pub async fn answer(&self, request: Request<Incoming>, peer: Peer, head: &Head) -> Answer {
        match self.accept(request, peer, head).await {
            Ok(answer) => answer,
            Err(problem) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                problem.into_response()
            }
        }
    }

    async fn accept(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        head: &Head,
    ) -> Result<Answer, Problem> {
        let (parts, incoming) = request.into_parts();
        let path_and_query = parts.uri.path_and_query().map_or("/", |it| it.as_str());
        if let Some(what) = ambiguity::find(parts.version, &parts.uri, &parts.headers, head) {
            let detail = format!("The request is ambiguous: {what}.");
            return Err(Problem::new(Code::Request).detail(detail));
        }
        let target =
            Target::split(path_and_query).ok_or_else(|| Problem::new(Code::SourceUnknown))?;
        let live = self.source(target)?;
        let arrival = Arrival {
            remote: self.remote(&parts.headers, peer),
            at: self.store.now(),
        };
        admit(&live, &parts, &arrival)?;
        if target.has_dot_segment() {
            let detail = "The path has a dot segment (`.` or `..`, plain or percent-encoded).";
            return Err(Problem::new(Code::Request).detail(detail));
        }

        let bytes_max = live
            .source
            .settings
            .body_bytes_max
            .min(self.config.body_bytes_max);
        let body = body::read(
            incoming,
            bytes_max,
            &self.memory,
            self.config.body_deadlines,
        )
        .await
        .map_err(|error| body_problem(&error, bytes_max))?;
        let headers = to_headers(&parts.headers);
        let url = format!(
            "{}/in/{}{}",
            self.config.public_url, target.key, target.rest
        );
        let seen = verify::Request {
            method: parts.method.as_str(),
            url: &url,
            headers: &headers,
            body: &body.bytes,
        };
        let known = match examine(&live, &seen, arrival.at)? {
            Examined::Challenge(answer) => return Ok(handshake_answer(answer)),
            Examined::Event(known) => known,
        };
        let event = Event {
            id: EventId::from_u128(ids::fresh(arrival.at)),
            tenant: live.source.tenant,
            source: live.source.id,
            received_at: arrival.at,
            method: parts.method.as_str().to_owned(),
            target: target.rest.to_owned(),
            headers,
            body: body.bytes.clone(),
            verification: known.verification,
            event_type: known.event_type,
            provider_id: known.provider_id,
            remote: Some(arrival.remote),
        };
        self.append(&live, event).await
    }

    /// Unknown and disabled sources answer alike.
    fn source(&self, target: Target<'_>) -> Result<Arc<LiveSource>, Problem> {
        let directory = self.tenancy.directory();
        let live = directory.source_by_key(target.key);
        live.filter(|live| live.source.settings.enabled)
            .cloned()
            .ok_or_else(|| Problem::new(Code::SourceUnknown))
    }

    async fn append(&self, source: &LiveSource, event: Event) -> Result<Answer, Problem> {
        let id = event.id;
        let now = event.received_at;
        let fresh = |destination| NewDelivery {
            id: DeliveryId::from_u128(ids::fresh(now)),
            destination,
        };
        let deliveries = source.destinations.iter().copied().map(fresh).collect();
        let new = NewEvent {
            event,
            dedupe_window: source.source.settings.dedupe.window,
            deliveries,
        };
        match self.store.append(new).await {
            Ok(Appended::New) => {
                self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                Ok(accepted(source, id))
            }
            Ok(Appended::Duplicate { first, reopened }) => {
                self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                debug!(event = %first, reopened, "a repeat of an accepted event");
                Ok(accepted(source, first))
            }
            Err(error) => {
                error!(%error, "an event could not be made durable");
                Err(Problem::from(&error))
            }
        }
    }

    /// The address a request really came from: behind a trusted proxy, the last address that the
    /// proxy did not trust itself.
    fn remote(&self, headers: &HeaderMap, peer: Peer) -> IpAddr {
        let trusted = |ip: IpAddr| {
            self.config
                .trusted_proxies
                .iter()
                .any(|range| range.contains(ip))
        };
        let mut remote = peer.addr.ip().to_canonical();
        let fields: Vec<_> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        for hop in fields.iter().rev().flat_map(|field| field.rsplit(',')) {
            if !trusted(remote) {
                break;
            }
            let Ok(ip) = hop.trim().parse::<IpAddr>() else {
                break;
            };
            remote = ip.to_canonical();
        }
        remote
    }
}

/// Where and when a request came.
struct Arrival {
    remote: IpAddr,
    at: Timestamp,
}

/// What a request turned out to be.
enum Examined {
    /// A provider's challenge, answered at once.
    Challenge(verify::Answer),
    /// An event, with what is known of it.
    Event(Known),
}

/// What verification found out about an event.
struct Known {
    verification: Verification,
    event_type: Option<String>,
    provider_id: Option<String>,
}

fn examine(
    live: &LiveSource,
    seen: &verify::Request<'_>,
    now: Timestamp,
) -> Result<Examined, Problem> {
    let settings = &live.source.settings;
    let verifier = live.verifier.as_ref().map_err(|why| unusable(live, why))?;
    if let Some(answer) = verifier.handshake(seen, false, now.0) {
        return Ok(Examined::Challenge(answer));
    }
    if !live.takes(seen.method) {
        return Err(Problem::new(Code::Method).allow(live.allow.clone()));
    }
    let verified = verifier
        .verify(seen, now.0)
        .map_err(|refusal| refused(live, &refusal))?;
    let secret = verified
        .credential
        .and_then(|index| u16::try_from(index).ok());
    Ok(Examined::Event(Known {
        verification: Verification {
            rule: settings.scheme.label().to_owned(),
            secret,
        },
        event_type: verifier.preset().and_then(|preset| preset.event_type(seen)),
        provider_id: provider_id(settings, verifier, seen),
    }))
}

/// Everything that can be refused before the body is read.
fn admit(live: &LiveSource, parts: &Parts, arrival: &Arrival) -> Result<(), Problem> {
    let method = parts.method.as_str();
    if !live.takes(method) && !live.challenged_with(method) {
        return Err(Problem::new(Code::Method).allow(live.allow.clone()));
    }
    if !live.source.settings.allows(arrival.remote) {
        return Err(Problem::new(Code::Address));
    }
    if live
        .rate
        .as_ref()
        .is_some_and(|rate| !rate.take(arrival.at))
    {
        return Err(Problem::new(Code::Rate).retry_after(Duration::from_secs(1)));
    }
    Ok(())
}

/// What repeats are recognised by: the header the source names, what its provider calls the id, or
/// a digest of the body where the source asks for it.
fn provider_id(
    settings: &SourceSettings,
    verifier: &Verifier,
    seen: &verify::Request<'_>,
) -> Option<String> {
    let dedupe = &settings.dedupe;
    let named = dedupe
        .header
        .as_deref()
        .and_then(|name| seen.headers.get(name));
    named
        .and_then(|value| std::str::from_utf8(value).ok())
        .filter(|value| !value.is_empty() && value.len() <= PROVIDER_ID_BYTES_MAX)
        .map(str::to_owned)
        .or_else(|| verifier.preset().and_then(|preset| preset.event_id(seen)))
        .or_else(|| {
            dedupe
                .body_hash
                .then(|| format!("sha256:{}", hex::encode(Sha256::digest(seen.body))))
        })
}

/// Copies the fields into one allocation of their own, so that an event never keeps a connection's
/// read buffer alive.
fn to_headers(map: &HeaderMap) -> Headers {
    let length = map
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let mut whole = BytesMut::with_capacity(length);
    for (name, value) in map {
        whole.extend_from_slice(name.as_str().as_bytes());
        whole.extend_from_slice(value.as_bytes());
    }
    let mut whole = whole.freeze();
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        (
            whole.split_to(name.as_str().len()),
            whole.split_to(value.len()),
        )
    };
    Headers(map.iter().map(pair).collect())
}

/// What the provider needs to hear, else the event's id.
fn accepted(live: &LiveSource, id: EventId) -> Answer {
    let preset = live.verifier.as_ref().ok().and_then(Verifier::preset);
    let wanted = preset.map(|preset| &preset.accepted);
    let status = wanted
        .and_then(|wanted| StatusCode::from_u16(wanted.status).ok())
        .unwrap_or(StatusCode::OK);
    let id = id.to_string();
    let (body, content_type) = match wanted.and_then(|wanted| wanted.body.as_ref()) {
        Some(body) => (
            body.clone(),
            wanted.and_then(|wanted| wanted.content_type.as_deref()),
        ),
        None if status == StatusCode::NO_CONTENT => (String::new(), None),
        None => (format!("{{\"id\":\"{id}\"}}"), Some("application/json")),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(text).ok()) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert("hookferry-event-id", value);
    }
    response
}

fn handshake_answer(answer: verify::Answer) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    for (name, value) in &answer.headers.0 {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// A provider learns that its signature is not accepted; only the operator's log learns why.
fn refused(live: &LiveSource, refusal: &Refusal) -> Problem {
    warn!(source = %live.source.id, reason = refusal.code(), detail = %refusal, "refused a signature");
    if let Refusal::KeyUnavailable { .. } = refusal {
        return Problem::new(Code::StoreUnavailable).retry_after(KEY_RETRY);
    }
    let preset = live.verifier.as_ref().ok().and_then(Verifier::preset);
    let status = preset.and_then(|preset| StatusCode::from_u16(preset.refused_status).ok());
    let problem = Problem::new(Code::Signature);
    match status {
        Some(status) => problem.with_status(status),
        None => problem,
    }
}

/// Stored settings that no longer work: the owner's to mend, and no provider's fault.
fn unusable(live: &LiveSource, why: &str) -> Problem {
    error!(source = %live.source.id, why, "a source cannot verify anything");
    Problem::new(Code::StoreUnavailable).retry_after(KEY_RETRY)
}

fn body_problem(error: &BodyError, bytes_max: u64) -> Problem {
    match error {
        BodyError::TooLarge => Problem::new(Code::BodyTooLarge)
            .detail(format!("This source takes at most {bytes_max} bytes.")),
        BodyError::TooSlow => Problem::new(Code::Timeout),
        BodyError::NoMemory => Problem::new(Code::Overloaded).retry_after(Duration::from_secs(1)),
        BodyError::Broken => {
            Problem::new(Code::Request).detail("The body is malformed or broke off.")
        }
    }
}
