//! One event whose provider waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use protocol::{
    frame::{LeaseToken, ResponseHead},
    id::{DeliveryId, EventId},
};
use tokio::sync::watch;

use super::{Flow, Pipe, Place};
use crate::store::DestinationKey;

/// Status and headers of a service's answer, as far as they concern the provider.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// Why a provider does not get the service's own answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The source names no destination that answers, or the event does not go there.
    NoDestination,
    /// No agent serves the destination.
    NoAgent,
    /// Somebody has paused the destination, or it is being maintained.
    Resting,
    /// Nothing came in time.
    Timeout,
    /// The service gave no answer that can be passed on.
    Failed,
    /// The relay is shutting down.
    Stopping,
}

impl Unanswered {
    /// For logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoDestination => "no_destination",
            Self::NoAgent => "no_agent",
            Self::Resting => "resting",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }
}

/// How an exchange was decided. It is decided once.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// With the service's answer.
    Answered(Arc<Head>, Arc<Pipe>),
    /// Without it.
    Unanswered(Unanswered),
}

#[derive(Debug, Clone)]
enum State {
    Waiting,
    /// Its delivery is being ended: an answer comes too late.
    Ending,
    Decided(Decision),
}

/// One event whose provider waits for the answer to one of its deliveries.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) event: EventId,
    pub(crate) delivery: DeliveryId,
    pub(crate) key: DestinationKey,
    /// There is no other attempt once it is decided: the event expires.
    is_only_chance: bool,
    state: watch::Sender<State>,
    /// Whether the attempt that was answered is settled, and how.
    settled: watch::Sender<Option<bool>>,
    /// Which attempt an agent has in hand.
    offered: watch::Sender<Option<(LeaseToken, Flow)>>,
    /// How many wait for the answer and have not begun to read it.
    seats: Arc<AtomicUsize>,
    /// It counts as a held request even when the provider has hung up.
    _place: Arc<Place>,
}

impl Exchange {
    pub(super) fn new(
        event: EventId,
        delivery: DeliveryId,
        key: DestinationKey,
        is_only_chance: bool,
        place: Arc<Place>,
    ) -> Arc<Self> {
        Arc::new(Self {
            event,
            delivery,
            key,
            is_only_chance,
            state: watch::Sender::new(State::Waiting),
            settled: watch::Sender::new(None),
            offered: watch::Sender::new(None),
            seats: Arc::default(),
            _place: place,
        })
    }

    /// For whoever is going to read the answer: nothing of it is dropped until this is.
    pub(crate) fn sit(self: &Arc<Self>) -> Seat {
        self.seats.fetch_add(1, Ordering::SeqCst);
        Seat(Arc::clone(self))
    }

    /// Waits until it is decided. Cancel-safe.
    pub(crate) async fn decided(&self) -> Decision {
        let mut states = self.state.subscribe();
        let decided = states.wait_for(|state| matches!(state, State::Decided(_)));
        match decided.await.as_deref() {
            Ok(State::Decided(decision)) => decision.clone(),
            // The sender is ours; it cannot be gone.
            _ => Decision::Unanswered(Unanswered::Stopping),
        }
    }

    /// Waits until the attempt that counts is settled: whether the service took the event. Cancel-safe.
    pub(crate) async fn settled(&self) -> bool {
        let mut settled = self.settled.subscribe();
        let taken = settled.wait_for(Option::is_some).await;
        taken.is_ok_and(|taken| *taken == Some(true))
    }

    /// Waits until no agent has it in hand. Cancel-safe.
    pub(crate) async fn unoffered(&self) {
        // The sender is ours; it cannot be gone.
        let _ = self.offered.subscribe().wait_for(Option::is_none).await;
    }

    /// Decides it without an answer, unless it is decided.
    pub(crate) fn give_up(&self, why: Unanswered) -> bool {
        self.advance(
            |state| matches!(state, State::Waiting),
            State::Decided(Decision::Unanswered(why)),
        )
    }

    /// From here on an answer comes too late. False if it was decided before.
    pub(crate) fn begin_end(&self) -> bool {
        self.advance(|state| matches!(state, State::Waiting), State::Ending)
    }

    /// Its delivery has ended: tells whoever waits, and the agent that has it in hand.
    pub(crate) fn ended(&self, why: Unanswered) {
        self.advance(
            |state| !matches!(state, State::Decided(_)),
            State::Decided(Decision::Unanswered(why)),
        );
        self.withdraw();
    }

