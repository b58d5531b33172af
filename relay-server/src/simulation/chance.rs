//! Chance that repeats itself, and a clock that only moves when told to.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::clock::{Clock, Timestamp};

/// A small generator (splitmix64): the same seed, the same run.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds shall have nothing in common.
        let mut dice = Self(seed.wrapping_mul(0xd134_2543_de82_ef95));
        dice.roll(2);
        dice
    }

    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    /// From the first to the last.
    pub(super) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.roll(last - first + 1)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    /// One of several.
    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.roll(of.len() as u64);
        &of[usize::try_from(at).unwrap_or(0)]
    }

    /// A place in a list of so many.
    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.roll(len as u64)).unwrap_or(0)
    }

    /// Uniform in 0..1.
    pub(super) fn luck(&mut self) -> f64 {
        f64::from(u32::try_from(self.roll(1 << 32)).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

/// Chance for parts that only share it.
#[derive(Debug)]
pub(super) struct SharedDice(Mutex<Dice>);

impl SharedDice {
    pub(super) fn new(dice: Dice) -> Self {
        Self(Mutex::new(dice))
    }

    pub(super) fn luck(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).luck()
    }
}

/// When every world begins: a Friday at eight, UTC.
pub(super) const START: Timestamp = Timestamp(1_800_000_000_000);

/// The clocks of the relay: one that runs on, and the wall's, which people set.
#[derive(Debug)]
pub(super) struct VirtualClock {
    start: Instant,
    elapsed_ms: AtomicU64,
    set_by_ms: AtomicI64,
}

impl VirtualClock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            elapsed_ms: AtomicU64::new(0),
            set_by_ms: AtomicI64::new(0),
        }
    }

    /// Milliseconds since the world began.
    pub(super) fn elapsed_ms(&self) -> u64 {
        self.elapsed_ms.load(Ordering::Relaxed)
    }

    pub(super) fn at(&self, elapsed_ms: u64) -> Instant {
        self.start + Duration::from_millis(elapsed_ms)
    }

    /// When an instant is, in milliseconds since the world began, rounded up.
    pub(super) fn ms_of(&self, instant: Instant) -> u64 {
        let ns = instant.saturating_duration_since(self.start).as_nanos();
        u64::try_from(ns.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    pub(super) fn advance_to(&self, elapsed_ms: u64) {
        self.elapsed_ms.fetch_max(elapsed_ms, Ordering::Relaxed);
    }

    /// Somebody sets the wall's clock.
    pub(super) fn set_by(&self, ms: i64) {
        self.set_by_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let set_by = self.set_by_ms.load(Ordering::Relaxed);
        Timestamp((START.0 + self.elapsed_ms()).saturating_add_signed(set_by))
    }

    fn instant(&self) -> Instant {
        self.at(self.elapsed_ms())
    }
}
