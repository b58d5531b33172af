//! The links of the fall-back transport: each is the place where the requests of one agent and its
//! session meet. How many there are, and what they hold, is bounded for each token and tenant.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use protocol::{
    id::{PipeId, TenantId, TokenId},
    poll::{Farewell, RelayPipe},
    session::Close,
};
use tokio::{
    sync::{Notify, futures::Notified},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    Authorised,
    transport::{Broken, Incoming, Transport},
};
use crate::ingress::BodyMemory;

/// The name of the fall-back transport, for people.
pub(crate) const POLL: &str = "poll";

/// Links that agents with one token may have at once.
const PER_TOKEN_MAX: usize = 64;

/// Links that the agents of one tenant may have at once.
const PER_TENANT_MAX: usize = 256;

/// Bytes that the links of one tenant hold before each may queue only when nothing of it waits.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of requests of one tenant that are read at the same time.
const REQUEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How long a session that has ended waits for a poll that takes its last word.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// How long the last word is kept in case it was lost on its way.
const LINGER: Duration = Duration::from_secs(10);

/// A link belongs to the token that opened it.
type Key = (TokenId, PipeId);

/// All links of the relay.
#[derive(Debug, Default)]
pub(crate) struct Pipes(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    pipes: HashMap<Key, Arc<Pipe>>,
    by_token: HashMap<TokenId, usize>,
    shares: HashMap<TenantId, Share>,
}

/// What the links of one tenant share.
#[derive(Debug)]
struct Share {
    links: usize,
    held_bytes: Arc<AtomicUsize>,
    requests: BodyMemory,
}

/// Why no link was opened.
#[derive(Debug)]
pub(super) struct TooMany;

/// A link that was asked for.
pub(super) enum Opened {
    /// It is new: serve it.
    New(PollTransport),
    /// It is open already.
    Known,
}

impl Pipes {
    /// Where the requests of a tenant are read to.
    pub(super) fn memory(&self, tenant: TenantId) -> BodyMemory {
        self.lock().share(tenant).requests.clone()
    }

    /// Forgets a tenant that has no link.
    pub(super) fn prune(&self, tenant: TenantId) {
        self.lock().prune(tenant);
    }

    /// Opens a link.
    pub(super) fn open(
        &self,
        authorised: &Authorised,
        link: PipeId,
        silence_max: Duration,
        stop: &CancellationToken,
    ) -> Result<Opened, TooMany> {
        let key = (authorised.token.id, link);
        let mut table = self.lock();
        if table.pipes.contains_key(&key) {
            return Ok(Opened::Known);
        }
        let of_token = table.by_token.get(&key.0).copied().unwrap_or(0);
        let share = table.share(authorised.tenant);
        if of_token >= PER_TOKEN_MAX || share.links >= PER_TENANT_MAX {
            return Err(TooMany);
        }
        share.links += 1;
        let pipe = Arc::new(Pipe {
            state: Mutex::new(State {
                relay: RelayPipe::default(),
                polls: 0,
                polled_at: Instant::now(),
                held_bytes: 0,
            }),
            for_session: Notify::new(),
            for_requests: Notify::new(),
            silence_max,
            tenant_bytes: Arc::clone(&share.held_bytes),
        });
        *table.by_token.entry(key.0).or_default() += 1;
        table.pipes.insert(key, Arc::clone(&pipe));
        Ok(Opened::New(PollTransport {
            pipe,
            wants_room: false,
            entry: Entry {
                pipes: Self(Arc::clone(&self.0)),
                key,
                tenant: authorised.tenant,
            },
            stop: stop.clone(),
        }))
    }

