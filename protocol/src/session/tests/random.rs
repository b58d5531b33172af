//! A seeded run: a relay with a small store, an agent with a small service, and a bad link, checked
//! against what must be true after every step.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::pair::{Fate, Pair, lease};
use crate::{
    dice::Dice,
    frame::{Held, ToAgent, ToRelay},
    id::DeliveryId,
    limits::CHUNK_BYTES_MAX,
};

const SEEDS: u64 = 300;
const DELIVERIES: u128 = 40;
const WINDOW_DELIVERIES: u64 = 6;
const WINDOW_BYTES: u64 = 1000;

/// What the relay's store knows about one delivery.
#[derive(Default)]
struct Stored {
    attempts: u32,
    leased_until: Option<Instant>,
    is_settled: bool,
}

struct World {
    pair: Pair,
    dice: Dice,
    store: BTreeMap<u128, Stored>,
    receipts_read: usize,
    offers_read: usize,
    released_read: usize,
    /// What the service works on.
    working: BTreeSet<(u128, u32)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut pair = Pair::new(WINDOW_DELIVERIES, WINDOW_BYTES);
        let mut link = Dice(seed ^ 0xface);
        // What a link may lose or double without anybody noticing is what the machines repeat or
        // count; all else is only lost when the whole link is cut.
        pair.judge(move |frame| match (frame, link.roll(20)) {
            (Err(ToRelay::Receipt(_)) | Ok(ToAgent::Confirm(_)), 0..3) => Fate::Lost,
            (Ok(ToAgent::Welcome(_)) | Err(ToRelay::Hello(_)), _) => Fate::Arrives,
            (_, 3) => Fate::Doubled,
            _ => Fate::Arrives,
        });
        Self {
            pair,
            dice: Dice(seed),
            store: (0..DELIVERIES)
                .map(|number| (number, Stored::default()))
                .collect(),
            receipts_read: 0,
            offers_read: 0,
            released_read: 0,
            working: BTreeSet::new(),
        }
    }

    fn step(&mut self) {
        match self.dice.roll(12) {
            0..4 => self.offer_one(),
            4..8 => self.finish_one(),
            8 => self.release_one(),
            9 if self.dice.roll(8) == 0 => self.pair.is_cut = true,
            _ => {}
        }
        let pause = Duration::from_millis(self.dice.roll(400));
        self.pair.run_for(pause);
        self.settle();
        self.start_work();
        if self.pair.seen.relay_closed.is_some() || self.pair.seen.agent_closed.is_some() {
            self.pair.reconnect();
            // What came in pieces and is not complete died with the link.
            let kept: BTreeSet<_> = self.pair.agent.holding().into_iter().collect();
            self.working
                .retain(|&(number, attempt)| kept.contains(&held(number, attempt)));
        }
        self.check();
    }

    fn offer_one(&mut self) {
        let now = self.pair.now;
        let due = |stored: &Stored| {
            !stored.is_settled && stored.leased_until.is_none_or(|until| until < now)
        };
        let Some(number) = self
            .store
            .iter()
            .find(|(_, stored)| due(stored))
            .map(|(n, _)| *n)
        else {
            return;
        };
        let attempt = self.store[&number].attempts + 1;
        if self.pair.offer(number, attempt, body(number)) {
            let stored = self.store.get_mut(&number).unwrap();
            stored.attempts = attempt;
            stored.leased_until = Some(now + Duration::from_secs(30));
        }
    }

    fn finish_one(&mut self) {
        let complete: BTreeSet<_> = self.pair.agent.holding().into_iter().collect();
        let ready: Vec<_> = self
            .working
            .iter()
            .copied()
            .filter(|&(number, attempt)| complete.contains(&held(number, attempt)))
            .collect();
        if ready.is_empty() {
            return;
        }
        let (number, attempt) = ready[self.dice.roll(ready.len() as u64) as usize];
        assert!(
            self.pair.seen.bodies[&DeliveryId::from_u128(number)] == body(number),
            "a body arrives as it was"
        );
        self.working.remove(&(number, attempt));
        self.pair.finish(number, attempt);
    }

    fn release_one(&mut self) {
        if let Some((number, attempt)) = self.working.pop_first() {
            self.pair.agent.release(held(number, attempt));
        }
    }

    fn start_work(&mut self) {
        for offer in &self.pair.seen.offers[self.offers_read..] {
            self.working
                .insert((offer.delivery.as_u128(), offer.attempt));
        }
        self.offers_read = self.pair.seen.offers.len();
    }

    fn settle(&mut self) {
        for held in &self.pair.seen.released[self.released_read..] {
            let stored = self.store.get_mut(&held.delivery.as_u128()).unwrap();
            if stored.attempts == held.attempt {
                stored.leased_until = None;
            }
        }
        self.released_read = self.pair.seen.released.len();
        let mut settled = Vec::new();
        for receipt in &self.pair.seen.receipts[self.receipts_read..] {
            self.store
                .get_mut(&receipt.delivery.as_u128())
                .unwrap()
                .is_settled = true;
            settled.push(receipt.key());
        }
        self.receipts_read = self.pair.seen.receipts.len();
        if !settled.is_empty() {
            self.pair.relay.confirm(settled);
        }
    }

    fn check(&self) {
        assert!(self.working.len() as u64 <= WINDOW_DELIVERIES);
        let lengths = self
            .working
            .iter()
            .map(|&(number, _)| body(number).len() as u64);
        let in_hand: u64 = lengths.clone().sum();
        let is_alone = lengths.filter(|length| *length > 0).count() == 1;
        assert!(
            in_hand <= WINDOW_BYTES || is_alone || self.has_reconnected(),
            "{in_hand} bytes in hand"
        );
    }

    /// After a reconnect the smaller first window counts as whole, so one large event may come beside
    /// what is still in hand.
    fn has_reconnected(&self) -> bool {
        self.pair
            .seen
            .sent_to_relay
            .iter()
            .filter(|name| **name == "Hello")
            .count()
            > 1
    }

    fn is_done(&self) -> bool {
        self.store.values().all(|stored| stored.is_settled)
            && self.pair.agent.unconfirmed().is_empty()
    }
}

fn body(number: u128) -> Vec<u8> {
    let length = match number % 20 {
        7 => 2 * CHUNK_BYTES_MAX + 3,
        13 => 1500,
        small => 40 * small as usize,
    };
    vec![number as u8; length]
}

fn held(number: u128, attempt: u32) -> Held {
    Held {
        delivery: DeliveryId::from_u128(number),
        lease: lease(number, attempt),
        attempt,
    }
}

#[test]
fn every_delivery_is_settled_whatever_the_link_does() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let mut steps = 0;
        while !world.is_done() {
            world.step();
            steps += 1;
            assert!(steps < 20_000, "seed {seed} does not end");
        }
    }
}
