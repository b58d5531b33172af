//! How much may be in flight.
//!
//! Credit travels as totals since the session began, so that a repeat or a swap of two frames
//! changes nothing. The agent ([`Intake`]) lets as much come as its window leaves room for; the relay
//! ([`Outlet`]) stays below the totals it was told.

use super::Violation;
use crate::{
    frame::{Credit, Listen, Offer, OfferedDestination},
    limits::{WINDOW_BYTES_MAX, WINDOW_DELIVERIES_MAX},
};

/// Credit for one destination: deliveries and body bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Deliveries.
    pub deliveries: u64,
    /// Body bytes. An event larger than the whole window travels when no other bytes are in flight.
    pub bytes: u64,
}

impl Window {
    /// No larger than the protocol allows.
    pub(super) fn clamped(self) -> Self {
        Self {
            deliveries: self.deliveries.min(WINDOW_DELIVERIES_MAX),
            bytes: self.bytes.min(WINDOW_BYTES_MAX),
        }
    }

    pub(super) fn is_allowed(self) -> bool {
        self == self.clamped()
    }
}

/// What may be offered for a destination right now: the relay's free credit.
///
/// The session keeps one per destination, and so does a dispatcher that wants to choose before it
/// offers: [`Allowance::add`] for every [`super::RelayOutput::Credit`], [`Allowance::take`] for every
/// offer. Both then agree. Free bytes become negative while an event larger than the window is in
/// flight; the credit that follows it makes up for the debt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    deliveries: i64,
    bytes: i64,
    whole_bytes: i64,
}

impl Allowance {
    /// Adds an increment of credit.
    pub fn add(&mut self, deliveries: u64, bytes: u64) {
        self.deliveries = self.deliveries.saturating_add_unsigned(deliveries);
        self.bytes = self.bytes.saturating_add_unsigned(bytes);
        self.whole_bytes = self.whole_bytes.max(self.bytes);
    }

    /// Whether an event of this size may be offered: it fits, or the whole window is free.
    ///
    /// The window is the most that was ever free.
    pub fn fits(&self, body_bytes: u64) -> bool {
        let fits = i64::try_from(body_bytes).is_ok_and(|bytes| bytes <= self.bytes);
        self.deliveries > 0 && (fits || self.bytes >= self.whole_bytes)
    }

    /// Counts an offer.
    pub fn take(&mut self, body_bytes: u64) {
        self.deliveries = self.deliveries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub_unsigned(body_bytes);
    }

    /// Deliveries that may be offered.
    pub fn deliveries(&self) -> u64 {
        u64::try_from(self.deliveries).unwrap_or(0)
    }

    /// Body bytes that may be offered; negative while an event larger than the window is in flight.
    pub fn bytes(&self) -> i64 {
        self.bytes
    }
}

/// The relay's books for one destination.
#[derive(Debug)]
pub(super) struct Outlet {
    /// Totals that the agent has granted.
    granted: Window,
    /// Totals of what was sent.
    used: Window,
    /// What is left, offers that wait to be sent already subtracted.
    pub(super) free: Allowance,
}

impl Outlet {
    pub(super) fn new(initial: Window) -> Self {
        let mut free = Allowance::default();
        free.add(initial.deliveries, initial.bytes);
        Self {
            granted: initial,
            used: Window::NONE,
            free,
        }
    }

    /// Takes new totals; answers the increments.
    pub(super) fn grant(&mut self, credit: &Credit) -> Result<Window, Violation> {
        let room = Window {
            deliveries: credit.deliveries.saturating_sub(self.used.deliveries),
            bytes: credit.bytes.saturating_sub(self.used.bytes),
        };
        if !room.is_allowed() {
            return Err(Violation("credit exceeds the largest window"));
        }
        let more = Window {
            deliveries: credit.deliveries.saturating_sub(self.granted.deliveries),
            bytes: credit.bytes.saturating_sub(self.granted.bytes),
        };
        self.granted = self.granted.plus(more);
        self.free.add(more.deliveries, more.bytes);
        Ok(more)
    }

    /// Counts an offer that is being sent and notes the totals in it.
    pub(super) fn stamp(&mut self, offer: &mut Offer) {
        self.used = self.used.plus(Window {
            deliveries: 1,
            bytes: offer.body_bytes,
        });
        offer.used_deliveries = self.used.deliveries;
        offer.used_bytes = self.used.bytes;
    }
}

