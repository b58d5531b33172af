//! Whether a service is down for an agent, who may find out that it is back, and how fast it is
//! called again then. A pure state machine; one for each destination and agent.
//!
//! Closed: hand out as credit allows, for a while after an outage fewer at a time. Open: the service
//! is down; nothing is handed out until the next probe is due. Probing: one delivery is on its way
//! to find out. An open breaker always probes again, ever more seldom up to a bound.

use std::time::{Duration, Instant};

use protocol::{frame::ServiceFailure, id::DeliveryId};
use serde::{Deserialize, Serialize};

use super::{AttemptOutcome, Meaning};

/// A service that took something this recently is not called down for a single refused connection.
const WELL_FOR: Duration = Duration::from_secs(1);

/// Slots of the window over which failures are counted.
const SLOTS: usize = 10;

/// Deliveries at a time after an outage.
const RAMP_START: f64 = 2.0;

/// By how much that grows while as many succeed as are allowed at a time.
const RAMP_STEP: f64 = 4.0;

/// When a service counts as down. Zero switches a rule off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPolicy {
    /// Attempts in a row that do not reach the service or that it does not answer in time.
    pub failures: u32,
    /// Failed attempts among the last ones, in percent; answers with 5xx count too.
    pub error_percent: u32,
    /// Attempts that are needed to speak of a share.
    pub attempts_min: u32,
    /// Over which time the share is taken, in milliseconds.
    pub window_ms: u64,
    /// The wait for the first probe, in milliseconds; it doubles with each that fails.
    pub probe_min_ms: u64,
    /// The longest wait for a probe, in milliseconds.
    pub probe_max_ms: u64,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            error_percent: 50,
            attempts_min: 20,
            window_ms: 10_000,
            probe_min_ms: 1_000,
            probe_max_ms: 30_000,
        }
    }
}

/// What an attempt tells about the health of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It works.
    Well,
    /// It works and asks for less.
    Busy,
    /// It does not do its work.
    Faulty,
    /// It did not answer in time.
    Late,
    /// It was not reached.
    Unreachable,
    /// Nothing: the attempt was lost or given up.
    Nothing,
}

impl Sign {
    /// What an outcome tells, when it means this much for the delivery.
    pub fn of(outcome: &AttemptOutcome, meaning: Meaning) -> Self {
        match (outcome, meaning) {
            (AttemptOutcome::Answered { .. }, Meaning::Deliver | Meaning::Dead) => Self::Well,
            (AttemptOutcome::Answered { status: 429, .. }, Meaning::Retry) => Self::Busy,
            (AttemptOutcome::Answered { status, .. }, Meaning::Retry) => match status {
                500.. => Self::Faulty,
                _ => Self::Well,
            },
            (AttemptOutcome::Failed { failure, .. }, _) => match failure {
                ServiceFailure::Dns
                | ServiceFailure::Connect
                | ServiceFailure::Tls
                | ServiceFailure::Refused => Self::Unreachable,
                ServiceFailure::Timeout => Self::Late,
                ServiceFailure::Broken | ServiceFailure::Protocol | ServiceFailure::Other => {
                    Self::Faulty
                }
                ServiceFailure::Abandoned => Self::Nothing,
            },
            (AttemptOutcome::Lost, _) => Self::Nothing,
        }
    }

    /// Whether it may be a sign of an outage.
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Faulty | Self::Late | Self::Unreachable)
    }
}

/// A breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Attempts in a row that did not reach the service or got no answer.
    failures: u32,
    last_well: Option<Instant>,
    counts: Counts,
    /// The wait for the next probe.
    spacing: Duration,
    closed_at: Option<Instant>,
    ramp: Option<Ramp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        since: Instant,
        probe_at: Instant,
    },
    Probing {
        since: Instant,
        probe: DeliveryId,
        /// By then it has vanished, should nobody have said so.
        until: Instant,
    },
}

