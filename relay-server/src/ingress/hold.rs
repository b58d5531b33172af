//! Holding a provider's request until the service has answered (sync mode).
//!
//! The event is durable before anything else. Then its delivery is handed out ahead of the queue, and
//! the service's own answer is passed back. Who gets none in time is answered as the source says, and
//! the event stays owed or ends as expired, as the source says. A task of its own does all this, so
//! that a provider which hangs up changes nothing about it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};
use http_body_util::Full;
use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, SourceId};
use tokio::{sync::oneshot, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

use super::{
    accept::{Answer, Ingress, accepted},
    body::ReadBody,
    receive::Accepted,
    reply::Reply,
};
use crate::{
    dispatch::Rulebook as _,
    ids,
    lifecycle::{DeliveryState, EndReason},
    problem::{Code, Problem},
    session::Registry,
    store::{
        DeliveryFilter, DeliverySummary, DestinationKey, Due, NewDelivery, NewEvent, Queries,
        Replay, Replayed, WaitedFor,
    },
    tenancy::{LiveSource, OnTimeout, SyncAnswer, SyncSettings},
    waiting::{Decision, Exchange, Full as RoomFull, Head, Pipe, Place, Room, Unanswered},
};

/// How long after its last session a destination still counts as served: its agent may be on its way
/// back.
const RETURN_MAX: Duration = Duration::from_secs(2);

/// How long the settlement of an answered attempt is waited for before its event ends without it.
const SETTLE_MAX: Duration = Duration::from_mins(16);

/// The same once the answer has broken off: the agent may be on its way back with its receipt.
const BROKEN_SETTLE_MAX: Duration = Duration::from_secs(30);

/// What holding needs of the rest of the relay.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) room: Arc<Room>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) queries: Arc<dyn Queries>,
    pub(crate) due: Arc<Due>,
    pub(crate) tasks: TaskTracker,
    /// The relay is going away: who is not in an agent's hands is answered at once.
    pub(crate) draining: CancellationToken,
    /// The end: everybody is answered at once.
    pub(crate) stop: CancellationToken,
}

/// A request to hold.
pub(super) struct Hold {
    pub(super) live: Arc<LiveSource>,
    pub(super) sync: SyncSettings,
    pub(super) new: NewEvent,
    /// Counts until the event is stored.
    pub(super) body: ReadBody,
    /// When the request came in.
    pub(super) since: Instant,
    pub(super) version: Version,
}

/// One held request on its way to an answer.
struct Held {
    live: Arc<LiveSource>,
    sync: SyncSettings,
    place: Arc<Place>,
    deadline: Instant,
    version: Version,
}

impl Ingress {
    /// How many requests of a source are held now.
    pub(crate) fn held_of(&self, source: SourceId) -> usize {
        self.holding.room.held_of(source)
    }

    /// Holds a request until its service has answered, or has not in time.
    pub(super) async fn hold(self: &Arc<Self>, hold: Hold) -> Result<Answer, Problem> {
        let source = &hold.live.source;
        let place = self.holding.room.admit(source.tenant, source.id);
        let place = place.map_err(|full| no_place(&hold.live, full))?;
        let (answer, answered) = oneshot::channel();
        let ingress = Arc::clone(self);
        let task = async move { ingress.keep(hold, place, answer).await };
        self.holding.tasks.spawn(task);
        let lost = |_| Err(Problem::new(Code::Internal));
        answered.await.unwrap_or_else(lost)
    }

