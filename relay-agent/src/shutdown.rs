//! Being asked to stop, or to read the configuration again.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT; ^C where there are no signals.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from their defaults, which would end the process at once. One that
    /// comes before [`Self::stop`] is waited for is kept.
    ///
    /// # Errors
    ///
    /// The system refuses handlers.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: signal(SignalKind::terminate())?,
            #[cfg(unix)]
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when the process is asked to stop. Call it again for a second time.
    pub async fn stop(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// SIGHUP; never where there are no signals.
#[derive(Debug)]
pub struct Hangup {
    #[cfg(unix)]
    hangup: Signal,
}

impl Hangup {
    /// Takes the signal over from its default, which would end the process.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the configuration is to be read again.
    pub async fn asked(&mut self) {
        #[cfg(unix)]
        let _ = self.hangup.recv().await;
        #[cfg(not(unix))]
        std::future::pending().await
    }
}