/// Where a breaker stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerView {
    /// The service is up; after an outage, how many deliveries it gets at a time.
    Closed {
        /// That many.
        at_a_time: Option<u64>,
    },
    /// The service is down.
    Open {
        /// Since when.
        since: Instant,
        /// When it is tried again.
        probe_at: Instant,
    },
    /// It is being tried.
    Probing {
        /// Since when it is down.
        since: Instant,
    },
}

impl Breaker {
    /// A closed one.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            failures: 0,
            last_well: None,
            counts: Counts::new(now),
            spacing: Duration::ZERO,
            closed_at: None,
            ramp: None,
        }
    }

    /// How many more deliveries may be handed out while `in_hand` are.
    pub fn room(&self, in_hand: u32, now: Instant) -> u32 {
        match (self.state, &self.ramp) {
            (State::Closed, None) => u32::MAX,
            (State::Closed, Some(ramp)) => ramp.whole().saturating_sub(in_hand),
            (State::Open { probe_at, .. }, _) => u32::from(probe_at <= now),
            (State::Probing { until, .. }, _) => u32::from(until <= now),
        }
    }

    /// When there will be room again by itself.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Open { probe_at, .. } => Some(probe_at),
            State::Probing { until, .. } => Some(until),
        }
    }

    /// Whether the service is down, as far as is known.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// Whether it is as good as new.
    pub fn is_at_rest(&self) -> bool {
        !self.is_open() && self.ramp.is_none()
    }

    /// Where it stands.
    pub fn view(&self) -> BreakerView {
        match self.state {
            State::Closed => BreakerView::Closed {
                at_a_time: self.ramp.as_ref().map(|ramp| u64::from(ramp.whole())),
            },
            State::Open { since, probe_at } => BreakerView::Open { since, probe_at },
            State::Probing { since, .. } => BreakerView::Probing { since },
        }
    }

    /// A delivery was handed out; when open it is the probe. After `until` its outcome is not waited
    /// for any more.
    pub fn handle_hand_out(&mut self, delivery: DeliveryId, until: Instant) {
        if let State::Open { since, .. } | State::Probing { since, .. } = self.state {
            self.state = State::Probing {
                since,
                probe: delivery,
                until,
            };
        }
    }

    /// A delivery came back unattempted, or vanished: a probe that did is made again.
    pub fn handle_return(&mut self, delivery: DeliveryId, now: Instant) {
        if let State::Probing { since, probe, .. } = self.state
            && probe == delivery
        {
            let probe_at = now + self.spacing;
            self.state = State::Open { since, probe_at };
        }
    }

    /// An attempt has ended. `load` is what the agent takes at most and has in hand; `luck` is uniform
    /// in 0..1 and spreads probes.
    pub fn handle_sign(
        &mut self,
        policy: &BreakerPolicy,
        delivery: DeliveryId,
        sign: Sign,
        load: Load,
        now: Instant,
        luck: f64,
    ) {
        match self.state {
            State::Closed => self.judge_closed(policy, sign, load, now, luck),
            State::Open { since, .. } => {
                // Not asked for, perhaps long under way: reason enough to look now.
                if matches!(sign, Sign::Well | Sign::Busy) {
                    let probe_at = now;
                    self.state = State::Open { since, probe_at };
                }
            }
            State::Probing { since, probe, .. } if probe == delivery => {
                self.judge_probe(policy, sign, since, now, luck);
            }
            State::Probing { .. } => {}
        }
    }

    fn judge_probe(
        &mut self,
        policy: &BreakerPolicy,
        sign: Sign,
        since: Instant,
        now: Instant,
        luck: f64,
    ) {
        match sign {
            Sign::Well | Sign::Busy => self.close(sign, now),
            // Where errors are no outage, whoever answers with one is back. Otherwise one event that
            // cannot be digested would keep a queue shut that waits behind it.
            Sign::Faulty if policy.error_percent == 0 => self.close(sign, now),
            Sign::Faulty | Sign::Late | Sign::Unreachable => {
                self.spacing = (self.spacing * 2).min(policy.probe_max());
                let probe_at = now + spread(self.spacing, luck);
                self.state = State::Open { since, probe_at };
            }
            Sign::Nothing => {
                let probe_at = now + self.spacing;
                self.state = State::Open { since, probe_at };
            }
        }
    }

    fn close(&mut self, sign: Sign, now: Instant) {
        self.state = State::Closed;
        self.failures = 0;
        self.counts = Counts::new(now);
        self.closed_at = Some(now);
        self.last_well = (sign == Sign::Well).then_some(now);
        self.ramp = Some(Ramp::start());
    }

    fn judge_closed(
        &mut self,
        policy: &BreakerPolicy,
        sign: Sign,
        load: Load,
        now: Instant,
        luck: f64,
    ) {
        if sign == Sign::Nothing {
            return;
        }
        self.counts.add(policy.window(), sign.is_bad(), now);
        match sign {
            Sign::Late | Sign::Unreachable => self.failures = self.failures.saturating_add(1),
            Sign::Well | Sign::Busy => self.failures = 0,
            Sign::Faulty | Sign::Nothing => {}
        }
        if sign == Sign::Well {
            self.last_well = Some(now);
        }
        if self.is_down(policy, sign, now) {
            self.open(policy, now, luck);
        } else {
            self.adapt(sign, load);
        }
    }

    fn is_down(&self, policy: &BreakerPolicy, sign: Sign, now: Instant) -> bool {
        let is_well = self
            .last_well
            .is_some_and(|at| now.saturating_duration_since(at) < WELL_FOR);
        let by_count = policy.failures > 0
            && (self.failures >= policy.failures || (sign == Sign::Unreachable && !is_well));
        by_count || (sign.is_bad() && self.counts.exceed(policy))
    }

    fn open(&mut self, policy: &BreakerPolicy, now: Instant, luck: f64) {
        let lasted = self
            .closed_at
            .is_some_and(|at| now.saturating_duration_since(at) < policy.probe_max());
        // A service that was up for a moment only is probed as seldom as before, and more so.
        self.spacing = if lasted {
            (self.spacing * 2).min(policy.probe_max())
        } else {
            policy.probe_min()
        };
        let probe_at = now + spread(self.spacing, luck);
        self.state = State::Open {
            since: now,
            probe_at,
        };
        self.ramp = None;
    }

    /// Additive increase, multiplicative decrease, until the agent's credit is the bound.
    fn adapt(&mut self, sign: Sign, load: Load) {
        match (&mut self.ramp, sign) {
            (Some(ramp), Sign::Well) => {
                ramp.grow();
                if u64::from(ramp.whole()) >= load.capacity {
                    self.ramp = None;
                }
            }
            (Some(ramp), Sign::Busy | Sign::Faulty | Sign::Late | Sign::Unreachable) => {
                ramp.shrink(load.in_hand);
            }
            (None, Sign::Busy) => {
                let mut ramp = Ramp {
                    at_a_time: f64::from(load.in_hand),
                    settling: 0,
                };
                ramp.shrink(load.in_hand);
                self.ramp = Some(ramp);
            }
            (Some(_), Sign::Nothing) | (None, _) => {}
        }
    }
}

