//! The sessions that serve one destination, and how much each still takes. Pure.

use std::{cmp::Reverse, ops::RangeInclusive, time::Duration};

use protocol::{
    id::{DestinationId, SessionId, TenantId},
    session::Allowance,
};

use super::Outlet;
use crate::store::{DestinationKey, Want};

/// All destinations of a tenant.
pub(super) fn keys_of(tenant: TenantId) -> RangeInclusive<DestinationKey> {
    let key = |destination| DestinationKey {
        tenant,
        destination: DestinationId::from_u128(destination),
    };
    key(0)..=key(u128::MAX)
}

/// The sessions that serve one destination.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Who was served last stands last.
    seats: Vec<Seat>,
    /// Nobody has room for the next delivery, however much is free: wait for credit.
    blocked: bool,
}

/// One session at a destination.
#[derive(Debug)]
struct Seat {
    session: SessionId,
    ttl: Duration,
    outlet: Outlet,
    free: Allowance,
}

/// Who gets a delivery.
#[derive(Debug)]
pub(super) struct Assigned {
    pub(super) session: SessionId,
    pub(super) outlet: Outlet,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    pub(super) fn join(&mut self, session: SessionId, ttl: Duration, outlet: Outlet) {
        self.leave(session);
        self.seats.push(Seat {
            session,
            ttl,
            outlet,
            free: Allowance::default(),
        });
    }

    pub(super) fn leave(&mut self, session: SessionId) {
        self.seats.retain(|seat| seat.session != session);
    }

    pub(super) fn credit(&mut self, session: SessionId, deliveries: u64, bytes: u64) {
        let Some(seat) = self.seats.iter_mut().find(|seat| seat.session == session) else {
            return;
        };
        seat.free.add(deliveries, bytes);
        self.blocked = false;
    }

    /// How much to claim, at most `quantum` deliveries; `None` if nobody has room.
    pub(super) fn want(&self, key: DestinationKey, quantum: u32) -> Option<Want> {
        if self.blocked {
            return None;
        }
        let (mut deliveries, mut bytes, mut ttl) = (0_u64, 0_u64, Duration::ZERO);
        for seat in self.seats.iter().filter(|seat| seat.free.fits(0)) {
            deliveries = deliveries.saturating_add(seat.free.deliveries());
            bytes = bytes.saturating_add(u64::try_from(seat.free.bytes()).unwrap_or(0));
            ttl = ttl.max(seat.ttl);
        }
        let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX).min(quantum);
        (deliveries > 0).then_some(Want {
            key,
            deliveries,
            bytes,
            in_flight_max: None,
            ttl,
        })
    }

    /// Chooses the session with most free deliveries among those with room for `bytes`; of several
    /// the one that has waited longest, so that little work is spread, too.
    pub(super) fn assign(&mut self, bytes: u64) -> Option<Assigned> {
        let with_room = self.seats.iter().enumerate();
        let chosen = with_room
            .filter(|(_, seat)| seat.free.fits(bytes))
            .min_by_key(|(_, seat)| Reverse(seat.free.deliveries()));
        let Some((index, _)) = chosen else {
            self.blocked = true;
            return None;
        };
        self.seats[index..].rotate_left(1);
        let seat = self.seats.last_mut()?;
        seat.free.take(bytes);
        Some(Assigned {
            session: seat.session,
            outlet: seat.outlet.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn session(number: u128) -> SessionId {
        SessionId::from_u128(number)
    }

    fn key() -> DestinationKey {
        DestinationKey {
            tenant: TenantId::from_u128(1),
            destination: DestinationId::from_u128(1),
        }
    }

    fn line(credits: &[(u128, u64, u64)]) -> Line {
        let mut line = Line::default();
        for &(number, deliveries, bytes) in credits {
            line.join(session(number), Duration::from_secs(1), mpsc::channel(1).0);
            line.credit(session(number), deliveries, bytes);
        }
        line
    }

    #[test]
    fn work_spreads_by_free_credit() {
        let mut line = line(&[(1, 3, 100), (2, 1, 100)]);

        let got: Vec<_> = (0..4).map(|_| line.assign(1).unwrap().session).collect();
        assert_eq!(got.iter().filter(|&&to| to == session(1)).count(), 3);
        assert!(line.assign(1).is_none());
        assert!(line.want(key(), 100).is_none());
    }

    #[test]
    fn little_work_is_spread_too() {
        let mut line = line(&[(1, 8, 100), (2, 8, 100), (3, 8, 100)]);

        // Each is done with before the next comes.
        let mut got = Vec::new();
        for _ in 0..6 {
            let session = line.assign(1).unwrap().session;
            line.credit(session, 1, 1);
            got.push(session);
        }
        assert_eq!(got, [1, 2, 3, 1, 2, 3].map(session));
    }

    #[test]
    fn an_oversized_event_travels_alone() {
        let mut line = line(&[(1, 10, 100)]);

        assert!(line.assign(1).is_some());
        assert!(line.assign(500).is_none(), "something is in flight");
        assert!(line.want(key(), 10).is_none(), "and no credit came since");
        line.credit(session(1), 1, 1);
        assert!(line.assign(500).is_some());
        assert!(line.assign(1).is_none(), "it is alone");
        line.credit(session(1), 1, 500);
        assert!(line.assign(1).is_some());
    }

    #[test]
    fn a_session_that_left_gets_nothing() {
        let mut line = line(&[(1, 1, 100), (2, 1, 100)]);
        line.leave(session(1));

        assert_eq!(line.want(key(), 10).unwrap().deliveries, 1);
        assert_eq!(line.assign(1).unwrap().session, session(2));
        assert!(line.assign(1).is_none());
        line.leave(session(2));
        assert!(line.is_empty());
    }
}
