//! The loop around the relay's end of a session: it moves frames and leases, and decides nothing
//! that the state machine, the store or the settler decide.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use protocol::{
    frame::{self, Cancel, Drain, Hello, Offer, Receipt, Refuse, RefuseCode, RequestHead, ToRelay, Welcome},
    id::{DeliveryId, SessionId},
    limits,
    session::{Close, NotOffered, RelayConfig, RelayOutput, RelaySession},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode as WireCode},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Authorised,
    admission::{Admitted, Served, admit},
    holdings::Holdings,
    registry::{LiveSession, Registry, lock},
    settling::Settling,
};
use crate::{
    dispatch::{self, DispatchHandle},
    ids,
    settle::{Reported, Settler},
    store::{Adopted, DestinationKey, Events, Held, Lease, LeaseInfo},
    tenancy::Tenancy,
};

/// Messages read before the answers are flushed.
const READ_BURST: usize = 64;

/// How long a peer that does not read may block a write.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long to wait for the other side's close frame.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Batches of leases and confirmations that may wait. Each holds at least one delivery that is
/// covered by credit.
#[expect(clippy::cast_possible_truncation, reason = "the constant is small")]
const QUEUE_MAX: usize = limits::WINDOW_DELIVERIES_MAX as usize;

/// What every session of the relay shares.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) store: Arc<dyn Events>,
    pub(crate) settler: Arc<Settler>,
    pub(crate) dispatch: DispatchHandle,
    pub(crate) registry: Arc<Registry>,
    pub(crate) tenancy: Arc<Tenancy>,
    pub(crate) tasks: TaskTracker,
    /// The relay is going away: sessions ask their agents to leave.
    pub(crate) draining: CancellationToken,
    /// The end: sessions close at once.
    pub(crate) stop: CancellationToken,
    /// How long leases are kept for an agent that left without a word.
    pub(crate) grace: Duration,
    /// What providers see, without a final slash.
    pub(crate) public_url: String,
}

/// What woke a session.
enum Wake {
    Message(Option<Result<Message, tungstenite::Error>>),
    Leases(Vec<Lease>),
    Confirmed(Vec<frame::Settled>),
    TokensChanged,
    Timeout,
    Drain,
    Stop,
}

/// One live connection of an agent.
pub(crate) struct Session<S> {
    context: Arc<SessionContext>,
    authorised: Authorised,
    id: SessionId,
    socket: WebSocketStream<S>,
    machine: RelaySession,
    /// Set when the session is welcomed.
    open: Option<Open>,
    leases: mpsc::Receiver<Vec<Lease>>,
    outlet: dispatch::Outlet,
    confirmed: mpsc::Receiver<Vec<frame::Settled>>,
    confirm: mpsc::Sender<Vec<frame::Settled>>,
    tokens: watch::Receiver<u64>,
    drain_asked: bool,
}

/// What a session has once it is welcomed.
struct Open {
    live: Arc<LiveSession>,
    by_name: HashMap<String, Served>,
    by_key: HashMap<DestinationKey, Served>,
    holdings: Arc<Mutex<Holdings>>,
    reported: mpsc::Sender<Reported>,
    listener: Option<DestinationKey>,
}

/// The machine has spoken its last word.
struct Ended {
    close: Close,
    said_bye: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// A session that waits for Hello.
    pub(crate) fn new(context: Arc<SessionContext>, authorised: Authorised, socket: WebSocketStream<S>) -> Self {
        let (outlet, leases) = mpsc::channel(QUEUE_MAX);
        let (confirm, confirmed) = mpsc::channel(QUEUE_MAX);
        let config = RelayConfig { heartbeat: limits::HEARTBEAT_INTERVAL, silence_max: limits::SILENCE_MAX };
        Self {
            id: SessionId::from_u128(ids::fresh(context.store.now())),
            machine: RelaySession::new(config, Instant::now()),
            tokens: context.tenancy.changes(),
            context,
            authorised,
            socket,
            open: None,
            leases,
            outlet,
            confirmed,
            confirm,
            drain_asked: false,
        }
    }

