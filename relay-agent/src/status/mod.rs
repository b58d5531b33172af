//! What supervisors want to know: kept by the loop that does the work, answered on a local address,
//! and told to systemd.
//!
//! One loop writes and a rare scrape reads, so plain numbers behind one lock are all it takes.

mod listener;

mod metrics;

mod supervisor;

mod ask;

pub use ask::{Asked, ask};
pub use listener::StatusListener;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use self::{metrics::LaneNumbers, supervisor::Supervisor};
use crate::{
    explain::{Code, Failure},
    forward::Outcome,
    terminal::News,
};

/// How often the loop turns at least, whether there is anything to do or not.
const PULSE: Duration = Duration::from_secs(5);

/// After how long without a turn the loop is taken for dead.
const PULSE_MISSED_MAX: Duration = Duration::from_secs(30);

/// How work stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    /// Sessions that are open.
    pub sessions: usize,
    /// Deliveries in hand.
    pub in_hand: usize,
    /// Receipts that the relay has not confirmed.
    pub unconfirmed: usize,
    /// Successes that the journal remembers.
    pub remembered: usize,
    /// Size of the journal's file.
    pub journal_bytes: u64,
}

/// What supervisors want to know.
#[derive(Debug)]
pub struct Status(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    facts: Facts,
    supervisor: Supervisor,
}

/// Everything that is known, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    started_at: SystemTime,
    /// When the loop turned last.
    turned_at: Instant,
    gauges: Gauges,
    is_stopping: bool,
    /// Where the relay is, once a session was open.
    relay: String,
    /// Since when there is a session, or none.
    since: SystemTime,
    sessions_opened: u64,
    rtt: Option<Duration>,
    /// Why there is no session.
    trouble: Option<(Code, String)>,
    reloads: u64,
    reloads_refused: u64,
    /// Why the last configuration that was read again is not in force.
    reload_refused: Option<(Code, String)>,
    answered_again: u64,
    lanes: BTreeMap<String, LaneNumbers>,
}

impl Status {
    /// The status of an agent that has just been started. Without a session systemd is told after
    /// `ready_within` that the agent is ready, so that nothing waits for a relay for ever.
    pub fn new(ready_within: Duration) -> Self {
        let (now, wall) = (Instant::now(), SystemTime::now());
        Self(Mutex::new(Inner {
            facts: Facts {
                started_at: wall,
                turned_at: now,
                gauges: Gauges::default(),
                is_stopping: false,
                relay: String::new(),
                since: wall,
                sessions_opened: 0,
                rtt: None,
                trouble: None,
                reloads: 0,
                reloads_refused: 0,
                reload_refused: None,
                answered_again: 0,
                lanes: BTreeMap::new(),
            },
            supervisor: Supervisor::new(now, ready_within),
        }))
    }

    /// The loop turns. When it has to turn again at the latest: it is the proof that it lives.
    pub(crate) fn turn(&self, now: Instant, gauges: Gauges) -> Instant {
        let mut inner = self.lock();
        let Inner { facts, supervisor } = &mut *inner;
        if (facts.gauges.sessions > 0) != (gauges.sessions > 0) {
            facts.since = SystemTime::now();
        }
        facts.turned_at = now;
        facts.gauges = gauges;
        supervisor.turn(now);
        supervisor.due().min(now + PULSE)
    }

    /// The state of the agent changed.
    pub(crate) fn news(&self, news: &News<'_>) {
        let mut inner = self.lock();
        let Inner { facts, supervisor } = &mut *inner;
        match news {
            News::Connected { url, welcome, .. } => {
                facts.relay = (*url).to_owned();
                facts.sessions_opened += 1;
                facts.trouble = None;
                let served = welcome.destinations.len();
                supervisor.ready(&format!("connected to {url}, {served} destinations"));
            }
            News::Heartbeat { rtt } => facts.rtt = Some(*rtt),
            News::Lost { failure, .. } => {
                facts.trouble = Some((failure.code, failure.what.clone()));
                let (code, what) = (failure.code, &failure.what);
                supervisor.status(&format!("not connected: {code}: {what}"));
            }
            News::Stopping { in_hand } => {
                facts.is_stopping = true;
                supervisor.stopping(&format!("stopping, {in_hand} in hand"));
            }
            News::Suspect | News::RelayDrains { .. } => {}
        }
    }

    /// An offer came for a destination that is served.
    pub(crate) fn offered(&self, destination: &str) {
        let mut inner = self.lock();
        inner.facts.lane(destination).offers += 1;
    }

    /// An offer was answered without a call: its outcome was known.
    pub(crate) fn answered_again(&self) {
        self.lock().facts.answered_again += 1;
    }

    /// A call has ended.
    pub(crate) fn forwarded(&self, outcome: &Outcome) {
        let mut inner = self.lock();
        let lane = inner.facts.lane(&outcome.offer.destination);
        lane.forwarded(&outcome.result, outcome.elapsed);
    }

    /// The configuration is being read again.
    pub(crate) fn reloading(&self) {
        self.lock().supervisor.reloading();
    }

    /// The new configuration is right as far as this machine can tell; a session is being opened with it.
    pub(crate) fn trying(&self, text: &str) {
        self.lock().supervisor.reloaded(text);
    }

