//! Which leases an agent instance holds, over all its sessions. They belong to the instance, not to
//! a connection: a cut link must not make another agent repeat work that is still being done.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use protocol::id::{DeliveryId, SessionId};

use crate::store::{LeaseInfo, LeaseToken};

/// The leases of one agent instance.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    held: HashMap<DeliveryId, Holding>,
    /// Sessions of the instance that are live.
    sessions: usize,
}

#[derive(Debug)]
struct Holding {
    lease: LeaseInfo,
    /// The session it travelled on.
    owner: SessionId,
    /// That session has ended without Bye.
    is_orphan: bool,
    /// After this it is not ours to speak of any more.
    until: Instant,
}

impl Holding {
    fn belongs_to(&self, session: SessionId) -> bool {
        self.owner == session && !self.is_orphan
    }
}

impl Holdings {
    /// A session was welcomed.
    pub(crate) fn join(&mut self) {
        self.sessions += 1;
    }

    /// A session has ended.
    pub(crate) fn leave(&mut self) {
        self.sessions -= 1;
    }

    /// A session was handed a lease, or took it over after a reconnect.
    pub(crate) fn hold(&mut self, lease: LeaseInfo, owner: SessionId, until: Instant) {
        self.held.insert(
            lease.delivery,
            Holding {
                lease,
                owner,
                is_orphan: false,
                until,
            },
        );
    }

    /// The lease of a delivery, if the instance holds one.
    pub(crate) fn get(&self, delivery: DeliveryId) -> Option<LeaseInfo> {
        self.held.get(&delivery).map(|holding| holding.lease)
    }

    /// What travelled on a session, or was taken over by it.
    pub(crate) fn of(&self, session: SessionId) -> Vec<LeaseInfo> {
        let of_session = self
            .held
            .values()
            .filter(|holding| holding.belongs_to(session));
        of_session.map(|holding| holding.lease).collect()
    }

    /// The attempt is over. A later attempt of the same delivery stays.
    pub(crate) fn drop_attempt(&mut self, delivery: DeliveryId, attempt: u32) {
        if self
            .get(delivery)
            .is_some_and(|lease| lease.attempt <= attempt)
        {
            self.held.remove(&delivery);
        }
    }

    /// The agent hands this very lease back.
    pub(crate) fn drop_lease(&mut self, delivery: DeliveryId, token: LeaseToken) {
        if self.get(delivery).is_some_and(|lease| lease.token == token) {
            self.held.remove(&delivery);
        }
    }

    /// The agent still works on it, over this session.
    pub(crate) fn renew(&mut self, delivery: DeliveryId, owner: SessionId, until: Instant) {
        if let Some(holding) = self.held.get_mut(&delivery) {
            holding.owner = owner;
            holding.is_orphan = false;
            holding.until = until;
        }
    }

    /// A session ended on purpose: what it held may go to others at once.
    pub(crate) fn take_all_of(&mut self, session: SessionId) -> Vec<LeaseInfo> {
        self.extract(|holding| holding.belongs_to(session))
    }

    /// A session ended without a word: what it held is kept for the agent's return.
    pub(crate) fn orphan(&mut self, session: SessionId, until: Instant) -> Vec<LeaseInfo> {
        let orphans = self
            .held
            .values_mut()
            .filter(|holding| holding.belongs_to(session));
        orphans
            .map(|holding| {
                holding.is_orphan = true;
                holding.until = until;
                holding.lease
            })
            .collect()
    }

    /// The agent is back and did not name these: they died with it. Not if it has other sessions: then it
    /// names only what those do not look after, and may not know yet that one of them is gone.
    pub(crate) fn take_orphans_but(&mut self, named: &[DeliveryId]) -> Vec<LeaseInfo> {
        if self.sessions > 1 {
            return Vec::new();
        }
        self.extract(|holding| holding.is_orphan && !named.contains(&holding.lease.delivery))
    }

    /// The agent takes nothing from these sessions any more, and what it does not name of theirs was
    /// never begun.
    pub(crate) fn take_unbegun(
        &mut self,
        replaced: &[SessionId],
        named: &[DeliveryId],
    ) -> Vec<LeaseInfo> {
        self.extract(|holding| {
            replaced.contains(&holding.owner) && !named.contains(&holding.lease.delivery)
        })
    }

