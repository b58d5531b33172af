//! The desks against a simple model: a list of deliveries with their states, from which rows are read
//! as the projection would have them.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, TenantId};

use super::*;
use crate::{
    lifecycle::{AttemptOutcome, AttemptReport, DeadReason, EndReason, KeyDigest, Spent, Verdict},
    store::{
        Held, LeaseInfo, Settled, Want,
        embedded::journal::{
            Position,
            payload::{DeliveryRef, End, Settle},
        },
    },
};

const KEY: DestinationKey = DestinationKey {
    tenant: TenantId::from_u128(1),
    destination: DestinationId::from_u128(2),
};

const WINDOW: usize = 8;

#[derive(Debug, Clone)]
enum Step {
    Accept {
        key: Option<u8>,
        replay: bool,
    },
    Claim(u32),
    Deliver(usize),
    Retry(usize, u64),
    Die {
        nth: usize,
        park: bool,
    },
    Release(usize),
    /// A success of somebody who does not hold the delivery.
    Late(usize),
    End(usize),
    Expire,
    Park(u8),
    Resume(u8),
    Wait(u64),
    BeginLoad,
    /// Rows as they were when the load began, or as they are now.
    FinishLoad {
        fresh: bool,
    },
    CancelLoad,
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop_oneof![Just(None), (0_u8..3).prop_map(Some)];
    prop_oneof![
        6 => (key, any::<bool>()).prop_map(|(key, replay)| Step::Accept { key, replay }),
        5 => (1_u32..4).prop_map(Step::Claim),
        4 => any::<usize>().prop_map(Step::Deliver),
        2 => (any::<usize>(), 0_u64..4000).prop_map(|(nth, ms)| Step::Retry(nth, ms)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(nth, park)| Step::Die { nth, park }),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Late),
        1 => any::<usize>().prop_map(Step::End),
        1 => Just(Step::Expire),
        1 => (0_u8..3).prop_map(Step::Park),
        1 => (0_u8..3).prop_map(Step::Resume),
        2 => (0_u64..6000).prop_map(Step::Wait),
        4 => Just(Step::BeginLoad),
        4 => any::<bool>().prop_map(|fresh| Step::FinishLoad { fresh }),
        1 => Just(Step::CancelLoad),
    ]
}

struct World {
    desks: Desks,
    now: Timestamp,
    seq: u64,
    /// What is open, by place, as durable records say.
    open: BTreeMap<u64, Owed>,
    leases: Vec<LeaseInfo>,
    parked: Vec<KeyDigest>,
    load: Option<(LoadPlan, Loaded)>,
}

fn digest(key: u8) -> KeyDigest {
    KeyDigest(u64::from(key))
}

impl World {
    fn new() -> Self {
        Self {
            desks: Desks::new(Limits::new(WINDOW, 0), 1, 0, Timestamp(0)),
            now: Timestamp(1_000_000),
            seq: 0,
            open: BTreeMap::new(),
            leases: Vec::new(),
            parked: Vec::new(),
            load: None,
        }
    }

    fn next(&mut self) -> u64 {
        self.seq += 1;
        self.desks.durable = self.seq;
        self.seq
    }

    fn order_of(&self, id: DeliveryId) -> Option<KeyDigest> {
        self.leases
            .iter()
            .find(|lease| lease.delivery == id)
            .and_then(|lease| KEYS.with_borrow(|keys| keys.get(&lease.delivery).copied().flatten()))
    }

    fn accept(&mut self, key: Option<u8>, replay: bool) {
        let place = self.next();
        let (order, replay) = (key.map(digest), replay.then(|| ReplayId::from_u128(1)));
        let id = DeliveryId::from_u128(u128::from(place));
        KEYS.with_borrow_mut(|keys| keys.insert(id, order));
        let owed = Owed {
            delivery: DeliveryRef {
                key: KEY,
                id,
                seq: place,
                place,
                queue: Queue::of(replay.is_some(), order.is_some()),
            },
            event: EventId::from_u128(7),
            position: Position {
                segment: 1,
                offset: 0,
            },
            body_bytes: 1,
            attempts: 0,
            spent: Spent::default(),
            due: Timestamp(0),
            replay,
            order,
            since: self.now,
            waited_until: Timestamp(0),
        };
        let mut row = owed.clone();
        row.since = Timestamp(0);
        self.open.insert(place, row);
        self.desks.accept(owed, None, self.now);
    }

    fn rows(&self, plan: &LoadPlan) -> Loaded {
        let rows = |queue: Queue| {
            let of = plan.of(queue);
            let passed = |owed: &&Owed| {
                owed.order
                    .is_none_or(|order| !plan.passed_over.contains(&order))
            };
            self.open
                .range(of.after + 1..)
                .map(|(_, owed)| owed)
                .filter(|owed| owed.delivery.queue == queue)
                .filter(passed)
                .take(of.most)
                .cloned()
                .collect()
        };
        let keys = plan.keys.iter().map(|key| {
            self.open
                .range(key.after + 1..=plan.main.after.max(key.after + 1))
                .map(|(_, owed)| owed)
                .filter(|owed| owed.delivery.place <= plan.main.after)
                .filter(|owed| owed.order == Some(key.order))
                .take(key.most)
                .cloned()
                .collect()
        });
        let mut waiting: Vec<Owed> = self
            .open
            .values()
            .filter(|owed| owed.due.0 > 0 && owed.order.is_none())
            .cloned()
            .collect();
        waiting.sort_by_key(|owed| owed.due);
        waiting.truncate(plan.waiting_most);
        Loaded {
            main: rows(Queue::Main),
            replays: rows(Queue::Replays),
            keys: keys.collect(),
            waiting,
            applied: self.seq,
        }
    }