    /// Takes a held request to its end.
    async fn keep(
        &self,
        hold: Hold,
        place: Arc<Place>,
        answer: oneshot::Sender<Result<Answer, Problem>>,
    ) {
        let held = Held {
            deadline: hold.since + hold.sync.timeout,
            live: hold.live,
            sync: hold.sync,
            place,
            version: hold.version,
        };
        let mut new = hold.new;
        let event = new.event.id;
        let answering = |delivery: &&NewDelivery| Some(delivery.destination) == held.live.answering;
        let delivery = new.deliveries.iter().find(answering);
        let exchange = delivery.and_then(|delivery| {
            let key = held.key(delivery.destination);
            let place = Arc::clone(&held.place);
            let room = &self.holding.room;
            room.open(event, delivery.id, key, held.expires(), place)
                .ok()
        });
        let left = held.deadline.saturating_duration_since(Instant::now());
        new.waited_for = exchange.as_ref().map(|exchange| WaitedFor {
            delivery: exchange.delivery,
            until: self.store.now().after(left),
        });
        let appended = self.append(new).await;
        drop(hold.body);
        match (appended, exchange) {
            (Ok(appended), Some(exchange)) if !appended.duplicate => {
                self.conduct(&held, &exchange, answer).await;
            }
            (Ok(appended), exchange) => {
                exchange.iter().for_each(|own| self.holding.room.close(own));
                match appended.duplicate {
                    true => self.repeat(&held, appended, answer).await,
                    false => {
                        let why = Unanswered::NoDestination;
                        let _ = answer.send(Ok(held.unanswered(event, why)));
                    }
                }
            }
            (Err(problem), exchange) => {
                exchange.iter().for_each(|own| self.holding.room.close(own));
                let _ = answer.send(Err(problem));
            }
        }
    }

    /// Waits for the answer to an exchange, passes it on, and sees to what becomes of the event.
    async fn conduct(
        &self,
        held: &Held,
        exchange: &Arc<Exchange>,
        answer: oneshot::Sender<Result<Answer, Problem>>,
    ) {
        let seat = exchange.sit();
        match self.decide(held, exchange).await {
            Decision::Answered(head, pipe) => {
                let passed = held.pass_on(exchange.event, &head, &pipe);
                drop(seat);
                // Who has hung up lets go of the answer here.
                let _ = answer.send(Ok(passed));
                self.see_through(held, exchange, head.status, &pipe).await;
            }
            Decision::Unanswered(why) => {
                let _ = answer.send(self.give_up(held, exchange, why).await);
            }
        }
        self.holding.room.close(exchange);
    }

