//! The world: a relay, agents, services and links in virtual time, and what the plan does to them.

mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use protocol::{
    frame::{ToAgent, ToRelay},
    id::{DeliveryId, EventId},
};

use super::{
    Flaw,
    agent::{Agent, Call, Wish},
    chance::{Dice, VirtualClock},
    check::Check,
    plan::{Cut, Mood, Plan, Step},
    relay::{Relay, Settings, Surroundings},
    service::{self, Answer},
    watched::{Watched, lock},
    wire::{Link, LinkId, Packet, next_arrival},
};
use crate::{
    clock::{Clock as _, SteadyClock},
    dispatch::{ServiceView, Wait},
    store::{Due, Events as _, memory::Memory},
};

/// How often it is looked for what waits without a reason, in milliseconds.
const LOOK_MS: u64 = 5_000;

/// What is given all the time it may need to end once all is well, in milliseconds.
const PATIENCE_MS: u64 = 4 * 3_600_000;

/// Wakes in one world: beyond, it runs in circles.
const WAKES_MAX: u64 = 400_000;

/// The world.
pub(super) struct World {
    plan: Plan,
    clock: Arc<VirtualClock>,
    check: Arc<Mutex<Check>>,
    dice: Dice,
    around: Surroundings,
    relay: Option<Relay>,
    incarnation: u64,
    agents: Vec<Agent>,
    links: BTreeMap<LinkId, Link>,
    links_made: u64,
    moods: BTreeMap<(usize, Option<usize>), Mood>,
    /// What happens at its time: see [`Happening`].
    happenings: BTreeMap<(u64, u64), Happening>,
    happenings_made: u64,
    /// Agents that reach nobody, and how much later their frames come.
    offline: BTreeSet<usize>,
    late_ms: BTreeMap<usize, u64>,
    dialling: BTreeSet<usize>,
    events: Vec<Posted>,
    posts: u128,
    /// What waited without a reason when it was last looked.
    idle: BTreeSet<DeliveryId>,
    pub(super) wakes: u64,
}

struct Posted {
    id: EventId,
    keys: Vec<u64>,
}

/// Something to come.
enum Happening {
    Step(Step),
    Dial(usize),
    Answer(Call, Answer, u64),
    Online(usize),
    OnTime(usize),
    Start(usize),
    StartRelay,
    StoreWorks,
    Look,
}

impl World {
    pub(super) fn new(seed: u64, flaw: Option<Flaw>, tell: bool) -> Self {
        let plan = Plan::of(seed);
        let clock = Arc::new(VirtualClock::new());
        let check = Check::new(Arc::clone(&clock), &plan.destinations, tell);
        let check = Arc::new(Mutex::new(check));
        let due = Arc::new(Due::default());
        // The store's time must not jump with the wall's.
        let steady: Arc<dyn crate::clock::Clock> = match flaw {
            Some(Flaw::LeasesFollowTheWall) => Arc::clone(&clock) as _,
            _ => Arc::new(SteadyClock::new(Arc::clone(&clock) as _)),
        };
        let memory = Memory::new(steady, Arc::clone(&due));
        if flaw == Some(Flaw::LanesInverted) {
            memory.invert_lanes();
        }
        let store = Arc::new(Watched::new(memory, Arc::clone(&check), flaw));
        let rules = plan
            .destinations
            .iter()
            .map(|plan| (plan.key, plan.rules.clone()));
        let settings = Arc::new(Settings(Mutex::new(rules.collect())));
        let mut dice = Dice::new(seed ^ 0x5eed);
        let around = Surroundings {
            clock: Arc::clone(&clock),
            store,
            due,
            check: Arc::clone(&check),
            settings,
            destinations: Arc::new(plan.destinations.clone()),
            flaw,
        };
        let agents = plan.agents.iter().enumerate().map(|(number, of)| {
            let dice = Dice::new(dice.roll(u64::MAX));
            Agent::new(number, of, &plan.destinations, &clock, &check, dice)
        });
        let agents = agents.collect();
        let mut world = Self {
            clock,
            check,
            dice,
            around,
            relay: None,
            incarnation: 0,
            agents,
            links: BTreeMap::new(),
            links_made: 0,
            moods: BTreeMap::new(),
            happenings: BTreeMap::new(),
            happenings_made: 0,
            offline: BTreeSet::new(),
            late_ms: BTreeMap::new(),
            dialling: BTreeSet::new(),
            events: Vec::new(),
            posts: 0,
            idle: BTreeSet::new(),
            wakes: 0,
            plan,
        };
        for (at, step) in std::mem::take(&mut world.plan.steps) {
            world.at(at, Happening::Step(step));
        }
        world.at(0, Happening::StartRelay);
        world.at(LOOK_MS, Happening::Look);
        for number in 0..world.agents.len() {
            let at = world.dice.roll(3_000);
            world.at(at, Happening::Start(number));
        }
        world
    }

