//! What a seed says: who is there, how they are set up, and what happens to them.

use std::time::Duration;

use protocol::id::{AgentId, DestinationId, TenantId};

use super::chance::{Dice, START};
use crate::{
    dispatch::Rules,
    lifecycle::{
        BreakerPolicy, EndReason, JudgePolicy, Maintenance, Order, RetryPolicy, StatusSpec,
    },
    store::DestinationKey,
};

/// Keys of ordered destinations.
pub(super) const KEYS: u64 = 4;

/// A whole story before it happens.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) destinations: Vec<DestinationPlan>,
    pub(super) agents: Vec<AgentPlan>,
    /// What happens and when, in milliseconds, in order.
    pub(super) steps: Vec<(u64, Step)>,
    /// No fault begins or lasts after this.
    pub(super) calm_at_ms: u64,
}

#[derive(Debug, Clone)]
pub(super) struct DestinationPlan {
    pub(super) name: String,
    pub(super) key: DestinationKey,
    pub(super) order: Order,
    pub(super) judge: JudgePolicy,
    pub(super) rules: Rules,
    pub(super) timeout: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct AgentPlan {
    pub(super) id: AgentId,
    pub(super) tenant: TenantId,
    /// What it serves.
    pub(super) destinations: Vec<usize>,
    pub(super) window: (u64, u64),
    /// Calls at a time, for each destination.
    pub(super) concurrency: usize,
}

/// How a service behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// It answers late, some calls too late.
    Slow,
    /// Nobody listens.
    Gone,
    /// It takes calls and never answers.
    Hangs,
    /// So many of a hundred calls get 500.
    Errs(u64),
    /// It asks for patience: 429 or 503, with `Retry-After` or without.
    Busy,
}

/// How a link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Both ends are told.
    Loud,
    /// Nobody is told: what is sent never arrives.
    Silent,
    /// Only the agent is told.
    HalfOpen,
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Post {
        destinations: Vec<usize>,
        key: u64,
        bytes: usize,
        /// What services answer to it whatever their mood.
        poison: Option<u16>,
        /// The provider's own name for it; a repeat has the same.
        provider_id: Option<u64>,
    },
    /// Replays some delivery that has ended.
    Replay(u64),
    /// Ends some open delivery by hand.
    End(u64, EndReason),
    Park(usize, u64),
    Resume(usize, u64),
    Pause(usize, Option<u64>),
    Unpause(usize),
    /// Of a service, or of what one agent reaches of it.
    Mood(usize, Option<usize>, Mood),
    Cut(usize, Cut),
    /// The agent reaches nobody for so long.
    Offline(usize, u64),
    /// Frames of the agent take so much longer, for so long.
    Late(usize, u64, u64),
    /// The agent dies and is back after so long.
    Crash(usize, u64),
    /// The agent finishes, says goodbye and is back after so long.
    Stop(usize, u64),
    /// The relay dies and is back after so long.
    Restart(u64),
    /// Somebody sets the relay's clock.
    SetClock(i64),
    /// The store fails for so long.
    StoreFails(u64),
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let tenants = dice.between(1, 2);
        let destinations: Vec<_> = (0..dice.between(1, 3))
            .map(|number| destination(&mut dice, number, tenants))
            .collect();
        let agents = agents(&mut dice, &destinations);
        let faults_ms = dice.between(60, 420) * 1_000;
        let mut steps = posts(&mut dice, &destinations, faults_ms);
        work_by_hand(&mut dice, destinations.len(), faults_ms, &mut steps);
        let most = *dice.pick(&[0, 3, 6, 12]);
        for _ in 0..dice.between(0, most) {
            fault(&mut dice, &destinations, &agents, faults_ms, &mut steps);
        }
        let calm_at_ms = faults_ms + 60_000;
        calm(&destinations, &agents, calm_at_ms, &mut steps);
        steps.sort_by_key(|(at, _)| *at);
        Self {
            destinations,
            agents,
            steps,
            calm_at_ms,
        }
    }
}

