//! What all calls share, and what happens once records are durable.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use protocol::id::TenantId;
use tokio::sync::{Notify, oneshot};

use super::{
    dedupe::{Dedupe, Reservation},
    desk::{Desks, Owed},
    journal::{
        Position, Reader,
        erasing::Erasing,
        intake::{Intake, Op, Refused},
        payload::{
            DeliveryRef, End, EndDestination, ForgetSource, Park, Queue, Repeat, Requeue, Settle,
        },
        record::{Kind, PAYLOAD_BYTES_MAX},
        space::Space,
        writer::{Sink, Written, unavailable},
    },
    keeping::Ledger,
    projection::{
        Projection,
        apply::{Accepted, Change, What},
    },
    settings::SettingsDb,
};
use crate::{
    clock::{Clock, Timestamp},
    lifecycle::{Event, Spent, Verdict},
    store::{DestinationKey, Due, Held, LeaseToken, NewDelivery, Settled, StoreError, WaitedFor},
};

/// How long an acceptance is held back just below the largest lag.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// When to try again after a full queue.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a caller hears when its record is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Settled(Settled),
    /// Whether a delivery changed.
    Changed(bool),
    /// Its sequence.
    Noted(u64),
}

type Reply = oneshot::Sender<Result<Answer, StoreError>>;

/// What a durable record does in memory, and who waits for it.
#[derive(Debug)]
pub(super) struct Effect {
    pub(super) does: Does,
    pub(super) reply: Option<Reply>,
}

#[derive(Debug)]
pub(super) enum Does {
    Accept {
        event: Arc<Event>,
        remembered_until: Timestamp,
        deliveries: Vec<NewDelivery>,
        waited_for: Option<WaitedFor>,
        reservation: Option<Reservation>,
    },
    Settle {
        settle: Box<Settle>,
        token: LeaseToken,
    },
    Reopen {
        requeue: Requeue,
        owed: Box<Owed>,
    },
    Deliver {
        requeue: Requeue,
        owed: Box<Owed>,
    },
    End(End),
    Park(Park),
    EndDestination(EndDestination),
    ForgetSource(ForgetSource),
    Repeat(Repeat),
    Erase(Erasing),
}

/// What all calls share.
pub(super) struct Core {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) due: Arc<Due>,
    pub(super) intake: Arc<Intake<Effect>>,
    pub(super) space: Arc<Space>,
    pub(super) failed: Arc<OnceLock<String>>,
    pub(super) reader: Arc<Reader>,
    pub(super) dedupe: Arc<Dedupe>,
    pub(super) projection: Arc<Projection>,
    pub(super) settings: SettingsDb,
    pub(super) desks: Mutex<Desks>,
    pub(super) ledger: Ledger,
    /// Changes the projection may be behind before nothing more is accepted.
    pub(super) lag_max: usize,
    /// One at a time decides whether a dead delivery is reopened.
    pub(super) requeues: tokio::sync::Mutex<()>,
    /// Tells that rows for some desk were read.
    pub(super) loaded: Notify,
    pub(super) closed: AtomicBool,
    /// Held while the store is open.
    pub(super) lock: Mutex<Option<File>>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn desks(&self) -> MutexGuard<'_, Desks> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Refuses after `close`.
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(closed());
        }
        Ok(())
    }

    /// Whether changes can be written.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        self.check_open()?;
        match self.failed.get() {
            None => Ok(()),
            cause => Err(unavailable(cause)),
        }
    }

    /// Whether events can be accepted.
    pub(super) fn accepting(&self) -> Result<(), StoreError> {
        self.check_writable()?;
        if self.space.is_full() {
            return Err(StoreError::Full);
        }
        Ok(())
    }

    /// Admits an event, later and later as the projection falls behind.
    pub(super) async fn admit(&self) -> Result<(), StoreError> {
        self.accepting()?;
        match hold_back(self.projection.lag(), self.lag_max) {
            None => Err(overloaded()),
            Some(Duration::ZERO) => Ok(()),
            Some(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
        }
    }

    /// Submits a record; the receiver hears when it is durable.
    pub(super) fn submit(
        &self,
        new: Vec<(Kind, TenantId, bytes::Bytes, u64, Does)>,
    ) -> Result<Vec<oneshot::Receiver<Result<Answer, StoreError>>>, StoreError> {
        let mut answers = Vec::with_capacity(new.len());
        let mut ops = Vec::with_capacity(new.len());
        for (kind, tenant, payload, numbers, does) in new {
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(StoreError::Unavailable(format!(
                    "a record may have {PAYLOAD_BYTES_MAX} bytes and has {}",
                    payload.len()
                )));
            }
            let (reply, answer) = oneshot::channel();
            let reply = Some(reply);
            let effect = Effect { does, reply };
            ops.push(Op::new(kind, tenant, payload, numbers, effect));
            answers.push(answer);
        }
        match self.intake.push(ops) {
            Ok(()) => Ok(answers),
            Err((refused, ops)) => {
                let error = match refused {
                    Refused::Full => overloaded(),
                    Refused::Closed => closed(),
                };
                let effects = ops.into_iter().map(|op| op.effect).collect();
                self.refused(effects, &error);
                Err(error)
            }
        }
    }

    /// Submits one record and waits until it is durable.
    pub(super) async fn write(
        &self,
        kind: Kind,
        tenant: TenantId,
        payload: bytes::Bytes,
        does: Does,
    ) -> Result<Answer, StoreError> {
        let mut answers = self.submit(vec![(kind, tenant, payload, 1, does)])?;
        match answers.pop() {
            Some(answer) => hear(answer).await,
            None => Ok(Answer::Done),
        }
    }

    /// Keeps note, until dropped, of what is settled while a delivery is looked up.
    pub(super) fn lookup(&self) -> Lookup<'_> {
        self.desks().begin_lookup();
        Lookup(self)
    }

    /// Waits until questions see everything that is durable now.
    pub(super) async fn caught_up(&self) -> Result<(), StoreError> {
        let durable = self.desks().durable;
        self.projection.caught_up(durable).await
    }
}

