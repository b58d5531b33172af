//! The wiring: a [`Relay`] is bound, a [`Running`] one serves, and draining ends it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{error, info, warn};

use crate::{
    api,
    clock::Clock,
    config::Config,
    dispatch::{DispatchHandle, Dispatcher},
    ingress::{BodyDeadlines, Holding, Ingress, IngressConfig, Reply},
    listener::{self, Door, DoorLimits, DoorTimeouts, Handler, Head, Peer, Remote, TlsError},
    outbound::{Errands, Network, Outbound, PreloadError, preload},
    problem::{Code, Problem},
    replays::Replays,
    session::{self, Pipes, Registry, SessionContext},
    settle::Settler,
    store::{DestinationKey, Due, Events, Keeping, Queries, Settings, StoreError, Swept},
    tenancy::{
        self, CheckKeyError, KeyError, KeySource, MissingKey, ProviderKeys, Rekeyed, SecretKey,
        Tenancy, TenancyConfig,
    },
    waiting::{self, Room},
};

/// Where agents connect.
const CONNECT_PATH: &str = "/agent/v1/connect";

/// Where agents post that cannot connect.
const POLL_PATH: &str = "/agent/v1/poll";

/// How often listeners that are gone are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How often draining looks whether all agents have left.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How long tasks get to end once they were told to.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A store of any kind, as its three contracts.
#[derive(Debug, Clone)]
pub struct Stores {
    /// The hot path.
    pub events: Arc<dyn Events>,
    /// What people look at.
    pub queries: Arc<dyn Queries>,
    /// What they configured.
    pub settings: Arc<dyn Settings>,
    /// What becomes of events after they came.
    pub keeping: Arc<dyn Keeping>,
    /// What the store marks when deliveries fall due.
    pub due: Arc<Due>,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Preloaded keys cannot be used.
    #[error("keys_dir: {0}")]
    Keys(#[from] PreloadError),
    /// The key for secrets cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key for secrets is not the one they were encrypted with.
    #[error(transparent)]
    MissingKey(#[from] MissingKey),
    /// The settings cannot be read.
    #[error("cannot read the settings: {0}")]
    Settings(#[from] StoreError),
}

/// A relay that is bound but does not serve yet.
#[derive(Debug)]
pub struct Relay {
    public: Door,
    admin: Door,
    public_addr: SocketAddr,
    admin_addr: SocketAddr,
    stores: Stores,
    tenancy: Arc<Tenancy>,
    replays: Arc<Replays>,
    ingress: Arc<Ingress>,
    registry: Arc<Registry>,
    room: Arc<Room>,
    tasks: TaskTracker,
    draining: CancellationToken,
    stop: CancellationToken,
    errands: Errands,
    clock: Arc<dyn Clock>,
    public_url: String,
    key_source: KeySource,
    heartbeat: Duration,
    node: String,
    grace: Duration,
    sweep: Duration,
}

impl Relay {
    /// Reads the settings and binds both listeners, so that failure is immediate and ports are known.
    ///
    /// # Errors
    ///
    /// [`StartError`]: tell the operator and exit.
    pub async fn bind(
        config: &Config,
        stores: Stores,
        key: SecretKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        check_secrets(config, &stores, &key).await?;
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(listener::load_tls(certificate, key)?),
            _ => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let limits = DoorLimits {
            connections_max: config.limits.connections_max,
            connections_per_ip_max: config.limits.connections_per_ip_max,
        };
        let (public, public_addr) = bind(config.listen, tls, limits).await?;
        let (admin, admin_addr) = bind(config.admin_listen, None, limits).await?;

        let keys = config.keys_dir.as_deref().map(preload).transpose()?;
        let (outbound, errands) = Outbound::new(keys.unwrap_or_default(), Network::of_system());
        let tenancy = open_tenancy(config, &stores, key, &clock, &outbound).await?;
        let replays = open_replays(&stores, &tenancy).await?;
        let public_url = config
            .public_url
            .clone()
            .unwrap_or_else(|| format!("{scheme}://{public_addr}"));
        let public_url = public_url.trim_end_matches('/').to_owned();
        let registry = Arc::new(Registry::default());
        let room = Room::new(waiting::Limits::of_relay(config.limits.held_requests_max));
        let tasks = TaskTracker::new();
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let holding = Holding {
            room: Arc::clone(&room),
            registry: Arc::clone(&registry),
            queries: Arc::clone(&stores.queries),
            due: Arc::clone(&stores.due),
            tasks: tasks.clone(),
            draining: draining.clone(),
            stop: stop.clone(),
        };
        let ingress = Arc::new(Ingress::new(
            ingress_config(config, &public_url),
            Arc::clone(&tenancy),
            Arc::clone(&stores.events),
            outbound,
            holding,
        ));
        let heartbeat = Duration::from_secs(config.session.heartbeat_s);
        let grace = Duration::from_secs(config.session.grace_s);
        Ok(Self {
            public,
            admin,
            public_addr,
            admin_addr,
            stores,
            tenancy,
            replays,
            ingress,
            registry,
            room,
            tasks,
            draining,
            stop,
            errands,
            clock,
            public_url,
            key_source: config.key_source(),
            heartbeat,
            node: config.node_name(public_addr.port()),
            grace,
            sweep: Duration::from_secs(config.retention.sweep_s),
        })
    }

    /// Where providers and agents connect.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Where the API is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// What providers see, without a final slash.
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// Begins to serve.
    pub fn start(self) -> Running {
        let (tasks, draining, stop) = (self.tasks, self.draining, self.stop);
        let (registry, room) = (self.registry, self.room);
        let closed = CancellationToken::new();
        let stores = self.stores;
        let (events, keeping) = (stores.events, stores.keeping);
        let dispatch = DispatchHandle::new(self.clock, Box::new(Arc::clone(&self.tenancy)));
        let policies = policies(&self.tenancy);
        let settler = Settler::new(Arc::clone(&events), dispatch.clone(), policies);
        let settler = Arc::new(settler);
        let dispatcher = Dispatcher::new(
            &dispatch,
            Arc::clone(&events),
            stores.due,
            Arc::clone(&settler),
            self.tenancy.changes(),
        );
        let sessions = Arc::new(SessionContext {
            store: Arc::clone(&events),
            settler,
            dispatch: dispatch.clone(),
            registry: Arc::clone(&registry),
            pipes: Pipes::default(),
            tenancy: Arc::clone(&self.tenancy),
            room,
            tasks: tasks.clone(),
            draining: draining.clone(),
            stop: stop.clone(),
            heartbeat: self.heartbeat,
            grace: self.grace,
            public_url: self.public_url.clone(),
            node: self.node,
        });
        let api = api::ApiState {
            tenancy: Arc::clone(&self.tenancy),
            settings: stores.settings,
            events: Arc::clone(&events),
            queries: stores.queries,
            keeping: Arc::clone(&keeping),
            replays: Arc::clone(&self.replays),
            ingress: Arc::clone(&self.ingress),
            dispatch: dispatch.clone(),
            registry: Arc::clone(&registry),
            public_url: self.public_url,
            key_source: self.key_source,
        };
        let public = Arc::new(PublicDoor {
            ingress: Arc::clone(&self.ingress),
            sessions,
            api: api.clone(),
        });
        let admin = Arc::new(AdminDoor(api::router(api), Arc::clone(&self.ingress)));

        let mut vital = JoinSet::new();
        vital.spawn(self.public.serve(public, tasks.clone(), closed.clone()));
        vital.spawn(self.admin.serve(admin, tasks.clone(), stop.clone()));
        vital.spawn(dispatcher.run(stop.clone()));
        vital.spawn(self.errands.run(stop.clone()));
        let tenancy = Arc::clone(&self.tenancy);
        vital.spawn(retain(keeping, tenancy, self.sweep, stop.clone()));
        vital.spawn(self.replays.run(stop.clone()));
        vital.spawn(sweep_listeners(self.tenancy, stop.clone()));
        Running {
            vital,
            tasks,
            draining,
            closed,
            stop,
            registry,
            events,
            dispatch,
        }
    }
}

/// Reads the replay jobs that a stop left.
async fn open_replays(stores: &Stores, tenancy: &Arc<Tenancy>) -> Result<Arc<Replays>, StoreError> {
    let replays = Replays::open(
        Arc::clone(&stores.settings),
        Arc::clone(&stores.events),
        Arc::clone(&stores.queries),
        Arc::clone(tenancy),
    );
    Ok(Arc::new(replays.await?))
}

/// Opens the tenants' settings, and seals their secrets anew if the key was replaced.
async fn open_tenancy(
    config: &Config,
    stores: &Stores,
    key: SecretKey,
    clock: &Arc<dyn Clock>,
    outbound: &Arc<Outbound>,
) -> Result<Arc<Tenancy>, StartError> {
    let tenancy_config = TenancyConfig {
        provider_keys: ProviderKeys::new(Arc::<Outbound>::clone(outbound)),
        ..config.tenancy()
    };
    let tenancy = Tenancy::open(
        Arc::clone(&stores.settings),
        Arc::clone(&stores.events),
        key,
        Arc::clone(clock),
        tenancy_config,
    );
    let tenancy = Arc::new(tenancy.await?);
    reseal(&tenancy).await;
    Ok(tenancy)
}

fn ingress_config(config: &Config, public_url: &str) -> IngressConfig {
    IngressConfig {
        body_bytes_in_flight_max: config.limits.body_bytes_in_flight_max,
        body_bytes_max: config.limits.body_bytes_max,
        body_deadlines: BodyDeadlines::default(),
        public_url: public_url.to_owned(),
        trusted_proxies: config.trusted_proxies(),
    }
}

/// Changes nothing with a key that stored secrets were not encrypted with.
async fn check_secrets(
    config: &Config,
    stores: &Stores,
    key: &SecretKey,
) -> Result<(), StartError> {
    match tenancy::check_key(&*stores.settings, key).await {
        Err(CheckKeyError::Missing(missing)) if config.allow_lost_secrets => {
            warn!(%missing, "secrets are lost");
            Ok(())
        }
        Err(CheckKeyError::Missing(missing)) => Err(missing.into()),
        Err(CheckKeyError::Store(error)) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

/// Encrypts what an older key encrypted, so that a new first line of the key file is all it takes.
async fn reseal(tenancy: &Tenancy) {
    match tenancy.reseal().await {
        Ok(Rekeyed { resealed: 0, .. }) => {}
        Ok(done) => info!(
            secrets = done.resealed,
            "encrypted anew with the newest key"
        ),
        Err(error) => {
            warn!(%error, "not all secrets were encrypted anew; the older keys stay needed");
        }
    }
}

async fn bind(
    addr: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    limits: DoorLimits,
) -> Result<(Door, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { addr, source };
    let door = Door::bind(addr, tls, limits, DoorTimeouts::default())
        .await
        .map_err(failed)?;
    let addr = door.local_addr().map_err(failed)?;
    Ok((door, addr))
}

/// The settler asks for policies at the time of the verdict, so that changes count at once.
fn policies(tenancy: &Arc<Tenancy>) -> Box<crate::settle::Policies> {
    let tenancy = Arc::clone(tenancy);
    Box::new(move |key: DestinationKey| {
        let directory = tenancy.directory();
        let destination = directory.destination(key.tenant, key.destination)?;
        Some(destination.policy.judge())
    })
}

/// Lets go of what is not kept any longer, now and then, and the less often the longer it takes.
async fn retain(
    keeping: Arc<dyn Keeping>,
    tenancy: Arc<Tenancy>,
    every: Duration,
    stop: CancellationToken,
) {
    if let Err(error) = keeping.finish_erasures().await {
        warn!(%error, "an erasure that was cut off could not be finished; the next start tries again");
    }
    let mut pause = every;
    loop {
        tokio::select! {
            () = time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        let began = time::Instant::now();
        let swept = tokio::select! {
            swept = keeping.retain(&*tenancy) => swept,
            () = stop.cancelled() => return,
        };
        match swept {
            Ok(Swept {
                events: 0,
                expired: 0,
                ..
            }) => {}
            Ok(swept) => info!(?swept, "let go of what is not kept any longer"),
            Err(error) => warn!(%error, "could not look for what is not kept any longer"),
        }
        pause = every.max(began.elapsed() * 4);
    }
}

/// Ends the destinations of listeners that have gone, and notes which tokens were used.
async fn sweep_listeners(tenancy: Arc<Tenancy>, stop: CancellationToken) {
    let mut ticks = time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        tenancy.note_uses().await;
        for key in tenancy.listeners_to_expire(tenancy.now()) {
            if let Err(error) = tenancy.expire_listen(key).await {
                warn!(%error, destination = %key.destination, "a listener's destination could not be ended");
            }
        }
    }
}

/// A relay that serves.
#[derive(Debug)]
pub struct Running {
    /// Tasks without which nothing works: the first exit ends the relay.
    vital: JoinSet<()>,
    /// Tasks that come and go: connections and sessions.
    tasks: TaskTracker,
    draining: CancellationToken,
    /// The public door takes no connection any more.
    closed: CancellationToken,
    stop: CancellationToken,
    registry: Arc<Registry>,
    events: Arc<dyn Events>,
    dispatch: DispatchHandle,
}

impl Running {
    /// For who asks the dispatcher whether it lives.
    pub fn dispatch(&self) -> DispatchHandle {
        self.dispatch.clone()
    }

    /// Returns when a vital task has ended, which it never should. Cancel-safe.
    pub async fn failed(&mut self) {
        match self.vital.join_next().await {
            Some(Err(error)) => error!(%error, "a vital task of the relay failed"),
            Some(Ok(())) | None => error!("a vital task of the relay ended"),
        }
    }

    /// Stops in the order of the journey: no new requests unless agents need them to leave, then agents
    /// finish and leave within `deadline`, then everything ends and the store closes.
    pub async fn drain(self, deadline: Duration) {
        info!(sessions = self.registry.len(), "draining");
        self.draining.cancel();
        let all_left = async {
            while !self.registry.is_empty() {
                // Agents without a WebSocket need the door to report what they finish.
                if !self.registry.has_transport(session::POLL) {
                    self.closed.cancel();
                }
                time::sleep(DRAIN_LOOK).await;
            }
        };
        if time::timeout(deadline, all_left).await.is_err() {
            warn!(
                sessions = self.registry.len(),
                "agents had not left by the drain deadline"
            );
        }
        self.closed.cancel();
        self.stop.cancel();
        self.tasks.close();
        if time::timeout(STOP_MAX, self.tasks.wait()).await.is_err() {
            warn!(tasks = self.tasks.len(), "tasks had not ended in time");
        }
        self.events.close().await;
        info!("stopped");
    }
}

/// Providers and agents.
struct PublicDoor {
    ingress: Arc<Ingress>,
    sessions: Arc<SessionContext>,
    api: api::ApiState,
}

impl Handler for PublicDoor {
    type Body = Reply;

    async fn handle(
        &self,
        mut request: Request<Incoming>,
        peer: Peer,
        head: Head,
    ) -> Response<Self::Body> {
        let remote = self.ingress.remote(request.headers(), peer);
        request.extensions_mut().insert(Remote(remote));
        let path = request.uri().path();
        if path == CONNECT_PATH {
            return session::upgrade(&self.sessions, request).map(Reply::from);
        }
        if path == POLL_PATH {
            let answer = session::poll(&self.sessions, request).await;
            return answer.map(Reply::from);
        }
        if path.starts_with("/in/") {
            return self.ingress.answer(request, peer, &head).await;
        }
        if api::is_for_agents(path) {
            let answer = api::answer_agent(&self.api, request).await;
            return answer.map(Reply::from);
        }
        let problem = Problem::new(Code::SourceUnknown);
        problem.into_response().map(Reply::from)
    }
}

/// The API.
struct AdminDoor(axum::Router, Arc<Ingress>);

impl Handler for AdminDoor {
    type Body = axum::body::Body;

    async fn handle(
        &self,
        mut request: Request<Incoming>,
        peer: Peer,
        _: Head,
    ) -> Response<Self::Body> {
        let remote = self.1.remote(request.headers(), peer);
        request.extensions_mut().insert(Remote(remote));
        let request = request.map(axum::body::Body::new);
        match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
