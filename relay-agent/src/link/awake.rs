//! Whether the machine has slept: timers do not run meanwhile, and links that seem fresh are long gone.

use std::time::{Duration, Instant, SystemTime};

/// How often to look.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What clocks and a busy machine may differ by.
const DIFFERENCE_MIN: Duration = Duration::from_secs(5);

/// Compares the clock on the wall with that of timers, which on many systems stands still while the
/// machine sleeps, and both with when it was asked to look.
#[derive(Debug)]
pub(super) struct Awake {
    now: Instant,
    wall: SystemTime,
}

impl Awake {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        Self { now, wall }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Instant {
        self.now + LOOK_INTERVAL
    }

    /// How long nothing ran since the last look, if it was longer than it should.
    pub(super) fn look(&mut self, now: Instant, wall: SystemTime) -> Option<Duration> {
        let since = now.saturating_duration_since(self.now);
        let since_on_wall = wall.duration_since(self.wall).unwrap_or_default();
        *self = Self { now, wall };
        let slept = since.max(since_on_wall);
        (slept >= LOOK_INTERVAL + DIFFERENCE_MIN).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_noticed_by_either_clock() {
        let seconds = Duration::from_secs;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut awake = Awake::new(now, wall);
        assert_eq!(awake.due(), now + seconds(2));
        assert_eq!(awake.look(now + seconds(2), wall + seconds(2)), None);
        // Timers stood still.
        let slept = awake.look(now + seconds(4), wall + seconds(3600));
        assert_eq!(slept, Some(seconds(3598)));
        assert_eq!(awake.look(now + seconds(6), wall + seconds(3602)), None);
        // Timers went on, but nothing ran.
        assert_eq!(
            awake.look(now + seconds(66), wall + seconds(3662)),
            Some(seconds(60))
        );
        // Somebody set the clock back.
        assert_eq!(awake.look(now + seconds(68), wall), None);
    }
}