/// How long an acceptance is held back for a lag: not at all below half of the largest, then longer and longer, so that
/// however many post, the lag settles where they come as fast as the projection works. None at the largest.
fn hold_back(lag: usize, lag_max: usize) -> Option<Duration> {
    if lag >= lag_max {
        return None;
    }
    let slow = lag_max / 2;
    let share = lag.saturating_sub(slow) as f64 / (lag_max - slow) as f64;
    Some(DELAY_MAX.mul_f64(share * share * share))
}

/// A look-up under way.
pub(super) struct Lookup<'a>(&'a Core);

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.0.desks().end_lookup();
    }
}

/// Waits for an answer.
pub(super) async fn hear(
    answer: oneshot::Receiver<Result<Answer, StoreError>>,
) -> Result<Answer, StoreError> {
    match answer.await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::Indeterminate(
            "the journal stopped before it answered".to_owned(),
        )),
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

pub(super) fn overloaded() -> StoreError {
    StoreError::Overloaded {
        retry_after: RETRY_AFTER,
    }
}

/// What became of a batch, gathered under the desks' lock and passed on without it.
#[derive(Default)]
struct Outcome {
    due: HashSet<DestinationKey>,
    changes: Vec<Change>,
    answers: Vec<(Reply, Answer)>,
    remembered: Vec<(Reservation, Position, Timestamp)>,
}

impl Sink<Effect> for Core {
    fn written(&self, batch: Vec<Written<Effect>>) {
        let mut outcome = Outcome::default();
        let now = self.clock.now();
        {
            let mut desks = self.desks();
            for written in batch {
                take_note(&mut desks, &mut outcome, written, now);
            }
            outcome.due.extend(desks.take_freed());
        }
        for (reservation, position, until) in outcome.remembered {
            reservation.fulfil(position, until, now);
        }
        for change in &outcome.changes {
            if let What::ForgetSource(forget) = &change.what {
                self.dedupe.forget(forget.tenant, forget.source);
            }
        }
        self.ledger
            .add(outcome.changes.iter().filter_map(Change::stored));
        self.due.mark(outcome.due);
        self.projection.push(outcome.changes);
        for (reply, answer) in outcome.answers {
            // Who went away does not want to know.
            let _ = reply.send(Ok(answer));
        }
    }

