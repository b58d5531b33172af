//! How fast something may be handed out. Pure.

use std::time::{Duration, Instant};

/// How long a rate may be saved up: so much comes at once after a rest.
const BURST: Duration = Duration::from_millis(100);

/// A rate, as the time at which everything handed out so far would have been handed out at that rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    per_second: u32,
    owed_until: Instant,
}

impl Bucket {
    /// One from which nothing was taken yet.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second: per_second.max(1),
            owed_until: now,
        }
    }

    pub(crate) fn per_second(&self) -> u32 {
        self.per_second
    }

    /// How much may be taken now.
    pub(crate) fn available(&self, now: Instant) -> u32 {
        let interval = self.interval().as_nanos();
        let saved = now.saturating_duration_since(self.owed_until).min(BURST);
        let lead = self.owed_until.saturating_duration_since(now).as_nanos();
        // One may always be taken at its time; what was saved comes on top.
        let earliest = saved.as_nanos() / interval + 1;
        if lead > 0 {
            return 0;
        }
        u32::try_from(earliest).unwrap_or(u32::MAX)
    }

    /// Takes as much as is available at most.
    pub(crate) fn take(&mut self, count: u32, now: Instant) {
        let saved_since = now.checked_sub(BURST).unwrap_or(now);
        self.owed_until = self.owed_until.max(saved_since) + self.interval() * count;
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back(&mut self, count: u32) {
        let back = self.interval() * count;
        self.owed_until = self.owed_until.checked_sub(back).unwrap_or(self.owed_until);
    }

    /// When something is available again.
    pub(crate) fn ready_at(&self) -> Instant {
        self.owed_until
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_is_kept_from_the_start() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, start);

        assert_eq!(bucket.available(start), 1);
        bucket.take(1, start);
        assert_eq!(bucket.available(start), 0);
        assert_eq!(bucket.ready_at(), start + Duration::from_millis(100));
        assert_eq!(bucket.available(start + Duration::from_millis(99)), 0);
        assert_eq!(bucket.available(start + Duration::from_millis(100)), 1);
    }

    #[test]
    fn little_is_saved_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000, start);
        let later = start + Duration::from_mins(1);

        assert_eq!(bucket.available(later), 101);
        bucket.take(101, later);
        assert_eq!(bucket.available(later), 0);
        bucket.give_back(3);
        assert_eq!(bucket.available(later), 3);
    }

    proptest! {
        /// Over any time, no more is taken than the rate and what may be saved up.
        #[test]
        fn a_rate_is_never_exceeded(
            per_second in 1..5_000_u32,
            steps in proptest::collection::vec((0..300_000_u64, 0..200_u32, 0..4_u32), 1..100),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(per_second, start);
            let mut taken: Vec<(Instant, u32)> = Vec::new();
            for (pause_us, want, share) in steps {
                now += Duration::from_micros(pause_us);
                let count = bucket.available(now).min(want);
                bucket.take(count, now);
                let used = count * share / 3;
                bucket.give_back(count - used.min(count));
                taken.push((now, used.min(count)));
                if bucket.available(now) == 0 {
                    prop_assert!(bucket.ready_at() > now);
                    prop_assert!(bucket.available(bucket.ready_at()) > 0);
                }
            }
            for (from, _) in &taken {
                let mut sum = 0_u32;
                for (at, count) in taken.iter().filter(|(at, _)| at >= from) {
                    sum += count;
                    let span = at.duration_since(*from) + BURST;
                    let most = span.as_secs_f64() * f64::from(per_second) + 1.001;
                    prop_assert!(f64::from(sum) <= most, "{sum} in {span:?}");
                }
            }
        }
    }
}
