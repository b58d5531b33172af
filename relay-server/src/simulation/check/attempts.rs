//! What services see of attempts, and what becomes of them.

use super::{Check, Right, millis};
use crate::{
    lifecycle::{AttemptOutcome, RetryPolicy, Spent, Verdict},
    store::{Settled, Settlement},
};

impl Check {
    /// An agent calls a service.
    pub(in crate::simulation) fn calls(&mut self, agent: usize, right: Right) {
        self.tell(|| format!("agent {agent}: calls the service with {}", right.0));
        self.calls.insert((agent, right));
        let is_by_right = |right: &Right| {
            let owed = self.owed.get(&right.0);
            let lease = owed.and_then(|owed| owed.lease);
            lease.is_some_and(|lease| lease.info.token == right.1) && !self.excused.contains(right)
        };
        let Some(owed) = self.owed.get(&right.0).filter(|_| is_by_right(&right)) else {
            return;
        };
        let is_beside = |(_, other): &&(usize, Right)| {
            let of_key = self.owed.get(&other.0);
            other.0 != right.0
                && is_by_right(other)
                && of_key.is_some_and(|other| other.key == owed.key && other.order == owed.order)
        };
        let beside = self.calls.iter().find(is_beside).map(|(_, other)| other.0);
        if let Some(beside) = beside.filter(|_| owed.order.is_some()) {
            self.fail(format!("{} and {beside} are called side by side", right.0));
        }
    }

    /// The call is over.
    pub(in crate::simulation) fn call_is_over(
        &mut self,
        agent: usize,
        right: &Right,
        is_taken: bool,
    ) {
        self.calls.remove(&(agent, *right));
        if let Some(owed) = self.owed.get_mut(&right.0) {
            owed.is_taken |= is_taken;
        }
    }

    /// A settlement and what the store answered. `is_down` says whether the breaker is open for the
    /// agent, `is_unreachable` whether the attempt did not reach the service.
    pub(in crate::simulation) fn settled(
        &mut self,
        one: &Settlement,
        settled: Settled,
        (is_down, is_unreachable): (bool, bool),
    ) {
        let (id, token) = (one.delivery, one.token);
        self.tell(|| format!("store: settles {id} as {:?}: {settled:?}", one.verdict));
        let holds = self.lease_of(id, token).is_some();
        match settled {
            Settled::Applied => self.applied(one, is_down && is_unreachable),
            Settled::AlreadySettled if holds => {
                if let Some(owed) = self.owed.get_mut(&id) {
                    owed.lease = None;
                }
            }
            Settled::LeaseLost if holds => {
                self.fail(format!(
                    "the outcome of {id} was refused though its lease holds"
                ));
            }
            Settled::AlreadySettled | Settled::LeaseLost => {}
            Settled::Unknown => self.fail(format!("{id} is lost: the store does not know it")),
        }
    }

    fn applied(&mut self, one: &Settlement, must_be_excused: bool) {
        let (id, token) = (one.delivery, one.token);
        if one.attempt.outcome == AttemptOutcome::Lost {
            self.ends_lease(id, token, "was given up as lost");
        }
        let lease = self.lease_of(id, token).copied();
        let Some(owed) = self.owed.get(&id) else {
            return;
        };
        let spent = owed.spent;
        let complaint = match (one.verdict, lease) {
            (Verdict::Deliver, _) => {
                (!owed.is_taken).then(|| "it counts as delivered and was never taken".to_owned())
            }
            (_, None) => Some("a failure counted without the right to attempt".to_owned()),
            (_, Some(lease)) if lease.info.attempt != one.attempt.number => {
                let (of, now) = (one.attempt.number, lease.info.attempt);
                Some(format!(
                    "a failure of attempt {of} counted for attempt {now}"
                ))
            }
            (Verdict::Retry { spent: after, .. }, _) if must_be_excused && after != spent => {
                Some("an attempt was burned while its service was down".to_owned())
            }
            (Verdict::Retry { spent: after, .. }, _) => (after.attempts > spent.attempts + 1)
                .then(|| "one attempt counted as several".to_owned()),
            (Verdict::Die { .. }, _) if must_be_excused => {
                Some("it was given up while its service was down".to_owned())
            }
            (Verdict::Die { .. }, Some(lease)) => {
                let is_permanent = matches!(
                    &one.attempt.outcome,
                    AttemptOutcome::Answered {
                        status: 410 | 422,
                        ..
                    }
                );
                let policy = self.plans.get(&owed.key).map(|plan| &plan.judge.retry);
                let lasted = millis(one.attempt.ended_at.since(lease.info.leased_at));
                let is_exhausted = policy.is_some_and(|policy| is_used_up(policy, spent, lasted));
                (!is_permanent && !is_exhausted)
                    .then(|| "it was given up before its time".to_owned())
            }
        };
        if let Some(complaint) = complaint {
            self.fail(format!("{id}: {complaint}"));
        }
        let ends = lease.is_some();
        let Some(owed) = self.owed.get_mut(&id) else {
            return;
        };
        if ends || owed.order.is_none() {
            owed.lease = None;
        }
        match one.verdict {
            Verdict::Deliver => owed.ended = Some("delivered"),
            Verdict::Die { reason } => owed.ended = Some(reason.as_str()),
            Verdict::Retry { at, spent } => {
                owed.due = at;
                owed.spent = spent;
            }
        }
    }
}

/// Whether a further attempt is one too many.
fn is_used_up(policy: &RetryPolicy, spent: Spent, lasted_ms: u64) -> bool {
    let attempts = spent.attempts + 1;
    let by_count = policy.attempts_max.is_some_and(|most| attempts >= most);
    let scheduled = policy.schedule_ms.len();
    let by_schedule = scheduled > 0 && attempts as usize > scheduled;
    let longest = policy.schedule_ms.iter().copied().max().unwrap_or_default();
    let longest = longest.max(policy.cap_ms);
    by_count || by_schedule || spent.window_ms + lasted_ms + longest > policy.window_ms
}
