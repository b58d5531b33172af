//! Stories of the match, with a store that is told what to give.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use protocol::{
    frame::Headers,
    id::{AgentId, DeliveryId, DestinationId, EventId, SessionId, SourceId, TenantId},
};

use super::{fairness::DELIVERY_COST, *};
use crate::{
    clock::Timestamp,
    lifecycle::{Event, Excuse, Maintenance, Sign, Spent, Verification},
    store::{DestinationKey, Lease, LeaseInfo, LeaseToken, Want},
};

const TTL: Duration = Duration::from_mins(1);
const START: Timestamp = Timestamp(1_800_000_000_000);

/// A match, what waits in the store, and who holds what.
struct Story {
    dispatch: Dispatch,
    start: Instant,
    now: Instant,
    /// Bodies of what is due, by destination.
    queues: BTreeMap<DestinationKey, Vec<usize>>,
    made: u128,
    held: BTreeMap<SessionId, Vec<Lease>>,
}

fn key(tenant: u128, destination: u128) -> DestinationKey {
    DestinationKey {
        tenant: TenantId::from_u128(tenant),
        destination: DestinationId::from_u128(destination),
    }
}

const QUEUE: fn() -> DestinationKey = || key(1, 1);

impl Story {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            dispatch: Dispatch::default(),
            start: now,
            now,
            queues: BTreeMap::new(),
            made: 0,
            held: BTreeMap::new(),
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            instant: self.now,
            time: START.after(self.now - self.start),
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.dispatch.handle_timeout(self.moment());
    }

    /// A session of the agent of the same number.
    fn join(&mut self, number: u128, at: DestinationKey, rules: Rules, credit: (u64, u64)) {
        let session = SessionId::from_u128(number);
        let (agent, rules) = (AgentId::from_u128(number), (rules, TenantRules::default()));
        let moment = self.moment();
        self.dispatch
            .handle_join(session, agent, at, TTL, rules, moment);
        self.credit(number, at, credit);
    }

    fn credit(&mut self, number: u128, at: DestinationKey, (deliveries, bytes): (u64, u64)) {
        let (session, moment) = (SessionId::from_u128(number), self.moment());
        self.dispatch
            .handle_credit(session, at, deliveries, bytes, moment);
    }

    fn due(&mut self, at: DestinationKey, bodies: impl IntoIterator<Item = usize>) {
        self.queues.entry(at).or_default().extend(bodies);
        self.dispatch.handle_due([at], self.moment());
    }

    fn plan(&mut self) -> Vec<Want> {
        self.dispatch.plan(self.moment())
    }

    /// What the store gives.
    fn answer(&mut self, wants: &[Want]) -> Assigned {
        let mut leases = Vec::new();
        for want in wants {
            let mut bytes = 0;
            for handed in 0..want.deliveries {
                let queue = self.queues.entry(want.key).or_default();
                let Some(&body) = queue.first() else { break };
                bytes += body as u64;
                if handed > 0 && bytes > want.bytes {
                    break;
                }
                queue.remove(0);
                self.made += 1;
                leases.push(lease(self.made, want.key, body, self.moment().time));
            }
        }
        let assigned = self.dispatch.handle_claimed(wants, leases, self.moment());
        for (session, batch) in &assigned.batches {
            let held = self.held.entry(*session).or_default();
            held.extend(batch.iter().cloned());
        }
        assigned
    }

    /// Rounds until nothing more can be handed out; how many each session got.
    fn run(&mut self) -> Vec<(u128, usize)> {
        let mut got: BTreeMap<u128, usize> = BTreeMap::new();
        for rounds in 0.. {
            assert!(rounds < 1_000, "it ends");
            let wants = self.plan();
            if wants.is_empty() {
                break;
            }
            for (session, batch) in self.answer(&wants).batches {
                *got.entry(session.as_u128()).or_default() += batch.len();
            }
        }
        got.into_iter().collect()
    }

    /// The oldest attempt of a session ends.
    fn end(&mut self, number: u128, sign: Sign) -> Excuse {
        let lease = self
            .held
            .get_mut(&SessionId::from_u128(number))
            .unwrap()
            .remove(0);
        let (agent, moment) = (AgentId::from_u128(number), self.moment());
        let excuse = self
            .dispatch
            .handle_outcome(agent, &lease.info, sign, moment, 1.0);
        let bytes = lease.event.body.len() as u64;
        self.credit(number, lease.info.key, (1, bytes));
        excuse
    }

    /// How long until something can be handed out, in milliseconds.
    fn sleeps(&self) -> Option<u128> {
        let sleep = self.dispatch.poll_timeout(self.moment());
        sleep.map(|sleep| sleep.as_millis())
    }

    fn waits(&self) -> Option<Wait> {
        self.dispatch.view(QUEUE(), self.moment()).unwrap().waits
    }
}