fn destination(dice: &mut Dice, number: u64, tenants: u64) -> DestinationPlan {
    let order = *dice.pick(&["none", "none", "fifo", "key:header:x-key"]);
    let retry = RetryPolicy {
        base_ms: *dice.pick(&[100, 1_000, 2_000]),
        cap_ms: *dice.pick(&[2_000, 20_000, 60_000]),
        window_ms: *dice.pick(&[300_000, 3 * 24 * 3_600_000]),
        attempts_max: Some(u32::try_from(dice.between(2, 12)).unwrap_or(2)),
        schedule_ms: match dice.roll(4) {
            0 => vec![500, 5_000, 30_000],
            _ => Vec::new(),
        },
        ..RetryPolicy::default()
    };
    let status = StatusSpec {
        dead: vec!["422".to_owned()],
        ..StatusSpec::default()
    };
    let some = |dice: &mut Dice, percent, of: &[u32]| dice.percent(percent).then(|| *dice.pick(of));
    let rules = Rules {
        in_flight_max: some(dice, 30, &[1, 2, 5]),
        rate_per_second: some(dice, 30, &[1, 3, 10]),
        breaker: BreakerPolicy {
            failures: *dice.pick(&[0, 1, 3, 5]),
            error_percent: *dice.pick(&[0, 50, 80]),
            attempts_min: *dice.pick(&[1, 4, 20]),
            probe_max_ms: *dice.pick(&[2_000, 30_000]),
            ..BreakerPolicy::default()
        },
        pause: None,
        maintenance: maintenance(dice),
        age_max: dice.percent(10).then_some(Duration::from_secs(120)),
    };
    DestinationPlan {
        name: format!("queue-{number}"),
        key: DestinationKey {
            tenant: TenantId::from_u128(u128::from(1 + number % tenants)),
            destination: DestinationId::from_u128(u128::from(101 + number)),
        },
        order: order.parse().unwrap_or_default(),
        judge: JudgePolicy {
            retry,
            status: status.compile().unwrap_or_default(),
        },
        rules,
        timeout: Duration::from_secs(*dice.pick(&[5, 30])),
    }
}

/// Sometimes a window that falls into the story: it begins some minutes after [`START`].
fn maintenance(dice: &mut Dice) -> Maintenance {
    if !dice.percent(15) {
        return Maintenance::default();
    }
    let minute = START.0 / 60_000 % (24 * 60) + dice.between(0, 5);
    let time = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let until = minute + dice.between(1, 3);
    let window = format!("daily {}-{}", time(minute), time(until));
    Maintenance::read(vec![window]).unwrap_or_default()
}

fn agents(dice: &mut Dice, destinations: &[DestinationPlan]) -> Vec<AgentPlan> {
    let mut agents: Vec<AgentPlan> = Vec::new();
    for (index, destination) in destinations.iter().enumerate() {
        for number in 0..dice.between(1, 2) {
            // An agent may serve several destinations of its tenant.
            let shared = agents
                .iter_mut()
                .find(|agent| number == 0 && agent.tenant == destination.key.tenant);
            if let Some(agent) = shared.filter(|_| dice.percent(60)) {
                agent.destinations.push(index);
                continue;
            }
            let id = 201 + agents.len() as u128;
            agents.push(AgentPlan {
                id: AgentId::from_u128(id),
                tenant: destination.key.tenant,
                destinations: vec![index],
                window: (
                    *dice.pick(&[1, 4, 16, 64]),
                    *dice.pick(&[300, 4_000, 1 << 20]),
                ),
                concurrency: *dice.pick(&[1, 2, 8]),
            });
        }
    }
    agents
}

fn posts(dice: &mut Dice, destinations: &[DestinationPlan], until: u64) -> Vec<(u64, Step)> {
    let mut steps = Vec::new();
    let bursts = dice.between(1, 4);
    for _ in 0..bursts {
        let start = dice.roll(until);
        for number in 0..dice.between(2, 14) {
            let mut to: Vec<usize> = vec![dice.index(destinations.len())];
            let other = dice.index(destinations.len());
            let tenant = destinations[to[0]].key.tenant;
            if other != to[0] && destinations[other].key.tenant == tenant && dice.percent(30) {
                to.push(other);
            }
            // An error that an event makes by itself looks like an outage, which excuses a thousand
            // attempts: days, where errors count. The others are poison enough there.
            let errs = |to: &usize| destinations[*to].rules.breaker.error_percent > 0;
            let poison = *dice.pick(&[410, 422, 404, 500]);
            let poison = if to.iter().any(errs) {
                poison.min(422)
            } else {
                poison
            };
            let step = Step::Post {
                destinations: to,
                key: dice.roll(KEYS),
                bytes: *dice.pick(&[0, 10, 200, 1_000]),
                poison: dice.percent(8).then_some(poison),
                provider_id: dice.percent(30).then(|| dice.roll(20)),
            };
            steps.push((start + number * dice.between(0, 400), step));
        }
    }
    steps
}

