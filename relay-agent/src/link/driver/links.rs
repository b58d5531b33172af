//! Opening links, and losing them.

use std::time::{Duration, Instant};

use protocol::{
    frame::{Refuse, Welcome},
    session::{AgentSession, Close, CloseCode},
};

use super::{Driver, Link, Phase};
use crate::{
    explain::Failure,
    link::{DialError, LinkId, error, socket::Socket},
    terminal::News,
};

impl Driver {
    /// Whether a link is missing: none that is healthy, and none on its way.
    pub(super) fn wants_link(&self) -> bool {
        let is_fine = |link: &Link| match link.phase {
            Phase::Opening => true,
            Phase::Open => !link.is_suspect,
            Phase::Leaving => false,
        };
        self.stopping.is_none() && self.dialling.is_none() && !self.links.iter().any(is_fine)
    }

    pub(super) fn dial_if_due(&mut self) {
        if self.wants_link() && self.reconnect.due() <= Instant::now() {
            let dialer = self.dialer.clone();
            self.dialling = Some(Box::pin(async move { dialer.dial().await }));
        }
    }

    pub(super) fn dialled(&mut self, result: Result<Box<Socket>, DialError>) {
        match result {
            Ok(socket) => self.open(socket),
            Err(error) => {
                let failure = error
                    .failure()
                    .during(format!("connecting to {}", self.dialer.way()));
                self.lost(failure, error.retry_after());
            }
        }
    }

    /// Starts a session that takes over what was in hand on links that are gone or in doubt.
    fn open(&mut self, socket: Box<Socket>) {
        let now = Instant::now();
        let leaving: Vec<_> = self
            .links
            .iter()
            .filter(|link| !link.is_suspect)
            .map(|link| link.id)
            .collect();
        let orphans = || {
            self.inbox
                .complete()
                .filter(|in_hand| !leaving.contains(&in_hand.link))
        };
        let holding = orphans().map(|in_hand| in_hand.held.clone()).collect();
        let unconfirmed = self.report.unconfirmed();
        let mut session = AgentSession::new(self.session_config.clone(), holding, unconfirmed, now);
        for in_hand in orphans() {
            session.charge(&in_hand.held, &in_hand.destination, in_hand.body_bytes);
        }
        self.links_made += 1;
        let id = LinkId(self.links_made);
        self.links.push(Link {
            id,
            socket,
            session,
            phase: Phase::Opening,
            is_suspect: false,
            refuse: None,
        });
        self.respond_over(id);
    }

    pub(super) fn welcomed(&mut self, id: LinkId, welcome: &Welcome) {
        if let Some(link) = self.link(id) {
            link.phase = Phase::Open;
        }
        self.reconnect.welcomed();
        if let (Some(listening), Some(service)) = (&welcome.listening, &self.listener) {
            self.inbox.serve(&listening.destination, service.clone());
        }
        for served in &welcome.destinations {
            let timeout = Duration::from_millis(served.timeout_ms);
            self.inbox.limit_timeout(&served.name, timeout);
        }
        let url = self.dialer.url();
        self.news(&News::Connected { url: &url, welcome });

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
    }

    /// Takes a link out; what it had to report goes on over another one.
    fn remove(&mut self, id: LinkId, close: Close) -> Option<(Phase, Option<Refuse>)> {
        let index = self.links.iter().position(|link| link.id == id)?;
        let link = self.links.remove(index);
        self.inbox.link_lost(id);
        if let Some(heir) = self.links.last_mut() {
            let now = Instant::now();
            for receipt in link.session.unconfirmed() {
                heir.session.finish(receipt, now);
            }
        }
        self.start_ready();
        self.farewells.spawn(link.socket.farewell(close));
        Some((link.phase, link.refuse))
    }

    /// A session has ended.
    pub(super) fn ended(&mut self, id: LinkId, close: Close) {
        let asked = close.retry_after;
        let reason = close.clone();
        let Some((phase, refuse)) = self.remove(id, close) else {
            return;
        };
        if self.stopping.is_some() {
            return;
        }
        let failure = error::ended(&reason, refuse.as_ref());
        let is_missed = phase != Phase::Leaving && self.wants_link();
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
            self.begin_stop(Some(failure));
            return;
        }
        let wait = self.reconnect.failed(Instant::now(), asked);
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
        self.reconnect.after(Instant::now(), reconnect_after);
        self.news(&News::RelayDrains { reason });
    }

    /// Leaves relays that are going away once nothing of theirs is in hand.
    pub(super) fn leave_finished(&mut self) {
        for link in &mut self.links {
            let is_done = link.phase == Phase::Leaving
                && !self.inbox.holds_for(link.id)
                && link.session.unconfirmed().is_empty();
            if is_done {
                link.session.bye("the relay is going away");
            }
        }
    }

    /// A heartbeat stayed unanswered: another link is opened beside this one.
    pub(super) fn suspect(&mut self, id: LinkId) {
        if let Some(link) = self.link(id) {
            link.is_suspect = true;
        }
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
}