fn lease(number: u128, at: DestinationKey, body: usize, received_at: Timestamp) -> Lease {
    Lease {
        info: LeaseInfo {
            token: LeaseToken::NONE,
            key: at,
            delivery: DeliveryId::from_u128(number),
            event: EventId::from_u128(number),
            attempt: 1,
            leased_at: received_at,
            spent: Spent::default(),
            replay: None,
        },
        event: Arc::new(Event {
            id: EventId::from_u128(number),
            tenant: at.tenant,
            source: SourceId::from_u128(1),
            received_at,
            method: "POST".to_owned(),
            target: String::new(),
            headers: Headers(Vec::new()),
            body: Bytes::from(vec![0; body]),
            verification: Verification {
                rule: "none".to_owned(),
                secret: None,
            },
            event_type: None,
            provider_id: None,
            remote: None,
        }),
    }
}

#[test]
fn work_spreads_by_free_credit() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (3, 100));
    story.join(2, QUEUE(), Rules::default(), (1, 100));
    story.due(QUEUE(), [1; 9]);

    assert_eq!(story.run(), [(1, 3), (2, 1)]);
    assert_eq!(story.waits(), Some(Wait::Room));
    story.end(2, Sign::Well);
    assert_eq!(story.run(), [(2, 1)]);
}

#[test]
fn little_work_is_spread_too() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (8, 100));
    story.join(2, QUEUE(), Rules::default(), (8, 100));
    for number in [1, 2, 1, 2] {
        story.due(QUEUE(), [1]);
        assert_eq!(story.run(), [(number, 1)]);
        story.end(number, Sign::Well);
    }
}

#[test]
fn an_oversized_event_travels_alone() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (10, 100));
    story.due(QUEUE(), [1, 500, 1]);

    assert_eq!(story.run(), [(1, 1)]);
    assert!(
        story.plan().is_empty(),
        "it waits for the window to be free"
    );
    story.queues.get_mut(&QUEUE()).unwrap().insert(0, 500);
    story.end(1, Sign::Well);
    assert_eq!(story.run(), [(1, 1)], "and is alone then");
    story.end(1, Sign::Well);
    assert_eq!(story.run(), [(1, 1)]);
}

#[test]
fn what_nobody_has_room_for_goes_back() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (10, 100));
    story.due(QUEUE(), [1, 1]);
    let wants = story.plan();
    story
        .dispatch
        .handle_leave(SessionId::from_u128(1), story.moment());

    let assigned = story.answer(&wants);
    assert!(assigned.batches.is_empty());
    assert_eq!(assigned.orphans.len(), 2);
    assert_eq!(story.dispatch.keys().count(), 0, "nothing is left behind");
}

#[test]
fn what_falls_due_while_the_store_is_asked_is_not_missed() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (10, 100));
    let wants = story.plan();
    assert!(story.plan().is_empty(), "the question is open");
    story.dispatch.handle_due([QUEUE()], story.moment());
    story.answer(&wants);

    let wants = story.plan();
    assert_eq!(wants.len(), 1);
    story.answer(&wants);
    assert!(story.plan().is_empty());

    story.due(QUEUE(), [1]);
    let wants = story.plan();
    story.dispatch.handle_failed(&wants, story.moment());
    assert_eq!(
        story.run(),
        [(1, 1)],
        "nor is what the store failed to give"
    );
}

#[test]
fn tenants_get_the_same_however_much_one_has() {
    let mut story = Story::new();
    for tenant in [1, 2] {
        let most = (1 << 20, 1 << 40);
        story.join(tenant, key(tenant, 1), Rules::default(), most);
        story.join(tenant + 10, key(tenant, 2), Rules::default(), most);
    }
    story.due(key(1, 1), [1_000; 3_000]);
    story.due(key(1, 2), [1_000; 3_000]);
    story.due(key(2, 1), [1_000; 3_000]);

    let mut got: BTreeMap<DestinationKey, u64> = BTreeMap::new();
    for _ in 0..8 {
        let wants = story.plan();
        let cost: u64 = wants
            .iter()
            .map(|want| u64::from(want.deliveries) * DELIVERY_COST)
            .sum();
        assert!(cost <= fairness::ROUND_COST, "a round is bounded");
        for (_, batch) in story.answer(&wants).batches {
            *got.entry(batch[0].info.key).or_default() += batch.len() as u64;
        }
    }
    let of = |tenant, destination| got[&key(tenant, destination)];
    assert!(
        (of(1, 1) + of(1, 2)).abs_diff(of(2, 1)) <= of(2, 1) / 8,
        "{got:?}"
    );
    assert!(of(1, 1).abs_diff(of(1, 2)) <= of(1, 1) / 8, "{got:?}");
}

