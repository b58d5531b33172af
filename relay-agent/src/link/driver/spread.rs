//! Several links of one agent: what each takes, to which relays they lead, and which one to give up for
//! a better one.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use protocol::frame::{Held, Receipt};
use tracing::debug;

use super::{Driver, Link, Phase};
use crate::link::{Carrier, LinkId, carrier::Plan};

/// How often a link is exchanged for another because its relay has one already. Then it may stay: there
/// may be no other relay.
pub(super) const EXCHANGES_MAX: u32 = 4;

/// How long it may stay before another relay is looked for again.
const SPREAD_AFTER: Duration = Duration::from_secs(600);

impl Driver {
    /// When to dial for a better link than those there are: a WebSocket instead of the fall-back, or to
    /// a relay that has none yet.
    pub(super) fn better_due(&self) -> Option<Instant> {
        if self.stopping.is_some() || self.dialling.is_some() {
            return None;
        }
        let is_opening = |link: &Link| link.phase == Phase::Opening;
        if self.links.iter().any(is_opening) {
            return None;
        }
        let falls_back = |link: &Link| link.is_fine() && link.carrier() == Carrier::Poll;
        let upward = self.sessions.choice.upward_due();
        let upward = upward.filter(|_| self.links.iter().any(falls_back));
        [upward, self.spread_due].into_iter().flatten().min()
    }

    /// What to try for a better link.
    pub(super) fn plan_better(&mut self, now: Instant) -> Plan {
        self.spread_due = self.spread_due.map(|_| now + jittered(SPREAD_AFTER));
        if self
            .sessions
            .choice
            .upward_due()
            .is_some_and(|due| due <= now)
        {
            self.sessions.choice.tries_upward(now);
            return Plan::Only(Carrier::WebSocket);
        }
        self.exchanges = 0;
        self.sessions.choice.plan()
    }

    /// A link has been welcomed: if there is one too many now, the worst is given up; if its relay has
    /// another one, it is exchanged a few times.
    pub(super) fn settle_in(&mut self, id: LinkId, now: Instant) {
        let open = self.links.iter().filter(|link| is_open(link)).count();
        if open > self.sessions.connections as usize {
            let worst = self.links.iter().filter(|link| is_open(link));
            let worst = worst.max_by_key(|link| {
                let falls_back = link.carrier() == Carrier::Poll;
                (falls_back, self.has_twin(link), link.id)
            });
            if let Some(worst) = worst.map(|link| link.id) {
                self.retire(worst);
            }
        } else if self.exchanges > 0 && self.link_has_twin(id) {
            self.exchanges -= 1;
            self.retire(id);
            self.reconnect.after(now, Duration::ZERO);
        }
        let has_twins =
            self.sessions.connections > 1 && self.links.iter().any(|link| self.has_twin(link));
        self.spread_due = match has_twins {
            true => self.spread_due.or(Some(now + jittered(SPREAD_AFTER))),
            false => None,
        };
        self.share();
    }

    /// Takes nothing more over a link, and leaves it once nothing is in hand there.
    fn retire(&mut self, id: LinkId) {
        if let Some(link) = self.link(id) {
            debug!(node = link.node, carrier = ?link.carrier(), "Giving up a link for a better one");
            link.phase = Phase::Leaving;
            link.session.begin_drain();
        }
        self.leave_finished();
    }

    fn link_has_twin(&self, id: LinkId) -> bool {
        let link = self.links.iter().find(|link| link.id == id);
        link.is_some_and(|link| self.has_twin(link))
    }

    /// Whether another link leads to the same relay.
    fn has_twin(&self, link: &Link) -> bool {
        is_open(link)
            && link.node.is_some()
            && self
                .links
                .iter()
                .any(|other| is_open(other) && other.id != link.id && other.node == link.node)
    }

    /// Has every link take its part of what is configured for all of them.
    pub(super) fn share(&mut self) {
        if self.sessions.connections == 1 {
            return;
        }
        let sharing = |link: &Link| link.is_fine() || link.phase == Phase::Opening;
        let parts = self.links.iter().filter(|link| sharing(link)).count();
        for link in self.links.iter_mut().filter(|link| sharing(link)) {
            link.session.share(parts as u64);
        }
    }

    /// What a link had in hand and to report goes on over another one. Where there is none that serves,
    /// the next session names it in its Hello.
    pub(super) fn hand_over(&mut self, gone: &Link) {
        let now = Instant::now();
        let Some(heir) = best(&mut self.links) else {
            return;
        };
        for receipt in gone.session.unconfirmed() {
            heir.session.finish(receipt, now);
        }
        if !is_open(heir) {
            return;
        }
        let id = heir.id;
        for in_hand in self.inbox.hand_over(gone.id, id) {
            heir.session.adopt(
                in_hand.held.clone(),
                &in_hand.destination,
                in_hand.body_bytes,
            );
        }
        self.respond_over(id);
    }

    /// Reports over every link that has the attempt in hand: usually the one that offered it. If that is
    /// gone or in doubt, over the best one too. Without one, the journal has it for the next session.
    pub(super) fn send(&mut self, receipts: impl IntoIterator<Item = Receipt>) {
        let now = Instant::now();
        for receipt in receipts {
            if let [link] = self.links.as_mut_slice() {
                link.session.finish(receipt, now);
                continue;
            }
            let held = Held {
                delivery: receipt.delivery,
                lease: receipt.lease.clone(),
                attempt: receipt.attempt,
            };
            let mut is_told = false;
            for link in &mut self.links {
                if link.session.holds(&held) {
                    link.session.finish(receipt.clone(), now);
                    is_told |= link.phase != Phase::Opening && !link.is_suspect;
                }
            }
            if !is_told && let Some(link) = best(&mut self.links) {
                link.session.finish(receipt, now);
            }
        }
    }

    /// The link for what belongs to one: that very link, unless it is gone or in doubt; else the best.
    pub(super) fn link_for(&mut self, id: LinkId) -> Option<&mut Link> {
        let own = self
            .links
            .iter()
            .position(|link| link.id == id && !link.is_suspect);
        match own {
            Some(index) => self.links.get_mut(index),
            None => best(&mut self.links),
        }
    }

    /// Hands an attempt back wherever it is in hand.
    pub(super) fn release(&mut self, held: &Held) {
        for link in &mut self.links {
            if link.session.holds(held) {
                link.session.release(held.clone());
            }
        }
    }
}

/// Whether it serves and is not in doubt.
pub(super) fn is_open(link: &Link) -> bool {
    link.phase == Phase::Open && !link.is_suspect
}

/// The link over which something is most likely to arrive soon; of several the newest.
fn best(links: &mut [Link]) -> Option<&mut Link> {
    links.iter_mut().min_by_key(|link| {
        let rank = match (link.phase, link.is_suspect) {
            (Phase::Open, false) => 0,
            (Phase::Leaving, false) => 1,
            (Phase::Opening, _) => 2,
            (Phase::Open | Phase::Leaving, true) => 3,
        };
        (rank, Reverse(link.id))
    })
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..1.2))
}
