//! Chance that can be repeated.

use rand::{SeedableRng, rngs::StdRng};

use crate::note;

/// The variable that repeats a run, as far as chance decides it.
const VARIABLE: &str = "HOOKFERRY_TEST_SEED";

/// A source of chance for one test. Its seed is told, so that a failure can be repeated.
pub fn random(test: &str) -> StdRng {
    let given = std::env::var(VARIABLE).ok();
    let seed = given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    note(&format!("{test}: {VARIABLE}={seed}"));
    StdRng::seed_from_u64(seed)
}