#[test]
fn large_bodies_count_for_more() {
    let mut story = Story::new();
    for tenant in [1, 2] {
        story.join(tenant, key(tenant, 1), Rules::default(), (1 << 20, 1 << 40));
    }
    story.due(key(1, 1), vec![900_000; 60]);
    story.due(key(2, 1), vec![0; 60_000]);
    let mut got = [0; 2];
    for _ in 0..40 {
        let wants = story.plan();
        for (session, batch) in story.answer(&wants).batches {
            let cost = |lease: &Lease| lease.event.body.len() as u64 + DELIVERY_COST;
            let at = if session.as_u128() == 1 { 0 } else { 1 };
            got[at] += batch.iter().map(cost).sum::<u64>();
        }
    }
    assert!(got[0].abs_diff(got[1]) < 2_000_000, "{got:?}");
}

#[test]
fn a_rate_is_kept_without_looking_all_the_time() {
    let mut story = Story::new();
    let rules = Rules {
        rate_per_second: Some(10),
        ..Rules::default()
    };
    story.join(1, QUEUE(), rules, (100, 100_000));
    story.due(QUEUE(), [1; 50]);

    assert_eq!(story.run(), [(1, 1)]);
    assert_eq!(
        (story.sleeps(), story.waits()),
        (Some(100), Some(Wait::Rate))
    );
    story.wait(99);
    assert!(story.run().is_empty());
    story.wait(1);
    assert_eq!(story.run(), [(1, 1)]);
    story.wait(10_000);
    assert_eq!(story.run(), [(1, 2)], "little is saved up");
}

#[test]
fn a_tenant_shares_its_rate() {
    let mut story = Story::new();
    let moment = story.moment();
    story.join(1, key(1, 1), Rules::default(), (100, 100_000));
    story.join(2, key(1, 2), Rules::default(), (100, 100_000));
    let rules = TenantRules {
        rate_per_second: Some(10),
    };
    story
        .dispatch
        .handle_tenant_rules(TenantId::from_u128(1), rules, moment);
    story.due(key(1, 1), [1; 50]);
    story.due(key(1, 2), [1; 50]);

    let mut got: BTreeMap<u128, usize> = BTreeMap::new();
    for _ in 0..100 {
        for (session, count) in story.run() {
            *got.entry(session).or_default() += count;
        }
        story.wait(20);
    }
    assert_eq!(got.values().sum::<usize>(), 20, "2 seconds");
    assert!(got[&1].abs_diff(got[&2]) <= 2, "{got:?}");
}

#[test]
fn a_paused_destination_rests_until_it_is_resumed() {
    let mut story = Story::new();
    let paused = |until| Rules {
        pause: Some(Pause { until }),
        ..Rules::default()
    };
    story.join(1, QUEUE(), paused(None), (10, 100));
    story.due(QUEUE(), [1]);
    assert!(story.run().is_empty());
    assert_eq!(
        (story.sleeps(), story.waits()),
        (None, Some(Wait::Paused { until: None }))
    );

    let until = Some(START.after(Duration::from_secs(5)));
    story
        .dispatch
        .handle_rules(QUEUE(), Some(paused(until)), story.moment());
    assert_eq!(
        (story.sleeps(), story.waits()),
        (Some(5_000), Some(Wait::Paused { until }))
    );
    story.wait(5_000);
    assert_eq!(story.run(), [(1, 1)]);

    story
        .dispatch
        .handle_rules(QUEUE(), Some(paused(None)), story.moment());
    story.due(QUEUE(), [1]);
    assert!(story.run().is_empty());
    story
        .dispatch
        .handle_rules(QUEUE(), Some(Rules::default()), story.moment());
    assert_eq!(story.run(), [(1, 1)]);
}

#[test]
fn a_destination_rests_by_schedule() {
    let mut story = Story::new();
    // It starts on a Friday at 08:00 UTC.
    let windows = vec!["fri 07:00-08:01".to_owned()];
    let rules = Rules {
        maintenance: Maintenance::read(windows).unwrap(),
        ..Rules::default()
    };
    story.join(1, QUEUE(), rules, (10, 100));
    story.due(QUEUE(), [1]);

    let until = START.after(Duration::from_mins(1));
    assert!(story.run().is_empty());
    assert_eq!(
        (story.sleeps(), story.waits()),
        (Some(60_000), Some(Wait::Maintenance { until }))
    );
    story.wait(60_000);
    assert_eq!(story.run(), [(1, 1)]);
}

