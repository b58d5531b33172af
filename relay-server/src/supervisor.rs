//! What systemd is told (sd_notify), if it runs the relay. The protocol's variables are its own
//! business, so they are read here and not in `config`; without them nothing is sent.
//!
//! The watchdog is answered only after the dispatcher has: everything that is delivered passes through
//! its loop, so a relay that accepts and delivers nothing is ended and started again.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{self, MissedTickBehavior};
use tracing::debug;

use crate::dispatch::DispatchHandle;

/// The relay serves.
pub fn ready(text: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// The relay was asked to stop.
pub fn stopping(text: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(text)]);
}

/// Answers the watchdog, if there is one, for as long as the dispatcher lives. Never returns.
pub async fn answer_watchdog(dispatch: DispatchHandle) {
    let patience = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero());
    let Some(patience) = patience else {
        return std::future::pending().await;
    };
    // Thrice within its patience, as two answers may be late.
    let every = (patience / 3).max(Duration::from_millis(1));
    let mut ticks = time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        dispatch.turned().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "cannot tell systemd");
    }
}