    /// Waits until an exchange is decided, by the service or by time.
    async fn decide(&self, held: &Held, exchange: &Exchange) -> Decision {
        let holding = &self.holding;
        let (tenant, destination) = (exchange.key.tenant, exchange.key.destination);
        let absent_until = holding
            .registry
            .absent_until(tenant, destination, RETURN_MAX);
        let absent = async {
            match absent_until {
                Some(until) => time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
            if holding.registry.serves(tenant, destination) {
                std::future::pending().await
            }
        };
        let stopping = async {
            holding.draining.cancelled().await;
            // An agent that has it in hand may still answer.
            exchange.unoffered().await;
        };
        let why = if self.rests(exchange.key) {
            Unanswered::Resting
        } else {
            tokio::select! {
                decision = exchange.decided() => return decision,
                () = time::sleep_until(held.deadline.into()) => Unanswered::Timeout,
                () = absent => Unanswered::NoAgent,
                () = stopping => Unanswered::Stopping,
                () = holding.stop.cancelled() => Unanswered::Stopping,
            }
        };
        // An answer that came at this very moment counts.
        let is_mine = match held.sync.on_timeout {
            OnTimeout::Keep => exchange.give_up(why),
            OnTimeout::Expire => exchange.begin_end(),
        };
        match is_mine {
            true => Decision::Unanswered(why),
            false => exchange.decided().await,
        }
    }

    /// Whether somebody has paused a destination, or it is being maintained.
    fn rests(&self, key: DestinationKey) -> bool {
        let rules = self.tenancy.destination(key);
        rules.is_some_and(|rules| rules.rest(self.store.now()).is_some())
    }

    /// What is answered without the service. An event that is to expire has ended by then.
    async fn give_up(
        &self,
        held: &Held,
        exchange: &Exchange,
        why: Unanswered,
    ) -> Result<Answer, Problem> {
        debug!(event = %exchange.event, reason = why.as_str(), "a provider is answered without its service");
        if held.expires() {
            let ended = self.expire(exchange).await;
            exchange.ended(why);
            ended?;
        }
        Ok(held.unanswered(exchange.event, why))
    }

    /// Ends the delivery that nobody waits for any more, durably.
    async fn expire(&self, exchange: &Exchange) -> Result<(), Problem> {
        self.holding.room.note_ended(exchange.delivery);
        let (tenant, delivery) = (exchange.key.tenant, exchange.delivery);
        let ended = self.store.end(tenant, delivery, EndReason::Expired).await;
        exchange.withdraw();
        ended.map(drop).map_err(|error| {
            error!(%delivery, %error, "a delivery that nobody waits for could not be ended");
            Problem::from(&error)
        })
    }

    /// Stays until an answered attempt is settled, so that a repeat finds the answer. One that was no
    /// success, or broke off, is all that an event which is to expire gets.
    async fn see_through(&self, held: &Held, exchange: &Exchange, status: StatusCode, pipe: &Pipe) {
        let broken = async {
            pipe.broken().await;
            time::sleep(BROKEN_SETTLE_MAX).await;
        };
        let is_taken = tokio::select! {
            is_taken = exchange.settled() => is_taken,
            () = time::sleep(SETTLE_MAX) => false,
            () = broken => false,
            () = self.holding.stop.cancelled() => false,
        };
        let is_success = status.is_success() && !pipe.is_cut();
        if held.expires() && !is_taken && !is_success {
            // What fails here is logged, and stays owed.
            let _ = self.expire(exchange).await;
        }
    }

    /// A repeat is answered like the first as long as that is held. Afterwards it is a request of its
    /// own for what is still owed, or has expired; never a second call of what was taken.
    async fn repeat(
        &self,
        held: &Held,
        first: Accepted,
        answer: oneshot::Sender<Result<Answer, Problem>>,
    ) {
        let event = first.id;
        if let Some(exchange) = self.holding.room.find(event) {
            let _ = answer.send(Ok(self.listen(held, &exchange).await));
            return;
        }
        let Some(delivery) = self.owed_again(held, event).await else {
            let _ = answer.send(Ok(accepted(&held.live, event)));
            return;
        };
        let key = delivery.1;
        let place = Arc::clone(&held.place);
        let opened = self
            .holding
            .room
            .open(event, delivery.0, key, held.expires(), place);
        match opened {
            Ok(exchange) => {
                if let Some(again) = delivery.2 {
                    self.replay(held, &exchange, again).await;
                }
                self.holding.due.mark([key]);
                self.conduct(held, &exchange, answer).await;
            }
            // Another repeat was first.
            Err(exchange) => {
                let _ = answer.send(Ok(self.listen(held, &exchange).await));
            }
        }
    }

    /// Waits beside whoever holds the first request.
    async fn listen(&self, held: &Held, exchange: &Arc<Exchange>) -> Answer {
        let _seat = exchange.sit();
        let late = time::sleep_until(held.deadline.into());
        let decision = tokio::select! {
            decision = exchange.decided() => decision,
            () = late => Decision::Unanswered(Unanswered::Timeout),
        };
        match decision {
            Decision::Answered(head, pipe) => held.pass_on(exchange.event, &head, &pipe),
            Decision::Unanswered(why) => held.unanswered(exchange.event, why),
        }
    }

    /// What of an earlier event is still owed to the destination that answers; or, if that has expired,
    /// a delivery to be made anew.
    async fn owed_again(
        &self,
        held: &Held,
        event: EventId,
    ) -> Option<(DeliveryId, DestinationKey, Option<NewDelivery>)> {
        let destination = held.live.answering?;
        let key = held.key(destination);
        let filter = DeliveryFilter {
            event: Some(event),
            destination: Some(destination),
            ..DeliveryFilter::default()
        };
        let rows = self
            .holding
            .queries
            .deliveries(key.tenant, &filter, None, 1);
        let rows = match rows.await {
            Ok(page) => page.rows,
            Err(error) => {
                warn!(%event, %error, "the store could not say what became of a repeated event");
                return None;
            }
        };
        let DeliverySummary { id, state, .. } = rows.into_iter().next()?;
        if state.is_open() {
            return Some((id, key, None));
        }
        (state == DeliveryState::Expired && held.expires()).then(|| {
            let id = DeliveryId::from_u128(ids::fresh(self.store.now()));
            let again = NewDelivery {
                id,
                destination,
                order: None,
            };
            (id, key, Some(again))
        })
    }

    /// Owes an event again that had expired.
    async fn replay(&self, held: &Held, exchange: &Exchange, delivery: NewDelivery) {
        let replay = Replay {
            tenant: held.live.source.tenant,
            event: exchange.event,
            replay: ReplayId::from_u128(ids::fresh(self.store.now())),
            delivery,
        };
        match self.store.replay(&[replay]).await.as_deref() {
            Ok([Replayed::Owed]) => {}
            Ok(other) => {
                debug!(event = %exchange.event, ?other, "a repeated event is not owed again");
                exchange.give_up(Unanswered::Failed);
            }
            Err(error) => {
                error!(event = %exchange.event, %error, "a repeated event could not be owed again");
                exchange.give_up(Unanswered::Failed);
            }
        }
    }
}

impl Held {
    /// Whether an event that was not answered is over.
    fn expires(&self) -> bool {
        self.sync.on_timeout == OnTimeout::Expire
    }

