//! Deterministic simulation: a relay, its agents and their services live through a story of faults in
//! virtual time, and at every step it is checked that no promise is broken.
//!
//! A seed decides everything. `plan` draws from it who is there, how they are set up and what happens
//! to them; `world` lets it happen; `check` keeps books of its own and says what must be true; the
//! rest stands in for what surrounds the parts under test. Those are the real ones: the rules of
//! `lifecycle`, the match, buckets, shares and breakers of `dispatch`, the settler, the sessions'
//! holdings, both ends of the protocol, and the reference store.
//!
//! `docs/TESTING.md` says how to run many seeds and how to repeat one.

mod chance;

mod plan;

mod wire;

mod service;

mod agent;

mod relay;

mod watched;

mod lanes;

mod check;

mod world;

use world::World;

/// A rule that is broken on purpose, to show that the simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Order keys are forgotten when an event is accepted.
    OrderIgnored,
    /// A failure counts whoever holds the lease.
    StaleFailuresCount,
    /// Attempts count while a service is down.
    OutagesBurnAttempts,
    /// Nobody wakes the match when a probe is due.
    ProbesForgotten,
    /// Replays go first, live events last.
    LanesInverted,
    /// An accepted event is not kept.
    AcceptedAndLost,
    /// As many at a time as agents take.
    InFlightIgnored,
    /// A paused destination is served.
    PausesIgnored,
    /// As fast as agents take it.
    RateIgnored,
    /// A session that ends loses its leases at once.
    GraceForgotten,
    /// Leases never run out.
    ExpiryForgotten,
    /// Leases run out by a clock that people set.
    LeasesFollowTheWall,
}

impl Flaw {
    /// Every flaw.
    const ALL: [Self; 12] = [
        Self::OrderIgnored,
        Self::StaleFailuresCount,
        Self::OutagesBurnAttempts,
        Self::ProbesForgotten,
        Self::LanesInverted,
        Self::AcceptedAndLost,
        Self::InFlightIgnored,
        Self::PausesIgnored,
        Self::RateIgnored,
        Self::GraceForgotten,
        Self::ExpiryForgotten,
        Self::LeasesFollowTheWall,
    ];
}

/// Tells one story; the promise that it breaks, if it does.
fn tell(seed: u64, flaw: Option<Flaw>) -> Result<(), String> {
    World::new(seed, flaw, false).run()
}

/// Tells it again, aloud.
fn retell(seed: u64, flaw: Option<Flaw>) -> String {
    let mut world = World::new(seed, flaw, true);
    let end = world.run();
    let story = world.story();
    let tail = story.len().saturating_sub(LINES_MAX);
    format!("{}\n{end:?}", story[tail..].join("\n"))
}

/// Lines of a story that are printed: its end says what went wrong.
const LINES_MAX: usize = 400;

mod tests;
