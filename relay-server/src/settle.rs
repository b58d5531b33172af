//! What an attempt means becomes durable: receipt and policy give the verdict, the store keeps it,
//! and only then is the receipt confirmed.

use std::sync::Arc;

use protocol::{
    frame::{self, Receipt},
    id::{AgentId, AttemptId, TenantId},
};
use tracing::{debug, error, info};

use crate::{
    ids,
    lifecycle::{AttemptOutcome, AttemptReport, Excuse, History, JudgePolicy, Verdict, judge},
    store::{DestinationKey, Due, Events, LeaseInfo, LeaseToken, Settled, Settlement, StoreError},
};

/// Finds how a destination judges attempts. `None` when the destination is gone.
pub type Policies = dyn Fn(DestinationKey) -> Option<JudgePolicy> + Send + Sync;

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
    due: Arc<Due>,
    policies: Box<Policies>,
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settler").finish_non_exhaustive()
    }
}

impl Settler {
    /// A settler over a store. `due` is marked when a retry is scheduled, so that the dispatcher
    /// learns when to wake.
    pub fn new(store: Arc<dyn Events>, due: Arc<Due>, policies: Box<Policies>) -> Self {
        Self {
            store,
            due,
            policies,
        }
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
        let confirms: Vec<_> = reported
            .iter()
            .map(|Reported { receipt, .. }| frame::Settled {
                delivery: receipt.delivery,
                attempt: receipt.attempt,
            })
            .collect();
        let leases: Vec<_> = reported.iter().map(|reported| reported.lease).collect();
        let settlements = reported
            .into_iter()
            .filter_map(|Reported { receipt, lease }| {
                self.judge_receipt(tenant, agent, receipt, lease)
            })
            .collect();
        self.keep(settlements, &leases).await?;
        Ok(confirms)
    }

    /// Records attempts that vanished with their agents.
    pub async fn settle_lost(&self, lost: Vec<LeaseInfo>) {
        let leases: Vec<_> = lost.iter().copied().map(Some).collect();
        let settlements = lost.iter().map(|lease| self.judge_lost(lease)).collect();
        if let Err(error) = self.keep(settlements, &leases).await {
            // They stay expired; the dispatcher finds them again.
            error!(%error, "could not record lost attempts");
        }
    }

    async fn keep(
        &self,
        settlements: Vec<Settlement>,
        leases: &[Option<LeaseInfo>],
    ) -> Result<(), StoreError> {
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
        let retried = noted
            .iter()
            .any(|(_, verdict)| matches!(verdict, Verdict::Retry { .. }));
        if retried {
            self.due
                .mark(leases.iter().flatten().map(|lease| lease.key));
        }
        Ok(())
    }

    /// `None` for a failure under a lease that this session does not hold: it is fenced.
    fn judge_receipt(
        &self,
        tenant: TenantId,
        agent: AgentId,
        receipt: Receipt,
        lease: Option<LeaseInfo>,
    ) -> Option<Settlement> {
        let now = self.store.now();
        let delivery = receipt.delivery;
        let number = receipt.attempt;
        let elapsed_ms = receipt.elapsed_ms;
        let claimed: Option<LeaseToken> = receipt.lease.0.parse().ok();
        let outcome = AttemptOutcome::from(receipt);
        let verdict = match lease {
            _ if outcome.is_success() => Verdict::Deliver,
            Some(lease) => self.judge(&outcome, &lease),
            None => return None,
        };
        let token = lease
            .map(|lease| lease.token)
            .or(claimed)
            .unwrap_or(LeaseToken {
                incarnation: 0,
                counter: 0,
            });
        let id = AttemptId::from_u128(ids::fresh(now));
        let attempt = AttemptReport {
            id,
            number,
            agent: Some(agent),
            ended_at: now,
            elapsed_ms,
            outcome,
        };
        Some(Settlement {
            tenant,
            delivery,
            token,
            attempt,
            verdict,
            park: false,
        })
    }

    fn judge_lost(&self, lease: &LeaseInfo) -> Settlement {
        let now = self.store.now();
        let outcome = AttemptOutcome::Lost;
        let verdict = self.judge(&outcome, lease);
        let id = AttemptId::from_u128(ids::fresh(now));
        let attempt = AttemptReport {
            id,
            number: lease.attempt,
            agent: None,
            ended_at: now,
            elapsed_ms: 0,
            outcome,
        };
        Settlement {
            tenant: lease.key.tenant,
            delivery: lease.delivery,
            token: lease.token,
            attempt,
            verdict,
            park: false,
        }
    }

    fn judge(&self, outcome: &AttemptOutcome, lease: &LeaseInfo) -> Verdict {
        let policy = (self.policies)(lease.key).unwrap_or_default();
        let now = self.store.now();
        let history = History {
            attempt: lease.attempt,
            spent: lease.spent,
            lasted: now.since(lease.leased_at),
        };
        judge(outcome, &policy, history, Excuse::None, now, rand::random())
    }
}
