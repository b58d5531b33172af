//! The loop around the relay's end of a session: it moves frames and leases, and decides nothing
//! that the state machine, the store or the settler decide.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use protocol::{
    frame::{self, Cancel, Drain, Hello, Refuse, RefuseCode, ToRelay, Welcome},
    id::SessionId,
    limits,
    session::{Close, NotOffered, RelayConfig, RelayOutput, RelaySession},
};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Authorised,
    admission::{Admitted, Served, admit},
    answers::Answers,
    pipes::Pipes,
    registry::Registry,
    serving::{Opening, Serving},
    transport::{Broken, Incoming, Transport},
};
use crate::{
    dispatch::{self, DispatchHandle},
    ids,
    settle::Settler,
    store::{Events, Held, Lease},
    tenancy::Tenancy,
    waiting::{Attempt, Note, Room},
};

/// Messages read before the answers are flushed.
const READ_BURST: usize = 64;

/// Batches of leases, receipts and confirmations that may wait. Each holds at least one delivery
/// that is covered by credit.
#[expect(clippy::cast_possible_truncation, reason = "the constant is small")]
pub(super) const QUEUE_MAX: usize = limits::WINDOW_DELIVERIES_MAX as usize;

/// What every session of the relay shares.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) store: Arc<dyn Events>,
    pub(crate) settler: Arc<Settler>,
    pub(crate) dispatch: DispatchHandle,
    pub(crate) registry: Arc<Registry>,
    /// The links of the fall-back transport.
    pub(crate) pipes: Pipes,
    pub(crate) tenancy: Arc<Tenancy>,
    /// Who waits for the answers of services.
    pub(crate) room: Arc<Room>,
    pub(crate) tasks: TaskTracker,
    /// The relay is going away: sessions ask their agents to leave.
    pub(crate) draining: CancellationToken,
    /// The end: sessions close at once.
    pub(crate) stop: CancellationToken,
    /// How often either end asks whether the other is alive; three unanswered are death.
    pub(crate) heartbeat: Duration,
    /// How long leases are kept for an agent that left without a word.
    pub(crate) grace: Duration,
    /// What providers see, without a final slash.
    pub(crate) public_url: String,
    /// Which of several relays this is.
    pub(crate) node: String,
}

impl SessionContext {
    /// Silence after which an agent is presumed gone.
    pub(super) fn silence_max(&self) -> Duration {
        self.heartbeat * 3
    }
}

/// What woke a session.
enum Wake {
    Incoming(Incoming),
    Leases(Vec<Lease>),
    Confirmed(Vec<frame::Settled>),
    Noted(HashMap<Attempt, Note>),
    TokensChanged,
    Timeout,
    Replaced,
    Drain,
    Stop,
}

/// One live connection of an agent.
pub(super) struct Session<T> {
    context: Arc<SessionContext>,
    authorised: Authorised,
    id: SessionId,
    transport: T,
    machine: RelaySession,
    /// Set once it is welcomed.
    serving: Option<Serving>,
    leases: mpsc::Receiver<Vec<Lease>>,
    outlet: dispatch::Outlet,
    confirmed: mpsc::Receiver<Vec<frame::Settled>>,
    confirm: mpsc::Sender<Vec<frame::Settled>>,
    answers: Answers,
    tokens: watch::Receiver<u64>,
    /// The agent has a newer session and takes nothing from this one.
    replaced: CancellationToken,
    drain_asked: bool,
    stop_asked: bool,
}

/// The machine has spoken its last word.
struct Ended {
    close: Close,
    said_bye: bool,
}

impl<T: Transport> Session<T> {
    /// A session that waits for Hello.
    pub(super) fn new(context: Arc<SessionContext>, authorised: Authorised, transport: T) -> Self {
        let (outlet, leases) = mpsc::channel(QUEUE_MAX);
        let (confirm, confirmed) = mpsc::channel(QUEUE_MAX);
        let config = RelayConfig {
            heartbeat: context.heartbeat,
            silence_max: context.silence_max(),
        };
        Self {
            id: SessionId::from_u128(ids::fresh(context.store.now())),
            machine: RelaySession::new(config, Instant::now()),
            tokens: context.tenancy.changes(),
            answers: Answers::new(Arc::clone(&context.room)),
            context,
            authorised,
            transport,
            serving: None,
            leases,
            outlet,
            confirmed,
            confirm,
            replaced: CancellationToken::new(),
            drain_asked: false,
            stop_asked: false,
        }
    }

    /// Runs the session to its end and leaves nothing behind.
    pub(super) async fn run(mut self) {
        let ended = self.serve().await;
        self.leave(ended.said_bye).await;
        info!(session = %self.id, reason = %ended.close.reason, "a session ended");
        self.transport.close(&ended.close).await;
    }

