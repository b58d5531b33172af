//! Many events at once, and what has become of them: none may be lost or altered, and repeats are
//! counted.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    api::Journey,
    eventually::within,
    provider::Provider,
    service::{Received, Service},
};

/// How long a relay may take to work off what was posted.
const WORKED_OFF: Duration = Duration::from_secs(180);

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How many events.
    pub events: usize,
    /// Over how many connections.
    pub connections: usize,
    /// How many a second; as fast as they are accepted if that is not said.
    pub per_s: Option<u32>,
}

/// Connections that post until every event was accepted, through every crash.
pub struct Posting {
    shared: Arc<Shared>,
    connections: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    next: AtomicUsize,
    accepted: Mutex<HashMap<String, usize>>,
}

/// The number of every accepted event, by id.
pub struct Accepted(HashMap<String, usize>);

/// What has become of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were not the first for their event.
    pub duplicates: usize,
    /// Events at the service whose answer died with the relay.
    pub unanswered: usize,
}

impl Posting {
    /// Begins to post.
    pub fn start(provider: &Provider, journey: &Journey, load: Load) -> Self {
        let shared = Arc::new(Shared::default());
        let mut connections = JoinSet::new();
        for _ in 0..load.connections {
            let (provider, journey, shared) =
                (provider.clone(), journey.clone(), Arc::clone(&shared));
            connections.spawn(post(provider, journey, load, shared));
        }
        Self {
            shared,
            connections,
        }
    }

    /// How many were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    /// Waits until so many were accepted.
    pub async fn reaches(&self, accepted: usize) {
        let what = format!("{accepted} accepted events");
        within(WORKED_OFF, what, async || {
            (self.accepted() >= accepted).then_some(())
        })
        .await;
    }

    /// Waits until all were accepted.
    pub async fn finish(self) -> Accepted {
        self.connections.join_all().await;
        Accepted(std::mem::take(&mut self.shared.accepted.lock().unwrap()))
    }
}

async fn post(provider: Provider, journey: Journey, load: Load, shared: Arc<Shared>) {
    let started = Instant::now();
    let mut connection = None;
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= load.events {
            return;
        }
        if let Some(per_s) = load.per_s {
            let due = Duration::from_secs_f64(number as f64 / f64::from(per_s));
            sleep_until(started + due).await;
        }
        let request = journey.post().body(body(number));
        let event = provider.insist(&mut connection, &request).await.accepted();
        let before = shared.accepted.lock().unwrap().insert(event, number);
        assert!(before.is_none(), "one id for two events");
    }
}

/// The body of an event: one can tell from its start what all of it must be.
fn body(number: usize) -> String {
    format!("{number} {}", "x".repeat(number * 7 % 500))
}

impl Accepted {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Waits until the relay owes none of them, and fails the test if one was lost, altered or given
    /// up.
    pub async fn arrive(&self, journey: &Journey, services: &[&Service]) -> Tally {
        nothing_is_owed(journey).await;
        let mut calls = 0;
        let mut arrived = HashSet::new();
        for service in services {
            service.inspect(|received| {
                for one in received {
                    self.check(one);
                    arrived.insert(one.event());
                }
                calls += received.len();
            });
        }
        let lost: Vec<_> = self
            .0
            .keys()
            .filter(|event| !arrived.contains(*event))
            .collect();
        assert!(lost.is_empty(), "{} events were lost: {lost:?}", lost.len());
        Tally {
            duplicates: calls - arrived.len(),
            unanswered: arrived.len() - self.0.len(),
        }
    }

    /// Also those whose answer died with the relay must be unchanged.
    fn check(&self, received: &Received) {
        let text = String::from_utf8_lossy(&received.body).into_owned();
        let number = text
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        let number: usize = number.unwrap_or_else(|| panic!("altered: {text:?}"));
        assert_eq!(text, body(number));
        if let Some(accepted) = self.0.get(&received.event()) {
            assert_eq!(number, *accepted, "the body of another event");
        }
    }
}

/// Waits until the relay says that every delivery has ended, and none of them badly.
async fn nothing_is_owed(journey: &Journey) {
    let depth = within(WORKED_OFF, "the end of all deliveries", async || {
        let destination = format!("/destinations/{}", journey.destination);
        let depth = journey.tenant.api.get(&destination).await["depth"].clone();
        (depth["open"] == 0).then_some(depth)
    })
    .await;
    assert_eq!(depth["dead"], 0);
}
