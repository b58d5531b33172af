//! What must be true, checked at every step against books of its own: what is owed, who has the
//! right to attempt it, who works on it, and what the services took.

mod attempts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use protocol::id::DeliveryId;

use super::{chance::VirtualClock, lanes::LaneBooks, plan::DestinationPlan};
use crate::{
    clock::Timestamp,
    lifecycle::{KeyDigest, Spent},
    store::{DestinationKey, Held, Lease, LeaseInfo, LeaseToken, Want},
};

/// A right to attempt: the delivery and its lease.
pub(super) type Right = (DeliveryId, LeaseToken);

/// The books.
#[derive(Debug)]
pub(super) struct Check {
    clock: Arc<VirtualClock>,
    plans: BTreeMap<DestinationKey, DestinationPlan>,
    pub(super) owed: BTreeMap<DeliveryId, Owed>,
    parked: BTreeSet<(DestinationKey, KeyDigest)>,
    /// What living agents have in hand.
    hands: BTreeSet<(usize, Right)>,
    /// Calls that services work on.
    calls: BTreeSet<(usize, Right)>,
    /// Leases that ended though somebody may still work under them: that cannot be helped.
    excused: BTreeSet<Right>,
    lanes: BTreeMap<DestinationKey, LaneBooks>,
    /// When deliveries were handed out, for the rate.
    handed: BTreeMap<DestinationKey, Vec<u64>>,
    places: u64,
    /// The first promise that was broken.
    pub(super) broken: Option<String>,
    /// The story so far, if it is to be told.
    pub(super) story: Option<Vec<String>>,
}

/// What is known of a delivery.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) key: DestinationKey,
    pub(super) order: Option<KeyDigest>,
    place: u64,
    pub(super) is_replay: bool,
    pub(super) since: Timestamp,
    due: Timestamp,
    /// How it ended, if it did.
    pub(super) ended: Option<&'static str>,
    lease: Option<Leased>,
    spent: Spent,
    /// Whether its service ever took it.
    is_taken: bool,
}

#[derive(Debug, Clone, Copy)]
struct Leased {
    info: LeaseInfo,
    /// In milliseconds since the world began.
    until_ms: u64,
    ttl_ms: u64,
}

impl Check {
    pub(super) fn new(clock: Arc<VirtualClock>, plans: &[DestinationPlan], tell: bool) -> Self {
        let plans = plans.iter().map(|plan| (plan.key, plan.clone()));
        Self {
            clock,
            plans: plans.collect(),
            owed: BTreeMap::new(),
            parked: BTreeSet::new(),
            hands: BTreeSet::new(),
            calls: BTreeSet::new(),
            excused: BTreeSet::new(),
            lanes: BTreeMap::new(),
            handed: BTreeMap::new(),
            places: 0,
            broken: None,
            story: tell.then(Vec::new),
        }
    }

