//! Waiting for what must come: the only sleep of the suite.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// How long anything may take before its test fails; far more than it needs on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// How often a probe looks.
const LOOK: Duration = Duration::from_millis(10);

/// Probes until there is something, and fails the test if that takes longer than [`PATIENCE`].
pub async fn eventually<T>(what: impl Display, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe).await
}

/// Probes until there is something, and fails the test if that takes longer than `patience`.
pub async fn within<T>(
    patience: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        let waited = started.elapsed();
        assert!(
            waited < patience,
            "still waiting after {waited:.1?}: {what}"
        );
        pause().await;
    }
}

/// Lets time pass, where time itself is what is tested: an outage, a sleep.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A moment, for whoever tries again.
pub(crate) async fn pause() {
    tokio::time::sleep(LOOK).await;
}
