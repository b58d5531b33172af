//! What becomes of one complete request to a source: a challenge answered, or an event made durable.
//! Requests of providers and test events take the same way.

use std::{net::IpAddr, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use protocol::{
    frame::Headers,
    id::{DeliveryId, EventId},
};
use sha2::{Digest, Sha256};
use tracing::{debug, error, info, warn};

use super::accept::Ingress;
use crate::{
    clock::Timestamp,
    ids,
    lifecycle::{Event, Verification},
    problem::{Code, Problem},
    store::{Appended, NewDelivery, NewEvent},
    tenancy::{LiveSource, NotReady, SourceSettings, TenancyError},
    verify::{self, Credentials, Preset, Refusal, Verifier, handshake},
};

/// The longest id of a provider's that is remembered, in bytes.
const PROVIDER_ID_BYTES_MAX: usize = 512;

/// When to try again while a provider's key is missing or settings are broken.
const KEY_RETRY: Duration = Duration::from_secs(30);

/// One complete request to a source.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) method: String,
    /// The source's public URL and everything below it, as the provider knows it.
    pub(super) url: String,
    /// What is below the source's URL: a part of `url`.
    pub(super) target: String,
    pub(super) headers: Headers,
    pub(super) body: Bytes,
    pub(super) remote: Option<IpAddr>,
    pub(super) at: Timestamp,
}

/// What a request came to.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are events: a box would be an allocation for each"
)]
#[derive(Debug)]
pub(super) enum Taken {
    /// It was a challenge, and this is the answer.
    Challenge(verify::Answer),
    /// It is an event, which is to be made durable.
    Event(NewEvent),
}

/// A durable event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id; of a repeat, that of the first.
    pub id: EventId,
    /// Whether it repeats an event that was accepted before.
    pub duplicate: bool,
    /// What its provider calls this kind of event.
    pub event_type: Option<String>,
    /// How many destinations it goes to; of a repeat, how many it would go to now.
    pub destinations: usize,
}

impl Received {
    fn as_request(&self) -> verify::Request<'_> {
        verify::Request {
            method: &self.method,
            url: &self.url,
            headers: &self.headers,
            body: &self.body,
        }
    }
}

/// What a request turned out to be.
enum Examined {
    /// A provider's challenge, answered at once.
    Challenge(verify::Answer),
    /// An event, with what is known of it.
    Event(Known),
}

/// Why a request is neither.
enum Unfit {
    /// It is no challenge, and events do not come with its method.
    Method,
    Refused(Refusal),
}

/// What verification found out about an event.
struct Known {
    verification: Verification,
    event_type: Option<String>,
    provider_id: Option<String>,
}

impl Ingress {
    /// Takes one request, all of it. Its event is not durable yet.
    pub(super) async fn take(
        &self,
        live: &LiveSource,
        received: Received,
    ) -> Result<Taken, Problem> {
        match self.examine(live, &received).await? {
            Examined::Challenge(answer) => self.meet(live, answer).await.map(Taken::Challenge),
            Examined::Event(known) => Ok(Taken::Event(self.new_event(live, received, known))),
        }
    }

    /// Finds out what a request is. A key that must be fetched for that is waited for.
    async fn examine(&self, live: &LiveSource, received: &Received) -> Result<Examined, Problem> {
        let verifier = match &live.verifier {
            Ok(verifier) => verifier,
            Err(NotReady::AwaitingHandshake {
                preset,
                credentials,
            }) => return await_handshake(live, preset, credentials, received),
            Err(NotReady::Unusable(why)) => return Err(unusable(live, why)),
        };
        let seen = received.as_request();
        let mut examined = judge(live, verifier, &seen, received.at);
        if let Err(Unfit::Refused(Refusal::KeyUnavailable { url })) = &examined
            && self.outbound.obtain(url).await
        {
            examined = judge(live, verifier, &seen, received.at);
        }
        examined.map_err(|unfit| match unfit {
            Unfit::Method => Problem::new(Code::Method).allow(live.allow.clone()),
            Unfit::Refused(refusal) => refused(live, &refusal),
        })
    }