    /// Adds a line to the story.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let ms = self.clock.elapsed_ms();
            story.push(format!("{:>6}.{:03} {}", ms / 1_000, ms % 1_000, line()));
        }
    }

    /// A promise was broken; the first one is told.
    pub(super) fn fail(&mut self, what: String) {
        self.tell(|| format!("BROKEN: {what}"));
        self.broken.get_or_insert(what);
    }

    fn now_ms(&self) -> u64 {
        self.clock.elapsed_ms()
    }

    // What is owed.

    pub(super) fn owes(
        &mut self,
        delivery: DeliveryId,
        key: DestinationKey,
        order: Option<KeyDigest>,
        is_replay: bool,
        now: Timestamp,
    ) {
        self.places += 1;
        let owed = Owed {
            key,
            order,
            place: self.places,
            is_replay,
            since: now,
            due: Timestamp(0),
            ended: None,
            lease: None,
            spent: Spent::default(),
            is_taken: false,
        };
        self.owed.insert(delivery, owed);
    }

    /// A repeat of its event reopened it.
    pub(super) fn reopened(&mut self, delivery: DeliveryId, now: Timestamp) {
        self.places += 1;
        if let Some(owed) = self.owed.get_mut(&delivery) {
            owed.place = self.places;
            owed.since = now;
            owed.due = Timestamp(0);
            owed.ended = None;
            owed.lease = None;
            owed.spent = Spent::default();
        }
    }

    /// It ended without the service's doing. Its attempt may go on; if it is ordered, its key waits.
    pub(super) fn ended(&mut self, delivery: DeliveryId, how: &'static str) {
        if let Some(owed) = self.owed.get_mut(&delivery) {
            owed.ended = Some(how);
            if owed.order.is_none() {
                owed.lease = None;
            }
        }
    }

    pub(super) fn parks(&mut self, key: DestinationKey, order: KeyDigest, is_parked: bool) {
        if is_parked {
            self.parked.insert((key, order));
        } else {
            self.parked.remove(&(key, order));
        }
    }

    /// What is still owed.
    pub(super) fn open(&self) -> impl Iterator<Item = (DeliveryId, &Owed)> {
        let open = self.owed.iter().filter(|(_, owed)| owed.ended.is_none());
        open.map(|(delivery, owed)| (*delivery, owed))
    }

    /// What could be handed out at a time by right.
    pub(super) fn ready(&self, now: Timestamp) -> impl Iterator<Item = (DeliveryId, &Owed)> {
        self.open().filter(move |(delivery, owed)| {
            let is_parked = |order| self.parked.contains(&(owed.key, order));
            owed.lease.is_none()
                && owed.due <= now
                && !owed.order.is_some_and(is_parked)
                && self.before(*delivery, owed).is_none()
        })
    }

    /// What of its key comes before it.
    fn before(&self, delivery: DeliveryId, owed: &Owed) -> Option<DeliveryId> {
        let order = owed.order?;
        let others = self.owed.iter().filter(|(other, _)| **other != delivery);
        let before = |other: &Owed| {
            other.key == owed.key
                && other.order == Some(order)
                && (other.lease.is_some() || (other.ended.is_none() && other.place < owed.place))
        };
        let mut before = others.filter(|(_, other)| before(other));
        before.next().map(|(other, _)| *other)
    }

    // Who has the right to attempt it.

    /// How much of a destination is leased.
    pub(super) fn leased(&self, key: DestinationKey) -> usize {
        let of_key = self.owed.values().filter(|owed| owed.key == key);
        of_key.filter(|owed| owed.lease.is_some()).count()
    }

    /// The store hands something out.
    pub(super) fn claimed(&mut self, want: &Want, lease: &Lease, now: Timestamp) {
        let info = lease.info;
        let (id, key) = (info.delivery, info.key);
        let right = (id, info.token);
        self.tell_claim(&info);
        let Some(owed) = self.owed.get(&id).filter(|owed| owed.key == key) else {
            return self.fail(format!("{id} was handed out and is not owed here"));
        };
        let complaint = if owed.ended.is_some() {
            Some("has ended".to_owned())
        } else if let Some(other) = owed.lease {
            Some(format!("is leased already, as {}", other.info.token))
        } else if owed.due > now {
            Some(format!("is not due before {}", owed.due))
        } else if let Some(first) = self.before(id, owed) {
            Some(format!("comes after {first}, which is not over"))
        } else if owed
            .order
            .is_some_and(|order| self.parked.contains(&(key, order)))
        {
            Some("belongs to a key that is stopped".to_owned())
        } else if self.is_in_hand(id) {
            Some("is being worked on by right".to_owned())
        } else {
            None
        };
        if let Some(complaint) = complaint {
            return self.fail(format!("{id} was handed out, but it {complaint}"));
        }
        self.check_in_flight(key);
        self.check_rate(key);
        self.check_lane(id, key, now);
        let ttl_ms = millis(want.ttl);
        let until_ms = self.now_ms() + ttl_ms;
        self.excused.remove(&right);
        if let Some(owed) = self.owed.get_mut(&id) {
            owed.lease = Some(Leased {
                info,
                until_ms,
                ttl_ms,
            });
        }
    }

    fn tell_claim(&mut self, info: &LeaseInfo) {
        let (id, attempt, token) = (info.delivery, info.attempt, info.token);
        self.tell(|| format!("store: leases {id}, attempt {attempt}, as {token}"));
    }

    /// Whether an agent works on it under a lease that nothing ended.
    fn is_in_hand(&self, delivery: DeliveryId) -> bool {
        let mut hands = self.hands.iter();
        hands.any(|(_, right)| right.0 == delivery && !self.excused.contains(right))
    }

    fn check_in_flight(&mut self, key: DestinationKey) {
        let most = self
            .plans
            .get(&key)
            .and_then(|plan| plan.rules.in_flight_max);
        let leased = self.leased(key);
        if most.is_some_and(|most| leased >= most as usize) {
            self.fail(format!(
                "more than {leased} at a time at {}",
                key.destination
            ));
        }
    }

    /// In any span no more than the rate gives for it and a tenth of a second, and one.
    fn check_rate(&mut self, key: DestinationKey) {
        let now = self.now_ms();
        let rate = self
            .plans
            .get(&key)
            .and_then(|plan| plan.rules.rate_per_second);
        let Some(rate) = rate else { return };
        let handed = self.handed.entry(key).or_default();
        handed.push(now);
        let too_fast = handed.iter().rev().zip(1_u64..).find(|(since, count)| {
            let span_ms = now - **since + 100;
            *count > span_ms * u64::from(rate) / 1_000 + 2
        });
        if let Some((since, count)) = too_fast {
            let span = now - since;
            self.fail(format!("{count} in {span} ms at a rate of {rate} a second"));
        }
    }

    fn check_lane(&mut self, delivery: DeliveryId, key: DestinationKey, now: Timestamp) {
        let is_ordered = |owed: &Owed| owed.order.is_some();
        if self.owed.get(&delivery).is_none_or(is_ordered) {
            return;
        }
        let ready = self
            .ready(now)
            .filter(|(_, owed)| owed.key == key && !is_ordered(owed));
        let ready: Vec<_> = ready
            .map(|(id, owed)| (id, owed.is_replay, owed.since))
            .collect();
        let books = self.lanes.entry(key).or_default();
        if let Err(complaint) = books.takes(delivery, &ready, now) {
            self.fail(format!("{delivery} was handed out, but {complaint}"));
        }
    }

    /// An agent has it in hand from now on.
    pub(super) fn in_hand(&mut self, agent: usize, right: Right) {
        self.hands.insert((agent, right));
    }

    /// An agent has let go of it.
    pub(super) fn let_go(&mut self, agent: usize, right: &Right) {
        self.hands.remove(&(agent, *right));
    }

    /// An agent has died.
    pub(super) fn died(&mut self, agent: usize) {
        self.hands.retain(|(of, _)| *of != agent);
    }

    /// The relay has died, and with it all it knew of leases.
    pub(super) fn relay_died(&mut self) {
        self.excused
            .extend(self.hands.iter().map(|(_, right)| *right));
        self.excused
            .extend(self.calls.iter().map(|(_, right)| *right));
        for owed in self.owed.values_mut() {
            owed.lease = None;
            owed.since = Timestamp(0);
        }
        self.lanes.clear();
        self.handed.clear();
    }

    pub(super) fn renewed(&mut self, held: &Held, ttl: Duration) {
        let until_ms = self.now_ms() + millis(ttl);
        if let Some(lease) = self.lease_of(held.delivery, held.token) {
            lease.until_ms = until_ms;
            lease.ttl_ms = millis(ttl);
        }
    }

    fn lease_of(&mut self, delivery: DeliveryId, token: LeaseToken) -> Option<&mut Leased> {
        let lease = self.owed.get_mut(&delivery)?.lease.as_mut()?;
        (lease.info.token == token).then_some(lease)
    }

    /// It comes back unattempted.
    pub(super) fn released(&mut self, held: &Held) {
        if self.lease_of(held.delivery, held.token).is_none() {
            return;
        }
        self.ends_lease(held.delivery, held.token, "was given back");
        if let Some(owed) = self.owed.get_mut(&held.delivery) {
            owed.lease = None;
            owed.due = Timestamp(0);
        }
    }

    /// An agent came back with it.
    pub(super) fn adopted(&mut self, info: &LeaseInfo, ttl: Duration) {
        let right = (info.delivery, info.token);
        let until_ms = self.now_ms() + millis(ttl);
        let Some(owed) = self.owed.get(&info.delivery) else {
            return;
        };
        let other = owed.lease.filter(|lease| lease.info.token != info.token);
        let complaint = if owed.ended.is_some() {
            Some("it has ended".to_owned())
        } else if let Some(other) = other {
            Some(format!("it is leased as {}", other.info.token))
        } else {
            let first = self.before(info.delivery, owed);
            first.map(|first| format!("{first} comes before it"))
        };
        if let Some(complaint) = complaint {
            let id = info.delivery;
            return self.fail(format!("an agent got {id} back, but {complaint}"));
        }
        self.excused.remove(&right);
        if let Some(owed) = self.owed.get_mut(&info.delivery) {
            owed.lease = Some(Leased {
                info: *info,
                until_ms,
                ttl_ms: millis(ttl),
            });
        }
    }

    /// A lease has run out, says the store.
    pub(super) fn expired(&mut self, info: &LeaseInfo, hold: Duration) {
        let now_ms = self.now_ms();
        let (id, token) = (info.delivery, info.token);
        let Some(lease) = self.lease_of(id, token) else {
            return;
        };
        // Its clock may run a little faster than ours.
        let early_ms = lease.until_ms.saturating_sub(now_ms);
        let slack_ms = lease.ttl_ms / 10 + 1;
        lease.until_ms = now_ms + millis(hold);
        if early_ms > slack_ms {
            self.fail(format!("the lease of {id} ran out {early_ms} ms too early"));
        }
        self.excused.insert((id, token));
        self.tell(|| format!("store: the lease of {id} has run out"));
    }

    /// A lease ends before its time: nobody may still work under it.
    fn ends_lease(&mut self, delivery: DeliveryId, token: LeaseToken, how: &str) {
        let right = (delivery, token);
        let is_worked_on = self.hands.iter().any(|(_, held)| *held == right);
        if is_worked_on && !self.excused.contains(&right) {
            self.fail(format!("{delivery} {how} while its agent works on it"));
        }
    }

    /// Who may attempt it, for the agent that is handed it.
    pub(super) fn plan(&self, key: DestinationKey) -> Option<&DestinationPlan> {
        self.plans.get(&key)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
