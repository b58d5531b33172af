//! What comes of one thing that a job takes. Pure.

use protocol::id::DestinationId;

use super::Exclusion;
use crate::store::Match;

/// Where something is to go, or why it goes nowhere.
pub(super) type Target = Result<DestinationId, Exclusion>;

/// What decides where things go.
pub(super) struct Rules<'a> {
    /// Where the job says, if it does.
    pub(super) to: Option<DestinationId>,
    /// Whether a destination is there.
    pub(super) exists: &'a (dyn Fn(DestinationId) -> bool + Sync),
}

impl Rules<'_> {
    /// Where a match goes. `None`: it went nowhere so far; its routes must be asked.
    pub(super) fn targets(&self, found: &Match) -> Option<Vec<Target>> {
        let went = || found.deliveries.iter().map(|(to, _)| *to);
        let wanted: Vec<DestinationId> = match (self.to, found.dead) {
            (Some(to), _) => vec![to],
            (None, Some((_, to))) => vec![to],
            (None, None) if found.deliveries.is_empty() => return None,
            (None, None) => went().collect(),
        };
        Some(self.existing(&wanted))
    }

    /// Those of them that are there, each once; one exclusion if none is.
    pub(super) fn existing(&self, wanted: &[DestinationId]) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for to in wanted {
            if (self.exists)(*to) && !targets.contains(&Ok(*to)) {
                targets.push(Ok(*to));
            }
        }
        if targets.is_empty() {
            targets.push(Err(Exclusion::NoDestination));
        }
        targets
    }
}

/// Passes over what is still owed, for those who only want to know.
pub(super) fn unless_owed(target: Target, found: &Match) -> Target {
    let to = target?;
    let mut owed = found.deliveries.iter();
    if owed.any(|(destination, state)| *destination == to && state.is_open()) {
        return Err(Exclusion::StillOwed);
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use protocol::id::{DeliveryId, EventId, SourceId};

    use super::*;
    use crate::lifecycle::DeliveryState::{self, Dead, Delivered, Pending};

    const GONE: u128 = 9;

    fn place(number: u128) -> DestinationId {
        DestinationId::from_u128(number)
    }

    /// What was delivered where, and the destination of the dead letter if it is one.
    fn found(deliveries: &[(u128, DeliveryState)], dead: Option<u128>) -> Match {
        Match {
            event: EventId::from_u128(1),
            source: SourceId::from_u128(2),
            dead: dead.map(|to| (DeliveryId::from_u128(3), place(to))),
            deliveries: deliveries
                .iter()
                .map(|(to, state)| (place(*to), *state))
                .collect(),
        }
    }

    #[track_caller]
    fn check(to: Option<u128>, found: &Match, expected: Option<&[Result<u128, Exclusion>]>) {
        let rules = Rules {
            to: to.map(place),
            exists: &|to| to != place(GONE),
        };
        let targets = rules.targets(found);
        let targets = targets.map(|targets| {
            let each = targets.into_iter().map(|target| unless_owed(target, found));
            each.map(|target| target.map(DestinationId::as_u128))
                .collect::<Vec<_>>()
        });
        assert_eq!(targets.as_deref(), expected);
    }

    #[test]
    fn things_go_where_they_went_or_where_the_job_says() {
        let nowhere = Exclusion::NoDestination;
        let owed = Exclusion::StillOwed;
        let both = found(&[(5, Delivered), (6, Dead), (5, Dead)], None);
        check(None, &both, Some(&[Ok(5), Ok(6)]));
        check(Some(7), &both, Some(&[Ok(7)]));
        check(Some(GONE), &both, Some(&[Err(nowhere)]));
        let dead = found(&[(5, Delivered), (6, Dead)], Some(6));
        check(None, &dead, Some(&[Ok(6)]));
        check(Some(5), &dead, Some(&[Ok(5)]));
        check(None, &found(&[], None), None);
        check(Some(5), &found(&[], None), Some(&[Ok(5)]));
        check(None, &found(&[(GONE, Dead)], None), Some(&[Err(nowhere)]));
        check(
            None,
            &found(&[(GONE, Dead)], Some(GONE)),
            Some(&[Err(nowhere)]),
        );
        let half = found(&[(5, Pending), (6, Delivered)], None);
        check(None, &half, Some(&[Err(owed), Ok(6)]));
        check(Some(5), &half, Some(&[Err(owed)]));
    }
}
