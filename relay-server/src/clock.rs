//! Wall time as a dependency, so that tests can move it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This instant, later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long ago `earlier` was; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with milliseconds, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// Tells the time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Now by the clock that runs on, whatever becomes of the wall's. For waits and rates.
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let elapsed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The wall's time for what must not jump: deadlines and ages.
///
/// It runs on with [`Clock::instant`] when somebody sets the machine's clock, and follows slowly, at
/// most by a twentieth. A difference above [`STEP_ABOVE`] is made good at once: then the clock was
/// plainly wrong before.
#[derive(Debug)]
pub struct SteadyClock {
    wall: Arc<dyn Clock>,
    start: Instant,
    origin: Timestamp,
    /// When it was last compared, in milliseconds since its start.
    compared_ms: AtomicU64,
    /// How far it has followed.
    followed_ms: AtomicI64,
}

/// A difference that is no adjustment any more.
const STEP_ABOVE: Duration = Duration::from_hours(24);

/// How often it is compared.
const COMPARE_AFTER_MS: u64 = 1_000;

impl SteadyClock {
    /// One that agrees with the wall's for now.
    pub fn new(wall: Arc<dyn Clock>) -> Self {
        Self {
            start: wall.instant(),
            origin: wall.now(),
            wall,
            compared_ms: AtomicU64::new(0),
            followed_ms: AtomicI64::new(0),
        }
    }

    fn read(&self, elapsed_ms: u64) -> Timestamp {
        let followed = self.followed_ms.load(Ordering::Relaxed);
        let now = self.origin.0.saturating_add(elapsed_ms);
        Timestamp(now.saturating_add_signed(followed))
    }

    fn follow(&self, elapsed_ms: u64) {
        let compared = self.compared_ms.load(Ordering::Relaxed);
        if elapsed_ms.saturating_sub(compared) < COMPARE_AFTER_MS {
            return;
        }
        let is_ours = self.compared_ms.compare_exchange(
            compared,
            elapsed_ms,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if is_ours.is_err() {
            return;
        }
        let (wall, own) = (self.wall.now(), self.read(elapsed_ms));
        let behind = i64::try_from(i128::from(wall.0) - i128::from(own.0)).unwrap_or(0);
        let step = i64::try_from(COMPARE_AFTER_MS / 20).unwrap_or(0);
        let is_wrong = u128::from(behind.unsigned_abs()) > STEP_ABOVE.as_millis();
        let by = if is_wrong {
            behind
        } else {
            behind.clamp(-step, step)
        };
        self.followed_ms.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.wall.instant().saturating_duration_since(self.start);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.follow(elapsed_ms);
        self.read(elapsed_ms)
    }

    fn instant(&self) -> Instant {
        self.wall.instant()
    }
}

/// A clock that only moves when told to.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wall's clock that people set, and one that runs on.
    #[derive(Debug)]
    struct Set {
        start: Instant,
        elapsed_ms: AtomicU64,
        wall: AtomicU64,
    }

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            Timestamp(self.wall.load(Ordering::SeqCst))
        }

        fn instant(&self) -> Instant {
            self.start + Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst))
        }
    }

    #[test]
    fn a_steady_clock_follows_the_walls_slowly_unless_that_was_plainly_wrong() {
        let day = 24 * 3_600_000;
        let wall = Arc::new(Set {
            start: Instant::now(),
            elapsed_ms: AtomicU64::new(0),
            wall: AtomicU64::new(10 * day),
        });
        let steady = SteadyClock::new(Arc::clone(&wall) as Arc<dyn Clock>);
        let pass = |ms: u64| {
            wall.elapsed_ms.fetch_add(ms, Ordering::SeqCst);
            wall.wall.fetch_add(ms, Ordering::SeqCst);
            steady.now().0
        };
        assert_eq!(pass(500), 10 * day + 500);
        assert_eq!(pass(9_500), 10 * day + 10_000);

        for back in [3_600_000, 100] {
            wall.wall.fetch_sub(back, Ordering::SeqCst);
            let before = steady.now().0;
            assert_eq!(pass(1_000), before + 950);
            assert_eq!(pass(10), before + 960, "it is compared once a second");
        }
        wall.wall.fetch_add(2 * day, Ordering::SeqCst);
        let ahead = pass(1_000);
        assert_eq!(ahead, wall.now().0, "now it is right");
    }

    #[test]
    fn prints_rfc_3339_with_milliseconds() {
        assert_eq!(
            Timestamp(1_763_897_942_007).to_string(),
            "2025-11-23T11:39:02.007Z"
        );
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