    /// An agent that has it in hand need not begin with it.
    pub(crate) fn withdraw(&self) {
        if let Some((lease, flow)) = &*self.offered.borrow() {
            flow.withdraw(&(self.delivery, lease.clone()));
        }
    }

    /// Whoever holds this lease answers it.
    pub(super) fn offer(&self, lease: &LeaseToken, flow: &Flow) -> bool {
        let attempt = (lease.clone(), flow.clone());
        self.offered.send_replace(Some(attempt));
        matches!(*self.state.borrow(), State::Waiting)
    }

    /// Whether no agent should begin with it any more.
    pub(super) fn refuses(&self) -> bool {
        self.is_only_chance && !matches!(*self.state.borrow(), State::Waiting)
    }

    /// Nobody has it in hand any more.
    pub(super) fn take_back(&self) {
        self.offered.send_replace(None);
    }

    /// The answer begins. `None` if nobody waits for it, or it is another attempt's.
    pub(super) fn answer(&self, lease: &LeaseToken, head: &ResponseHead) -> Option<Arc<Pipe>> {
        let flow = self.flow_of(lease)?;
        let Some(head) = Head::read(head) else {
            self.give_up(Unanswered::Failed);
            return None;
        };
        let pipe = Pipe::new(
            flow,
            (self.delivery, lease.clone()),
            Arc::clone(&self.seats),
        );
        let answered = Decision::Answered(Arc::new(head), Arc::clone(&pipe));
        self.advance(
            |state| matches!(state, State::Waiting),
            State::Decided(answered),
        )
        .then_some(pipe)
    }

    /// An attempt is settled. What had no answer until now has none, if it was this one or the event is
    /// taken.
    pub(super) fn settle(&self, lease: &LeaseToken, is_taken: bool) {
        if is_taken || self.flow_of(lease).is_some() {
            self.give_up(Unanswered::Failed);
            self.settled.send_replace(Some(is_taken));
        }
    }

    fn flow_of(&self, lease: &LeaseToken) -> Option<Flow> {
        let offered = self.offered.borrow();
        let (_, flow) = offered.as_ref().filter(|(offered, _)| offered == lease)?;
        Some(flow.clone())
    }

    fn advance(&self, may: impl FnOnce(&State) -> bool, to: State) -> bool {
        self.state.send_if_modified(|state| {
            let may = may(state);
            if may {
                *state = to;
            }
            may
        })
    }
}

/// One who waits for an answer and has not begun to read it.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Exchange>);

impl Drop for Seat {
    fn drop(&mut self) {
        let exchange = &self.0;
        exchange.seats.fetch_sub(1, Ordering::SeqCst);
        // An answer that begins after this sees that the seat is free.
        let pipe = match &*exchange.state.borrow() {
            State::Decided(Decision::Answered(_, pipe)) => Some(Arc::clone(pipe)),
            _ => None,
        };
        if let Some(pipe) = pipe {
            pipe.catch_up();
        }
    }
}

impl Head {
    /// What of a service's head concerns the provider: hop-by-hop fields and ours do not. `None` if it
    /// is none of HTTP.
    fn read(head: &ResponseHead) -> Option<Self> {
        let mut headers = HeaderMap::with_capacity(head.headers.0.len());
        let listed: Vec<_> = head
            .headers
            .get_all("connection")
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(|name| name.trim_ascii().to_ascii_lowercase())
            .collect();
        for (name, value) in &head.headers.0 {
            let name = HeaderName::from_bytes(name).ok()?;
            let value = HeaderValue::from_maybe_shared(value.clone()).ok()?;
            let is_listed = listed
                .iter()
                .any(|listed| listed == name.as_str().as_bytes());
            if !is_dropped(&name) && !is_listed {
                headers.append(name, value);
            }
        }
        let lengths = headers.get_all(header::CONTENT_LENGTH).iter();
        let lengths: Vec<_> = lengths
            .map(|value| value.to_str().ok()?.parse::<u64>().ok())
            .collect();
        if !matches!(lengths[..], [] | [Some(_)]) {
            return None;
        }
        Some(Self {
            status: StatusCode::from_u16(head.status).ok()?,
            headers,
        })
    }
}

/// What concerns one hop only (RFC 9110 7.6.1), and what only the relay and its agents may say.
fn is_dropped(name: &HeaderName) -> bool {
    const HOP_BY_HOP: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    HOP_BY_HOP.contains(&name.as_str()) || name.as_str().starts_with("hookferry-")
}