    /// The configuration was read again: what became of it, or why it stays as it was.
    pub(crate) fn reloaded(&self, result: Result<&str, &Failure>) {
        let mut inner = self.lock();
        match result {
            Ok(text) => {
                inner.facts.reloads += 1;
                inner.facts.reload_refused = None;
                let text = format!("the configuration was read again, changes: {text}");
                inner.supervisor.reloaded(&text);
            }
            Err(failure) => {
                inner.facts.reloads_refused += 1;
                let (code, what) = (failure.code, &failure.what);
                inner.facts.reload_refused = Some((code, what.clone()));
                let text = format!("the new configuration is not taken: {code}: {what}");
                inner.supervisor.reloaded(&text);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Numbers are whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn facts(&self) -> Facts {
        self.lock().facts.clone()
    }
}

impl Facts {
    fn lane(&mut self, destination: &str) -> &mut LaneNumbers {
        self.lanes.entry(destination.to_owned()).or_default()
    }

    /// Whether the loop that does the work still turns.
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.turned_at) < PULSE_MISSED_MAX
    }

    fn is_ready(&self) -> bool {
        self.gauges.sessions > 0 && !self.is_stopping
    }

    /// What readiness consists of, a line each.
    fn readiness(&self) -> String {
        let session = match (self.gauges.sessions, &self.trouble) {
            (0, Some((code, what))) => format!("[-]session {code}: {what}"),
            (0, None) => "[-]session not opened yet".to_owned(),
            (count, _) => format!("[+]session ok: {count} with {}", self.relay),
        };
        let stopping = match self.is_stopping {
            true => "[-]running no: stopping",
            false => "[+]running ok",
        };
        let verdict = match self.is_ready() {
            true => "ready",
            false => "not ready",
        };
        format!("{session}\n{stopping}\n{verdict}\n")
    }

    /// Everything as JSON, for `relay-agent status`. Neither targets nor anything of events.
    fn report(&self) -> Report {
        let destinations = self.lanes.iter().map(|(name, lane)| {
            let (delivered, failed) = lane.delivered_and_failed();
            DestinationReport {
                name: name.clone(),
                offers: lane.offers,
                delivered,
                failed,
                average_ms: lane.average().map(|average| average.as_millis() as u64),
            }
        });
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: metrics::rfc3339(self.started_at),
            connected: self.gauges.sessions > 0,
            stopping: self.is_stopping,
            relay: Some(self.relay.clone()).filter(|relay| !relay.is_empty()),
            since: metrics::rfc3339(self.since),
            rtt_ms: self.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            trouble: self.trouble.as_ref().map(TroubleReport::new),
            config_refused: self.reload_refused.as_ref().map(TroubleReport::new),
            gauges: self.gauges,
            destinations: destinations.collect(),
        }
    }
}

/// What `/status` answers and `relay-agent status --output json` prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    version: String,
    started_at: String,
    connected: bool,
    stopping: bool,
    relay: Option<String>,
    /// Since when it is connected, or not.
    since: String,
    rtt_ms: Option<f64>,
    trouble: Option<TroubleReport>,
    /// Why the configuration that was read last is not in force.
    #[serde(default)]
    config_refused: Option<TroubleReport>,
    #[serde(flatten)]
    gauges: Gauges,
    destinations: Vec<DestinationReport>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TroubleReport {
    code: String,
    what: String,
}

impl TroubleReport {
    fn new((code, what): &(Code, String)) -> Self {
        Self {
            code: code.to_string(),
            what: what.clone(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct DestinationReport {
    name: String,
    offers: u64,
    delivered: u64,
    failed: u64,
    average_ms: Option<u64>,
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gauges {
            sessions,
            in_hand,
            unconfirmed,
            remembered,
            journal_bytes,
        } = self.gauges;
        let relay = self.relay.as_deref().unwrap_or("the relay");
        match (self.connected, &self.trouble) {
            (true, _) => {
                write!(f, "connected to {relay} since {}", self.since)?;
                write!(f, ", {sessions} session{}", plural(sessions))?;
                if let Some(rtt) = self.rtt_ms {
                    write!(f, ", {rtt:.1} ms away")?;
                }
            }
            (false, Some(TroubleReport { code, what })) => {
                write!(f, "not connected to {relay} since {}", self.since)?;
                write!(f, "\n  {code}: {what}")?;
            }
            (false, None) => write!(f, "not connected to {relay} yet")?,
        }
        if let Some(TroubleReport { code, what }) = &self.config_refused {
            write!(
                f,
                "\nthe new configuration is not in force\n  {code}: {what}"
            )?;
        }
        if self.stopping {
            f.write_str("\nstopping")?;
        }
        write!(
            f,
            "\n{in_hand} in hand, {unconfirmed} receipt{} to be confirmed; the journal remembers \
             {remembered} success{} in {journal_bytes} bytes\nagent {}, started {}\n",
            plural(unconfirmed),
            if remembered == 1 { "" } else { "es" },
            self.version,
            self.started_at,
        )?;
        let width = self.destinations.iter().map(|lane| lane.name.len()).max();
        let width = width.unwrap_or(0).max("destination".len());
        let head = ["offers", "delivered", "failed", "average"];
        write!(f, "\n{:<width$}", "destination")?;
        head.iter().try_for_each(|title| write!(f, " {title:>9}"))?;
        for lane in &self.destinations {
            let average = lane.average_ms.map(|average| format!("{average} ms"));
            write!(
                f,
                "\n{:<width$} {:>9} {:>9} {:>9} {:>9}",
                lane.name,
                lane.offers,
                lane.delivered,
                lane.failed,
                average.unwrap_or_else(|| "-".to_owned())
            )?;
        }
        Ok(())
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests;
