//! The loop around the relay's end of a session: it moves frames and leases, and decides nothing
//! that the state machine, the store or the settler decide.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use protocol::{
    frame::{self, Cancel, Drain, Hello, Refuse, RefuseCode, ToRelay, Welcome},
    id::SessionId,
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
    registry::Registry,
    serving::{Serving, held},
};
use crate::{
    dispatch::{self, DispatchHandle},
    ids,
    settle::Settler,
    store::{Events, Lease},
    tenancy::Tenancy,
};

/// Messages read before the answers are flushed.
const READ_BURST: usize = 64;

/// How long a peer that does not read may block a write.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long to wait for the other side's close frame.
const CLOSE_MAX: Duration = Duration::from_secs(2);

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
    pub(crate) tenancy: Arc<Tenancy>,
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
pub(super) struct Session<S> {
    context: Arc<SessionContext>,
    authorised: Authorised,
    id: SessionId,
    socket: WebSocketStream<S>,
    machine: RelaySession,
    /// Set once it is welcomed.
    serving: Option<Serving>,
    leases: mpsc::Receiver<Vec<Lease>>,
    outlet: dispatch::Outlet,
    confirmed: mpsc::Receiver<Vec<frame::Settled>>,
    confirm: mpsc::Sender<Vec<frame::Settled>>,
    tokens: watch::Receiver<u64>,
    drain_asked: bool,
    stop_asked: bool,
}

/// The machine has spoken its last word.
struct Ended {
    close: Close,
    said_bye: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// A session that waits for Hello.
    pub(super) fn new(
        context: Arc<SessionContext>,
        authorised: Authorised,
        socket: WebSocketStream<S>,
    ) -> Self {
        let (outlet, leases) = mpsc::channel(QUEUE_MAX);
        let (confirm, confirmed) = mpsc::channel(QUEUE_MAX);
        let config = RelayConfig {
            heartbeat: context.heartbeat,
            silence_max: context.heartbeat * 3,
        };
        Self {
            id: SessionId::from_u128(ids::fresh(context.store.now())),
            machine: RelaySession::new(config, Instant::now()),
            tokens: context.tenancy.changes(),
            context,
            authorised,
            socket,
            serving: None,
            leases,
            outlet,
            confirmed,
            confirm,
            drain_asked: false,
            stop_asked: false,
        }
    }

    /// Runs the session to its end and leaves nothing behind.
    pub(super) async fn run(mut self) {
        let ended = self.serve().await;
        self.leave(ended.said_bye).await;
        self.close_socket(&ended.close).await;
        info!(session = %self.id, reason = %ended.close.reason, "a session ended");
    }

    async fn serve(&mut self) -> Ended {
        loop {
            match self.perform().await {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                Err(_) => {
                    // The link is broken or the agent does not read: what it holds is kept for it.
                    self.machine.handle_disconnect();
                    continue;
                }
            }
            match self.wait().await {
                Wake::Message(message) => self.read_burst(message),
                Wake::Leases(batch) => self.offer(batch).await,
                Wake::Confirmed(settled) => self.machine.confirm(settled),
                Wake::TokensChanged => self.check_token(),
                Wake::Timeout => self.machine.handle_timeout(Instant::now()),
                Wake::Drain => self.ask_to_leave(),
                Wake::Stop => self.stop(),
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
            () = self.context.stop.cancelled(), if !self.stop_asked => Wake::Stop,
        }
    }

    /// Carries out what the machine wants, then flushes once.
    async fn perform(&mut self) -> Result<Option<Ended>, tungstenite::Error> {
        let mut fed = false;
        while let Some(output) = self.machine.poll_output() {
            match output {
                RelayOutput::Send(frame) => {
                    let frame = Message::Binary(frame.encode());
                    in_time(self.socket.feed(frame)).await?;
                    fed = true;
                }
                RelayOutput::Hello(hello) => self.answer_hello(*hello).await,
                RelayOutput::Close { close, said_bye } => {
                    // It has ended anyway; that its last words are not heard changes nothing.
                    let _ = in_time(self.socket.flush()).await;
                    return Ok(Some(Ended { close, said_bye }));
                }
                news => self.pass_on(news).await,
            }
        }
        if fed {
            in_time(self.socket.flush()).await?;
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
                serving.credit(&destination, deliveries, bytes).await;
            }
            RelayOutput::Receipt(receipt) => serving.report(*receipt),
            RelayOutput::Renew(held) => serving.renew(&held).await,
            RelayOutput::Release(held) => serving.release(&held).await,
            RelayOutput::Rtt(rtt) => serving.note_rtt(rtt),
            // Nobody waits for a service's answer before sync mode.
            RelayOutput::ResponseChunk(_)
            | RelayOutput::ResponseCut { .. }
            | RelayOutput::Send(_)
            | RelayOutput::Hello(_)
            | RelayOutput::Close { .. } => {}
        }
    }

