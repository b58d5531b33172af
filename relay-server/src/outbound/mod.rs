//! What the relay itself asks of providers: public keys that live at an address, and the confirmation
//! of subscriptions. Nothing else ever leaves, and only to addresses that verification has pinned.
//!
//! Requests wait for a key in [`Outbound::obtain`]; one task, [`Errands`], does all the fetching, so
//! that a hundred requests with the same missing key cause one fetch, and a flood of forged ones
//! causes no more than a few at a time.

mod address;

mod cache;

mod fetch;

mod preload;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use protocol::id::SourceId;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use cache::{KeyCache, Want};
use fetch::FetchError;
pub use fetch::Network;
pub use preload::{PreloadError, preload};

use crate::verify::{KeySource, KeyUrl, PreloadedKeys, PublicKey};

/// How long a request waits for a key that is being fetched.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Fetches at the same time.
const FETCHES_MAX: usize = 4;

/// Errands that wait for one of these. More are turned away.
const ERRANDS_MAX: usize = 16;

/// How often old keys are looked for.
const REFRESH_INTERVAL: Duration = Duration::from_mins(1);

/// Where keys come from: those the operator put there, those fetched so far, and the wish for more.
pub struct Outbound {
    preloaded: PreloadedKeys,
    cache: Mutex<KeyCache>,
    errands: mpsc::Sender<Errand>,
    /// Counts finished fetches.
    finished: watch::Sender<u64>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

/// Something to ask of a provider.
#[derive(Debug)]
enum Errand {
    Key(KeyUrl),
    /// A subscription's confirmation, whose address verification has pinned.
    Confirm {
        source: SourceId,
        url: String,
    },
}

impl Outbound {
    /// With keys that are there already; run the [`Errands`] to fetch others.
    pub fn new(preloaded: PreloadedKeys, network: Network) -> (Arc<Self>, Errands) {
        let (sender, receiver) = mpsc::channel(ERRANDS_MAX);
        let outbound = Arc::new(Self {
            preloaded,
            cache: Mutex::default(),
            errands: sender,
            finished: watch::Sender::new(0),
        });
        let errands = Errands {
            outbound: Arc::clone(&outbound),
            receiver,
            network,
        };
        (outbound, errands)
    }

    /// Nobody runs errands.
    #[cfg(test)]
    pub(crate) fn idle() -> Arc<Self> {
        Self::new(PreloadedKeys::default(), Network::nowhere()).0
    }

    /// Waits a bounded time for the key at an address to be at hand, fetching it if nobody else
    /// does. False if it is not: answer 503, and the provider tries again.
    pub async fn obtain(&self, url: &KeyUrl) -> bool {
        let mut finished = self.finished.subscribe();
        let want = self.cache().want(url, Instant::now());
        match want {
            Want::Have => return true,
            Want::No => return false,
            Want::Wait => {}
            Want::Fetch => {
                if self.errands.try_send(Errand::Key(url.clone())).is_err() {
                    self.cache().turned_away(url);
                    return false;
                }
            }
        }
        let arrived = async {
            while self.cache().is_fetching(url) {
                if finished.changed().await.is_err() {
                    return;
                }
            }
        };
        // Late or in time, the cache says whether it is there.
        let _ = time::timeout(WAIT_MAX, arrived).await;
        self.keys(url).is_some()
    }

    /// Confirms a subscription soon. False if too much waits already.
    #[must_use]
    pub fn confirm(&self, source: SourceId, url: String) -> bool {
        self.errands
            .try_send(Errand::Confirm { source, url })
            .is_ok()
    }

    fn cache(&self) -> MutexGuard<'_, KeyCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, url: &KeyUrl, outcome: Result<Vec<PublicKey>, FetchError>) {
        let keys = match outcome {
            Ok(keys) => {
                info!(
                    url = url.as_str(),
                    keys = keys.len(),
                    "fetched a provider's keys"
                );
                Some(keys)
            }
            Err(error) => {
                warn!(url = url.as_str(), %error, "a provider's keys could not be fetched");
                None
            }
        };
        self.cache().settle(url, keys, Instant::now());
        self.finished.send_modify(|count| *count += 1);
    }
}

impl KeySource for Outbound {
    fn keys(&self, url: &KeyUrl) -> Option<Vec<PublicKey>> {
        let preloaded = self.preloaded.keys(url);
        preloaded.or_else(|| self.cache().keys(url, Instant::now()))
    }
}

/// The task that does the fetching.
#[derive(Debug)]
pub struct Errands {
    outbound: Arc<Outbound>,
    receiver: mpsc::Receiver<Errand>,
    network: Network,
}

impl Errands {
    /// Runs until `stop`. What is under way then is dropped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let mut old: VecDeque<KeyUrl> = VecDeque::new();
        let mut ticks = time::interval(REFRESH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_room = running.len() < FETCHES_MAX;
            if has_room && let Some(url) = old.pop_front() {
                running.spawn(self.errand(Errand::Key(url)));
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = running.join_next(), if !running.is_empty() => {}
                Some(errand) = self.receiver.recv(), if has_room => {
                    running.spawn(self.errand(errand));
                }
                _ = ticks.tick() => {
                    old.extend(self.outbound.cache().refresh(Instant::now()));
                }
            }
        }
    }

    fn errand(&self, errand: Errand) -> impl Future<Output = ()> + Send + 'static {
        let (outbound, network) = (Arc::clone(&self.outbound), self.network.clone());
        async move {
            match errand {
                Errand::Key(url) => {
                    let text = network.get(url.as_str()).await;
                    let keys = text.and_then(|text| {
                        PublicKey::parse_published(&text).map_err(|_| FetchError::NoKeys)
                    });
                    outbound.settle(&url, keys);
                }
                // The address holds a token, so only its outcome is logged.
                Errand::Confirm { source, url } => match network.get(&url).await {
                    Ok(_) => info!(%source, "confirmed a subscription"),
                    Err(error) => {
                        warn!(%source, %error, "a subscription could not be confirmed; let the provider ask again");
                    }
                },
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