    /// Runs the session to its end and leaves nothing behind.
    pub(crate) async fn run(mut self) {
        let ended = self.serve().await;
        self.leave(ended.said_bye).await;
        self.close_socket(&ended.close).await;
        debug!(session = %self.id, reason = %ended.close.reason, "session ended");
    }

    async fn serve(&mut self) -> Ended {
        loop {
            match time::timeout(WRITE_MAX, self.perform()).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(ended))) => return ended,
                Ok(Err(_)) | Err(_) => {
                    // The link is broken or the agent does not read: what it holds is kept for it.
                    self.machine.handle_disconnect();
                }
            }
            match self.wait().await {
                Wake::Message(message) => self.read_burst(message),
                Wake::Leases(batch) => self.offer(batch).await,
                Wake::Confirmed(settled) => self.machine.confirm(settled),
                Wake::TokensChanged => self.check_token(),
                Wake::Timeout => self.machine.handle_timeout(Instant::now()),
                Wake::Drain => self.ask_to_leave(),
                Wake::Stop => self.machine.refuse(going_away()),
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let timeout = self.machine.poll_timeout().map(time::Instant::from_std);
        tokio::select! {
            message = self.socket.next() => Wake::Message(message),
            Some(batch) = self.leases.recv() => Wake::Leases(batch),
            Some(settled) = self.confirmed.recv() => Wake::Confirmed(settled),
            Ok(()) = self.tokens.changed() => Wake::TokensChanged,
            () = sleep_until(timeout) => Wake::Timeout,
            () = self.context.draining.cancelled(), if !self.drain_asked => Wake::Drain,
            () = self.context.stop.cancelled() => Wake::Stop,
        }
    }

    /// Carries out what the machine wants, then flushes once.
    async fn perform(&mut self) -> Result<Option<Ended>, tungstenite::Error> {
        let mut fed = false;
        let mut ended = None;
        while let Some(output) = self.machine.poll_output() {
            match output {
                RelayOutput::Send(frame) => {
                    self.socket.feed(Message::Binary(frame.encode())).await?;
                    fed = true;
                }
                RelayOutput::Hello(hello) => self.answer_hello(*hello).await,
                RelayOutput::Credit { destination, deliveries, bytes } => {
                    self.pass_credit(&destination, deliveries, bytes).await;
                }
                RelayOutput::Receipt(receipt) => self.report(*receipt),
                RelayOutput::ResponseChunk(_) => {}
                RelayOutput::Renew(held) => self.renew(&held).await,
                RelayOutput::Release(held) => self.release(&held).await,
                RelayOutput::Rtt(rtt) => self.note_rtt(rtt),
                RelayOutput::Close { close, said_bye } => {
                    ended = Some(Ended { close, said_bye });
                    break;
                }
            }
        }
        if fed {
            // When the session has ended anyway, a failed flush changes nothing.
            let flushed = self.socket.flush().await;
            if ended.is_none() {
                flushed?;
            }
        }
        Ok(ended)
    }

    /// Takes a message and whatever else has arrived already.
    fn read_burst(&mut self, first: Option<Result<Message, tungstenite::Error>>) {
        let mut next = Some(first);
        for _ in 0..READ_BURST {
            let Some(message) = next else { return };
            if !self.take_message(message) {
                return;
            }
            next = self.socket.next().now_or_never();
        }
        if let Some(message) = next {
            self.take_message(message);
        }
    }

    /// False when nothing more can come.
    fn take_message(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> bool {
        let now = Instant::now();
        match message {
            Some(Ok(Message::Binary(bytes))) => match ToRelay::decode(bytes) {
                Ok(frame) => {
                    if let Err(violation) = self.machine.handle_frame(frame, now) {
                        warn!(session = %self.id, %violation, "an agent broke the protocol");
                        return false;
                    }
                }
                Err(error) => {
                    warn!(session = %self.id, %error, "an agent sent what is no frame");
                    self.machine.handle_malformed(now);
                    return false;
                }
            },
            Some(Ok(Message::Text(_))) => {
                self.machine.handle_malformed(now);
                return false;
            }
            // WebSocket's own pings are answered by the library.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                self.machine.handle_disconnect();
                return false;
            }
        }
        true
    }

    async fn answer_hello(&mut self, hello: Hello) {
        let admitted = match admit(&self.context, &self.authorised, &hello).await {
            Ok(admitted) => admitted,
            Err(refuse) => {
                info!(session = %self.id, agent = %hello.instance, reason = %refuse.detail, "refused an agent");
                return self.machine.refuse(refuse);
            }
        };
        let open = self.open_session(&hello, &admitted);
        let (granted, lost) = self.adopt(&hello, &open).await;
        self.note_deaths(&open, &granted).await;
        self.machine.welcome(welcome(self.id, &admitted), Instant::now());
        for held in lost {
            let reason = "the delivery is settled, or another agent has it".to_owned();
            self.machine.cancel(Cancel { delivery: held.delivery, lease: held.lease, reason });
        }
        for served in open.by_key.values() {
            let (key, ttl, outlet) = (served.key, served.ttl(), self.outlet.clone());
            self.context.dispatch.send(dispatch::Message::Join { session: self.id, key, ttl, outlet }).await;
        }
        info!(session = %self.id, agent = %hello.instance, name = %open.live.name, "an agent is connected");
        self.open = Some(open);
    }

    fn open_session(&self, hello: &Hello, admitted: &Admitted) -> Open {
        let tenant = self.authorised.tenant;
        let live = self.context.registry.add(LiveSession {
            id: self.id,
            tenant,
            agent: hello.instance,
            name: hello.name.chars().take(64).collect(),
            program: hello.agent.chars().take(64).collect(),
            destinations: admitted.served.iter().map(|served| served.key.destination).collect(),
            since: self.context.store.now(),
            rtt_us: 0.into(),
        });
        let holdings = self.context.registry.holdings((tenant, hello.instance));
        let (reported, receiver) = mpsc::channel(QUEUE_MAX);
        self.context.tasks.spawn(
            Settling {
                tenant,
                agent: hello.instance,
                settler: Arc::clone(&self.context.settler),
                holdings: Arc::clone(&holdings),
                reported: receiver,
                confirmed: self.confirm.clone(),
            }
            .run(),
        );
        Open {
            live,
            by_name: admitted.served.iter().map(|served| (served.name.clone(), served.clone())).collect(),
            by_key: admitted.served.iter().map(|served| (served.key, served.clone())).collect(),
            holdings,
            reported,
            listener: admitted.listener,
        }
    }

    /// Gives the agent back what it still works on.
    async fn adopt(&self, hello: &Hello, open: &Open) -> (Vec<DeliveryId>, Vec<frame::Held>) {
        let mut granted = Vec::new();
        let mut lost = Vec::new();
        let named: Vec<_> =
            hello.holding.iter().filter_map(|held| Some((held, self.held_of(held)?))).collect();
        let held: Vec<_> = named.iter().map(|(_, held)| *held).collect();
        let ttl = open.longest_ttl();
        let adopted = match self.context.store.adopt(&held, ttl).await {
            Ok(adopted) => adopted,
            Err(error) => {
                warn!(%error, "the store could not say what an agent still holds");
                return (granted, lost);
            }
        };
        let mut holdings = lock(&open.holdings);
        for ((held, _), adopted) in named.into_iter().zip(adopted) {
            match adopted {
                Adopted::Granted(lease) if open.by_key.contains_key(&lease.key) => {
                    granted.push(lease.delivery);
                    holdings.hold(lease, self.id, Instant::now() + ttl);
                }
                Adopted::Granted(_) | Adopted::Lost => lost.push(held.clone()),
            }
        }
        (granted, lost)
    }

    /// What an earlier session left behind and the agent does not name died with it.
    async fn note_deaths(&self, open: &Open, named: &[DeliveryId]) {
        let dead = lock(&open.holdings).take_orphans_but(named);
        if !dead.is_empty() {
            info!(session = %self.id, attempts = dead.len(), "an agent came back without attempts it had");
            self.context.settler.settle_lost(dead).await;
        }
    }

    async fn pass_credit(&self, destination: &str, deliveries: u64, bytes: u64) {
        let Some(served) = self.open.as_ref().and_then(|open| open.by_name.get(destination)) else { return };
        let message = dispatch::Message::Credit { session: self.id, key: served.key, deliveries, bytes };
        self.context.dispatch.send(message).await;
    }

    async fn offer(&mut self, batch: Vec<Lease>) {
        let Some(open) = &self.open else { return };
        let mut returned = Vec::new();
        for lease in batch {
            let Some(served) = open.by_key.get(&lease.info.key) else {
                returned.push(held(&lease.info));
                continue;
            };
            let offer = self.offer_of(&lease, served);
            lock(&open.holdings).hold(lease.info, self.id, Instant::now() + served.ttl());
            if let Err(NotOffered(_)) = self.machine.offer(offer) {
                lock(&open.holdings).drop_attempt(lease.info.delivery, lease.info.attempt);
                returned.push(held(&lease.info));
            }
        }
        if !returned.is_empty() {
            debug!(session = %self.id, leases = returned.len(), "returned leases that could not be offered");
            self.return_leases(&returned).await;
        }
    }

    fn offer_of(&self, lease: &Lease, served: &Served) -> Box<Offer> {
        let event = &lease.event;
        let directory = self.context.tenancy.directory();
        let source = directory.source(event.tenant, event.source);
        let source = source.map_or_else(|| event.source.to_string(), |live| live.source.name.as_str().to_owned());
        Box::new(Offer {
            delivery: lease.info.delivery,
            event: event.id,
            lease: frame::LeaseToken(lease.info.token.to_string()),
            lease_ms: u64::try_from(served.ttl().as_millis()).unwrap_or(u64::MAX),
            attempt: lease.info.attempt,
            destination: served.name.clone(),
            source,
            received_at_ms: event.received_at.0,
            event_type: event.event_type.clone(),
            remote: event.remote.map(|remote| remote.to_string()),
            public_origin: Some(origin(&self.context.public_url)),
            respond: false,
            request: RequestHead {
                method: event.method.clone(),
                target: event.target.clone(),
                headers: event.headers.clone(),
            },
            body_bytes: event.body.len() as u64,
            used_deliveries: 0,
            used_bytes: 0,
            body: event.body.clone(),
        })
    }

    fn report(&self, receipt: Receipt) {
        let Some(open) = &self.open else { return };
        let lease = lock(&open.holdings)
            .get(receipt.delivery)
            .filter(|lease| lease.attempt == receipt.attempt && lease.token.to_string() == receipt.lease.0);
        if open.reported.try_send(Reported { receipt, lease }).is_err() {
            // It stays unconfirmed, so the agent sends it again.
            debug!(session = %self.id, "too many receipts at once");
        }
    }

    async fn renew(&self, named: &[frame::Held]) {
        let Some(open) = &self.open else { return };
        let mut by_ttl: BTreeMap<Duration, Vec<Held>> = BTreeMap::new();
        {
            let mut holdings = lock(&open.holdings);
            for held in named.iter().filter_map(|held| self.held_of(held)) {
                let Some(lease) = holdings.get(held.delivery).filter(|lease| lease.token == held.token) else { continue };
                let Some(served) = open.by_key.get(&lease.key) else { continue };
                holdings.renew(std::iter::once(held.delivery), Instant::now() + served.ttl());
                by_ttl.entry(served.ttl()).or_default().push(held);
            }
            holdings.prune(Instant::now());
        }
        for (ttl, held) in by_ttl {
            if let Err(error) = self.context.store.renew(&held, ttl).await {
                warn!(%error, "leases could not be renewed");
            }
        }
    }

    async fn release(&self, named: &[frame::Held]) {
        let Some(open) = &self.open else { return };
        let held: Vec<_> = named.iter().filter_map(|held| self.held_of(held)).collect();
        {
            let mut holdings = lock(&open.holdings);
            for held in &held {
                holdings.drop_attempt(held.delivery, held.attempt);
            }
        }
        self.return_leases(&held).await;
    }

    async fn return_leases(&self, held: &[Held]) {
        if held.is_empty() {
            return;
        }
        if let Err(error) = self.context.store.release(held).await {
            warn!(%error, "leases could not be returned; they will run out");
        }
    }

    fn held_of(&self, held: &frame::Held) -> Option<Held> {
        let token = held.lease.0.parse().ok()?;
        Some(Held { tenant: self.authorised.tenant, delivery: held.delivery, token, attempt: held.attempt })
    }

    fn note_rtt(&self, rtt: Duration) {
        if let Some(open) = &self.open {
            let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
            open.live.rtt_us.store(micros, Ordering::Relaxed);
        }
    }

    fn check_token(&mut self) {
        let directory = self.context.tenancy.directory();
        let token = directory.token(self.authorised.token.id);
        if token.is_none_or(|token| token.is_expired(self.context.store.now())) {
            self.machine.refuse(Refuse {
                code: RefuseCode::TokenRevoked,
                detail: "the token was revoked or has expired; get a new one from the relay's operator".to_owned(),
                retry_after_ms: None,
            });
        }
    }

    fn ask_to_leave(&mut self) {
        self.drain_asked = true;
        self.machine.drain(Drain { reason: "the relay is shutting down".to_owned(), reconnect_after_ms: 0 });
    }

    /// Gives back what nobody else will.
    async fn leave(&mut self, said_bye: bool) {
        self.context.dispatch.send(dispatch::Message::Leave { session: self.id }).await;
        self.leases.close();
        while let Some(batch) = self.leases.recv().await {
            let held: Vec<_> = batch.iter().map(|lease| held(&lease.info)).collect();
            self.return_leases(&held).await;
        }
        let Some(open) = self.open.take() else { return };
        if said_bye {
            let held: Vec<_> = lock(&open.holdings).take_all_of(self.id).iter().map(held).collect();
            self.return_leases(&held).await;
        } else {
            self.keep_for_return(&open).await;
        }
        if let Some(listener) = open.listener {
            self.context.tenancy.listener_left(listener.destination);
        }
        self.context.registry.remove(self.id);
    }

    /// The agent may come back for what it holds; until then nobody else repeats it.
    async fn keep_for_return(&self, open: &Open) {
        let grace = self.context.grace;
        let held: Vec<_> = lock(&open.holdings).orphan(self.id, Instant::now() + grace).iter().map(held).collect();
        if held.is_empty() {
            return;
        }
        debug!(session = %self.id, leases = held.len(), "keeping leases for an agent's return");
        if let Err(error) = self.context.store.renew(&held, grace).await {
            warn!(%error, "leases could not be kept for an agent's return");
        }
        // The dispatcher sleeps until the old deadline; anything wakes it to look again.
        self.context.dispatch.send(dispatch::Message::Leave { session: self.id }).await;
        let (registry, stop) = (Arc::clone(&self.context.registry), self.context.stop.clone());
        let instance = (open.live.tenant, open.live.agent);
        self.context.tasks.spawn(async move {
            tokio::select! {
                () = time::sleep(grace + CLOSE_MAX) => registry.prune(instance, Instant::now()),
                () = stop.cancelled() => {}
            }
        });
    }

    /// Says why, and reads until the other side has heard it.
    async fn close_socket(&mut self, close: &Close) {
        let frame = CloseFrame { code: WireCode::from(close.code.as_u16()), reason: close.reason.clone().into() };
        let farewell = async {
            if self.socket.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        let _ = time::timeout(CLOSE_MAX, farewell).await;
    }
}

impl Open {
    fn longest_ttl(&self) -> Duration {
        self.by_key.values().map(Served::ttl).max().unwrap_or(limits::LEASE_MARGIN)
    }
}

async fn sleep_until(instant: Option<time::Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn held(lease: &LeaseInfo) -> Held {
    Held { tenant: lease.key.tenant, delivery: lease.delivery, token: lease.token, attempt: lease.attempt }
}

/// Scheme and host of a URL.
fn origin(url: &str) -> String {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    url[..end].to_owned()
}

fn going_away() -> Refuse {
    Refuse {
        code: RefuseCode::Unavailable,
        detail: "the relay has shut down".to_owned(),
        retry_after_ms: Some(500),
    }
}

fn welcome(session: SessionId, admitted: &Admitted) -> Welcome {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Welcome {
        version: limits::VERSION,
        session,
        heartbeat_ms: millis(limits::HEARTBEAT_INTERVAL),
        silence_ms: millis(limits::SILENCE_MAX),
        chunk_bytes_max: limits::CHUNK_BYTES_MAX as u64,
        destinations: admitted.served.iter().map(Served::to_frame).collect(),
        listening: admitted.listening.clone(),
    }
}