/// What an agent has in hand of a destination, and takes at most.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Deliveries in hand.
    pub in_hand: u32,
    /// Deliveries it would take at a time.
    pub capacity: u64,
}

/// How many deliveries a service gets at a time.
#[derive(Debug)]
struct Ramp {
    at_a_time: f64,
    /// Outcomes to come of what was handed out before the last decrease.
    settling: u32,
}

impl Ramp {
    fn start() -> Self {
        Self {
            at_a_time: RAMP_START,
            settling: 0,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is at least 1 and grows to the largest window"
    )]
    fn whole(&self) -> u32 {
        self.at_a_time as u32
    }

    fn grow(&mut self) {
        self.settling = self.settling.saturating_sub(1);
        self.at_a_time += RAMP_STEP / self.at_a_time;
    }

    fn shrink(&mut self, in_hand: u32) {
        if self.settling > 0 {
            self.settling -= 1;
            return;
        }
        self.at_a_time = (self.at_a_time / 2.0).max(1.0);
        self.settling = in_hand;
    }
}

/// Attempts and failures over the last while.
#[derive(Debug)]
struct Counts {
    start: Instant,
    newest: u64,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    number: u64,
    attempts: u32,
    failures: u32,
}

impl Counts {
    fn new(start: Instant) -> Self {
        Self {
            start,
            newest: 0,
            slots: [Slot::default(); SLOTS],
        }
    }