    /// Does what a challenge asks for before it is answered.
    async fn meet(
        &self,
        live: &LiveSource,
        mut answer: verify::Answer,
    ) -> Result<verify::Answer, Problem> {
        let source = &live.source;
        if let Some(secret) = answer.store_secret.take() {
            let kept = self
                .tenancy
                .take_handshake_secret(source.tenant, source.id, secret);
            kept.await.map_err(|error| match error {
                // Two at once: the other one was first.
                TenancyError::Conflict(_) => Problem::new(Code::Signature),
                error => {
                    error!(source = %source.id, %error, "the secret of a handshake could not be kept");
                    Problem::new(Code::StoreUnavailable).retry_after(KEY_RETRY)
                }
            })?;
            info!(source = %source.id, "a handshake brought the secret of a source");
        }
        if let Some(url) = answer.confirm_url.take()
            && !self.outbound.confirm(source.id, url)
        {
            return Err(Problem::new(Code::Overloaded).retry_after(KEY_RETRY));
        }
        Ok(answer)
    }

    /// The event that a request is, with what is owed for it.
    fn new_event(&self, live: &LiveSource, received: Received, known: Known) -> NewEvent {
        let now = received.at;
        let event = Event {
            id: EventId::from_u128(ids::fresh(now)),
            tenant: live.source.tenant,
            source: live.source.id,
            received_at: now,
            method: received.method,
            target: received.target,
            headers: received.headers,
            body: received.body,
            verification: known.verification,
            event_type: known.event_type,
            provider_id: known.provider_id,
            remote: received.remote,
        };
        let routed = live.route(&event);
        let directory = self.tenancy.directory();
        let fresh = |destination| NewDelivery {
            id: DeliveryId::from_u128(ids::fresh(now)),
            destination,
            order: directory.order_key(destination, &event),
        };
        let deliveries = routed.destinations.iter().copied().map(fresh).collect();
        NewEvent {
            event,
            dedupe_window: live.source.settings.dedupe.window,
            deliveries,
            decisions: routed.decisions,
            waited_for: None,
        }
    }

    /// Makes an event durable.
    pub(super) async fn append(&self, new: NewEvent) -> Result<Accepted, Problem> {
        let source = new.event.source;
        let mut accepted = Accepted {
            id: new.event.id,
            duplicate: false,
            event_type: new.event.event_type.clone(),
            destinations: new.deliveries.len(),
        };
        match self.store.append(new).await {
            Ok(Appended::New) => {
                self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                if accepted.destinations == 0 {
                    self.counters.unrouted.fetch_add(1, Ordering::Relaxed);
                    info!(event = %accepted.id, %source, "no route takes an event; it is kept");
                }
            }
            Ok(Appended::Duplicate { first, reopened }) => {
                self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                debug!(event = %first, reopened, "a repeat of an accepted event");
                accepted.id = first;
                accepted.duplicate = true;
            }
            Err(error) => {
                error!(%error, "an event could not be made durable");
                return Err(Problem::from(&error));
            }
        }
        Ok(accepted)
    }
}

/// A challenge or an event of a source that is ready.
fn judge(
    live: &LiveSource,
    verifier: &Verifier,
    seen: &verify::Request<'_>,
    now: Timestamp,
) -> Result<Examined, Unfit> {
    if let Some(answer) = verifier.handshake(seen, false, now.0) {
        return Ok(Examined::Challenge(answer));
    }
    if !live.takes(seen.method) {
        return Err(Unfit::Method);
    }
    let verified = verifier.verify(seen, now.0).map_err(Unfit::Refused)?;
    let settings = &live.source.settings;
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

/// Only the handshake is taken from a source whose secret is still to come.
fn await_handshake(
    live: &LiveSource,
    preset: &Preset,
    credentials: &Credentials,
    received: &Received,
) -> Result<Examined, Problem> {
    let seen = received.as_request();
    let answer = handshake::answer(preset, None, credentials, &seen, true, received.at.0);
    answer.map(Examined::Challenge).ok_or_else(|| {
        warn!(source = %live.source.id, "refused an event: the source still awaits its handshake");
        let detail = "The source awaits the provider's handshake, and takes no events before it.";
        Problem::new(Code::Signature).detail(detail)
    })
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

/// A provider learns that its signature is not accepted; only the operator's log learns why.
fn refused(live: &LiveSource, refusal: &Refusal) -> Problem {
    warn!(source = %live.source.id, reason = refusal.code(), detail = %refusal, "refused a signature");
    if let Refusal::KeyUnavailable { .. } = refusal {
        return Problem::new(Code::StoreUnavailable).retry_after(KEY_RETRY);
    }
    let preset = live.source.settings.preset();
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