/// The agent's books for one destination.
#[derive(Debug)]
pub(super) struct Intake {
    /// What there is room for, if no other session takes of it.
    whole: Window,
    window: Window,
    /// Totals that were granted to the relay.
    granted: Window,
    /// Totals that the relay has used, as its offers say. What it counted and never arrived was lost
    /// and is not waited for.
    used: Window,
    /// What is in the agent's hands, also from earlier sessions.
    held: Window,
}

impl Intake {
    pub(super) fn new(window: Window) -> Self {
        Self {
            whole: window.clamped(),
            window: window.clamped(),
            granted: Window::NONE,
            used: Window::NONE,
            held: Window::NONE,
        }
    }

    /// Leaves other sessions their part of the deliveries. Bytes are not touched: a relay takes the most
    /// it ever had for the whole window, and offers nothing larger before it has that much again.
    pub(super) fn share(&mut self, sessions: u64) {
        self.window.deliveries = self.whole.deliveries.div_ceil(sessions.max(1));
    }

    /// Counts an offer that came in, whether it is kept or not.
    pub(super) fn arrive(&mut self, offer: &Offer) -> Result<(), Violation> {
        let used = Window {
            deliveries: offer.used_deliveries,
            bytes: offer.used_bytes,
        };
        let Some(bytes_before) = used.bytes.checked_sub(offer.body_bytes) else {
            return Err(Violation("an offer counts less than itself"));
        };
        if used.deliveries == 0 {
            return Err(Violation("an offer counts less than itself"));
        }
        if used.deliveries > self.granted.deliveries || bytes_before > self.granted.bytes {
            return Err(Violation("an offer exceeds the credit"));
        }
        self.used.deliveries = self.used.deliveries.max(used.deliveries);
        self.used.bytes = self.used.bytes.max(used.bytes);
        Ok(())
    }

    /// Counts an attempt that is in hand.
    pub(super) fn hold(&mut self, body_bytes: u64) {
        self.held.deliveries = self.held.deliveries.saturating_add(1);
        self.held.bytes = self.held.bytes.saturating_add(body_bytes);
    }

    /// Counts an attempt that has left the agent's hands.
    pub(super) fn free(&mut self, body_bytes: u64) {
        self.held.deliveries = self.held.deliveries.saturating_sub(1);
        self.held.bytes = self.held.bytes.saturating_sub(body_bytes);
    }

    /// Whether a quarter of the window could be granted again: waiting longer could idle the pipe.
    pub(super) fn is_grant_urgent(&self) -> bool {
        let more = self.ungranted();
        let enough = |more: u64, window: u64| more > 0 && more >= window / 4;
        enough(more.deliveries, self.window.deliveries) || enough(more.bytes, self.window.bytes)
    }

    pub(super) fn has_ungranted(&self) -> bool {
        self.ungranted() != Window::NONE
    }

    /// Grants all there is room for; answers the new totals.
    pub(super) fn grant(&mut self) -> Window {
        self.granted = self.granted.plus(self.ungranted());
        self.granted
    }

    fn ungranted(&self) -> Window {
        let room = |used: u64, window: u64, held: u64, granted: u64| {
            used.saturating_add(window)
                .saturating_sub(held)
                .saturating_sub(granted)
        };
        Window {
            deliveries: room(
                self.used.deliveries,
                self.window.deliveries,
                self.held.deliveries,
                self.granted.deliveries,
            ),
            bytes: room(
                self.used.bytes,
                self.window.bytes,
                self.held.bytes,
                self.granted.bytes,
            ),
        }
    }
}

impl Window {
    pub(super) const NONE: Self = Self {
        deliveries: 0,
        bytes: 0,
    };

    fn plus(self, more: Self) -> Self {
        Self {
            deliveries: self.deliveries.saturating_add(more.deliveries),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }
}

impl OfferedDestination {
    pub(super) fn window(&self) -> Window {
        Window {
            deliveries: self.deliveries,
            bytes: self.bytes,
        }
    }
}

impl Listen {
    pub(super) fn window(&self) -> Window {
        Window {
            deliveries: self.deliveries,
            bytes: self.bytes,
        }
    }
}