    fn add(&mut self, window: Duration, is_bad: bool, now: Instant) {
        let slot_ns = (window.as_nanos() / SLOTS as u128).max(1);
        let number = now.saturating_duration_since(self.start).as_nanos() / slot_ns;
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        self.newest = number;
        let at = usize::try_from(number % SLOTS as u64).unwrap_or(0);
        let slot = &mut self.slots[at];
        if slot.number != number {
            *slot = Slot {
                number,
                ..Slot::default()
            };
        }
        slot.attempts = slot.attempts.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(is_bad));
    }

    fn exceed(&self, policy: &BreakerPolicy) -> bool {
        let recent = |slot: &&Slot| slot.number + SLOTS as u64 > self.newest;
        let (mut attempts, mut failures) = (0_u64, 0_u64);
        for slot in self.slots.iter().filter(recent) {
            attempts += u64::from(slot.attempts);
            failures += u64::from(slot.failures);
        }
        policy.error_percent > 0
            && attempts >= u64::from(policy.attempts_min.max(1))
            && failures * 100 >= attempts * u64::from(policy.error_percent)
    }
}

impl BreakerPolicy {
    fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }

    fn probe_min(&self) -> Duration {
        Duration::from_millis(self.probe_min_ms)
    }

    fn probe_max(&self) -> Duration {
        Duration::from_millis(self.probe_max_ms)
    }
}

