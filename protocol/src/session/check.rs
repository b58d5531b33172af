//! Bounds of what frames hold, for both ends.

use std::{collections::BTreeSet, time::Duration};

use super::{Violation, Window, close::clip};
use crate::{
    frame::{Held, Hello, LeaseToken},
    limits::{
        DESTINATIONS_MAX, LEASE_BYTES_MAX, LEASES_PER_FRAME_MAX, NAME_BYTES_MAX, REPLACED_MAX,
        TEXT_BYTES_MAX,
    },
};

pub(super) fn check_hello(hello: &Hello) -> Result<(), Violation> {
    let listen_sources = hello.listen.iter().flat_map(|listen| &listen.sources);
    let names = || hello.destinations.iter().map(|offered| &offered.name);
    if hello.destinations.len() > DESTINATIONS_MAX
        || listen_sources.clone().count() > DESTINATIONS_MAX
    {
        return Err(Violation("Hello names too many destinations or sources"));
    }
    if names()
        .chain(listen_sources)
        .any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX)
    {
        return Err(Violation("Hello holds an empty or overlong name"));
    }
    if names().collect::<BTreeSet<_>>().len() < hello.destinations.len() {
        return Err(Violation("Hello names a destination twice"));
    }
    if hello.name.len() > TEXT_BYTES_MAX || hello.agent.len() > TEXT_BYTES_MAX {
        return Err(Violation("Hello holds an overlong text"));
    }
    let windows = hello.destinations.iter().map(|offered| offered.window());
    let listen_window = hello.listen.iter().map(|listen| listen.window());
    if !windows.chain(listen_window).all(Window::is_allowed) {
        return Err(Violation("Hello asks for more than the largest window"));
    }
    if hello.replaces.len() > REPLACED_MAX {
        return Err(Violation("Hello replaces too many sessions"));
    }
    check_held(&hello.holding)
}

pub(super) fn check_held(held: &[Held]) -> Result<(), Violation> {
    if held.len() > LEASES_PER_FRAME_MAX {
        return Err(Violation("a frame names too many leases"));
    }
    held.iter().try_for_each(|held| check_lease(&held.lease))
}

pub(super) fn check_lease(lease: &LeaseToken) -> Result<(), Violation> {
    if lease.0.len() > LEASE_BYTES_MAX {
        return Err(Violation("a lease token is too long"));
    }
    Ok(())
}

pub(super) fn clip_in_place(text: &mut String) {
    text.truncate(clip(text, TEXT_BYTES_MAX).len());
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