    /// Finds a link.
    pub(super) fn find(&self, authorised: &Authorised, link: PipeId) -> Option<Arc<Pipe>> {
        let key = (authorised.token.id, link);
        self.lock().pipes.get(&key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn share(&mut self, tenant: TenantId) -> &mut Share {
        self.shares.entry(tenant).or_insert_with(|| Share {
            links: 0,
            held_bytes: Arc::default(),
            requests: BodyMemory::new(REQUEST_BYTES_MAX),
        })
    }

    fn prune(&mut self, tenant: TenantId) {
        let is_unused = |share: &Share| share.links == 0 && share.requests.is_unused();
        if self.shares.get(&tenant).is_some_and(is_unused) {
            self.shares.remove(&tenant);
        }
    }

    fn remove(&mut self, key: Key, tenant: TenantId) {
        self.pipes.remove(&key);
        if let Some(of_token) = self.by_token.get_mut(&key.0) {
            *of_token -= 1;
            if *of_token == 0 {
                self.by_token.remove(&key.0);
            }
        }
        self.share(tenant).links -= 1;
        self.prune(tenant);
    }
}

/// A link's place in the table, until it is dropped.
struct Entry {
    pipes: Pipes,
    key: Key,
    tenant: TenantId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.pipes.lock().remove(self.key, self.tenant);
    }
}

/// One link.
#[derive(Debug)]
pub(super) struct Pipe {
    state: Mutex<State>,
    for_session: Notify,
    for_requests: Notify,
    /// How long there may be no poll before the agent is presumed gone.
    silence_max: Duration,
    /// What all links of the tenant hold.
    tenant_bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct State {
    relay: RelayPipe,
    /// Polls that are held.
    polls: usize,
    /// When the last poll ended.
    polled_at: Instant,
    /// What is counted of it in `tenant_bytes`.
    held_bytes: usize,
}

impl Pipe {
    /// Does something to the relay's end, and wakes whom it may concern.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut RelayPipe) -> T) -> T {
        let mut state = self.lock();
        let done = act(&mut state.relay);
        let held_bytes = state.relay.held_bytes();
        // Wraps in between, but not in the sum.
        self.tenant_bytes
            .fetch_add(held_bytes.wrapping_sub(state.held_bytes), Ordering::Relaxed);
        state.held_bytes = held_bytes;
        done
    }

    /// Wakes the session.
    pub(super) fn wake_session(&self) {
        self.for_session.notify_one();
    }

    /// A call of [`Self::wake_requests`] after this resolves it.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.for_requests.notified()
    }

    /// Wakes requests that wait.
    pub(super) fn wake_requests(&self) {
        self.for_requests.notify_waiters();
    }

    /// A poll is being held, until the value is dropped.
    pub(super) fn hold(&self) -> HeldPoll<'_> {
        self.lock().polls += 1;
        HeldPoll(self)
    }

    /// When to presume that the agent is gone.
    fn silent_at(&self) -> Option<Instant> {
        let state = self.lock();
        (state.polls == 0).then(|| state.polled_at + self.silence_max)
    }

    fn has_room(&self) -> bool {
        let state = self.lock();
        let is_shared_out = self.tenant_bytes.load(Ordering::Relaxed) >= HELD_BYTES_MAX;
        state.relay.has_room() && (!is_shared_out || state.relay.is_idle())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let held_bytes = self.lock().held_bytes;
        self.tenant_bytes.fetch_sub(held_bytes, Ordering::Relaxed);
    }
}

/// A poll that is being held.
pub(super) struct HeldPoll<'a>(&'a Pipe);

impl Drop for HeldPoll<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.polls -= 1;
        state.polled_at = Instant::now();
        drop(state);
        self.0.wake_session();
    }
}

/// The session's end of a link.
pub(super) struct PollTransport {
    pipe: Arc<Pipe>,
    /// It was told that there is no room.
    wants_room: bool,
    entry: Entry,
    stop: CancellationToken,
}

impl Transport for PollTransport {
    const NAME: &'static str = POLL;

    async fn next(&mut self) -> Incoming {
        loop {
            let frame = self.pipe.with(|relay| {
                let frame = relay.read();
                let is_closed = frame.is_none() && relay.agent_closed().is_some();
                frame
                    .map(Incoming::Frame)
                    .or(is_closed.then_some(Incoming::Gone))
            });
            if let Some(incoming) = frame {
                // A batch may wait until this one was read.
                self.pipe.wake_requests();
                return incoming;
            }
            if self.wants_room && self.pipe.has_room() {
                self.wants_room = false;
                return Incoming::Room;
            }
            let silent_at = self.pipe.silent_at();
            if silent_at.is_some_and(|at| at <= Instant::now()) {
                return Incoming::Gone;
            }
            tokio::select! {
                () = self.pipe.for_session.notified() => {}
                () = sleep_until(silent_at) => {}
            }
        }
    }

    fn has_room(&mut self) -> bool {
        self.wants_room = !self.pipe.has_room();
        !self.wants_room
    }

    async fn feed(&mut self, frame: Bytes) -> Result<(), Broken> {
        self.pipe.with(|relay| relay.push(frame));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        self.pipe.wake_requests();
        Ok(())
    }

    async fn close(self, close: &Close) {
        let Self {
            pipe, entry, stop, ..
        } = self;
        pipe.with(|relay| relay.end(Farewell::from(close)));
        pipe.wake_requests();
        let said = async {
            while !pipe.with(|relay| relay.is_said()) {
                pipe.for_session.notified().await;
            }
        };
        let _ = time::timeout(CLOSE_MAX, said).await;
        tokio::select! {
            () = time::sleep(LINGER) => {}
            () = stop.cancelled() => {}
        }
        drop(entry);
        // Whoever still holds a request of it has nothing more to expect.
        pipe.with(RelayPipe::clear);
        pipe.wake_requests();
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