/// Between half and all of a wait.
fn spread(wait: Duration, luck: f64) -> Duration {
    wait.mul_f64(0.5 + luck.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOAD: Load = Load {
        in_hand: 4,
        capacity: 64,
    };

    /// A breaker and the time, for stories.
    struct Story {
        breaker: Breaker,
        policy: BreakerPolicy,
        now: Instant,
        delivery: u128,
    }

    impl Story {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                breaker: Breaker::new(now),
                policy: BreakerPolicy::default(),
                now,
                delivery: 0,
            }
        }

        fn wait(&mut self, ms: u64) -> &mut Self {
            self.now += Duration::from_millis(ms);
            self
        }

        fn hand_out(&mut self) -> DeliveryId {
            assert!(self.breaker.room(0, self.now) > 0);
            self.delivery += 1;
            let delivery = DeliveryId::from_u128(self.delivery);
            let until = self.now + Duration::from_mins(2);
            self.breaker.handle_hand_out(delivery, until);
            delivery
        }

        fn hear(&mut self, delivery: DeliveryId, sign: Sign) -> &mut Self {
            let (breaker, policy) = (&mut self.breaker, &self.policy);
            breaker.handle_sign(policy, delivery, sign, LOAD, self.now, 1.0);
            self
        }

        fn attempt(&mut self, sign: Sign) -> &mut Self {
            let delivery = self.hand_out();
            self.hear(delivery, sign)
        }

        /// An outcome of what was handed out long ago.
        fn late(&mut self, sign: Sign) -> &mut Self {
            self.hear(DeliveryId::from_u128(0), sign)
        }

        #[track_caller]
        fn open_for(&mut self, ms: u64) -> &mut Self {
            let wait = self.breaker.poll_timeout().unwrap() - self.now;
            assert_eq!(wait, Duration::from_millis(ms));
            assert_eq!(self.breaker.room(0, self.now), u32::from(ms == 0));
            self.wait(ms)
        }

        #[track_caller]
        fn closed(&mut self) -> &mut Self {
            assert!(!self.breaker.is_open());
            self
        }
    }

    #[test]
    fn a_service_that_cannot_be_reached_is_down_at_once() {
        let mut story = Story::new();
        story.attempt(Sign::Unreachable).open_for(1_000);
    }

    #[test]
    fn a_service_that_just_worked_is_down_after_some_failures() {
        let mut story = Story::new();
        story.attempt(Sign::Well);
        for _ in 0..4 {
            story.attempt(Sign::Unreachable).closed();
        }
        story.attempt(Sign::Well);
        for _ in 0..4 {
            story.attempt(Sign::Unreachable).closed();
        }
        story.attempt(Sign::Unreachable).open_for(1_000);

        let mut story = Story::new();
        story
            .attempt(Sign::Well)
            .attempt(Sign::Unreachable)
            .closed();
        story.wait(1_000).attempt(Sign::Unreachable).open_for(1_000);
    }

    #[test]
    fn where_errors_are_no_outage_a_probe_that_gets_one_ends_it() {
        let mut story = Story::new();
        story.attempt(Sign::Unreachable).open_for(1_000);
        story.attempt(Sign::Faulty).open_for(2_000);

        story.policy.error_percent = 0;
        story.attempt(Sign::Faulty).closed();
    }

    #[test]
    fn time_outs_alone_need_more_of_them() {
        let mut story = Story::new();
        for _ in 0..4 {
            story.attempt(Sign::Late).wait(30_000).closed();
        }
        story.attempt(Sign::Late).open_for(1_000);
    }

    #[test]
    fn half_of_the_attempts_failing_is_down() {
        let mut story = Story::new();
        for _ in 0..19 {
            story.attempt(Sign::Faulty).closed();
        }
        story.attempt(Sign::Faulty).open_for(1_000);

        let mut story = Story::new();
        for _ in 0..1_000 {
            story.attempt(Sign::Faulty).attempt(Sign::Well);
            story.attempt(Sign::Well).wait(10).closed();
        }

        let mut story = Story::new();
        for _ in 0..100 {
            story.attempt(Sign::Faulty).wait(1_000).closed();
        }
    }

    #[test]
    fn probes_go_one_at_a_time_and_ever_more_seldom() {
        let mut story = Story::new();
        story.attempt(Sign::Unreachable).open_for(1_000);
        for wait in [2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            let probe = story.hand_out();
            assert_eq!(story.breaker.room(1, story.now), 0, "one is on its way");
            story.late(Sign::Well).late(Sign::Late);
            story.hear(probe, Sign::Late).open_for(wait);
        }
        let probe = story.hand_out();
        story.breaker.handle_return(probe, story.now);
        story
            .open_for(30_000)
            .attempt(Sign::Nothing)
            .open_for(30_000);
        story.hand_out();
        story.wait(119_999);
        assert_eq!(story.breaker.room(0, story.now), 0);
        story.wait(1).attempt(Sign::Well).closed();
    }

    #[test]
    fn a_late_success_brings_the_next_probe_forward() {
        let mut story = Story::new();
        story
            .attempt(Sign::Unreachable)
            .late(Sign::Well)
            .open_for(0);
        story.attempt(Sign::Well).closed();
    }

    #[test]
    fn a_service_that_comes_back_gets_more_and_more() {
        let mut story = Story::new();
        story
            .attempt(Sign::Unreachable)
            .open_for(1_000)
            .attempt(Sign::Well);
        assert_eq!(story.breaker.room(0, story.now), 2);
        assert_eq!(story.breaker.room(2, story.now), 0);

        let mut rounds = 0;
        while !story.breaker.is_at_rest() {
            rounds += 1;
            for _ in 0..story.breaker.room(0, story.now) {
                story.late(Sign::Well);
            }
            assert!(rounds < 30, "it ends when the credit is the bound");
        }
        assert!(rounds > 10, "and takes its time");
    }

    #[test]
    fn a_failure_halves_what_it_gets_once() {
        let mut story = Story::new();
        story
            .attempt(Sign::Unreachable)
            .open_for(1_000)
            .attempt(Sign::Well);
        for _ in 0..60 {
            story.late(Sign::Well);
        }
        let before = story.breaker.room(0, story.now);
        for _ in 0..=LOAD.in_hand {
            story.late(Sign::Faulty);
        }
        assert_eq!(story.breaker.room(0, story.now), before / 2);
        story.late(Sign::Faulty);
        assert_eq!(story.breaker.room(0, story.now), before / 4);
    }

    #[test]
    fn a_service_that_asks_for_less_gets_less() {
        let mut story = Story::new();
        story.attempt(Sign::Busy).closed();
        assert_eq!(story.breaker.room(0, story.now), LOAD.in_hand / 2);
    }

    #[test]
    fn a_service_that_was_back_for_a_moment_is_probed_less() {
        let mut story = Story::new();
        story.attempt(Sign::Unreachable).open_for(1_000);
        story.attempt(Sign::Well).wait(2_000);
        story.attempt(Sign::Unreachable).open_for(2_000);
        story.attempt(Sign::Well).wait(30_000);
        story.attempt(Sign::Unreachable).open_for(1_000);
    }

    #[test]
    fn rules_can_be_switched_off() {
        let mut story = Story::new();
        story.policy.failures = 0;
        story.policy.error_percent = 0;
        for _ in 0..100 {
            story.attempt(Sign::Unreachable).closed();
        }
    }

    #[test]
    fn outcomes_are_read() {
        let answered = |status| AttemptOutcome::Answered {
            status,
            headers: protocol::frame::Headers(Vec::new()),
            body_bytes: 0,
            response_start: bytes::Bytes::new(),
        };
        let check = |status, meaning, sign| assert_eq!(Sign::of(&answered(status), meaning), sign);
        check(200, Meaning::Deliver, Sign::Well);
        check(404, Meaning::Retry, Sign::Well);
        check(429, Meaning::Retry, Sign::Busy);
        check(503, Meaning::Retry, Sign::Faulty);
        check(501, Meaning::Dead, Sign::Well);
        assert_eq!(
            Sign::of(&AttemptOutcome::Lost, Meaning::Retry),
            Sign::Nothing
        );
    }

    fn signs() -> impl Strategy<Value = Sign> {
        prop_oneof![
            Just(Sign::Well),
            Just(Sign::Busy),
            Just(Sign::Faulty),
            Just(Sign::Late),
            Just(Sign::Unreachable),
            Just(Sign::Nothing),
        ]
    }

    proptest! {
        /// Whatever happens, there is room again within the longest wait once nothing is in hand.
        #[test]
        fn a_breaker_never_starves(
            steps in proptest::collection::vec((signs(), 0..20_000_u64, 0..4_usize, 0.0..1.0_f64), 1..200),
        ) {
            let mut story = Story::new();
            let mut in_hand: Vec<DeliveryId> = Vec::new();
            for (sign, pause, which, luck) in steps {
                story.wait(pause);
                let was_open = story.breaker.is_open();
                let load = Load { in_hand: in_hand.len() as u32, capacity: 8 };
                if story.breaker.room(load.in_hand, story.now) > 0 && in_hand.len() < 8 {
                    in_hand.push(story.hand_out());
                    if was_open {
                        prop_assert_eq!(story.breaker.room(load.in_hand + 1, story.now), 0);
                    }
                } else if !in_hand.is_empty() {
                    let delivery = in_hand.remove(which % in_hand.len());
                    if sign == Sign::Nothing {
                        story.breaker.handle_return(delivery, story.now);
                    } else {
                        let (policy, now) = (story.policy, story.now);
                        story.breaker.handle_sign(&policy, delivery, sign, load, now, luck);
                    }
                }
                if in_hand.is_empty() {
                    let later = story.now + story.policy.probe_max();
                    prop_assert!(story.breaker.room(0, later) > 0, "{:?}", story.breaker);
                }
            }
        }
    }
}