    async fn serve(&mut self) -> Ended {
        loop {
            match self.perform().await {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                Err(Broken) => {
                    // The link is broken or the agent does not read: what it holds is kept for it.
                    self.machine.handle_disconnect();
                    continue;
                }
            }
            match self.wait().await {
                Wake::Incoming(incoming) => self.read_burst(incoming),
                Wake::Leases(batch) => self.offer(batch).await,
                Wake::Confirmed(settled) => self.machine.confirm(settled),
                Wake::Noted(notes) => self.heed(notes),
                Wake::TokensChanged => self.check_token(),
                Wake::Timeout => self.machine.handle_timeout(Instant::now()),
                Wake::Replaced => self.machine.replace(),
                Wake::Drain => self.ask_to_leave(),
                Wake::Stop => self.stop(),
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let timeout = self.machine.poll_timeout().map(time::Instant::from_std);
        tokio::select! {
            incoming = self.transport.next() => Wake::Incoming(incoming),
            Some(batch) = self.leases.recv() => Wake::Leases(batch),
            Some(settled) = self.confirmed.recv() => Wake::Confirmed(settled),
            notes = self.answers.noted() => Wake::Noted(notes),
            Ok(()) = self.tokens.changed() => Wake::TokensChanged,
            () = sleep_until(timeout) => Wake::Timeout,
            () = self.replaced.cancelled() => Wake::Replaced,
            () = self.context.draining.cancelled(), if !self.drain_asked => Wake::Drain,
            () = self.context.stop.cancelled(), if !self.stop_asked => Wake::Stop,
        }
    }

    /// Carries out what the machine wants as long as that can be sent, then flushes once.
    async fn perform(&mut self) -> Result<Option<Ended>, Broken> {
        let mut fed = false;
        while self.transport.has_room() || self.machine.is_ended() {
            let Some(output) = self.machine.poll_output() else {
                break;
            };
            match output {
                RelayOutput::Send(frame) => {
                    self.transport.feed(frame.encode()).await?;
                    fed = true;
                }
                RelayOutput::Hello(hello) => self.answer_hello(*hello).await,
                RelayOutput::Close { close, said_bye } => {
                    // It has ended anyway; that its last words are not heard changes nothing.
                    let _ = self.transport.flush().await;
                    return Ok(Some(Ended { close, said_bye }));
                }
                news => self.pass_on(news).await,
            }
        }
        if fed {
            self.transport.flush().await?;
        }
        Ok(None)
    }

    /// What only concerns a session that is welcomed.
    async fn pass_on(&mut self, news: RelayOutput) {
        let Some(serving) = &self.serving else { return };
        match news {
            RelayOutput::Credit {
                destination,
                deliveries,
                bytes,
            } => {
                serving.credit(&destination, deliveries, bytes);
            }
            RelayOutput::Receipt(receipt) => serving.report(*receipt),
            RelayOutput::Renew(held) => serving.renew(&held).await,
            RelayOutput::Release(held) => serving.release(&held).await,
            RelayOutput::Rtt(rtt) => serving.note_rtt(rtt),
            RelayOutput::ResponseChunk(chunk) => {
                let (delivery, lease) = (chunk.delivery, chunk.lease.clone());
                if !self.answers.take(chunk) {
                    self.machine.forgo_response(delivery, &lease);
                }
            }
            RelayOutput::ResponseCut { delivery, lease } => self.answers.cut(delivery, lease),
            RelayOutput::Send(_) | RelayOutput::Hello(_) | RelayOutput::Close { .. } => {}
        }
    }

    /// Takes what came in and whatever else has arrived already.
    fn read_burst(&mut self, first: Incoming) {
        let mut incoming = first;
        for _ in 0..READ_BURST {
            if !self.take_incoming(incoming) {
                return;
            }
            match self.transport.next().now_or_never() {
                Some(next) => incoming = next,
                None => return,
            }
        }
        self.take_incoming(incoming);
    }

    /// False when nothing more can come.
    fn take_incoming(&mut self, incoming: Incoming) -> bool {
        match incoming {
            Incoming::Frame(bytes) => self.take_frame(bytes),
            Incoming::Malformed => {
                self.machine.handle_malformed(Instant::now());
                false
            }
            Incoming::Room => true,
            Incoming::Gone => {
                self.machine.handle_disconnect();
                false
            }
        }
    }

    fn take_frame(&mut self, bytes: Bytes) -> bool {
        let now = Instant::now();
        match ToRelay::decode(bytes) {
            Ok(frame) => {
                let taken = self.machine.handle_frame(frame, now);
                if let Err(violation) = &taken {
                    warn!(session = %self.id, %violation, "an agent broke the protocol");
                }
                taken.is_ok()
            }
            Err(error) => {
                warn!(session = %self.id, %error, "an agent sent what is no frame");
                self.machine.handle_malformed(now);
                false
            }
        }
    }

    async fn answer_hello(&mut self, hello: Hello) {
        let admitted = match admit(&self.context, &self.authorised, &hello).await {
            Ok(admitted) => admitted,
            Err(refuse) => {
                info!(session = %self.id, agent = %hello.instance, reason = %refuse.detail, "refused an agent");
                return self.machine.refuse(refuse);
            }
        };
        let (tenant, confirm) = (self.authorised.tenant, self.confirm.clone());
        let opening = Opening {
            id: self.id,
            tenant,
            transport: T::NAME,
            hello: &hello,
            admitted: &admitted,
            replaced: &self.replaced,
        };
        let serving = Serving::open(&self.context, &opening, confirm);
        let resumed = serving.resume(&hello).await;
        for held in resumed.granted {
            if self.answers.offered(tenant, held.delivery, &held.lease) {
                self.machine.expect_response(held.delivery, held.lease);
            }
        }
        let welcome = welcome(self.id, &self.context.node, admitted);
        self.machine.welcome(welcome, Instant::now());
        for held in resumed.lost {
            let reason = "the delivery is settled, or another agent has it".to_owned();
            self.machine.cancel(Cancel {
                delivery: held.delivery,
                lease: held.lease,
                reason,
            });
        }
        serving.join(&self.outlet);
        self.serving = Some(serving);
    }

    async fn offer(&mut self, batch: Vec<Lease>) {
        let Some(serving) = &self.serving else { return };
        let mut returned = Vec::new();
        for lease in batch {
            if self.context.room.refuses(lease.info.delivery) {
                serving.refuse(&lease);
                continue;
            }
            let offered = serving
                .take(&lease, &self.answers)
                .map(|offer| self.machine.offer(offer));
            if let None | Some(Err(NotOffered(_))) = offered {
                returned.push(lease.info);
            }
        }
        if !returned.is_empty() {
            debug!(session = %self.id, leases = returned.len(), "put back leases that could not be offered");
            serving.put_back(&returned).await;
        }
    }

    /// Does what those who wait for answers have to say.
    fn heed(&mut self, notes: HashMap<Attempt, Note>) {
        for ((delivery, lease), note) in notes {
            if note.is_withdrawn {
                let reason = "nobody waits for its answer any more".to_owned();
                self.machine.cancel(Cancel {
                    delivery,
                    lease,
                    reason,
                });
            } else if note.is_unwanted {
                self.machine.forgo_response(delivery, &lease);
            } else {
                self.machine.response_taken(delivery, &lease, note.taken);
            }
        }
    }

    fn check_token(&mut self) {
        let directory = self.context.tenancy.directory();
        let token = directory.token(self.authorised.token.id);
        if token.is_none_or(|token| token.is_expired(self.context.store.now())) {
            self.machine.refuse(Refuse {
                code: RefuseCode::TokenRevoked,
                detail:
                    "the token was revoked or has expired; get a new one from the relay's operator"
                        .to_owned(),
                retry_after_ms: None,
            });
        }
    }

    fn ask_to_leave(&mut self) {
        self.drain_asked = true;
        self.machine.drain(Drain {
            reason: "the relay is shutting down".to_owned(),
            reconnect_after_ms: 0,
        });
    }

    fn stop(&mut self) {
        self.stop_asked = true;
        self.machine.refuse(Refuse {
            code: RefuseCode::Unavailable,
            detail: "the relay has shut down".to_owned(),
            retry_after_ms: Some(500),
        });
    }

    /// Gives back what nobody else will.
    async fn leave(&mut self, said_bye: bool) {
        self.context.dispatch.leave(self.id);
        self.leases.close();
        while let Some(batch) = self.leases.recv().await {
            self.context
                .return_leases(batch.iter().map(|lease| Held::of(&lease.info)).collect())
                .await;
        }
        if let Some(serving) = self.serving.take() {
            serving.end(said_bye).await;
        }
    }
}

async fn sleep_until(instant: Option<time::Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The machine fills in version and heartbeats.
fn welcome(session: SessionId, node: &str, admitted: Admitted) -> Welcome {
    Welcome {
        version: limits::VERSION,
        session,
        heartbeat_ms: 0,
        silence_ms: 0,
        chunk_bytes_max: 0,
        destinations: admitted.served.iter().map(Served::to_frame).collect(),
        node: Some(node.to_owned()),
        listening: admitted.listening,
    }
}
