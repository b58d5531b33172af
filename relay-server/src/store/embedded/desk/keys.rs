//! The keys of one destination: which delivery stands at the head of each, and what is behind it.
//!
//! Only a head can be handed out. What is behind it is in memory as far as there is room; the rest of
//! the key is *out* and read again when its turn comes. A key that waits long, or is parked, keeps
//! nothing in memory but its line, so that it takes no room from others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use protocol::id::DeliveryId;

use crate::{clock::Timestamp, lifecycle::KeyDigest};

/// How much of the keys of one destination may be in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyLimits {
    /// Keys with something in memory or known to be out.
    pub(crate) lines: usize,
    /// Deliveries behind the heads of all keys.
    pub(crate) behind: usize,
    /// Deliveries behind the head of one key.
    pub(crate) behind_one: usize,
}

/// Keys read in one go.
const READ_MAX: usize = 256;

/// Keys that a read of the queue passes over because they are out.
const PASSED_OVER_MAX: usize = 1024;

/// One key with open deliveries.
#[derive(Debug)]
struct Line {
    /// The delivery whose turn it is, if it is in memory.
    head: Option<DeliveryId>,
    /// How many are in memory behind it.
    behind: usize,
    /// More of the key is owed after this place, and is not in memory.
    out_after: Option<u64>,
    /// When the head, which is out, is due.
    resting: Option<Timestamp>,
    /// Changes whenever what is being read of the key is no longer what follows.
    stamp: u64,
}

/// The keys of one destination.
#[derive(Debug, Default)]
pub(super) struct Keys {
    lines: HashMap<KeyDigest, Line>,
    /// What is in memory behind heads, by key and place.
    behind: BTreeMap<(KeyDigest, u64), DeliveryId>,
    /// Keys of which nothing is handed out.
    parked: HashSet<KeyDigest>,
    /// Lines of which something is out.
    out: BTreeSet<KeyDigest>,
    /// Those of them to be read next.
    wanted: BTreeSet<KeyDigest>,
    /// Those of them whose head is due at a time.
    resting: BTreeSet<(Timestamp, KeyDigest)>,
    stamps: u64,
}

/// Where a delivery came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joined {
    /// It is its turn.
    Head,
    /// Behind others, in memory.
    Behind,
    /// Out of memory: it is read again in its turn.
    Out,
}

/// What comes after a head that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// This is the head now.
    Next(DeliveryId),
    /// The next one must be read.
    Out,
    /// Nothing, or nothing that may go on.
    Nothing,
}

/// What to read of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyPlan {
    pub(crate) order: KeyDigest,
    /// Rows after this place, in order of place.
    pub(crate) after: u64,
    pub(crate) most: usize,
    stamp: u64,
}

impl Keys {
    /// Lists a delivery that comes after everything known of its key.
    pub(super) fn join(
        &mut self,
        order: KeyDigest,
        place: u64,
        id: DeliveryId,
        limits: &KeyLimits,
    ) -> Joined {
        if self.parked.contains(&order) {
            return Joined::Out;
        }
        match self.lines.get(&order) {
            None => {
                self.open_line(order, Some(id), None);
                Joined::Head
            }
            Some(line) if line.out_after.is_some() => Joined::Out,
            Some(_) => self.follow(order, place, id, limits),
        }
    }

    /// Lists a delivery that was read of a key. `Out`: there is no room for it and what follows.
    pub(super) fn follow(
        &mut self,
        order: KeyDigest,
        place: u64,
        id: DeliveryId,
        limits: &KeyLimits,
    ) -> Joined {
        let room = self.behind.len() < limits.behind;
        let Some(line) = self.lines.get_mut(&order) else {
            return Joined::Out;
        };
        if line.head.is_none() {
            line.head = Some(id);
            return Joined::Head;
        }
        if room && line.behind < limits.behind_one {
            line.behind += 1;
            self.behind.insert((order, place), id);
            return Joined::Behind;
        }
        self.set_out(order, place - 1);
        Joined::Out
    }

    fn open_line(&mut self, order: KeyDigest, head: Option<DeliveryId>, out_after: Option<u64>) {
        self.stamps += 1;
        let line = Line {
            head,
            behind: 0,
            out_after,
            resting: None,
            stamp: self.stamps,
        };
        if out_after.is_some() {
            self.out.insert(order);
        }
        self.lines.insert(order, line);
    }

    fn drop_line(&mut self, order: KeyDigest) {
        if let Some(line) = self.lines.remove(&order)
            && let Some(due) = line.resting
        {
            self.resting.remove(&(due, order));
        }
        self.out.remove(&order);
        self.wanted.remove(&order);
    }

