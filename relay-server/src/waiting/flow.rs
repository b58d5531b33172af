//! The way back: what providers have taken, told to the session that brings it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::{frame::LeaseToken, id::DeliveryId};
use tokio::sync::Notify;

/// One attempt, as frames name it.
pub(crate) type Attempt = (DeliveryId, LeaseToken);

/// What a session is to do about one attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// Body bytes of its response that were taken since the last note.
    pub(crate) taken: u64,
    /// Nobody waits for its response any more.
    pub(crate) is_unwanted: bool,
    /// The attempt itself is not wanted any more.
    pub(crate) is_withdrawn: bool,
}

/// Notes to one session. Bounded by its attempts: several notes about one become one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow(Arc<Notes>);

#[derive(Debug, Default)]
struct Notes {
    notes: Mutex<HashMap<Attempt, Note>>,
    notify: Notify,
}

impl Flow {
    /// Whoever waits has taken this much more.
    pub(super) fn taken(&self, attempt: &Attempt, bytes: u64) {
        if bytes > 0 {
            self.note(attempt, |note| {
                note.taken = note.taken.saturating_add(bytes)
            });
        }
    }

    /// Nobody waits any more.
    pub(super) fn unwanted(&self, attempt: &Attempt) {
        self.note(attempt, |note| note.is_unwanted = true);
    }

    /// The attempt is to be withdrawn.
    pub(super) fn withdraw(&self, attempt: &Attempt) {
        self.note(attempt, |note| note.is_withdrawn = true);
    }

    fn note(&self, attempt: &Attempt, change: impl FnOnce(&mut Note)) {
        change(self.notes().entry(attempt.clone()).or_default());
        self.0.notify.notify_one();
    }

    /// Waits for notes, and takes all there are. Cancel-safe.
    pub(crate) async fn noted(&self) -> HashMap<Attempt, Note> {
        loop {
            let notes = std::mem::take(&mut *self.notes());
            if !notes.is_empty() {
                return notes;
            }
            self.0.notify.notified().await;
        }
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<Attempt, Note>> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
