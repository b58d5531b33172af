//! A new configuration while work goes on.
//!
//! What is in hand keeps the service it was offered with. If sessions depend on what changed, fresh ones
//! are opened beside the old, which serve on as they were until the first fresh one does; then they
//! finish and leave. If none can be opened, all of the old configuration stays.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::session::{Close, CloseCode};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Driver, Generation, Link, Phase, Services, Sessions};
use crate::{
    explain::Failure,
    link::{Dialer, LinkId},
};

/// How often a new configuration may fail to open a session while the old one serves.
const FAILURES_MAX: u32 = 5;

/// A new configuration, ready for use.
pub(crate) struct Renewal {
    pub(crate) dialer: Dialer,
    /// Set if sessions depend on what changed.
    pub(crate) sessions: Option<Sessions>,
    pub(crate) change: Change,
}

/// What a new configuration changes here, at one moment.
pub(crate) struct Change {
    pub(crate) services: Services,
    pub(crate) grace: Duration,
    /// What differs, for people.
    pub(crate) summary: String,
    /// Told once it is in force, dropped if it never will be.
    pub(crate) in_force: oneshot::Sender<()>,
}

/// A new configuration that no session is open with.
pub(super) struct Trial {
    change: Change,
    failures: u32,
    /// The last one that was in force.
    before: Before,
}

/// How sessions were opened before.
struct Before {
    generation: Generation,
    dialer: Arc<Dialer>,
    sessions: Sessions,
}

impl Driver {
    /// Takes a new configuration: at once, or when a session is open with it.
    pub(super) fn renew(&mut self, renewal: Renewal) {
        let dialer = Arc::new(renewal.dialer);
        match renewal.sessions {
            None => {
                self.dialer = dialer;
                self.put_in_force(renewal.change);
            }
            Some(sessions) => self.try_out(dialer, sessions, renewal.change),
        }
    }

    fn try_out(&mut self, dialer: Arc<Dialer>, sessions: Sessions, change: Change) {
        info!(
            changes = change.summary,
            "Opening a session with the new configuration"
        );
        let text = format!(
            "opening a session with the new configuration: {}",
            change.summary
        );
        self.status.trying(&text);
        let before = Before {
            generation: self.generation,
            dialer: std::mem::replace(&mut self.dialer, dialer),
            sessions: std::mem::replace(&mut self.sessions, sessions),
        };
        let before = match self.trial.take() {
            // That one never was in force: it is not what to go back to.
            Some(untried) => {
                self.remove_untried(before.generation);
                untried.before
            }
            None => before,
        };
        self.generations_made += 1;
        self.generation = Generation(self.generations_made);
        self.trial = Some(Box::new(Trial {
            change,
            failures: 0,
            before,
        }));
        self.dialling = None;
        self.reconnect.now(Instant::now());
    }

    /// A session is open. If it is the first of a new configuration, that is in force from now on, and
    /// older sessions finish and leave.
    pub(super) fn renewed(&mut self, id: LinkId) {
        let generation = self.generation;
        if self
            .links
            .iter()
            .any(|link| link.id == id && link.generation != generation)
        {
            return;
        }
        let Some(trial) = self.trial.take() else {
            return;
        };
        let before = trial.before.generation;
        self.remove_untried(before);
        for link in self
            .links
            .iter_mut()
            .filter(|link| link.generation == before)
        {
            link.phase = Phase::Leaving;
            // What it has offered is finished; what comes all the same is handed back.
            link.session.begin_drain();
        }
        self.put_in_force(trial.change);
        self.leave_finished();
    }

    fn put_in_force(&mut self, change: Change) {
        self.services = change.services;
        self.grace = change.grace;
        let named = &self.services.named;
        for (destination, service) in named {
            self.inbox.serve(destination, service.clone());
        }
        self.inbox
            .serve_only(|destination| named.iter().any(|(name, _)| name == destination));
        self.start_ready();
        info!(changes = change.summary, "Configuration was read again");
        self.status.reloaded(Ok(&change.summary));
        // Nobody may be left who wants to know.
        let _ = change.in_force.send(());
    }

    /// No session could be opened. Whether that was the new configuration's last try: the old one, if it
    /// serves, is worth more than one that leads nowhere.
    pub(super) fn tried(&mut self, failure: &Failure) -> bool {
        let Some(trial) = &mut self.trial else {
            return false;
        };
        trial.failures += 1;
        let (failures, before) = (trial.failures, trial.before.generation);
        let serves = |link: &Link| link.generation == before && link.phase == Phase::Open;
        if !self.links.iter().any(serves) {
            return false;
        }
        if failures == 1 {
            let code = failure.code;
            warn!(%code, error = failure.what, "No session with the new configuration yet: the old one serves");
        }
        failures >= FAILURES_MAX && self.go_back(failure)
    }

    /// No session can be opened with the new configuration. Whether there was an older one to go back to.
    pub(super) fn go_back(&mut self, failure: &Failure) -> bool {
        let Some(trial) = self.trial.take() else {
            return false;
        };
        let Failure {
            code, what, fix, ..
        } = failure;
        warn!(%code, error = what, fix, "The new configuration leads to no session: the old one stays");
        self.remove_untried(self.generation);
        self.generation = trial.before.generation;
        self.dialer = trial.before.dialer;
        self.sessions = trial.before.sessions;
        self.dialling = None;
        if self.wants_link() {
            self.reconnect.now(Instant::now());
        } else {
            self.reconnect.welcomed();
        }
        self.status.reloaded(Err(failure));
        true
    }

    /// Gives up links that were to be opened with a configuration that is not wanted any more.
    fn remove_untried(&mut self, generation: Generation) {
        let is_untried =
            |link: &&Link| link.generation == generation && link.phase == Phase::Opening;
        let untried = self.links.iter().filter(is_untried);
        let untried: Vec<_> = untried.map(|link| link.id).collect();
        for id in untried {
            let close = Close::new(CloseCode::Normal, "the agent's configuration has changed");
            self.remove(id, close);
        }
    }
}
