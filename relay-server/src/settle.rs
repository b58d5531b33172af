//! What an attempt means becomes durable: receipt, policy and the health of the service give the
//! verdict, the store keeps it, and only then is the receipt confirmed.

use std::sync::Arc;

use protocol::{
    frame::{self, Receipt},
    id::{AgentId, AttemptId, TenantId},
};
use tracing::{debug, error, info};

use crate::{
    clock::Timestamp,
    dispatch::DispatchHandle,
    ids,
    lifecycle::{
        AttemptOutcome, AttemptReport, Excuse, History, JudgePolicy, Sign, Verdict, judge,
    },
    store::{DestinationKey, Events, Held, LeaseInfo, LeaseToken, Settled, Settlement, StoreError},
};

/// Finds how a destination judges attempts. `None` when the destination is gone.
pub type Policies = dyn Fn(DestinationKey) -> Option<JudgePolicy> + Send + Sync;

/// Draws numbers, uniform in 0..1.
pub type Luck = dyn Fn() -> f64 + Send + Sync;

/// A receipt with the lease it reports on, as far as the session knows it.
#[derive(Debug)]
pub struct Reported {
    /// What the agent says.
    pub receipt: Receipt,
    /// The lease; `None` if this session does not hold it. Then only a success counts.
    pub lease: Option<LeaseInfo>,
}

/// Turns receipts and lost leases into durable verdicts.
pub struct Settler {
    store: Arc<dyn Events>,
    dispatch: DispatchHandle,
    policies: Box<Policies>,
    luck: Box<Luck>,
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settler").finish_non_exhaustive()
    }
}

/// An attempt that has ended, with all that its verdict depends on.
struct Ended {
    lease: LeaseInfo,
    policy: JudgePolicy,
    attempt: AttemptReport,
}

impl Ended {
    /// What it tells about the service.
    fn sign(&self) -> Sign {
        let outcome = &self.attempt.outcome;
        Sign::of(outcome, self.policy.meaning(outcome))
    }
}

impl Settler {
    /// A settler over a store. `dispatch` learns how services are doing.
    pub fn new(store: Arc<dyn Events>, dispatch: DispatchHandle, policies: Box<Policies>) -> Self {
        Self {
            store,
            dispatch,
            policies,
            luck: Box::new(rand::random),
        }
    }

    /// The same with numbers that tests choose.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_luck(mut self, luck: Box<Luck>) -> Self {
        self.luck = luck;
        self
    }

    /// Settles what an agent reported, and names the receipts to confirm.
    ///
    /// # Errors
    ///
    /// The store is broken: confirm nothing, the agent reports again.
    pub async fn settle(
        &self,
        tenant: TenantId,
        agent: AgentId,
        reported: Vec<Reported>,
    ) -> Result<Vec<frame::Settled>, StoreError> {
        let confirms = reported
            .iter()
            .map(|reported| reported.receipt.key())
            .collect();
        self.keep(self.judge_receipts(tenant, agent, reported))
            .await?;
        Ok(confirms)
    }

    /// Records attempts that vanished with their agents.
    pub async fn settle_lost(&self, lost: Vec<LeaseInfo>) {
        let held: Vec<_> = lost.iter().map(Held::of).collect();
        self.dispatch.returned(&held);
        let now = self.store.now();
        let settlements = lost.into_iter().map(|lease| {
            let attempt = AttemptReport {
                id: AttemptId::from_u128(ids::fresh(now)),
                number: lease.attempt,
                agent: None,
                ended_at: now,
                elapsed_ms: 0,
                outcome: AttemptOutcome::Lost,
            };
            self.judge(self.ended(lease, attempt), Excuse::None, now)
        });
        if let Err(error) = self.keep(settlements.collect()).await {
            // They stay expired; the dispatcher finds them again.
            error!(%error, "could not record lost attempts");
        }
    }

    async fn keep(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        if settlements.is_empty() {
            return Ok(());
        }
        let noted: Vec<_> = settlements
            .iter()
            .map(|one| (one.delivery, one.verdict))
            .collect();
        let settled = self.store.settle(settlements).await?;
        for ((delivery, verdict), settled) in noted.iter().zip(settled) {
            match (settled, verdict) {
                (Settled::Applied, Verdict::Deliver) => debug!(%delivery, "delivered"),
                (Settled::Applied, Verdict::Retry { at, .. }) => {
                    debug!(%delivery, %at, "will be tried again")
                }
                (Settled::Applied, Verdict::Die { reason }) => {
                    info!(%delivery, reason = reason.as_str(), "gave a delivery up");
                }
                (Settled::AlreadySettled | Settled::LeaseLost | Settled::Unknown, _) => {
                    debug!(%delivery, ?settled, "a receipt changed nothing");
                }
            }
        }
        Ok(())
    }

    /// A failure under a lease that this session does not hold is fenced: nothing comes of it.
    fn judge_receipts(
        &self,
        tenant: TenantId,
        agent: AgentId,
        reported: Vec<Reported>,
    ) -> Vec<Settlement> {
        let now = self.store.now();
        let mut settlements = Vec::with_capacity(reported.len());
        let mut ended = Vec::with_capacity(reported.len());
        for Reported { receipt, lease } in reported {
            let delivery = receipt.delivery;
            let claimed = receipt.lease.0.parse().ok();
            let attempt = AttemptReport {
                id: AttemptId::from_u128(ids::fresh(now)),
                number: receipt.attempt,
                agent: Some(agent),
                ended_at: now,
                elapsed_ms: receipt.elapsed_ms,
                outcome: AttemptOutcome::from(receipt),
            };
            match lease {
                Some(lease) => ended.push(self.ended(lease, attempt)),
                None if attempt.outcome.is_success() => settlements.push(Settlement {
                    tenant,
                    delivery,
                    token: claimed.unwrap_or(LeaseToken::NONE),
                    attempt,
                    verdict: Verdict::Deliver,
                    park: false,
                }),
                None => {}
            }
        }
        let signs: Vec<_> = ended.iter().map(|one| (one.lease, one.sign())).collect();
        let excuses = self.dispatch.outcomes(agent, &signs, &self.luck);
        let judged = ended.into_iter().zip(excuses);
        settlements.extend(judged.map(|(one, excuse)| self.judge(one, excuse, now)));
        settlements
    }

    fn ended(&self, lease: LeaseInfo, attempt: AttemptReport) -> Ended {
        let policy = (self.policies)(lease.key).unwrap_or_default();
        Ended {
            lease,
            policy,
            attempt,
        }
    }

    fn judge(&self, ended: Ended, excuse: Excuse, now: Timestamp) -> Settlement {
        let Ended {
            lease,
            policy,
            attempt,
        } = ended;
        let history = History {
            attempt: lease.attempt,
            spent: lease.spent,
            lasted: now.since(lease.leased_at),
        };
        let luck = (self.luck)();
        let verdict = judge(&attempt.outcome, &policy, history, excuse, now, luck);
        Settlement {
            tenant: lease.key.tenant,
            delivery: lease.delivery,
            token: lease.token,
            attempt,
            verdict,
            park: false,
        }
    }
}
