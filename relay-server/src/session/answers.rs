//! Answers on their way through one session to providers that wait.

use std::{collections::HashMap, sync::Arc};

use protocol::{
    frame::{LeaseToken, ResponseChunk},
    id::{DeliveryId, TenantId},
};

use crate::waiting::{Attempt, Flow, Note, Pipe, Room};

/// The answers of one session.
#[derive(Debug)]
pub(super) struct Answers {
    room: Arc<Room>,
    flow: Flow,
    /// Those that have begun and are not complete.
    pipes: HashMap<Attempt, Arc<Pipe>>,
}

impl Answers {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            flow: Flow::default(),
            pipes: HashMap::new(),
        }
    }

    /// A delivery is in the agent's hands from now on: whether somebody waits for its answer.
    pub(super) fn offered(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        lease: &LeaseToken,
    ) -> bool {
        self.room.offered(tenant, delivery, lease, &self.flow)
    }

    /// Passes part of an answer on. False if nobody waits for it.
    pub(super) fn take(&mut self, chunk: ResponseChunk) -> bool {
        let attempt = (chunk.delivery, chunk.lease);
        if let Some(head) = &chunk.head {
            let Some(pipe) = self.room.answer(attempt.0, &attempt.1, head) else {
                return false;
            };
            self.pipes.insert(attempt.clone(), pipe);
        }
        let Some(pipe) = self.pipes.get(&attempt) else {
            return false;
        };
        let is_read = pipe.push(chunk.part);
        if chunk.last {
            pipe.complete();
        }
        if chunk.last || !is_read {
            self.pipes.remove(&attempt);
        }
        is_read
    }

    /// The rest of an answer will not come.
    pub(super) fn cut(&mut self, delivery: DeliveryId, lease: LeaseToken) {
        if let Some(pipe) = self.pipes.remove(&(delivery, lease)) {
            pipe.cut();
        }
    }

    /// Waits for what providers have to say. Cancel-safe.
    pub(super) async fn noted(&self) -> HashMap<Attempt, Note> {
        self.flow.noted().await
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for pipe in self.pipes.values() {
            pipe.cut();
        }
    }
}