    /// Runs the story to its end.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let patience = self.plan.calm_at_ms + PATIENCE_MS;
        loop {
            let now = self.clock.elapsed_ms();
            if now > self.plan.calm_at_ms && self.is_over() {
                return Ok(());
            }
            if now > patience || self.wakes > WAKES_MAX {
                return Err(self.lament());
            }
            self.wakes += 1;
            let relay_at = self.relay.as_mut().map(Relay::next_wake);
            let agents = self.agents.iter().filter_map(Agent::next_wake);
            let happening = self.happenings.first_key_value().map(|((at, _), _)| *at);
            let next = agents.chain(relay_at).chain(happening);
            let Some(next) = next.chain(next_arrival(&self.links)).min() else {
                return Err(self.lament());
            };
            self.clock.advance_to(next);
            self.step(relay_at.is_some_and(|at| at <= self.clock.elapsed_ms()));
            if let Some(broken) = &lock(&self.check).broken {
                return Err(broken.clone());
            }
        }
    }

    fn is_over(&self) -> bool {
        let check = lock(&self.check);
        check.open().next().is_none() && self.agents.iter().all(Agent::is_idle)
    }

    fn lament(&self) -> String {
        let check = lock(&self.check);
        let open: Vec<_> = check.open().map(|(id, _)| id.to_string()).collect();
        let busy = self.agents.iter().filter(|agent| !agent.is_idle()).count();
        format!(
            "all is well for hours, and it does not end: {open:?} are open, {busy} agents have something to report"
        )
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.happenings_made += 1;
        self.happenings
            .insert((at, self.happenings_made), happening);
    }

    fn after(&mut self, ms: u64, happening: Happening) {
        self.at(self.clock.elapsed_ms() + ms, happening);
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        lock(&self.check).tell(line);
    }

    /// Everything that is due now.
    fn step(&mut self, is_relays_time: bool) {
        let now = self.clock.elapsed_ms();
        while let Some(first) = self
            .happenings
            .first_entry()
            .filter(|first| first.key().0 <= now)
        {
            let happening = first.remove();
            self.happen(happening);
        }
        self.deliver(now);
        for number in 0..self.agents.len() {
            if self.agents[number].next_wake().is_some_and(|at| at <= now) {
                self.agents[number].handle_timeout();
            }
            self.fulfil(number);
        }
        if let Some(relay) = &mut self.relay {
            relay.run(is_relays_time);
        }
        self.send_out();
    }

    // Links.

    fn deliver(&mut self, now: u64) {
        let ids: Vec<_> = self.links.keys().copied().collect();
        for id in ids {
            while let Some(packet) = self
                .links
                .get_mut(&id)
                .and_then(|link| link.to_relay.take(now))
            {
                let Some(relay) = &mut self.relay else {
                    continue;
                };
                match packet {
                    Packet::Frame(frame) => relay.handle_frame(id, frame),
                    Packet::Gone => relay.handle_gone(id),
                }
            }
            while let Some(link) = self.links.get_mut(&id)
                && let Some(packet) = link.to_agent.take(now)
            {
                let agent = link.agent;
                match packet {
                    Packet::Frame(frame) => self.agents[agent].handle_frame(id, frame),
                    Packet::Gone => self.agents[agent].handle_gone(id),
                }
                self.fulfil(agent);
            }
        }
    }

    /// What the relay wants to be sent.
    fn send_out(&mut self) {
        let Some(relay) = &mut self.relay else { return };
        let (sent, closed) = (
            std::mem::take(&mut relay.sent),
            std::mem::take(&mut relay.closed),
        );
        for (id, frame) in sent {
            let may_be_lost = matches!(frame, ToAgent::Confirm(_));
            self.travel(id, may_be_lost, |link, at| {
                link.to_agent.send(Packet::Frame(frame), at)
            });
        }
        for id in closed {
            self.travel(id, false, |link, at| link.to_agent.send(Packet::Gone, at));
        }
    }

    /// Sends a packet unless it is lost. What the protocol repeats may be lost alone now and then;
    /// everything else is lost with its link only.
    fn travel(&mut self, id: LinkId, may_be_lost: bool, send: impl FnOnce(&mut Link, u64)) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.is_silent) else {
            return;
        };
        let is_calm = self.clock.elapsed_ms() >= self.plan.calm_at_ms;
        if may_be_lost && !is_calm && self.dice.roll(100) == 0 {
            return;
        }
        let late = self.late_ms.get(&link.agent).copied().unwrap_or(0);
        let spread = self.dice.roll(1 + late);
        let at = self.clock.elapsed_ms() + link.delay_ms + late + spread;
        send(link, at);
    }

    /// Does what an agent wants.
    fn fulfil(&mut self, number: usize) {
        for wish in self.agents[number].take_wishes() {
            match wish {
                Wish::Send(id, frame) => {
                    let may_be_lost = matches!(frame, ToRelay::Receipt(_) | ToRelay::Renew(_));
                    self.travel(id, may_be_lost, |link, at| {
                        link.to_relay.send(Packet::Frame(frame), at);
                    });
                }
                Wish::Hang(id) => {
                    self.travel(id, false, |link, at| link.to_relay.send(Packet::Gone, at));
                }
                Wish::Dial(after) => {
                    if self.dialling.insert(number) {
                        self.after(after, Happening::Dial(number));
                    }
                }
                Wish::Call(call) => self.call(call),
            }
        }
    }

    fn dial(&mut self, number: usize) {
        self.dialling.remove(&number);
        let agent = &mut self.agents[number];
        if !agent.is_alive() || agent.is_linked() {
            return;
        }
        if self.offline.contains(&number) || self.relay.is_none() {
            agent.not_connected();
            return self.fulfil(number);
        }
        self.links_made += 1;
        let id = LinkId(self.links_made);
        let delay_ms = *self.dice.pick(&[1, 10, 80]);
        self.links.insert(id, Link::new(number, delay_ms));
        if let Some(relay) = &mut self.relay {
            relay.accept(id);
        }
        self.agents[number].connected(id);
        self.fulfil(number);
    }

    fn cut(&mut self, number: usize, cut: Cut) {
        let now = self.clock.elapsed_ms();
        for link in self.links.values_mut().filter(|link| link.agent == number) {
            match cut {
                Cut::Loud => link.break_off(now),
                Cut::Silent => link.fall_silent(),
                Cut::HalfOpen => {
                    link.fall_silent();
                    link.to_agent.send(Packet::Gone, now);
                }
            }
        }
    }

    // Services.

    fn call(&mut self, call: Call) {
        let mood = |whose| self.moods.get(&(call.destination, whose)).copied();
        let well = |mood: &Mood| *mood != Mood::Well;
        let mood = mood(Some(call.agent))
            .filter(well)
            .or(mood(None))
            .unwrap_or(Mood::Well);
        let poison = call
            .target
            .strip_prefix('/')
            .and_then(|status| status.parse().ok());
        let timeout_ms = self.agents[call.agent].timeout_ms(call.destination);
        let answer = service::call(mood, poison, timeout_ms, &mut self.dice);
        lock(&self.check).calls(call.agent, call.right);
        let started = self.clock.elapsed_ms();
        self.after(answer.after_ms, Happening::Answer(call, answer, started));
    }

    fn answer(&mut self, call: &Call, answer: Answer, started: u64) {
        {
            let mut check = lock(&self.check);
            let outcome = &answer.outcome;
            check.tell(|| {
                format!(
                    "agent {}: {} comes to {outcome:?}",
                    call.agent, call.right.0
                )
            });
            check.call_is_over(call.agent, &call.right, answer.is_taken);
        }
        let elapsed = self.clock.elapsed_ms() - started;
        self.agents[call.agent].called(call, answer.outcome, elapsed);
        self.fulfil(call.agent);
    }

    // What happens.

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Step(step) => {
                self.tell(|| format!("{step:?}"));
                self.take_step(step);
            }
            Happening::Dial(number) => self.dial(number),
            Happening::Answer(call, answer, started) => self.answer(&call, answer, started),
            Happening::Online(number) => {
                self.offline.remove(&number);
            }
            Happening::OnTime(number) => {
                self.late_ms.remove(&number);
            }
            Happening::Start(number) => {
                self.agents[number].start();
                self.fulfil(number);
            }
            Happening::StartRelay => self.start_relay(),
            Happening::StoreWorks => self.around.store.fail(false),
            Happening::Look => self.look(),
        }
    }

    fn start_relay(&mut self) {
        if self.relay.is_none() {
            self.incarnation += 1;
            let dice = Dice::new(self.dice.roll(u64::MAX));
            self.tell(|| "the relay starts".to_owned());
            self.relay = Some(Relay::start(&self.around, dice, self.incarnation));
        }
    }

    /// Nothing waits without a reason.
    fn look(&mut self) {
        self.after(LOOK_MS, Happening::Look);
        let idle = self.waits_without_reason();
        let still: Vec<_> = idle
            .intersection(&self.idle)
            .map(ToString::to_string)
            .collect();
        if !still.is_empty() {
            lock(&self.check).fail(format!("{still:?} wait without a reason"));
        }
        self.idle = idle;
    }

    fn waits_without_reason(&self) -> BTreeSet<DeliveryId> {
        let mut idle = BTreeSet::new();
        let Some(relay) = self
            .relay
            .as_ref()
            .filter(|_| !self.around.store.is_failing())
        else {
            return idle;
        };
        let now = self.around.store.now();
        let wall = self.clock.now();
        let check = lock(&self.check);
        for plan in &self.plan.destinations {
            let Some(view) = relay.dispatch.view(plan.key) else {
                continue;
            };
            let leased = check.leased(plan.key);
            let is_full = plan
                .rules
                .in_flight_max
                .is_some_and(|most| leased >= most as usize);
            let rests = lock(&self.around.settings.0)[&plan.key]
                .rest(wall)
                .is_some();
            let takes = view.agents.iter().any(|agent| {
                let is_up = match agent.service {
                    ServiceView::Up => true,
                    ServiceView::Recovering { at_a_time } => u64::from(agent.in_hand) < at_a_time,
                    ServiceView::Down { probe_at, .. } => {
                        probe_at.is_some_and(|at| at.0 + 1_000 < wall.0)
                    }
                };
                is_up && agent.free > 0
            });
            // Rates pass by themselves; bytes may be short where windows are small.
            let is_short = plan.rules.rate_per_second.is_some()
                || self
                    .plan
                    .agents
                    .iter()
                    .any(|agent| agent.window.1 < 1 << 20);
            if is_full || rests || !takes || is_short || view.waits == Some(Wait::Rate) {
                continue;
            }
            let ready = check.ready(now).filter(|(_, owed)| owed.key == plan.key);
            idle.extend(ready.map(|(id, _)| id));
        }
        idle
    }

    /// The story, as far as it was told.
    pub(super) fn story(&self) -> Vec<String> {
        lock(&self.check).story.clone().unwrap_or_default()
    }
}