    /// Forgets what has run out; the store has taken it back by itself.
    pub(crate) fn prune(&mut self, now: Instant) {
        // A little later than the store, which decides.
        self.held
            .retain(|_, holding| holding.until + Duration::from_secs(1) > now);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn extract(&mut self, is_wanted: impl Fn(&Holding) -> bool) -> Vec<LeaseInfo> {
        self.held
            .extract_if(|_, holding| is_wanted(holding))
            .map(|(_, holding)| holding.lease)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use protocol::id::{DestinationId, EventId, TenantId};

    use super::*;
    use crate::{clock::Timestamp, lifecycle::Spent, store::DestinationKey};

    fn lease(number: u128) -> LeaseInfo {
        LeaseInfo {
            token: LeaseToken {
                incarnation: 1,
                counter: 1,
            },
            key: DestinationKey {
                tenant: TenantId::from_u128(1),
                destination: DestinationId::from_u128(1),
            },
            delivery: DeliveryId::from_u128(number),
            event: EventId::from_u128(1),
            attempt: 1,
            leased_at: Timestamp(0),
            spent: Spent::default(),
            replay: None,
        }
    }

    fn later(now: Instant) -> Instant {
        now + Duration::from_secs(60)
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_stale_session_takes_nothing_from_its_successor() {
        let (old, new) = (SessionId::from_u128(1), SessionId::from_u128(2));
        let mut holdings = Holdings::default();
        holdings.hold(lease(1), old, later(now()));
        holdings.hold(lease(2), old, later(now()));
        holdings.hold(lease(1), new, later(now()));

        let orphans = holdings.orphan(old, later(now()));
        assert_eq!(orphans, [lease(2)]);
        assert_eq!(holdings.take_orphans_but(&[]), [lease(2)]);
        assert_eq!(holdings.take_all_of(new), [lease(1)]);
        assert!(holdings.is_empty());
    }

    #[test]
    fn what_a_replaced_session_never_brought_is_free() {
        let (replaced, other) = (SessionId::from_u128(1), SessionId::from_u128(2));
        let mut holdings = Holdings::default();
        for number in 1..=3 {
            holdings.hold(lease(number), replaced, later(now()));
        }
        holdings.hold(lease(4), other, later(now()));

        let named = [lease(1).delivery];
        let mut unbegun = holdings.take_unbegun(&[replaced], &named);
        unbegun.sort_by_key(|lease| lease.delivery);
        assert_eq!(unbegun, [lease(2), lease(3)]);

        // It may have ended before it was replaced.
        holdings.orphan(replaced, later(now()));
        assert_eq!(holdings.take_unbegun(&[replaced], &[]), [lease(1)]);
        assert_eq!(holdings.take_all_of(other), [lease(4)]);
    }

    #[test]
    fn an_agent_with_other_sessions_names_only_a_part() {
        let (first, second) = (SessionId::from_u128(1), SessionId::from_u128(2));
        let mut holdings = Holdings::default();
        holdings.join();
        holdings.hold(lease(1), first, later(now()));
        holdings.orphan(first, later(now()));

        // Its second session is not known to be gone; the third does not name what it has there.
        holdings.join();
        assert_eq!(holdings.take_orphans_but(&[]), []);
        // It tells over the third, and the second leaves with Bye.
        holdings.renew(lease(1).delivery, second, later(now()));
        assert_eq!(holdings.take_all_of(first), []);
        holdings.leave();
        holdings.orphan(second, later(now()));
        assert_eq!(holdings.take_orphans_but(&[]), [lease(1)]);
    }

    #[test]
    fn a_lease_that_is_handed_back_late_takes_no_newer_one_with_it() {
        let mut holdings = Holdings::default();
        holdings.hold(lease(1), SessionId::from_u128(1), later(now()));
        let older = LeaseToken {
            incarnation: 1,
            counter: 0,
        };
        holdings.drop_lease(lease(1).delivery, older);
        assert_eq!(holdings.get(lease(1).delivery), Some(lease(1)));
        holdings.drop_lease(lease(1).delivery, lease(1).token);
        assert!(holdings.is_empty());
    }

    #[test]
    fn what_runs_out_is_forgotten() {
        let mut holdings = Holdings::default();
        let session = SessionId::from_u128(1);
        holdings.hold(lease(1), session, now());
        holdings.hold(lease(2), session, later(now()));

        holdings.prune(now() + Duration::from_secs(2));
        assert_eq!(holdings.get(lease(1).delivery), None);
        assert_eq!(holdings.get(lease(2).delivery), Some(lease(2)));
    }
}