    fn set_out(&mut self, order: KeyDigest, after: u64) {
        if let Some(line) = self.lines.get_mut(&order) {
            line.out_after = Some(after);
            self.out.insert(order);
        }
    }

    /// Takes note that a delivery is no longer open; tells what comes next if it was the head.
    pub(super) fn leave(
        &mut self,
        order: KeyDigest,
        place: u64,
        id: DeliveryId,
        limits: &KeyLimits,
    ) -> After {
        let Some(line) = self.lines.get_mut(&order) else {
            return After::Nothing;
        };
        if line.head != Some(id) {
            if self.behind.remove(&(order, place)).is_some() {
                line.behind -= 1;
            } else if let Some(due) = line.resting.take_if(|_| line.out_after == Some(place - 1)) {
                // It was the head, out of memory: who follows need not wait for its time.
                self.resting.remove(&(due, order));
                self.wanted.insert(order);
                return After::Out;
            }
            return After::Nothing;
        }
        line.head = None;
        if self.parked.contains(&order) {
            self.drop_line(order);
            return After::Nothing;
        }
        let following = self.behind.range((order, 0)..).next();
        let next = following
            .filter(|((of, _), _)| *of == order)
            .map(|(at, id)| (*at, *id));
        let is_out = line.out_after.is_some();
        if let Some((at, id)) = next {
            self.behind.remove(&at);
            line.behind -= 1;
            line.head = Some(id);
            let few = line.behind <= limits.behind_one / 4;
            if is_out && few && self.behind.len() < limits.behind / 4 * 3 {
                self.wanted.insert(order);
            }
            return After::Next(id);
        }
        if is_out {
            self.wanted.insert(order);
            return After::Out;
        }
        self.drop_line(order);
        After::Nothing
    }

    /// Puts a key out of memory but for its line: its head, which stands at `place`, is due at
    /// `due`. Names what was behind it.
    pub(super) fn rest(&mut self, order: KeyDigest, place: u64, due: Timestamp) -> Vec<DeliveryId> {
        let evicted = self.evict(order);
        self.drop_line(order);
        self.open_line(order, None, Some(place - 1));
        if let Some(line) = self.lines.get_mut(&order) {
            line.resting = Some(due);
            self.resting.insert((due, order));
        }
        evicted
    }

    /// Puts what is behind a head out of memory, and names it.
    pub(super) fn evict(&mut self, order: KeyDigest) -> Vec<DeliveryId> {
        let Some(line) = self.lines.get_mut(&order) else {
            return Vec::new();
        };
        if line.behind == 0 {
            return Vec::new();
        }
        line.behind = 0;
        let of_key = self.behind.range((order, 0)..=(order, u64::MAX));
        let places: Vec<_> = of_key.map(|(at, id)| (*at, *id)).collect();
        if let Some(((_, first), _)) = places.first() {
            self.set_out(order, first - 1);
        }
        let forget = places.into_iter().map(|(at, id)| {
            self.behind.remove(&at);
            id
        });
        forget.collect()
    }

    /// Whether so much is behind that a key which waits should keep nothing there.
    pub(super) fn is_crowded(&self, limits: &KeyLimits) -> bool {
        self.behind.len() > limits.behind / 2
    }

    /// Whether a delivery that is first of its key may become the head: nobody else is.
    pub(super) fn can_lead(&self, order: KeyDigest) -> bool {
        self.lines
            .get(&order)
            .is_none_or(|line| line.head.is_none())
    }

    /// Makes a delivery that was looked up, and is the first of its key, the head.
    pub(super) fn lead(&mut self, order: KeyDigest, place: u64, id: DeliveryId) {
        let more = self.lines.contains_key(&order);
        self.drop_line(order);
        self.open_line(order, Some(id), more.then_some(place));
    }

    pub(super) fn is_parked(&self, order: KeyDigest) -> bool {
        self.parked.contains(&order)
    }

    pub(super) fn parked_count(&self) -> usize {
        self.parked.len()
    }

    /// Stops a key: names its head, and what was behind it. False if it was stopped already.
    pub(super) fn park(
        &mut self,
        order: KeyDigest,
    ) -> Option<(Option<DeliveryId>, Vec<DeliveryId>)> {
        if !self.parked.insert(order) {
            return None;
        }
        let evicted = self.evict(order);
        self.wanted.remove(&order);
        self.stamps += 1;
        let head = self.lines.get_mut(&order).and_then(|line| {
            line.stamp = self.stamps;
            line.head
        });
        if head.is_none() {
            self.drop_line(order);
        }
        Some((head, evicted))
    }