    fn key(&self, destination: DestinationId) -> DestinationKey {
        DestinationKey {
            tenant: self.live.source.tenant,
            destination,
        }
    }

    /// The service's answer. Who comes when its start is gone hears that the event was taken.
    fn pass_on(&self, event: EventId, head: &Head, pipe: &Arc<Pipe>) -> Answer {
        let has_length = head.headers.contains_key(header::CONTENT_LENGTH);
        if self.version < Version::HTTP_11 && !has_length && !pipe.is_complete() {
            // Its end would be that of the connection, and a part would look like the whole.
            return self.unanswered(event, Unanswered::Failed);
        }
        let Some(body) = pipe.read(Arc::clone(&self.place)) else {
            return accepted(&self.live, event);
        };
        let mut response = Response::new(Reply::Streamed(body));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers.clone();
        response
    }

    /// What the source says instead of its service.
    fn unanswered(&self, event: EventId, why: Unanswered) -> Answer {
        match &self.sync.answer {
            Some(own) => configured(own),
            None if !self.expires() || why == Unanswered::NoDestination => {
                accepted(&self.live, event)
            }
            None => {
                let detail = format!("No answer of the service ({}).", why.as_str());
                let problem = Problem::new(Code::Unanswered).detail(detail);
                let problem = problem.retry_after(Duration::from_secs(1));
                problem.into_response().map(Reply::from)
            }
        }
    }
}

fn configured(own: &SyncAnswer) -> Answer {
    let body = Full::new(own.body.clone().into());
    let mut response = Response::new(Reply::Whole(body));
    *response.status_mut() = StatusCode::from_u16(own.status).unwrap_or(StatusCode::OK);
    for (name, value) in &own.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn no_place(live: &LiveSource, full: RoomFull) -> Problem {
    warn!(source = %live.source.id, limit = ?full, "too many requests wait for their answers");
    let (status, whose) = match full {
        RoomFull::Relay => (StatusCode::SERVICE_UNAVAILABLE, "the relay"),
        RoomFull::Tenant => (StatusCode::TOO_MANY_REQUESTS, "the tenant"),
        RoomFull::Source => (StatusCode::TOO_MANY_REQUESTS, "the source"),
    };
    let detail = format!("As many requests of {whose} wait as may.");
    let problem = Problem::new(Code::TooManyWaiting).with_status(status);
    problem.detail(detail).retry_after(Duration::from_secs(1))
}
