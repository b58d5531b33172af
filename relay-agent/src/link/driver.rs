//! The one loop that does I/O and decides nothing: it carries frames between sockets and sessions,
//! calls between inbox and services, and outcomes back.
//!
//! There are as many links as configured, usually one. There is one more while one is in doubt and a
//! fresh one is being opened beside it, while a better one is tried, and while a relay that goes away
//! finishes. Work does not belong to a link: what is in hand when one ends is reported over another.

mod links;

mod respond;

mod renew;

mod spread;

mod stop;

mod takeover;

mod work;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use protocol::{
    frame::Refuse,
    id::SessionId,
    limits::HEARTBEAT_INTERVAL,
    session::{AgentConfig, AgentSession},
};
use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::Sleep,
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use self::{renew::Trial, stop::Stopping};
use super::{
    Carrier, DialError, Dialer, LinkId,
    awake::Awake,
    carrier::Choice,
    reconnect::Reconnect,
    socket::{Incoming, Socket},
};
use crate::{
    explain::Failure,
    forward::{Outcome, PARTS_MAX, ResponsePart, Service},
    inbox::Inbox,
    report::Report,
    status::{Gauges, Status},
    terminal::{News, View},
};
pub(crate) use renew::{Change, Renewal};

/// Program and version, as the relay sees them.
pub(crate) const PROGRAM: &str = concat!("relay-agent/", env!("CARGO_PKG_VERSION"));

/// The loop with everything it owns.
pub struct Driver {
    sessions: Sessions,
    services: Services,
    dialer: Arc<Dialer>,
    /// Which configuration new links are of.
    generation: Generation,
    generations_made: u64,
    /// The newest configuration, until a session is open with it.
    trial: Option<Box<Trial>>,
    renewals: mpsc::Receiver<Box<Renewal>>,
    dialling: Option<Dialling>,
    reconnect: Reconnect,
    /// Links to a relay that has one already which may still be exchanged for others.
    exchanges: u32,
    /// When to look for another relay, if several links lead to one.
    spread_due: Option<Instant>,
    awake: Awake,
    links: Vec<Link>,
    links_made: u64,
    /// Sessions that are over, and no later one has told the relay.
    over: Vec<SessionId>,
    inbox: Inbox,
    calls: JoinSet<Outcome>,
    /// Responses that providers wait for, from the calls.
    responses: mpsc::Receiver<ResponsePart>,
    report: Report,
    view: Box<dyn View>,
    status: Arc<Status>,
    /// When the loop has to turn, whatever happens.
    turn_due: Instant,
    timer: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    grace: Duration,
    stopping: Option<Stopping>,
    /// Connections that are being closed.
    farewells: TaskTracker,
}

/// What sessions are opened with.
pub(crate) struct Sessions {
    pub(crate) config: AgentConfig,
    /// How many there should be.
    pub(crate) connections: u32,
    pub(crate) choice: Choice,
}

/// Tells links of one configuration from those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Generation(u64);

/// What is called.
pub(crate) struct Services {
    /// By destination.
    pub(crate) named: Vec<(String, Arc<Service>)>,
    /// For `listen`, whose destination the relay names.
    pub(crate) listener: Option<Arc<Service>>,
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) sessions: Sessions,
    pub(crate) services: Services,
    pub(crate) dialer: Dialer,
    pub(crate) report: Report,
    pub(crate) view: Box<dyn View>,
    pub(crate) status: Arc<Status>,
    pub(crate) grace: Duration,
    pub(crate) renewals: mpsc::Receiver<Box<Renewal>>,
}

/// A link on its way.
struct Dialling {
    purpose: Purpose,
    dial: Pin<Box<dyn Future<Output = Result<Socket, DialError>> + Send>>,
}

/// What a link is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// There are fewer than there should be.
    Missing,
    /// It may serve better than one of those there are.
    Better,
}

struct Link {
    id: LinkId,
    socket: Socket,
    session: AgentSession,
    purpose: Purpose,
    phase: Phase,
    /// Of which configuration it is.
    generation: Generation,
    /// Which relay it leads to, if that has said so.
    node: Option<String>,
    /// How often both ends say that they are there.
    heartbeat: Duration,
    /// A heartbeat was not answered in time.
    is_suspect: bool,
    /// What the relay calls the session.
    name: Option<SessionId>,
    /// Sessions whose place it takes.
    replaces: Vec<SessionId>,
    refuse: Option<Refuse>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for Welcome.
    Opening,
    Open,
    /// The relay goes away, or the link is not needed any more: finishes what is in hand.
    Leaving,
}

impl Link {
    /// Whether it serves, or is about to.
    fn is_fine(&self) -> bool {
        match self.phase {
            Phase::Opening => self.purpose == Purpose::Missing,
            Phase::Open => !self.is_suspect,
            Phase::Leaving => false,
        }
    }

    fn carrier(&self) -> Carrier {
        self.socket.carrier()
    }
}

/// Everything that can wake the loop.
enum Wake {
    Incoming(LinkId, Incoming),
    Called(Result<(Id, Outcome), JoinError>),
    Response(ResponsePart),
    Dialled(Purpose, Result<Socket, DialError>),
    Renew(Box<Renewal>),
    Timeout,
    Stop,
}

