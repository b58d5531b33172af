//! How a store tells the dispatcher that there is something to hand out.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use super::DestinationKey;

/// The destinations that have newly due deliveries. Bounded by the number of destinations.
#[derive(Debug, Default)]
pub struct Due {
    marked: Mutex<HashSet<DestinationKey>>,
    notify: Notify,
}

impl Due {
    /// Notes destinations and wakes whoever waits. Cheap when they are noted already.
    pub fn mark(&self, destinations: impl IntoIterator<Item = DestinationKey>) {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = marked.len();
        marked.extend(destinations);
        let grew = marked.len() > before;
        drop(marked);
        if grew {
            self.notify.notify_one();
        }
    }

    /// Waits until something is noted, and takes all of it. Cancel-safe.
    pub async fn wait(&self) -> HashSet<DestinationKey> {
        loop {
            let taken =
                std::mem::take(&mut *self.marked.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }
}
