//! Opening links, and losing them.

use std::time::{Duration, Instant, SystemTime};

use protocol::{
    frame::{Refuse, Welcome},
    limits::HEARTBEAT_INTERVAL,
    session::{AgentSession, Close, CloseCode},
};
use tracing::debug;

use super::{Dialling, Driver, Generation, Link, Phase, Purpose, spread};
use crate::{
    explain::Failure,
    link::{Carrier, DialError, LinkId, error, socket::Socket},
    terminal::News,
};

/// What a relay may ask for at most often, as far as sleeps are judged by it.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// What is known of a link that was taken out.
pub(super) struct Removed {
    generation: Generation,
    phase: Phase,
    purpose: Purpose,
    carrier: Carrier,
    refuse: Option<Refuse>,
}

impl Driver {
    /// Whether a link is missing: fewer are healthy, or on their way, than there should be.
    pub(super) fn wants_link(&self) -> bool {
        let is_on_its_way = |dialling: &Dialling| dialling.purpose == Purpose::Missing;
        let is_fine = |link: &&Link| link.generation == self.generation && link.is_fine();
        let fine = self.links.iter().filter(is_fine).count();
        self.stopping.is_none()
            && !self.dialling.as_ref().is_some_and(is_on_its_way)
            && fine < self.sessions.connections as usize
    }

    /// When to dial, and what for.
    pub(super) fn dial_due(&self) -> Option<(Instant, Purpose)> {
        if self.wants_link() {
            return Some((self.reconnect.due(), Purpose::Missing));
        }
        let better = self.better_due()?;
        Some((better, Purpose::Better))
    }

    pub(super) fn dial_if_due(&mut self) {
        let now = Instant::now();
        let Some((_, purpose)) = self.dial_due().filter(|(due, _)| *due <= now) else {
            return;
        };
        let plan = match purpose {
            Purpose::Missing => self.sessions.choice.plan(),
            Purpose::Better => self.plan_better(now),
        };
        // A better one on its way gives place to one that is missing.
        self.dialling = Some(Dialling {
            purpose,
            dial: Box::pin(self.dialer.clone().dial(plan)),
        });
    }

    pub(super) fn dialled(&mut self, purpose: Purpose, result: Result<Socket, DialError>) {
        match (result, purpose) {
            (Ok(socket), _) => self.open(socket, purpose),
            (Err(error), Purpose::Better) => debug!(%error, "No better link"),
            (Err(error), Purpose::Missing) => {
                let failure = error
                    .failure()
                    .during(format!("connecting to {}", self.dialer.way()));
                self.lost(failure, error.retry_after());
            }
        }
    }

    /// Starts a session that takes over what was in hand on links that are gone or in doubt.
    fn open(&mut self, socket: Socket, purpose: Purpose) {
        let now = Instant::now();
        self.links_made += 1;
        let id = LinkId(self.links_made);
        let others = self.links.iter().filter(|link| !link.is_suspect);
        let others: Vec<_> = others.map(|link| link.id).collect();
        let orphans = self.inbox.take_over(id, &others);
        let holding = orphans.iter().map(|in_hand| in_hand.held.clone()).collect();
        // Another session that serves reports what it has to report itself.
        let is_served = self.links.iter().any(spread::is_open);
        let unconfirmed = match is_served {
            true => Vec::new(),
            false => self.report.unconfirmed(),
        };
        let mut session =
            AgentSession::new(self.sessions.config.clone(), holding, unconfirmed, now);
        for in_hand in orphans {
            session.charge(&in_hand.held, &in_hand.destination, in_hand.body_bytes);
        }
        let replaces = self.replaced();
        session.replace(&replaces);
        self.links.push(Link {
            id,
            socket,
            session,
            purpose,
            phase: Phase::Opening,
            generation: self.generation,
            node: None,
            heartbeat: HEARTBEAT_INTERVAL,
            is_suspect: false,
            name: None,
            replaces,
            refuse: None,
        });
        self.respond_over(id);
        self.share();
        // Nobody looked while there was no link.
        self.awake.look(now, SystemTime::now(), HEARTBEAT_INTERVAL);
    }

    pub(super) fn welcomed(&mut self, id: LinkId, welcome: &Welcome) {
        let now = Instant::now();
        let Some(link) = self.link(id) else { return };
        link.phase = Phase::Open;
        // No relay makes us take each moment for a sleep.
        link.heartbeat = Duration::from_millis(welcome.heartbeat_ms).max(HEARTBEAT_MIN);
        link.node.clone_from(&welcome.node);
        let carrier = link.carrier();
        self.took_over(id, welcome.session);
        self.sessions.choice.welcomed(carrier, now);
        self.reconnect.welcomed();
        self.renewed(id);
        if let (Some(listening), Some(service)) = (&welcome.listening, &self.services.listener) {
            self.inbox.serve(&listening.destination, service.clone());
        }
        for served in &welcome.destinations {
            let timeout = Duration::from_millis(served.timeout_ms);
            self.inbox.limit_timeout(&served.name, timeout);
        }
        // What was in doubt is not needed any more. No Bye: what it holds is ours still.
        let doubtful: Vec<_> = self
            .links
            .iter()
            .filter(|link| link.is_suspect)
            .map(|link| link.id)
            .collect();
        for id in doubtful {
            let close = Close::new(CloseCode::Replaced, "a newer session is open");
            self.remove(id, close);
        }
        self.settle_in(id, now);
        if self.link(id).is_some_and(|link| link.phase == Phase::Open) {
            let url = self.dialer.url();
            self.news(&News::Connected {
                url: &url,
                is_fallback: carrier == Carrier::Poll,
                welcome,
            });
        }
    }