impl Driver {
    pub(crate) fn new(parts: Parts, stop: CancellationToken) -> Self {
        let (parts_of_responses, responses) = mpsc::channel(PARTS_MAX);
        let mut inbox = Inbox::new(parts_of_responses);
        for (destination, service) in &parts.services.named {
            inbox.serve(destination, service.clone());
        }
        let now = Instant::now();
        Self {
            sessions: parts.sessions,
            services: parts.services,
            dialer: Arc::new(parts.dialer),
            generation: Generation(0),
            generations_made: 0,
            trial: None,
            renewals: parts.renewals,
            dialling: None,
            reconnect: Reconnect::new(now),
            exchanges: spread::EXCHANGES_MAX,
            spread_due: None,
            awake: Awake::new(now, SystemTime::now()),
            links: Vec::new(),
            links_made: 0,
            over: Vec::new(),
            inbox,
            calls: JoinSet::new(),
            responses,
            report: parts.report,
            view: parts.view,
            status: parts.status,
            turn_due: Instant::now(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            stop: Box::pin(stop.cancelled_owned()),
            grace: parts.grace,
            stopping: None,
            farewells: TaskTracker::new(),
        }
    }

    /// Serves until it is asked to stop, or until the relay refuses for good.
    ///
    /// # Errors
    ///
    /// Why the relay refused. What was in hand has been finished and recorded before.
    pub async fn run(mut self) -> Result<(), Failure> {
        loop {
            self.perform_outputs();
            if self.advance_stop() {
                break;
            }
            self.dial_if_due();
            self.turn_due = self.status.turn(Instant::now(), self.gauges());
            let wake = self.wait().await;
            self.look_around();
            match wake {
                Wake::Incoming(link, incoming) => self.receive(link, incoming),
                Wake::Response(part) => self.respond(part),
                Wake::Called(call) => self.called(call),
                Wake::Dialled(purpose, result) => self.dialled(purpose, result),
                Wake::Renew(renewal) => self.renew(*renewal),
                Wake::Timeout => self.time_passed(),
                Wake::Stop => self.begin_stop(None),
            }
        }
        self.farewells.close();
        self.farewells.wait().await;
        match self.stopping.and_then(|stopping| stopping.failure) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    async fn wait(&mut self) -> Wake {
        let deadline = tokio::time::Instant::from_std(self.deadline());
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        let Self {
            links,
            calls,
            responses,
            dialling,
            timer,
            stop,
            stopping,
            renewals,
            ..
        } = self;
        tokio::select! {
            biased;
            () = stop.as_mut(), if stopping.is_none() => Wake::Stop,
            Some(renewal) = renewals.recv(), if stopping.is_none() => Wake::Renew(renewal),
            wake = poll_fn(|cx| poll_work(links, calls, responses, dialling, cx)) => wake,
            () = timer.as_mut() => Wake::Timeout,
        }
    }

    /// When something is due that nobody else will wake us for.
    fn deadline(&self) -> Instant {
        let sessions = self
            .links
            .iter()
            .filter_map(|link| link.session.poll_timeout());
        let dial = self.dial_due().map(|(due, _)| due);
        let look = (!self.links.is_empty()).then(|| self.awake.due());
        let stop = self.stopping.as_ref().map(Stopping::due);
        let others = [dial, look, stop].into_iter().flatten();
        let soonest = sessions.chain(others).min();
        soonest.map_or(self.turn_due, |due| due.min(self.turn_due))
    }

    /// How work stands, for supervisors.
    fn gauges(&self) -> Gauges {
        let journal = self.report.journal();
        let is_open = |link: &&Link| link.phase == Phase::Open;
        Gauges {
            sessions: self.links.iter().filter(is_open).count(),
            in_hand: self.inbox.len(),
            unconfirmed: journal.unconfirmed_count(),
            remembered: journal.remembered(),
            journal_bytes: journal.file_bytes(),
        }
    }

    /// The state of the agent changed: tells people and supervisors.
    fn news(&mut self, news: &News<'_>) {
        self.status.news(news);
        self.view.news(news);
    }

    /// Before anything else that a sleep has let pile up.
    fn look_around(&mut self) {
        let now = Instant::now();
        let heartbeats = self.links.iter().map(|link| link.heartbeat);
        let fastest = heartbeats.min().unwrap_or(HEARTBEAT_INTERVAL);
        if let Some(slept) = self.awake.look(now, SystemTime::now(), fastest) {
            self.woke(now, slept);
        }
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        for link in &mut self.links {
            if link.session.poll_timeout().is_some_and(|due| due <= now) {
                link.session.handle_timeout(now);
            }
        }
    }

    fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }
}

/// Polls in the order in which work is best batched: what came in, then what services answered, and
/// only when there is neither, one flush for all that was said meanwhile.
fn poll_work(
    links: &mut [Link],
    calls: &mut JoinSet<Outcome>,
    responses: &mut mpsc::Receiver<ResponsePart>,
    dialling: &mut Option<Dialling>,
    cx: &mut Context<'_>,
) -> Poll<Wake> {
    for link in &mut *links {
        if let Poll::Ready(incoming) = link.socket.poll_incoming(cx) {
            return Poll::Ready(Wake::Incoming(link.id, incoming));
        }
    }
    if let Poll::Ready(Some(part)) = responses.poll_recv(cx) {
        return Poll::Ready(Wake::Response(part));
    }
    if let Poll::Ready(Some(call)) = calls.poll_join_next_with_id(cx) {
        return Poll::Ready(Wake::Called(call));
    }
    for link in &mut *links {
        if let Poll::Ready(gone) = link.socket.poll_flush(cx) {
            return Poll::Ready(Wake::Incoming(link.id, gone));
        }
    }
    if let Some(Dialling { purpose, dial }) = dialling
        && let Poll::Ready(result) = dial.as_mut().poll(cx)
    {
        let purpose = *purpose;
        *dialling = None;
        return Poll::Ready(Wake::Dialled(purpose, result));
    }
    Poll::Pending
}
