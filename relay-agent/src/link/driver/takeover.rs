//! A new session takes the place of those that are over or in doubt.

use protocol::{id::SessionId, limits::REPLACED_MAX};

use super::{Driver, Link, Phase, spread};
use crate::link::LinkId;

impl Driver {
    /// The sessions whose place a new one takes: those that are over, and those in doubt, from which
    /// nothing is taken from here on even if they live. None while another one serves: that may have
    /// taken over from them already, and the relay not know it yet.
    pub(super) fn replaced(&mut self) -> Vec<SessionId> {
        if self.links.iter().any(spread::is_open) {
            return Vec::new();
        }
        let mut replaced = self.over.clone();
        for link in self.links.iter_mut().filter(|link| link.is_suspect) {
            link.phase = Phase::Leaving;
            link.session.begin_drain();
            replaced.extend(link.name);
        }
        replaced
    }

    /// A session is welcomed, and the relay knows whose place it has taken.
    pub(super) fn took_over(&mut self, id: LinkId, name: SessionId) {
        let Some(link) = self.link(id) else { return };
        link.name = Some(name);
        let told = std::mem::take(&mut link.replaces);
        self.over.retain(|session| !told.contains(session));
    }

    /// A session is over, whether the relay knows it or not.
    pub(super) fn is_over(&mut self, link: &Link) {
        self.over.extend(link.name);
        let old = self.over.len().saturating_sub(REPLACED_MAX);
        self.over.drain(..old);
    }

    /// Hands back what was offered on a link that is in doubt or gone and was not begun: whether the
    /// right to it outlives the link is unknown. Where nobody can be told, the next Hello does.
    pub(super) fn hand_back(&mut self, id: LinkId) {
        for in_hand in self.inbox.take_waiting_of(id) {
            let teller = self.links.iter_mut().find(|link| link.id == id);
            let teller = match teller {
                Some(own) => Some(own),
                None => self.links.iter_mut().find(|link| spread::is_open(link)),
            };
            if let Some(link) = teller {
                link.session.release(in_hand.held);
            }
        }
    }
}