    /// Takes a message and whatever else has arrived already.
    fn read_burst(&mut self, first: Option<Result<Message, tungstenite::Error>>) {
        let mut message = first;
        for _ in 0..READ_BURST {
            if !self.take_message(message) {
                return;
            }
            match self.socket.next().now_or_never() {
                Some(next) => message = next,
                None => return,
            }
        }
        self.take_message(message);
    }

    /// False when nothing more can come.
    fn take_message(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> bool {
        let now = Instant::now();
        match message {
            Some(Ok(Message::Binary(bytes))) => match ToRelay::decode(bytes) {
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
            },
            Some(Ok(Message::Text(_))) => {
                self.machine.handle_malformed(now);
                false
            }
            // WebSocket's own pings are answered by the library.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => true,
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                self.machine.handle_disconnect();
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
        let serving = Serving::open(&self.context, self.id, tenant, &hello, &admitted, confirm);
        let lost = serving.resume(&hello).await;
        self.machine
            .welcome(welcome(self.id, admitted), Instant::now());
        for held in lost {
            let reason = "the delivery is settled, or another agent has it".to_owned();
            self.machine.cancel(Cancel {
                delivery: held.delivery,
                lease: held.lease,
                reason,
            });
        }
        serving.join(&self.outlet).await;
        self.serving = Some(serving);
    }

    async fn offer(&mut self, batch: Vec<Lease>) {
        let Some(serving) = &self.serving else { return };
        let mut returned = Vec::new();
        for lease in batch {
            let offered = serving.take(&lease).map(|offer| self.machine.offer(offer));
            if let None | Some(Err(NotOffered(_))) = offered {
                returned.push(lease.info);
            }
        }
        if !returned.is_empty() {
            debug!(session = %self.id, leases = returned.len(), "put back leases that could not be offered");
            serving.put_back(&returned).await;
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
        self.context
            .dispatch
            .send(dispatch::Message::Leave { session: self.id })
            .await;
        self.leases.close();
        while let Some(batch) = self.leases.recv().await {
            self.context
                .return_leases(batch.iter().map(|lease| held(&lease.info)).collect())
                .await;
        }
        if let Some(serving) = self.serving.take() {
            serving.end(said_bye).await;
        }
    }

    /// Says why, and reads until the other side has heard it.
    async fn close_socket(&mut self, close: &Close) {
        let frame = CloseFrame {
            code: WireCode::from(close.code.as_u16()),
            reason: close.reason.clone().into(),
        };
        let farewell = async {
            if self.socket.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        let _ = time::timeout(CLOSE_MAX, farewell).await;
    }
}

/// Only writes are cut short: what else a session does must not be left half done.
async fn in_time(
    write: impl Future<Output = Result<(), tungstenite::Error>>,
) -> Result<(), tungstenite::Error> {
    let late = |_| tungstenite::Error::Io(io::ErrorKind::TimedOut.into());
    time::timeout(WRITE_MAX, write).await.map_err(late)?
}

async fn sleep_until(instant: Option<time::Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The machine fills in version and heartbeats.
fn welcome(session: SessionId, admitted: Admitted) -> Welcome {
    Welcome {
        version: limits::VERSION,
        session,
        heartbeat_ms: 0,
        silence_ms: 0,
        chunk_bytes_max: 0,
        destinations: admitted.served.iter().map(Served::to_frame).collect(),
        listening: admitted.listening,
    }
}