#[test]
fn a_broken_agent_stops_no_other() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (4, 100));
    story.join(2, QUEUE(), Rules::default(), (4, 100));
    story.due(QUEUE(), [1; 100]);
    assert_eq!(story.run(), [(1, 4), (2, 4)]);

    for _ in 0..4 {
        assert_eq!(
            story.end(1, Sign::Unreachable),
            Excuse::Agent,
            "others may try at once"
        );
    }
    assert!(story.run().is_empty(), "it attracts nothing");
    for _ in 0..4 {
        story.end(2, Sign::Well);
    }
    assert_eq!(story.run(), [(2, 4)]);
    assert_eq!(story.waits(), Some(Wait::Room));

    story.wait(1_000);
    assert_eq!(story.run(), [(1, 1)], "one finds out");
    story.end(1, Sign::Well);
    assert_eq!(story.run(), [(1, 2)], "and few follow");
}

#[test]
fn a_destination_is_down_when_all_its_agents_are() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (4, 100));
    story.join(2, QUEUE(), Rules::default(), (4, 100));
    story.due(QUEUE(), [1; 100]);
    story.run();

    assert_eq!(story.end(1, Sign::Unreachable), Excuse::Agent);
    assert_eq!(
        story.end(1, Sign::Late),
        Excuse::Outage,
        "it may be the event"
    );
    assert_eq!(story.end(2, Sign::Unreachable), Excuse::Outage);
    assert_eq!(story.waits(), Some(Wait::Outage));
    assert_eq!(story.end(2, Sign::Well), Excuse::None);
    assert_eq!(story.run(), [(2, 1)], "a success is reason to look");
    assert_eq!(story.sleeps(), Some(1_000));
}

#[test]
fn an_event_cannot_hide_behind_the_outage_it_makes() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (4, 100));
    story.due(QUEUE(), [1; 3]);
    story.run();
    story.end(1, Sign::Unreachable);

    let held = story.held.get_mut(&SessionId::from_u128(1)).unwrap();
    for lease in held.iter_mut() {
        lease.info.attempt = 2_001;
        lease.info.spent.attempts = 1_000;
    }
    assert_eq!(story.end(1, Sign::Late), Excuse::None);
    assert_eq!(
        story.end(1, Sign::Unreachable),
        Excuse::Outage,
        "that is no event's doing"
    );
}

#[test]
fn a_probe_that_vanishes_is_made_again() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (4, 100));
    story.due(QUEUE(), [1; 100]);
    story.run();
    for _ in 0..4 {
        story.end(1, Sign::Unreachable);
    }
    story.wait(1_000);
    assert_eq!(story.run(), [(1, 1)]);

    let lease = story
        .held
        .get_mut(&SessionId::from_u128(1))
        .unwrap()
        .remove(0);
    story
        .dispatch
        .handle_return(lease.info.delivery, 1, story.moment());
    story.credit(1, QUEUE(), (1, 1));
    assert!(story.run().is_empty());
    story.wait(1_000);
    assert_eq!(story.run(), [(1, 1)]);

    // Nobody ever says what became of this one.
    story.credit(1, QUEUE(), (1, 1));
    story.wait(119_999);
    assert!(story.run().is_empty());
    story.wait(1);
    assert_eq!(story.run(), [(1, 1)]);
}

#[test]
fn a_broken_agent_is_still_broken_when_it_comes_back() {
    let mut story = Story::new();
    story.join(1, QUEUE(), Rules::default(), (4, 100));
    story.due(QUEUE(), [1; 100]);
    story.run();
    story.end(1, Sign::Unreachable);
    story
        .dispatch
        .handle_leave(SessionId::from_u128(1), story.moment());

    story.join(1, QUEUE(), Rules::default(), (4, 100));
    assert!(story.run().is_empty());
    story
        .dispatch
        .handle_leave(SessionId::from_u128(1), story.moment());
    story.wait(10 * 60_000);
    assert_eq!(story.dispatch.keys().count(), 0, "not for ever");
}

#[test]
fn what_is_too_old_is_not_handed_out() {
    let mut story = Story::new();
    let rules = Rules {
        age_max: Some(Duration::from_secs(1)),
        ..Rules::default()
    };
    story.join(1, QUEUE(), rules, (4, 100));
    let wants = story.plan();
    let old = lease(1, QUEUE(), 1, Timestamp(START.0 - 1_000));
    let mut replayed = lease(2, QUEUE(), 1, Timestamp(START.0 - 1_000));
    replayed.info.replay = Some(protocol::id::ReplayId::from_u128(1));
    let young = lease(3, QUEUE(), 1, Timestamp(START.0 - 999));

    let assigned =
        story
            .dispatch
            .handle_claimed(&wants, vec![old, replayed, young], story.moment());
    assert_eq!(assigned.aged.len(), 1);
    assert_eq!(assigned.aged[0].delivery, DeliveryId::from_u128(1));
    assert_eq!(assigned.batches[&SessionId::from_u128(1)].len(), 2);
}