    /// Takes a link out; what it had in hand and to report goes on over another one.
    pub(super) fn remove(&mut self, id: LinkId, close: Close) -> Option<Removed> {
        let index = self.links.iter().position(|link| link.id == id)?;
        let link = self.links.remove(index);
        self.inbox.link_lost(id);
        self.is_over(&link);
        self.hand_back(id);
        self.hand_over(&link);
        self.start_ready();
        self.share();
        let removed = Removed {
            generation: link.generation,
            phase: link.phase,
            purpose: link.purpose,
            carrier: link.carrier(),
            refuse: link.refuse,
        };
        self.farewells.spawn(link.socket.farewell(close));
        Some(removed)
    }

    /// A session has ended.
    pub(super) fn ended(&mut self, id: LinkId, close: Close) {
        let asked = close.retry_after;
        let reason = close.clone();
        let Some(removed) = self.remove(id, close) else {
            return;
        };
        if self.stopping.is_some() {
            return;
        }
        let failure = error::ended(&reason, removed.refuse.as_ref());
        if removed.generation != self.generation {
            // Whatever it says of its configuration: a newer one has taken its place, or is about to.
            debug!(
                error = failure.what,
                "A link of an older configuration ended"
            );
            return;
        }
        let is_opening = removed.phase == Phase::Opening;
        if is_opening && removed.refuse.is_none() && reason.code == CloseCode::Silent {
            self.sessions.choice.unwelcomed(removed.carrier);
        }
        if is_opening && removed.purpose == Purpose::Better && !error::is_final(&failure) {
            debug!(error = failure.what, "The better link came to nothing");
            return;
        }
        let is_missed = removed.phase != Phase::Leaving && self.wants_link();
        if is_missed || error::is_final(&failure) {
            self.lost(
                failure.during(format!("connected to {}", self.dialer.url())),
                asked,
            );
        }
    }

    /// There is a link less than there should be: comes back later, or stops if that cannot help.
    fn lost(&mut self, failure: Failure, asked: Option<Duration>) {
        if error::is_final(&failure) {
            if !self.go_back(&failure) {
                self.begin_stop(Some(failure));
            }
            return;
        }
        self.exchanges = spread::EXCHANGES_MAX;
        let wait = self.reconnect.failed(Instant::now(), asked);
        if self.tried(&failure) {
            return;
        }
        if self.links.iter().any(|link| link.phase == Phase::Open) {
            debug!(code = %failure.code, error = failure.what, ?wait, "A link less");
            return;
        }
        self.news(&News::Lost {
            failure: &failure,
            wait,
        });
    }

    /// The relay goes away: a new link is opened while the old one finishes.
    pub(super) fn relay_drains(&mut self, id: LinkId, reason: &str, reconnect_after: Duration) {
        if let Some(link) = self.link(id) {
            link.phase = Phase::Leaving;
            // What it has offered is finished; what comes all the same is handed back.
            link.session.begin_drain();
        }
        self.share();
        self.reconnect.after(Instant::now(), reconnect_after);
        self.news(&News::RelayDrains { reason });
    }

    /// Leaves where nothing is in hand any more.
    pub(super) fn leave_finished(&mut self) {
        for link in &mut self.links {
            if link.phase == Phase::Leaving && link.session.is_idle() {
                link.session
                    .bye("nothing is in hand, and another session serves");
            }
        }
    }

    /// A heartbeat stayed unanswered: another link is opened beside this one.
    pub(super) fn suspect(&mut self, id: LinkId) {
        if let Some(link) = self.link(id) {
            link.is_suspect = true;
        }
        self.hand_back(id);
        self.news(&News::Suspect);
    }

    /// A heartbeat was answered: there is no doubt any more.
    pub(super) fn answered(&mut self, id: LinkId) {
        let Some(link) = self.link(id) else { return };
        if std::mem::take(&mut link.is_suspect) {
            self.dialling = None;
            self.reconnect.welcomed();
        }
    }

    /// The machine has slept: nothing is known of any link.
    pub(super) fn woke(&mut self, now: Instant, slept: Duration) {
        if self.links.is_empty() || self.stopping.is_some() {
            return;
        }
        debug!(
            ?slept,
            "Nothing ran for a while: asking whether the relay is there"
        );
        for link in &mut self.links {
            link.session.probe(now);
        }
        // So long that networks forget, and the relay gives up: not even the answer is waited for.
        let is_lost = |link: &&Link| spread::is_open(link) && slept >= link.heartbeat;
        let lost: Vec<_> = self
            .links
            .iter()
            .filter(is_lost)
            .map(|link| link.id)
            .collect();
        for id in lost {
            self.suspect(id);
        }
        if self.wants_link() {
            self.reconnect.now(now);
        }
    }
}