    /// The head of a parked key goes on without it: it is not being attempted.
    pub(super) fn park_head(&mut self, order: KeyDigest) {
        self.drop_line(order);
    }

    /// Lets a key go on; everything of it is read again. `head` is its head's place if that is
    /// being attempted. False if it was not stopped.
    pub(super) fn resume(&mut self, order: KeyDigest, head: Option<(DeliveryId, u64)>) -> bool {
        if !self.parked.remove(&order) {
            return false;
        }
        self.drop_line(order);
        match head {
            Some((id, place)) => self.open_line(order, Some(id), Some(place)),
            None => {
                self.open_line(order, None, Some(0));
                self.wanted.insert(order);
            }
        }
        true
    }

    /// The head of a key.
    pub(super) fn head(&self, order: KeyDigest) -> Option<DeliveryId> {
        self.lines.get(&order).and_then(|line| line.head)
    }

    /// Whether a key can be listed that has no line yet.
    pub(super) fn has_room(&self, order: KeyDigest, limits: &KeyLimits) -> bool {
        self.lines.len() < limits.lines
            || self.lines.contains_key(&order)
            || self.parked.contains(&order)
    }

    pub(super) fn is_full(&self, limits: &KeyLimits) -> bool {
        self.lines.len() >= limits.lines
    }

    /// When the next key that rests is due.
    pub(super) fn next_rest(&self) -> Option<Timestamp> {
        self.resting.first().map(|(due, _)| *due)
    }

    /// Asks for the keys that have rested long enough.
    pub(super) fn wake(&mut self, now: Timestamp) {
        while let Some(&(due, order)) = self.resting.first()
            && due <= now
        {
            self.resting.pop_first();
            self.wanted.insert(order);
            if let Some(line) = self.lines.get_mut(&order) {
                line.resting = None;
            }
        }
    }

    /// What to read of the keys that are wanted, `most` rows together.
    pub(super) fn plan(&mut self, most: usize, limits: &KeyLimits) -> Vec<KeyPlan> {
        let share = (most / self.wanted.len().clamp(1, READ_MAX)).max(1);
        let room = limits.behind.saturating_sub(self.behind.len());
        let mut plans = Vec::new();
        while plans.len() < READ_MAX
            && let Some(order) = self.wanted.pop_first()
        {
            let Some(line) = self.lines.get(&order) else {
                continue;
            };
            let Some(after) = line.out_after else {
                continue;
            };
            let room = limits.behind_one.saturating_sub(line.behind).min(room);
            plans.push(KeyPlan {
                order,
                after,
                most: share.min(room + usize::from(line.head.is_none())).max(1),
                stamp: line.stamp,
            });
        }
        plans
    }

    /// Whether what was read of a key is what follows.
    pub(super) fn is_current(&self, plan: &KeyPlan) -> bool {
        let line = self.lines.get(&plan.order);
        line.is_some_and(|line| line.stamp == plan.stamp && line.out_after == Some(plan.after))
    }

    /// Takes note how far a key was read: up to a place, or to its end. What stays out without a
    /// head is asked for again.
    pub(super) fn read_to(&mut self, order: KeyDigest, place: Option<u64>) {
        let Some(line) = self.lines.get_mut(&order) else {
            return;
        };
        line.out_after = place;
        if place.is_none() {
            self.out.remove(&order);
            if line.head.is_none() {
                self.drop_line(order);
            }
        } else if line.head.is_none() {
            self.wanted.insert(order);
        }
    }

    /// Asks again for what was not read.
    pub(super) fn want_again(&mut self, plan: &KeyPlan) {
        if self.is_current(plan) {
            self.wanted.insert(plan.order);
        }
    }

    /// Keys that a read of the queue may pass over: everything of them that it could find is out.
    pub(super) fn to_pass_over(&self) -> Vec<KeyDigest> {
        let parked = self.parked.iter();
        self.out
            .iter()
            .chain(parked)
            .take(PASSED_OVER_MAX)
            .copied()
            .collect()
    }

    /// Takes note that a read of the queue passed over a key after a place.
    pub(super) fn passed_over(&mut self, order: KeyDigest, after: u64) {
        if self.parked.contains(&order) {
            return;
        }
        match self.lines.get(&order) {
            Some(line) if line.out_after.is_some() => {}
            Some(_) => self.set_out(order, after),
            None => {
                self.open_line(order, None, Some(after));
                self.wanted.insert(order);
            }
        }
    }

    /// How many are in memory behind heads.
    pub(super) fn behind(&self) -> usize {
        self.behind.len()
    }
}
