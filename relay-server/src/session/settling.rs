//! Receipts of one session on their way to the store and back. While one batch is being synced the
//! next one gathers, so that the store's group commit is met by ours.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol::{
    frame,
    id::{AgentId, DeliveryId, TenantId},
};
use tokio::{sync::mpsc, time};
use tracing::warn;

use super::{holdings::Holdings, registry::lock};
use crate::{
    settle::{Reported, Settler},
    waiting::Room,
};

/// Receipts settled in one go.
const BATCH_MAX: usize = 512;

/// How long to rest when the store fails; the agent reports again anyway.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Settles the receipts of one session until its end.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) tenant: TenantId,
    pub(super) agent: AgentId,
    pub(super) settler: Arc<Settler>,
    pub(super) room: Arc<Room>,
    pub(super) holdings: Arc<Mutex<Holdings>>,
    pub(super) reported: mpsc::Receiver<Reported>,
    pub(super) confirmed: mpsc::Sender<Vec<frame::Settled>>,
}

impl Settling {
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.reported.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let told: Vec<_> = batch.iter().map(told).collect();
            match self
                .settler
                .settle(self.tenant, self.agent, std::mem::take(&mut batch))
                .await
            {
                Ok(settled) => {
                    {
                        let mut holdings = lock(&self.holdings);
                        for one in &settled {
                            holdings.drop_attempt(one.delivery, one.attempt);
                        }
                    }
                    for (delivery, lease, is_taken) in told {
                        self.room.settled(self.tenant, delivery, &lease, is_taken);
                    }
                    // The session may have ended; then the next one hears of it when it asks again.
                    let _ = self.confirmed.send(settled).await;
                }
                Err(error) => {
                    warn!(%error, "receipts could not be settled; the agent will send them again");
                    time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }
}

/// What whoever waits for an answer is told: which attempt has ended, and whether the event is taken.
fn told(reported: &Reported) -> (DeliveryId, frame::LeaseToken, bool) {
    let receipt = &reported.receipt;
    let is_taken = receipt.outcome.is_success();
    (receipt.delivery, receipt.lease.clone(), is_taken)
}