fn work_by_hand(dice: &mut Dice, destinations: usize, until: u64, steps: &mut Vec<(u64, Step)>) {
    for _ in 0..dice.between(0, 3) {
        let at = dice.roll(until);
        let to = dice.index(destinations);
        match dice.roll(6) {
            0 => {
                let reason = *dice.pick(&[
                    EndReason::Cancelled,
                    EndReason::Skipped,
                    EndReason::DeadLettered,
                ]);
                steps.push((at, Step::End(dice.roll(100), reason)));
            }
            1 => {
                let key = dice.roll(KEYS);
                steps.push((at, Step::Park(to, key)));
                steps.push((at + dice.between(1, 60_000), Step::Resume(to, key)));
            }
            2 => {
                let lasts = dice.between(1_000, 60_000);
                let until = dice.percent(50).then_some(lasts);
                steps.push((at, Step::Pause(to, until)));
                if until.is_none() {
                    steps.push((at + lasts, Step::Unpause(to)));
                }
            }
            _ => {
                for _ in 0..dice.between(1, 10) {
                    steps.push((at, Step::Replay(dice.roll(100))));
                }
            }
        }
    }
}

fn fault(
    dice: &mut Dice,
    destinations: &[DestinationPlan],
    agents: &[AgentPlan],
    until: u64,
    steps: &mut Vec<(u64, Step)>,
) {
    let at = dice.roll(until);
    let agent = dice.index(agents.len());
    let step = match dice.roll(18) {
        0..6 => {
            let to = dice.index(destinations.len());
            let percent = dice.between(20, 100);
            let mood = *dice.pick(&[
                Mood::Slow,
                Mood::Gone,
                Mood::Gone,
                Mood::Hangs,
                Mood::Errs(percent),
                Mood::Busy,
            ]);
            let whose = dice.percent(30).then_some(agent);
            let lasts = dice.between(100, 60_000);
            steps.push((at + lasts, Step::Mood(to, whose, Mood::Well)));
            Step::Mood(to, whose, mood)
        }
        6..9 => Step::Cut(agent, *dice.pick(&[Cut::Loud, Cut::Silent, Cut::HalfOpen])),
        9 => {
            let longest = *dice.pick(&[5_000, 60_000]);
            Step::Offline(agent, dice.between(100, longest))
        }
        10 => Step::Late(agent, dice.between(10, 4_000), dice.between(100, 60_000)),
        11 | 12 => Step::Crash(agent, dice.between(0, 20_000)),
        13 => Step::Stop(agent, dice.between(0, 20_000)),
        14 | 15 => Step::Restart(dice.between(0, 10_000)),
        16 => {
            let by = *dice.pick(&[-3_600_000, -60_000, -1_000, 1_000, 60_000, 3_600_000]);
            Step::SetClock(by)
        }
        _ => Step::StoreFails(dice.between(1, 10_000)),
    };
    steps.push((at, step));
}

/// All is well from then on.
fn calm(
    destinations: &[DestinationPlan],
    agents: &[AgentPlan],
    at: u64,
    steps: &mut Vec<(u64, Step)>,
) {
    steps.retain(|(when, _)| *when < at);
    for index in 0..destinations.len() {
        steps.push((at, Step::Mood(index, None, Mood::Well)));
        for agent in 0..agents.len() {
            steps.push((at, Step::Mood(index, Some(agent), Mood::Well)));
        }
        for key in 0..KEYS {
            steps.push((at, Step::Resume(index, key)));
        }
        steps.push((at, Step::Unpause(index)));
    }
}
