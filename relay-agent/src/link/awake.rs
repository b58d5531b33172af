//! Whether the machine has slept: timers do not run meanwhile, and links that seem fresh are long gone.

use std::time::{Duration, Instant, SystemTime};

/// How often to look.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What clocks and a busy machine may differ by.
const DIFFERENCE_MIN: Duration = Duration::from_secs(5);

/// How many heartbeats a relay misses before it gives an agent up. Who was away for as long has lost its
/// work, however short that was.
const HEARTBEATS_MISSED: u32 = 3;

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

    /// How long nothing ran since the last look, if it was longer than it should be for links with this
    /// interval between heartbeats.
    pub(super) fn look(
        &mut self,
        now: Instant,
        wall: SystemTime,
        heartbeat: Duration,
    ) -> Option<Duration> {
        let since = now.saturating_duration_since(self.now);
        let since_on_wall = wall.duration_since(self.wall).unwrap_or_default();
        *self = Self { now, wall };
        let slept = since.max(since_on_wall);
        let unusual = (LOOK_INTERVAL + DIFFERENCE_MIN).min(heartbeat * HEARTBEATS_MISSED);
        (slept >= unusual).then_some(slept)
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
        let slow = seconds(15);
        assert_eq!(awake.look(now + seconds(2), wall + seconds(2), slow), None);
        // Timers stood still.
        let slept = awake.look(now + seconds(4), wall + seconds(3600), slow);
        assert_eq!(slept, Some(seconds(3598)));
        assert_eq!(
            awake.look(now + seconds(6), wall + seconds(3602), slow),
            None
        );
        // Timers went on, but nothing ran.
        assert_eq!(
            awake.look(now + seconds(66), wall + seconds(3662), slow),
            Some(seconds(60))
        );
        // Somebody set the clock back.
        assert_eq!(awake.look(now + seconds(68), wall, slow), None);
    }

    #[test]
    fn where_heartbeats_are_fast_a_shorter_sleep_counts() {
        let seconds = Duration::from_secs;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut awake = Awake::new(now, wall);
        let four = |awake: &mut Awake, from: u64, heartbeat| {
            let at = seconds(from + 4);
            awake.look(now + at, wall + at, heartbeat)
        };
        assert_eq!(four(&mut awake, 0, seconds(15)), None);
        assert_eq!(four(&mut awake, 4, seconds(2)), None);
        assert_eq!(four(&mut awake, 8, seconds(1)), Some(seconds(4)));
    }
}
