//! One request of a provider, from its head to the answer.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts,
};
use http_body_util::Full;
use hyper::body::Incoming;
use protocol::{frame::Headers, id::EventId};

use super::{
    ambiguity,
    body::{self, BodyDeadlines, BodyError, BodyMemory},
    hold::{Hold, Holding},
    rate::Shares,
    receive::{Received, Taken},
    reply::Reply,
    target::Target,
};
use crate::{
    clock::Timestamp,
    listener::{Head, Peer},
    outbound::Outbound,
    problem::{Code, Problem},
    store::Events,
    tenancy::{IpRange, LiveSource, Quota, Tenancy},
    verify,
};

/// When to try again where a tenant has stored all that it may: retention makes room now and then.
const QUOTA_RETRY: Duration = Duration::from_secs(60);

/// The answer to a provider.
pub(super) type Answer = Response<Reply>;

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
    /// Accepted events that no route took.
    pub unrouted: AtomicU64,
    /// Repeats of accepted events.
    pub duplicates: AtomicU64,
    /// Everything that was not accepted.
    pub refused: AtomicU64,
    /// Of it, what went beyond a tenant's quota.
    pub over_quota: AtomicU64,
}

/// The public URL of every source.
#[derive(Debug)]
pub struct Ingress {
    pub(super) config: IngressConfig,
    pub(super) tenancy: Arc<Tenancy>,
    pub(super) store: Arc<dyn Events>,
    pub(super) outbound: Arc<Outbound>,
    memory: BodyMemory,
    shares: Shares,
    pub(super) holding: Holding,
    pub(super) counters: IngressCounters,
}

impl Ingress {
    /// An ingress over the sources of `tenancy`.
    pub(crate) fn new(
        config: IngressConfig,
        tenancy: Arc<Tenancy>,
        store: Arc<dyn Events>,
        outbound: Arc<Outbound>,
        holding: Holding,
    ) -> Self {
        let memory = BodyMemory::new(config.body_bytes_in_flight_max);
        Self {
            config,
            tenancy,
            store,
            outbound,
            memory,
            shares: Shares::default(),
            holding,
            counters: IngressCounters::default(),
        }
    }

    /// What was answered so far.
    pub fn counters(&self) -> &IngressCounters {
        &self.counters
    }

    /// Answers one request below `/in/`.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        head: &Head,
    ) -> Answer {
        match self.accept(request, peer, head).await {
            Ok(answer) => answer,
            Err(problem) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                problem.into_response().map(Reply::from)
            }
        }
    }

    async fn accept(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        head: &Head,
    ) -> Result<Answer, Problem> {
        let since = Instant::now();
        let (parts, incoming) = request.into_parts();
        let path_and_query = parts.uri.path_and_query().map_or("/", |it| it.as_str());
        if head.is_too_large() {
            return Err(Problem::new(Code::HeadersTooLarge));
        }
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
        let quota = self.within_quota(&live, arrival.at)?;
        if target.has_dot_segment() {
            let detail = "The path has a dot segment (`.` or `..`, plain or percent-encoded).";
            return Err(Problem::new(Code::Request).detail(detail));
        }

        let bytes_max = self.body_bytes_max(&live);
        let bytes_max = bytes_max.min(quota.event_bytes_max.unwrap_or(u64::MAX));
        let body = body::read(
            incoming,
            bytes_max,
            &self.memory,
            self.config.body_deadlines,
        )
        .await
        .map_err(|error| body_problem(&error, bytes_max))?;
        let headers = to_headers(&parts.headers);
        let received = Received {
            method: parts.method.as_str().to_owned(),
            url: self.url(target.key, target.rest),
            target: target.rest.to_owned(),
            headers,
            body: body.bytes.clone(),
            remote: Some(arrival.remote),
            at: arrival.at,
        };
        let new = match self.take(&live, received).await? {
            Taken::Challenge(answer) => return Ok(handshake_answer(answer)),
            Taken::Event(new) => new,
        };
        let Some(sync) = live.source.settings.sync.clone() else {
            return Ok(accepted(&live, self.append(new).await?.id));
        };
        let version = parts.version;
        self.hold(Hold {
            live,
            sync,
            new,
            body,
            since,
            version,
        })
        .await
    }

    /// What a tenant may bring, unless it has brought as much already.
    fn within_quota(&self, live: &LiveSource, now: Timestamp) -> Result<Quota, Problem> {
        let tenant = live.source.tenant;
        let quota = self.tenancy.quota(tenant);
        let over = |wait| {
            self.counters.over_quota.fetch_add(1, Ordering::Relaxed);
            Err(Problem::new(Code::Quota).retry_after(wait))
        };
        let rate = quota.ingest_per_second;
        if rate.is_some_and(|rate| !self.shares.take(tenant, rate, now)) {
            return over(Duration::from_secs(1));
        }
        if quota.stored_events_max.is_some() || quota.stored_bytes_max.is_some() {
            let usage = self.store.usage(tenant);
            let is_over = |most: Option<u64>, has| most.is_some_and(|most| has >= most);
            if is_over(quota.stored_events_max, usage.events)
                || is_over(quota.stored_bytes_max, usage.bytes)
            {
                return over(QUOTA_RETRY);
            }
        }
        Ok(quota)
    }

    /// What providers know a place below a source's URL by.
    pub(super) fn url(&self, key: &str, rest: &str) -> String {
        format!("{}/in/{key}{rest}", self.config.public_url)
    }

    /// The largest body that a source takes, in bytes.
    pub(super) fn body_bytes_max(&self, live: &LiveSource) -> u64 {
        let own = live.source.settings.body_bytes_max;
        own.min(self.config.body_bytes_max)
    }

    /// Unknown and disabled sources answer alike.
    fn source(&self, target: Target<'_>) -> Result<Arc<LiveSource>, Problem> {
        let directory = self.tenancy.directory();
        let live = directory.source_by_key(target.key);
        live.filter(|live| live.source.settings.enabled)
            .cloned()
            .ok_or_else(|| Problem::new(Code::SourceUnknown))
    }

    /// The address a request really came from: behind a trusted proxy, the last address that the
    /// proxy did not trust itself.
    pub(crate) fn remote(&self, headers: &HeaderMap, peer: Peer) -> IpAddr {
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
pub(super) fn accepted(live: &LiveSource, id: EventId) -> Answer {
    let preset = live.source.settings.preset();
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
    let mut response = Response::new(Reply::Whole(Full::new(Bytes::from(body))));
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
    let mut response = Response::new(Reply::Whole(Full::new(Bytes::from(answer.body))));
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