    fn refused(&self, effects: Vec<Effect>, error: &StoreError) {
        let mut desks = self.desks();
        for effect in effects {
            match effect.does {
                Does::Accept {
                    reservation: Some(reservation),
                    ..
                } => reservation.fail(error),
                Does::Settle { settle, token } => {
                    desks.abandon_settle(&held(&settle, token));
                }
                _ => {}
            }
            if let Some(reply) = effect.reply {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

fn held(settle: &Settle, token: LeaseToken) -> Held {
    Held {
        tenant: settle.delivery.key.tenant,
        delivery: settle.delivery.id,
        token,
        attempt: settle.attempt.number,
    }
}

/// Brings the desks up to date with one durable record.
fn take_note(desks: &mut Desks, outcome: &mut Outcome, written: Written<Effect>, now: Timestamp) {
    let Effect { does, reply } = written.effect;
    let (seq, position) = (written.seq, written.position);
    desks.durable = seq;
    let (what, answer) = match does {
        Does::Accept {
            event,
            remembered_until,
            deliveries,
            waited_for,
            reservation,
        } => {
            for (place, delivery) in (seq..).zip(&deliveries) {
                let mut owed = owed_anew(&event, delivery, place, position, now);
                if let Some(waited_for) = waited_for.filter(|it| it.delivery == delivery.id) {
                    owed.waited_until = waited_for.until;
                }
                outcome.due.insert(owed.delivery.key);
                desks.accept(owed, Some(&event), now);
                desks.durable = place;
            }
            if let Some(reservation) = reservation {
                outcome
                    .remembered
                    .push((reservation, position, remembered_until));
            }
            let accepted = Accepted::new(&event, remembered_until, deliveries, position);
            (What::Accept(Box::new(accepted)), Answer::Done)
        }
        Does::Settle { settle, token } => {
            let held = held(&settle, token);
            let settled = desks.settle(&held, &settle, now);
            if matches!(settle.verdict, Verdict::Retry { .. }) {
                // When it is due may be sooner than whoever waits expects.
                outcome.due.insert(settle.delivery.key);
            }
            (What::Settle(settle), Answer::Settled(settled))
        }
        Does::Reopen { requeue, mut owed } => {
            owed.delivery.place = seq;
            owed.since = now;
            outcome.due.insert(requeue.key);
            desks.reopen(*owed, now);
            (What::Reopen(requeue), Answer::Changed(true))
        }
        Does::Deliver { requeue, mut owed } => {
            owed.delivery.seq = seq;
            owed.delivery.place = seq;
            owed.since = now;
            outcome.due.insert(requeue.key);
            desks.accept(*owed, None, now);
            (What::Deliver(requeue), Answer::Changed(true))
        }
        Does::End(end) => {
            let changed = desks.end(&end, now);
            (What::End(end), Answer::Changed(changed))
        }
        Does::Park(park) => {
            let changed = note_park(desks, &park);
            (What::Park(park), Answer::Changed(changed))
        }
        Does::EndDestination(end) => {
            desks.end_destination(end.key);
            (What::EndDestination(end), Answer::Done)
        }
        Does::ForgetSource(forget) => (What::ForgetSource(forget), Answer::Done),
        Does::Repeat(repeat) => (What::Repeat(repeat), Answer::Done),
        Does::Erase(erasing) => (What::Erase(erasing), Answer::Noted(seq)),
    };
    let time = Timestamp(written.time);
    outcome.changes.push(Change { seq, time, what });
    outcome.answers.extend(reply.map(|reply| (reply, answer)));
}

fn note_park(desks: &mut Desks, park: &Park) -> bool {
    let (key, order) = (park.key, park.order.digest);
    if park.parked {
        desks.park(key, order)
    } else {
        desks.resume(key, order)
    }
}

fn owed_anew(
    event: &Event,
    delivery: &NewDelivery,
    place: u64,
    position: Position,
    now: Timestamp,
) -> Owed {
    let key = DestinationKey {
        tenant: event.tenant,
        destination: delivery.destination,
    };
    Owed {
        delivery: DeliveryRef {
            key,
            id: delivery.id,
            seq: place,
            place,
            queue: Queue::Main,
        },
        event: event.id,
        position,
        body_bytes: event.body.len() as u64,
        attempts: 0,
        spent: Spent::default(),
        due: Timestamp(0),
        replay: None,
        order: delivery.order.as_ref().map(|order| order.digest),
        since: now,
        waited_until: Timestamp(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_grows_smoothly_with_the_lag() {
        let held = |lag| hold_back(lag, 50_000);
        assert_eq!(held(0), Some(Duration::ZERO));
        assert_eq!(held(25_000), Some(Duration::ZERO));
        assert_eq!(held(50_000), None);
        let mut before = Duration::ZERO;
        for lag in (25_000..50_000).step_by(500) {
            let now = held(lag).unwrap();
            let is_smooth = now >= before && now - before < Duration::from_millis(70);
            assert!(is_smooth, "{before:?}, then {now:?} at {lag}");
            before = now;
        }
        assert!(before > DELAY_MAX * 9 / 10);
    }
}