    fn claim(&mut self, most: u32) -> usize {
        self.desks.promote(self.now);
        let want = Want {
            key: KEY,
            deliveries: most,
            bytes: u64::MAX / 2,
            in_flight_max: None,
            ttl: Duration::from_secs(10),
        };
        let mut picked = Vec::new();
        self.desks.claim(&want, self.now, &mut picked);
        let count = picked.len();
        for picked in picked {
            let id = picked.info.delivery;
            let place = picked.owed.delivery.place;
            let row = self.open.get(&place).expect("it is open");
            assert_eq!(row.attempts + 1, picked.info.attempt, "attempts count on");
            assert!(row.due <= self.now, "{id} is not due");
            if let Some(order) = row.order {
                assert!(!self.parked.contains(&order), "{order} is parked");
                let first = self.open.values().find(|owed| owed.order == Some(order));
                assert_eq!(first.map(|owed| owed.delivery.id), Some(id), "out of order");
                let attempted = |lease: &LeaseInfo| self.order_of(lease.delivery) == Some(order);
                assert!(!self.leases.iter().any(attempted), "two of a key at once");
            }
            let again = self.leases.iter().any(|lease| lease.delivery == id);
            assert!(!again, "{id} is leased already");
            self.leases.push(picked.info);
        }
        count
    }

    fn settle(&mut self, lease: LeaseInfo, verdict: Verdict, parks: bool) -> Settled {
        let held = Held {
            tenant: KEY.tenant,
            delivery: lease.delivery,
            token: lease.token,
            attempt: lease.attempt,
        };
        self.desks.begin_lookup();
        if self.desks.owed(KEY.tenant, lease.delivery).is_none()
            && let Some(row) = self.row(lease.delivery)
        {
            self.desks.insert_loose(row);
        }
        let settled = match self.desks.begin_settle(&held, verdict, self.now) {
            Ok(delivery) => {
                self.next();
                let settle = Settle {
                    delivery,
                    attempt: AttemptReport {
                        id: protocol::id::AttemptId::from_u128(1),
                        number: lease.attempt,
                        agent: None,
                        ended_at: self.now,
                        elapsed_ms: 1,
                        outcome: AttemptOutcome::Lost,
                    },
                    verdict,
                    parks,
                };
                let settled = self.desks.settle(&held, &settle, self.now);
                if settled == Settled::Applied {
                    self.note(delivery.place, &settle);
                }
                settled
            }
            Err(settled) => settled.unwrap_or(Settled::AlreadySettled),
        };
        self.desks.end_lookup();
        settled
    }

    fn note(&mut self, place: u64, settle: &Settle) {
        if let Verdict::Retry { at, .. } = settle.verdict {
            let row = self.open.get_mut(&place).expect("it was open");
            row.due = at;
            row.attempts = row.attempts.max(settle.attempt.number);
            return;
        }
        let row = self.open.remove(&place).expect("it was open");
        if let Some(order) = row.order
            && settle.parks
            && !self.parked.contains(&order)
        {
            self.parked.push(order);
        }
    }

    fn row(&self, id: DeliveryId) -> Option<Owed> {
        self.open
            .values()
            .find(|owed| owed.delivery.id == id)
            .cloned()
    }

    fn take_lease(&mut self, nth: usize) -> Option<LeaseInfo> {
        (!self.leases.is_empty()).then(|| self.leases.remove(nth % self.leases.len()))
    }

    fn nth_open(&self, nth: usize) -> Option<Owed> {
        let nth = nth.checked_rem(self.open.len())?;
        self.open.values().nth(nth).cloned()
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Accept { key, replay } => self.accept(key, replay),
            Step::Claim(most) => {
                self.claim(most);
            }
            Step::Deliver(nth) => {
                if let Some(lease) = self.take_lease(nth) {
                    self.settle(lease, Verdict::Deliver, false);
                }
            }
            Step::Retry(nth, ms) => {
                if let Some(lease) = self.take_lease(nth) {
                    let at = self.now.after(Duration::from_millis(ms));
                    self.settle(
                        lease,
                        Verdict::Retry {
                            at,
                            spent: Spent::default(),
                        },
                        false,
                    );
                }
            }
            Step::Die { nth, park } => {
                if let Some(lease) = self.take_lease(nth) {
                    let reason = DeadReason::Permanent;
                    let parks = park && self.order_of_any(lease.delivery).is_some();
                    self.settle(lease, Verdict::Die { reason }, parks);
                }
            }
            Step::Release(nth) => {
                if let Some(lease) = self.take_lease(nth) {
                    let held = Held {
                        tenant: KEY.tenant,
                        delivery: lease.delivery,
                        token: lease.token,
                        attempt: lease.attempt,
                    };
                    self.desks.release(&held, self.now);
                }
            }
            Step::Late(nth) => self.late(nth),
            Step::End(nth) => self.end(nth),
            Step::Expire => self.expire(),
            Step::Park(key) => {
                self.next();
                self.desks.park(KEY, digest(key));
                if !self.parked.contains(&digest(key)) {
                    self.parked.push(digest(key));
                }
            }
            Step::Resume(key) => {
                self.next();
                self.desks.resume(KEY, digest(key));
                self.parked.retain(|order| *order != digest(key));
            }
            Step::Wait(ms) => self.now = self.now.after(Duration::from_millis(ms)),
            Step::BeginLoad => self.begin_load(),
            Step::FinishLoad { fresh } => self.finish_load(fresh),
            Step::CancelLoad => {
                if let Some((plan, _)) = self.load.take() {
                    self.desks.cancel_load(&plan);
                }
            }
        }
        self.check_bounds();
    }

    fn order_of_any(&self, id: DeliveryId) -> Option<KeyDigest> {
        KEYS.with_borrow(|keys| keys.get(&id).copied().flatten())
    }

    fn begin_load(&mut self) {
        if self.load.is_none() {
            self.desks.promote(self.now);
            if let Some(plan) = self.desks.begin_load(KEY, self.now) {
                let rows = self.rows(&plan);
                self.load = Some((plan, rows));
            }
        }
    }

    fn finish_load(&mut self, fresh: bool) {
        if let Some((plan, rows)) = self.load.take() {
            let rows = if fresh { self.rows(&plan) } else { rows };
            self.desks.finish_load(&plan, rows, self.now);
        }
    }

    fn late(&mut self, nth: usize) {
        let Some(row) = self.nth_open(nth) else {
            return;
        };
        let stale = LeaseInfo {
            token: crate::store::LeaseToken {
                incarnation: 9,
                counter: 9,
            },
            key: KEY,
            delivery: row.delivery.id,
            event: row.event,
            attempt: row.attempts + 1,
            leased_at: self.now,
            spent: Spent::default(),
            replay: None,
        };
        let settled = self.settle(stale, Verdict::Deliver, false);
        assert_eq!(settled, Settled::Applied);
        self.forget_unordered(row.delivery.id);
    }

    fn end(&mut self, nth: usize) {
        let Some(row) = self.nth_open(nth) else {
            return;
        };
        self.desks.begin_lookup();
        self.desks.insert_loose(row.clone());
        self.next();
        let end = End {
            delivery: row.delivery,
            reason: EndReason::Skipped,
        };
        assert!(self.desks.end(&end, self.now));
        self.desks.end_lookup();
        self.open.remove(&row.delivery.place);
        self.forget_unordered(row.delivery.id);
    }

    /// Nobody waits for the attempt of what has ended, unless it is ordered.
    fn forget_unordered(&mut self, id: DeliveryId) {
        if self.order_of_any(id).is_none() {
            self.leases.retain(|lease| lease.delivery != id);
        }
    }

    fn expire(&mut self) {
        self.now = self.now.after(Duration::from_secs(11));
        let hold = Duration::from_secs(1);
        for lease in self.desks.take_expired(self.now, hold, 100) {
            let before = self.leases.len();
            self.leases.retain(|held| held.token != lease.token);
            assert_eq!(self.leases.len() + 1, before, "only what is leased expires");
            let at = self.now;
            self.settle(
                lease,
                Verdict::Retry {
                    at,
                    spent: Spent::default(),
                },
                false,
            );
        }
        assert!(self.leases.is_empty());
    }

    fn check_bounds(&self) {
        let limits = &self.desks.limits;
        let most = limits.window
            + limits.live
            + limits.replays
            + limits.keys.behind
            + limits.waiting
            + self.leases.len()
            + 4;
        assert!(
            self.desks.open.len() <= most,
            "{} in memory",
            self.desks.open.len()
        );
    }

    /// Everything open is handed out in the end.
    fn drain(&mut self) {
        self.finish_load(true);
        for key in 0..3 {
            self.act(&Step::Resume(key));
        }
        self.expire();
        let mut idle = 0;
        while !self.open.is_empty() {
            self.begin_load();
            self.finish_load(true);
            self.now = self.now.after(Duration::from_secs(10));
            idle = if self.claim(3) == 0 { idle + 1 } else { 0 };
            assert!(idle < 50, "lost: {:?}", self.open.keys());
            while let Some(lease) = self.take_lease(0) {
                assert_eq!(
                    self.settle(lease, Verdict::Deliver, false),
                    Settled::Applied
                );
            }
        }
        assert_eq!(self.claim(10), 0);
        assert!(self.desks.open.is_empty());
    }
}

thread_local! {
    static KEYS: std::cell::RefCell<HashMap<DeliveryId, Option<KeyDigest>>> = std::cell::RefCell::default();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(steps in proptest::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in &steps {
            world.act(step);
        }
        world.drain();
    }
}
